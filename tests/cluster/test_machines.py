"""dist_train.sh on two machines: the result of one, and what happens when one of them fails."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

import pytest
from helpers import TOOLS
from machines import Machines, read, shows, wait_until
from mmengine.config import Config

import icd_mmrazor

# longer.py has a timeout of 8 seconds: nine tenths of it, twice 5 seconds for answers, and what an end takes
LIMIT = 40
NOBODY = 'has reached no machine with NODE_RANK=0'


@pytest.fixture(scope='module')
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Two machines for tests that leave them as they are."""
    with Machines(tmp_path_factory.mktemp('machines'), warm=True) as machines:
        yield machines


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Machines]:
    with Machines(tmp_path / 'machines', warm=True) as machines:
        yield machines


class Training:
    """dist_train.sh with one process on each of two machines."""

    def __init__(
        self, machines: Machines, folder: Path, config: Path, *arguments: object, **environment: object
    ) -> None:
        self.machines, self.arguments = machines, [TOOLS / 'dist_train.sh', config, 1, *arguments]
        self.environment = dict(NNODES=2, MASTER_ADDR='node1', **environment)
        self.logs = {node: folder / f'node{node}.log' for node in (1, 2)}
        self.processes: dict[int, Popen] = {}
        for node in (1, 2):
            self.start(node)

    def start(self, node: int) -> None:
        self.processes[node] = self.machines.start(
            node, self.logs[node], *self.arguments, NODE_RANK=node - 1, **self.environment
        )

    def trains(self) -> None:
        """Wait until it trains."""
        shows(self.logs[1], '[1][ 5/20]')

    def end(self, node: int, seconds: float) -> str:
        """Wait until the processes of a machine have ended, which they must in so many seconds; return their log."""
        wait_until(lambda: self.processes[node].poll() is not None, seconds, lambda: read(self.logs[node]))
        return read(self.logs[node])


def test_two_machines_end_as_one(
    config: Path, tmp_path: Path, ends_as_trained: Callable[[Path], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have disks of their own for what they write, and know themselves as 127.0.1.1, as an installed Debian."""
    own = tmp_path / 'own'
    own.mkdir()
    monkeypatch.chdir(own)
    with Machines(tmp_path / 'machines', loopback=True) as machines:
        for node in (1, 2):
            machines.output(node, 'mount', '-t', 'tmpfs', 'tmpfs', own)
        # the working folder itself is that of a checkout which nobody may write to
        training = Training(machines, tmp_path, config, '--work-dir', own / 'work')
        for node in (1, 2):
            log = training.end(node, 180)
            assert training.processes[node].returncode == 0, log
        assert ends_as_trained(machines.path(1, own / 'work'))
        written = {node: sorted(file.name for file in machines.path(node, own).iterdir()) for node in (1, 2)}
        assert written[1] == ['work']
        assert '.dist_test' not in written[2]
        assert read(training.logs[1]).count('Training ended') + read(training.logs[2]).count('Training ended') == 1


def test_the_machine_of_the_store_freezes(two: Machines, longer: Path, tmp_path: Path) -> None:
    training = Training(two, tmp_path, longer, '--work-dir', tmp_path / 'work')
    training.trains()
    two.freeze(1)
    log = training.end(2, LIMIT)
    assert 'The store of the launch (MASTER_ADDR node1) does not answer' in log
    assert 'env_cfg.dist_cfg.timeout=8' in log
    assert 'Exception raised from' not in log  # a stack of C++


def test_a_cable_is_cut(two: Machines, longer: Path, tmp_path: Path) -> None:
    """For the other machine it is the same if a machine loses its power."""
    training = Training(two, tmp_path, longer, '--work-dir', tmp_path / 'work')
    training.trains()
    two.cut_cable(2)
    assert 'rank 1 (on node2) does not answer: it is stopped or gone, or its machine is.' in training.end(1, LIMIT)
    assert 'The store of the launch (MASTER_ADDR node1) does not answer' in training.end(2, LIMIT)


@pytest.mark.parametrize('interface', ['lo', 'eth7'])
def test_a_wrong_interface_is_a_message(interface: str, two: Machines, longer: Path, tmp_path: Path) -> None:
    training = Training(two, tmp_path, longer, '--work-dir', tmp_path / 'work', GLOO_SOCKET_IFNAME=interface)
    for node in (1, 2):
        training.end(node, LIMIT)
        assert training.processes[node].returncode == 1
    said = read(training.logs[1]) + read(training.logs[2])
    assert 'error: the other processes cannot be reached. On each machine, set GLOO_SOCKET_IFNAME' in said
    assert 'Traceback' not in said


def test_a_machine_that_comes_back_resumes(
    two: Machines, config: Path, tmp_path: Path, ends_as_trained: Callable[[Path], bool]
) -> None:
    """The other one restarts its processes, and waits."""
    options = ['--cfg-options', 'env_cfg.dist_cfg.timeout=30']
    training = Training(two, tmp_path, config, '--work-dir', tmp_path / 'work', *options, MAX_RESTARTS=1)
    shows(training.logs[1], '[2][ 5/20]')
    two.switch_off(2)
    training.end(2, 10)
    two.switch_on(2)
    two.plug_in(2)
    training.start(2)
    for node in (1, 2):
        log = training.end(node, 180)
        assert training.processes[node].returncode == 0, log
    assert 'resume=' in read(training.logs[1])
    assert ends_as_trained(tmp_path / 'work')


def test_machines_with_different_code_and_settings_do_not_train(two: Machines, config: Path, tmp_path: Path) -> None:
    """node2 has another setting, and another line in a file of the package."""
    file, changed = Path(icd_mmrazor.__file__).with_name('version.py'), tmp_path / 'version.py'
    changed.write_text(f'{file.read_text()}\n')
    other = tmp_path / 'config.py'
    cfg = Config.fromfile(config)
    cfg.model.distiller.kd.tau = 2.0
    cfg.dump(other)
    for own, shared in ((changed, file), (other, config)):
        two.output(2, 'mount', '--bind', own, shared)
    training = Training(two, tmp_path, config, '--work-dir', tmp_path / 'work')
    for node in (1, 2):
        training.end(node, 120)
        assert training.processes[node].returncode == 1
    log = read(training.logs[2])
    assert re.search(
        r'error: node2 differs from node1, the machine of rank 0:\n'
        r'  icd_mmrazor: .* there, .* here\n  model\.distiller\.kd\.tau: 4\.0 there, 2\.0 here\n',
        log,
    ), log
    assert 'Traceback' not in log
    assert 'error: node2 has failed with status 1; see its messages.' in read(training.logs[1])
    assert not list(tmp_path.glob('work/*.pth'))


@pytest.mark.parametrize(
    ('variables', 'messages'),
    [
        # of each machine
        (({}, {}), ('needs NODE_RANK and MASTER_ADDR', 'needs NODE_RANK and MASTER_ADDR')),
        ((dict(NODE_RANK=2), dict(NODE_RANK=-1)), ("from 0 to 1, not '2'", "from 0 to 1, not '-1'")),
        ((dict(NODE_RANK=1), dict(NODE_RANK=0)), (NOBODY, 'and this is node2')),
        ((dict(NODE_RANK=0), dict(NODE_RANK=0)), ('NODE_RANK=1 of NNODES=2 has not joined', 'and this is node2')),
        (
            (dict(NODE_RANK=1, MASTER_ADDR='nowhere'), dict(NODE_RANK=1)),
            ('NODE_RANK=0. MASTER_ADDR=nowhere, PORT=29500: ', f'{NOBODY}. MASTER_ADDR=node1, PORT=29500: Connection'),
        ),
        ((dict(NODE_RANK=0, NNODES=3), dict(NODE_RANK=1)), ('NNODES=3 on node1, 2 on', 'NNODES=2 on node2, 3 on')),
        (
            (dict(NODE_RANK=0, MAX_RESTARTS=2), dict(NODE_RANK=1)),
            ('MAX_RESTARTS=2 on node1, 0 on node2', 'MAX_RESTARTS=0 on node2, 2 on node1'),
        ),
    ],
    ids=['forgotten', 'too high', 'swapped', 'twice', 'nobody', 'numbers', 'restarts'],
)
def test_a_wrong_call_is_a_message(
    variables: tuple[dict, dict], messages: tuple[str, str], unharmed: Machines, tmp_path: Path
) -> None:
    """Before the stack is imported."""
    started = {}
    for node, own in enumerate(variables, 1):
        given = {'NNODES': 2, **({'MASTER_ADDR': 'node1', 'JOIN_TIMEOUT': 4, **own} if own else {})}
        command = [TOOLS / 'dist_train.sh', 'absent.py', 1]
        started[node] = unharmed.start(node, tmp_path / f'{node}.log', *command, **given)
    for node, process in started.items():
        log = tmp_path / f'{node}.log'
        assert process.wait(60) == 2, read(log)
        assert read(log).count('error: ') == 1
        assert messages[node - 1] in read(log), read(log)
        assert 'Traceback' not in read(log)
