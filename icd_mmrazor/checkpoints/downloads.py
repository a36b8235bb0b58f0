"""Verified downloads over https."""

import http.client
import sys
import urllib.request
from pathlib import Path
from typing import Any

import torch

TIMEOUT = 30  # seconds to connect


def download(url: str, file: Path, sha256: str) -> None:
    """Download a file and verify it. The new file appears complete, or the old one stays.

    Args:
        url: ``https://...``; a redirect to anything else is refused.
        file: Where to put it; its folder is created.
        sha256: The first digits of its SHA-256 sum, in hexadecimal.

    Raises:
        OSError: The file cannot be downloaded or written, or has another sum.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(final_address(url), str(file), sha256.lower(), progress=sys.stderr.isatty())
    except (RuntimeError, http.client.HTTPException) as error:
        raise OSError(f'{type(error).__name__}: {error}') from error


def final_address(url: str) -> str:
    """Follow the redirects of an address, which must all be https."""
    with urllib.request.build_opener(_HttpsOnly).open(url, timeout=TIMEOUT) as answer:
        return answer.url


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: Any, file: Any, code: int, message: str, headers: Any, new_url: str) -> Any:
        if not new_url.startswith('https://'):
            raise OSError(f'it redirects to {new_url}, which is not https')
        return super().redirect_request(request, file, code, message, headers, new_url)
