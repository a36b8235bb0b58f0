"""Downloads from an https server in this process, with its own certificate."""

import hashlib
import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from icd_mmrazor.checkpoints.downloads import download
from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.errors import CheckpointError

pytestmark = pytest.mark.skipif(not shutil.which('openssl'), reason='openssl makes the certificate of the server')


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with what the server holds under a path: bytes, or an address to go to."""

    def do_GET(self) -> None:
        """Answer."""
        self.server.asked.append(self.path)
        answer = self.server.answers.get(self.path)
        if isinstance(answer, str):
            self.send_response(302)
            self.send_header('Location', answer)
            self.end_headers()
            return
        self.send_response(200 if answer else 404)
        self.send_header('Content-Length', str(len(answer or b'') + self.server.missing))
        self.end_headers()
        self.wfile.write(answer or b'')

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope='module')
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('certificate')
    kind = '-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost'
    files = ['-keyout', folder / 'key.pem', '-out', folder / 'certificate.pem']
    command = ['openssl', 'req', *kind.split(), '-addext', 'subjectAltName=DNS:localhost', *files]
    subprocess.run(command, check=True, capture_output=True)
    return folder / 'certificate.pem'


@pytest.fixture
def serve(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Start servers; the first is trusted and speaks https."""
    servers = []

    def start(encrypted: bool = True) -> http.server.HTTPServer:
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        server.answers, server.asked, server.missing = {}, [], 0
        if encrypted:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_name('key.pem'))
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.url = f'http{"s" if encrypted else ""}://localhost:{server.server_port}'
        threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
        servers.append(server)
        return server

    monkeypatch.setenv('SSL_CERT_FILE', str(certificate))
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    file = tmp_path / 'file.pth'
    torch.save({'state_dict': {'weight': torch.arange(5)}}, file)
    content = file.read_bytes()
    file.unlink()
    return content


def downloaded(tmp_path: Path) -> list[Path]:
    return list((tmp_path / 'hub' / 'checkpoints').glob('*')) + list((tmp_path / 'hub' / 'checkpoints').glob('.*'))


def test_checkpoints_are_downloaded_once_and_always_verified(serve: Callable, content: bytes, tmp_path: Path) -> None:
    server, digest = serve(), hashlib.sha256(content).hexdigest()
    server.answers = {f'/net-{digest[:8]}.pth': content, '/net.pth': content, '/moved.pth': f'{server.url}/net.pth'}
    for address, name in (
        (f'/net-{digest[:8]}.pth', f'net-{digest[:8]}.pth'),
        (f'/net.pth#sha256={digest}', f'net-{digest[:8]}.pth'),
        (f'/moved.pth#sha256={digest.upper()}', f'moved-{digest[:8]}.pth'),
    ):
        read = read_checkpoint(server.url + address)
        assert torch.equal(read['state_dict']['weight'], torch.arange(5))
        assert (tmp_path / 'hub' / 'checkpoints' / name).read_bytes() == content
    # the second address is in the folder already
    assert set(server.asked) == {f'/net-{digest[:8]}.pth', '/moved.pth', '/net.pth'}

    # a damaged one is downloaded again
    file = tmp_path / 'hub' / 'checkpoints' / f'net-{digest[:8]}.pth'
    file.write_bytes(content[:-1] + b'?')
    read_checkpoint(f'{server.url}/net-{digest[:8]}.pth')
    assert file.read_bytes() == content
    assert len(downloaded(tmp_path)) == 2


def test_only_https_and_verified_files(serve: Callable, content: bytes, tmp_path: Path) -> None:
    server, open_server, digest = serve(), serve(encrypted=False), hashlib.sha256(content).hexdigest()
    open_server.answers = {'/net.pth': content}
    server.answers = {
        '/net.pth': content,
        '/moved.pth': f'{open_server.url}/net.pth',
        '/file.pth': 'file:///etc/hostname',
        f'/other-{"0" * 8}.pth': content,
        '/around.pth': f'{server.url}/around.pth',
    }
    sum_ = f'#sha256={digest}'
    for address, message in (
        (f'{open_server.url}/net.pth{sum_}', 'only https://'),
        (f'{server.url}/net.pth', r'https://localhost:\d+/net.pth#sha256='),
        (f'{server.url}/net-abc.pth', 'cannot be verified'),
        (f'{server.url}/net.pth#sha256=12345678', 'cannot be verified'),
        (f'{server.url}/net-{digest[:8]}.pth#md5=1', 'cannot be verified'),
        (f'{server.url}/moved.pth{sum_}', 'could not be downloaded .*http'),
        (f'{server.url}/file.pth{sum_}', 'could not be downloaded .*file'),
        (f'{server.url}/around.pth{sum_}', 'could not be downloaded'),
        (f'{server.url}/absent.pth{sum_}', 'could not be downloaded .*404'),
        (f'{server.url}/other-{"0" * 8}.pth', 'could not be downloaded .*hash'),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(address)
    assert not open_server.asked
    assert not downloaded(tmp_path)


def test_a_wrong_server_and_a_broken_transfer_are_noticed(
    serve: Callable, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, digest, file = serve(), hashlib.sha256(content).hexdigest(), tmp_path / 'file'
    server.answers = {'/file': content}
    file.write_bytes(b'mine')
    server.missing = 5
    with pytest.raises(OSError, match=r'IncompleteRead|hash'):
        download(f'{server.url}/file', file, hashlib.sha256(content + bytes(5)).hexdigest())
    server.missing = 0
    monkeypatch.delenv('SSL_CERT_FILE')
    with pytest.raises(OSError, match='CERTIFICATE_VERIFY_FAILED'):
        download(f'{server.url}/file', file, digest)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == {file: b'mine'}
