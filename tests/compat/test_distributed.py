"""Process groups on a machine without a GPU."""

import socket
from pathlib import Path

import pytest
import torch
from helpers import run_python
from mmengine.config import Config

from icd_mmrazor.compat.distributed import process_group
from icd_mmrazor.errors import SettingError


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU machine the launchers are mmengine's own")
@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_launchers_that_need_a_gpu_say_so(launcher: str) -> None:
    with (
        pytest.raises(SettingError, match=f"launcher='{launcher}' needs a GPU.*torchrun"),
        process_group(Config({'launcher': launcher})),
    ):
        pass


def test_processes_that_torchrun_has_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('RANK', raising=False)
    with (
        pytest.raises(SettingError, match=r"launcher='pytorch'.*torchrun"),
        process_group(Config({'launcher': 'pytorch'})),
    ):
        pass


@pytest.mark.parametrize('visible', [None, '2,3'])
def test_more_processes_than_gpus_are_refused(visible: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('icd_mmrazor.compat.distributed.get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    for name, value in dict(RANK='0', LOCAL_WORLD_SIZE='3', CUDA_VISIBLE_DEVICES=visible).items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    shown = r' \(CUDA_VISIBLE_DEVICES=2,3\)' if visible else ''
    with (
        pytest.raises(SettingError, match=rf'3 processes .* sees 2 GPUs{shown}\. .*at most 2'),
        process_group(Config({'launcher': 'pytorch'})),
    ):
        pass


def test_a_single_process_starts_no_group() -> None:
    cfg = Config({'launcher': 'none'})
    with process_group(cfg):
        assert not torch.distributed.is_initialized()
    assert 'model_wrapper_cfg' not in cfg


GROUP = """
import os
from icd_mmrazor.compat.distributed import process_group
import torch
from mmengine.config import Config

def threads():
    return len(os.listdir('/proc/self/task'))

def train(cfg):
    device_ids = cfg.model_wrapper_cfg.device_ids
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2), device_ids=device_ids)
    model.itself = [model]  # a cycle, as a runner's
    model(torch.ones(1, 2)).sum().backward()
    assert torch.distributed.get_backend() == 'gloo'

torch.ones(2).requires_grad_().sum().backward()
before, cfg = threads(), Config({'launcher': 'pytorch'})
with process_group(cfg):
    train(cfg)
    during = threads()
print(before, during, threads(), torch.distributed.is_initialized())
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU machine the launchers are mmengine's own")
def test_no_thread_of_a_process_group_is_left(tmp_path: Path) -> None:
    """One that meets the end of the interpreter aborts the process."""
    script = tmp_path / 'script.py'
    script.write_text(GROUP)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    world = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    process = run_python(script, **world, OMP_NUM_THREADS='1')
    # gloo of torch 2.10 prints its own line
    before, during, after, initialized = process.stdout.splitlines()[-1].split()
    assert int(during) > int(before), process.stderr
    assert (after, initialized) == (before, 'False')
