"""Several processes of which one dies, hangs or raises: real runs of train.py under torchrun's agent."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers import TOOLS
from launches import Launch
from mmengine.config import Config

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='the processes are forked, and want the CPU')


@pytest.fixture
def launch(demo_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Launch]]:
    """Start two processes of train.py on the small problem."""

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    # from a signal, which waits for the end of an iteration, to killing a process that hangs: 30 seconds by default
    monkeypatch.setenv('TORCH_ELASTIC_SHUTDOWN_TIMEOUT', '5')
    launches = []

    def start(name: str, *, faults: list[str] | None = None, max_restarts: int = 0, **options: object) -> Launch:
        cfg: Config = demo_config(**{'train_dataloader.batch_size': 16, 'train_cfg.max_epochs': 2, **options})
        cfg.work_dir = str(tmp_path / name)
        cfg.custom_imports.imports.append('hooks_of_processes')
        if faults:
            cfg.default_hooks.fault = dict(type='FaultHook', faults=faults)
        file = tmp_path / f'{name}.py'
        cfg.dump(file)
        launches.append(Launch(tmp_path / f'{name}.log', 2, TOOLS / 'train.py', file, max_restarts=max_restarts))
        return launches[-1]

    yield start
    for each in launches:
        each.kill()


def final(folder: Path, epoch: int = 2) -> dict[str, torch.Tensor]:
    return torch.load(folder / f'epoch_{epoch}.pth', weights_only=True)['state_dict']


@pytest.mark.slow
def test_a_hanging_process_ends_the_run(launch: Callable, tmp_path: Path) -> None:
    """A DataLoader worker of rank 1 loops; rank 0 waits in a collective operation."""
    workers = {'train_dataloader.num_workers': 1, 'default_hooks.whole_batches.max_memory': 0}
    cut = [dict(type='EndlessInRank1'), dict(type='PackInputs')]
    run = launch('hangs', **workers, **{'train_dataloader.dataset.pipeline': cut, 'env_cfg.dist_cfg.timeout': 6})
    assert run.wait(120) == 1
    text = run.log.read_text()
    message = text[text.index('error: this process has stood still') :].partition('--resume')[0]
    assert 'env_cfg.dist_cfg.timeout=6' in message
    assert 'rank 1 (on ' in message
    assert 'rank 0 (on ' not in message
    assert 'dataloader.py' in message
    assert text.count('] error: ') == 1  # torchrun's table repeats it
    run.wait_until_gone(5)


@pytest.mark.slow
def test_an_exception_is_told_and_a_killed_launcher_leaves_nothing(launch: Callable, tmp_path: Path) -> None:
    """At the first start rank 1 raises; at the second it sleeps, and the agent is killed."""
    shared = set(Path('/dev/shm').iterdir())
    run = launch('raises', faults=['raise', 'sleep'], max_restarts=1)
    sleeps, end = tmp_path / 'raises' / 'sleeps', time.monotonic() + 120
    while not sleeps.exists():
        assert time.monotonic() < end, run.log.read_text()
        assert run.left(), run.log.read_text()
        time.sleep(0.05)
    text = run.log.read_text()
    assert text.count('[rank 1] Traceback (most recent call last):') == 1
    assert 'RuntimeError: rank 1 has a fault' in text
    assert '[rank 0] Traceback' not in text
    os.kill(run.agent, signal.SIGKILL)
    os.waitpid(run.agent, 0)
    run.wait_until_gone(5)
    assert {file for file in Path('/dev/shm').iterdir() if file.name.startswith(('torch', 'gloo'))} <= shared
    assert not list((tmp_path / 'raises').rglob('.*'))


@pytest.mark.slow
def test_a_killed_process_restarts_and_ends_with_the_same_weights(launch: Callable, tmp_path: Path) -> None:
    undisturbed = launch('undisturbed')
    assert undisturbed.wait(120) == 0, undisturbed.log.read_text()
    killed = launch('killed', faults=['kill'], max_restarts=1)
    assert killed.wait(120) == 0, killed.log.read_text()
    # torchrun's own lines depend on its version
    assert f'{tmp_path}/killed/epoch_1.pth' in killed.log.read_text()
    want, got = final(tmp_path / 'undisturbed'), final(tmp_path / 'killed')
    assert want.keys() == got.keys()
    assert all(torch.equal(want[name], got[name]) for name in want)
    killed.wait_until_gone(5)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_with_a_checkpoint(launch: Callable, tmp_path: Path) -> None:
    longer = {'train_cfg.max_epochs': 8}
    undisturbed = launch('undisturbed', **longer)
    assert undisturbed.wait(120) == 0, undisturbed.log.read_text()
    stopped = launch('stopped', faults=['stop'], **longer)
    assert stopped.wait(120) == 1
    (file,) = (tmp_path / 'stopped').glob('iter_*.pth')
    # torchrun's table repeats it
    assert f'] stopped by SIGUSR1. Saved: {file}. To continue' in stopped.log.read_text()
    resumed = launch('stopped', faults=['stop'], resume=True, **longer)
    assert resumed.wait(120) == 0, resumed.log.read_text()
    assert f'resume={file}' in resumed.log.read_text()
    want, got = final(tmp_path / 'undisturbed', 8), final(tmp_path / 'stopped', 8)
    assert all(torch.equal(want[name], got[name]) for name in want)
    assert not file.exists()
