"""Machines on this one: each has its own network, host name, processes and temporary files."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import warm_python
from warm_python import SERVERS, serve

NETWORK = '192.0.2'  # RFC 5737: documentation
CLIENT = str(warm_python.__file__)
COMMANDS = ('ip', 'nsenter', 'unshare')
# the first process of a machine: killed, it takes all others along. $1: what becomes /etc/hosts, $2: the name
INIT = """
mount --bind "$1" /etc/hosts
mount -t tmpfs tmpfs /dev/shm
hostname "$2"
ip link set lo up
echo ready
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done
"""


def cannot_have_machines() -> str:
    """Say why there can be no machines; empty if there can."""
    if os.geteuid() != 0:
        return 'needs root'
    if missing := [name for name in COMMANDS if shutil.which(name) is None]:
        return f'needs {", ".join(missing)} (iproute2, util-linux)'
    tried = subprocess.run(['unshare', '--net', '--uts', '--mount', '--pid', '--fork', 'true'], capture_output=True)
    return '' if tried.returncode == 0 else 'needs the right to make namespaces'


class Machines:
    """Computers node1, node2, ... on a switch, node0, with addresses 192.0.2.2, 192.0.2.3, ...; no packet leaves them.

    Disks are shared, as on a cluster.

    Args:
        folder: For files of theirs.
        count: Number of computers.
        loopback: Whether each knows its own name as 127.0.1.1, as an installed Debian does.
        warm: Whether their commands run ``warm_python.py`` in place of Python.
    """

    def __init__(self, folder: Path, count: int = 2, loopback: bool = False, warm: bool = False) -> None:
        self.folder, self.count, self.loopback, self.warm = folder, count, loopback, warm
        self.started: list[subprocess.Popen] = []
        self.commands: list[tuple[int, subprocess.Popen]] = []
        self.inits: list[int] = []
        self.servers: dict[int, int] = {}  # processes that wait for those of warm_python.py
        # held, since a network that is gone may give its number to one of another test
        self.networks: dict[int, int] = {}
        # of all commands
        self.environment = {SERVERS: str(folder), 'PYTHON': CLIENT, 'PYTHON_EXEC': CLIENT} if warm else {}

    def __enter__(self) -> 'Machines':
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for node in range(self.count + 1):
                self.switch_on(node)
            self.ip(0, 'link', 'add', 'name', 'switch', 'type', 'bridge')
            self.ip(0, 'addr', 'add', f'{self.address(0)}/24', 'dev', 'switch')
            self.ip(0, 'link', 'set', 'switch', 'up')
            for node in range(1, self.count + 1):
                self.plug_in(node)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(range(len(self.inits))):
            self.switch_off(node)
        for process in self.started:
            process.wait()

    def left(self, node: int) -> list[int]:
        """Return the processes that are in the network of a machine."""
        found = []
        for process in Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):  # it has ended
                if (process / 'ns' / 'net').stat().st_ino == os.fstat(self.networks[node]).st_ino:
                    found.append(int(process.name))
        return found

    def address(self, node: int) -> str:
        return f'{NETWORK}.{node + 1}'

    def hosts(self, node: int) -> str:
        """Return the /etc/hosts of a machine."""
        names = {f'node{other}': self.address(other) for other in range(self.count + 1)}
        if self.loopback:
            names[f'node{node}'] = '127.0.1.1'
        return ''.join(f'{address} {name}\n' for name, address in {'localhost': '127.0.0.1', **names}.items())

    def switch_on(self, node: int) -> None:
        file = self.folder / f'hosts{node}'
        file.write_text(self.hosts(node))
        spaces = ['--net', '--uts', '--mount', '--pid', '--fork', '--mount-proc', '--kill-child']
        outer = subprocess.Popen(
            ['unshare', *spaces, 'bash', '-c', INIT, 'init', str(file), f'node{node}'],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        assert outer.stdout.readline() == 'ready\n'
        self.started.append(outer)
        (init,) = Path(f'/proc/{outer.pid}/task/{outer.pid}/children').read_text().split()
        self.inits[node:] = [int(init), *self.inits[node + 1 :]]
        self.networks[node] = os.open(f'/proc/{init}/ns/net', os.O_RDONLY)

    def plug_in(self, node: int) -> None:
        """Connect a machine that is on to the switch, and warm it up."""
        self.ip(0, 'link', 'add', f'port{node}', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', str(self.inits[node]))
        self.ip(0, 'link', 'set', f'port{node}', 'master', 'switch', 'up')
        self.ip(node, 'addr', 'add', f'{self.address(node)}/24', 'dev', 'eth0')
        self.ip(node, 'link', 'set', 'eth0', 'up')
        if self.warm:
            self._warm_up(node)

    def ip(self, node: int, *arguments: str) -> None:
        inside = ['nsenter', '--target', str(self.inits[node]), '--net', '--']
        subprocess.run([*inside, 'ip', *arguments], check=True)

    def _warm_up(self, node: int) -> None:
        # the server of warm_python.py, forked from this process, which has imported the stack
        address = self.folder / f'node{node}'
        address.unlink(missing_ok=True)
        self.servers[node] = os.fork()
        if self.servers[node] == 0:
            try:
                libc = ctypes.CDLL(None)
                for kind in ('net', 'uts', 'pid', 'mnt'):  # the last with the machine's /proc
                    if libc.setns(os.open(f'/proc/{self.inits[node]}/ns/{kind}', os.O_RDONLY), 0):
                        os._exit(1)
                if (server := os.fork()) == 0:  # only a child is in the machine's table of processes
                    os.setsid()
                    serve(str(address))
                os.waitpid(server, 0)  # at once, which a container's first process may not do
            finally:
                os._exit(0)
        wait_until(address.exists, 10)

    def switch_off(self, node: int) -> None:
        """End all processes of a machine, whose connections are closed."""
        try:
            os.kill(self.inits[node], signal.SIGKILL)
        except ProcessLookupError:
            return
        for own, command in self.commands:
            if own == node:
                command.kill()  # nsenter stops when what it has started is stopped
        wait_until(lambda: not Path(f'/proc/{self.inits[node]}').exists(), 60)
        if node in self.servers:
            os.waitpid(self.servers.pop(node), 0)
        wait_until(lambda: not self.left(node), 10, lambda: f'left over: {self.left(node)}')
        if node:  # by itself it goes some time after the network
            with contextlib.suppress(subprocess.CalledProcessError):
                self.ip(0, 'link', 'del', f'port{node}')
        os.close(self.networks.pop(node))

    def cut_cable(self, node: int) -> None:
        self.ip(node, 'link', 'set', 'eth0', 'down')

    def freeze(self, node: int) -> None:
        """Stop all processes of a machine, which stays in the network."""
        self.output(node, 'bash', '-c', 'kill -STOP -1')

    def command(self, node: int, *words: object) -> list[str]:
        spaces = ['--net', '--uts', '--mount', '--pid', f'--wdns={Path.cwd()}']
        return ['nsenter', '--target', str(self.inits[node]), *spaces, '--', *map(str, words)]

    def output(self, node: int, *words: object) -> str:
        """Run a command on a machine in the working folder; return what it prints."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(self.command(node, *words), check=True, capture_output=True, text=True, env=environment)
        return done.stdout

    def start(self, node: int, log: Path, *words: object, **environment: object) -> subprocess.Popen:
        """Start a command on a machine in the working folder, with variables in addition to those of this process."""
        variables = {name: str(value) for name, value in environment.items()}
        with log.open('a') as output:
            command = subprocess.Popen(
                self.command(node, *words),
                env={**os.environ, **self.environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.commands.append((node, command))
        return command

    def path(self, node: int, path: Path) -> Path:
        """Return where this process finds a path of a machine, which may have its own mounts."""
        return Path(f'/proc/{self.inits[node]}/root{path}')


def wait_until(condition: Callable[[], object], seconds: float, what: Callable[[], str] = str) -> None:
    """Wait until a condition holds.

    Args:
        condition: Called again and again.
        seconds: For how long.
        what: Called if it does not hold in time, for the message.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


def shows(log: Path, text: str, seconds: float = 120) -> None:
    """Wait until a log has a text."""
    wait_until(lambda: log.is_file() and text in log.read_text(), seconds, lambda: f'no {text!r} in:\n{read(log)}')


def read(log: Path) -> str:
    return log.read_text() if log.is_file() else f'there is no {log}'
