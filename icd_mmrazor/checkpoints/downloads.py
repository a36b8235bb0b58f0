"""Downloads: over https alone, verified, there whole or not at all."""

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20  # bytes
MAX_BYTES = 16 << 30  # of a download; a server can send without end


def download(url: str, file: Path, algorithm: str, digest: str) -> None:
    """Download a file and verify it; the new one is there whole, or what was there still is.

    A redirect to anything but https fails. The proxies that the environment names are used.

    Args:
        url: ``https://...``.
        file: Where it goes; its folder is made if need be.
        algorithm: A name of ``hashlib``.
        digest: How its hexadecimal digest begins.

    Raises:
        OSError: It cannot be had or written, is larger than 16 GiB, or is not what the digest says.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f'.{file.name}.{os.getpid()}')
    try:
        with _https().open(url, timeout=TIMEOUT) as answer, temporary.open('wb') as part:
            while chunk := answer.read(CHUNK):
                part.write(chunk)
                if part.tell() > MAX_BYTES:
                    raise OSError(f'it is larger than {MAX_BYTES:,} bytes')
        if not has_digest(temporary, algorithm, digest):
            raise OSError(f'what came is damaged: its {algorithm} digest does not begin with {digest}')
        temporary.replace(file)
    except http.client.HTTPException as error:
        raise OSError(f'{type(error).__name__} {error}') from error
    finally:
        temporary.unlink(missing_ok=True)


def has_digest(file: Path, algorithm: str, digest: str) -> bool:
    """Return whether the hexadecimal digest of a file begins so.

    Args:
        file: The file.
        algorithm: A name of ``hashlib``.
        digest: The beginning of the digest.
    """
    found = hashlib.new(algorithm)
    with file.open('rb') as opened:
        while chunk := opened.read(CHUNK):
            found.update(chunk)
    return found.hexdigest().startswith(digest.lower())


def _https() -> urllib.request.OpenerDirector:
    """Return an opener that knows https, and nothing else that a redirect may name."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
