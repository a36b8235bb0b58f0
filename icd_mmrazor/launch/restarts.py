"""Restarts of processes by torchrun."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from mmengine.config import Config

from icd_mmrazor.checkpoints.resuming import POINTER
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.processes import open_store

COUNT = 'TORCHELASTIC_RESTART_COUNT'
LOOK, PATIENCE = 0.2, 300.0  # seconds: between looks, and for the first process to answer


def join_start(seconds: float) -> None:
    """Wait until all processes of the launch start, and let them have the same number of restarts.

    Each torchrun counts only the restarts on its machine. If a machine has been replaced, its count is behind, and
    processes that know each other by it never meet. Here the first process numbers its starts in the store of the
    launch, and each other process takes the first number that it has not had.

    Args:
        seconds: How long to wait for the first process.

    Raises:
        SettingError: It has not started again in this time.
    """
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':  # the store does not outlive a process
        return
    os.environ[COUNT], rank = '0', os.environ['RANK']  # the keys of all starts
    store = dist.PrefixStore('starts', open_store(PATIENCE))
    if rank == '0':
        number = store.add('number', 1) - 1
        store.set('current', str(number))
    else:
        # a number that no start has, for the first
        last, end = int(store.compare_set(rank, '', '-1')), time.monotonic() + seconds
        while not store.check(['current']) or (number := int(store.get('current'))) <= last:
            if time.monotonic() > end:
                raise SettingError(
                    f'rank {rank} has restarted, and rank 0 has not for {seconds:g} s. Give all machines the same '
                    'MAX_RESTARTS; to continue, repeat the command on all with --resume.'
                )
            time.sleep(LOOK)
        store.set(rank, str(number))
    os.environ[COUNT] = str(number)


def of_first(name: str, value: Callable[[], str], seconds: float = PATIENCE) -> str:
    """Return what the first process of the launch has computed, in all processes.

    Args:
        name: A key that no other call uses.
        value: Called in the first process only.
        seconds: How long to wait for it.

    Raises:
        RuntimeError: It has not answered.
    """
    store = open_store(PATIENCE)
    if os.environ['RANK'] == '0':
        store.set(name, value())
    store.wait([name], timedelta(seconds=seconds))
    return store.get(name).decode()


def resume_after_restart(cfg: Config) -> None:
    """Let a run that ``torchrun --max-restarts`` restarts resume from its own last checkpoint.

    The first start removes the ``last_checkpoint`` of an earlier run in the folder, unless it resumes that run. So a
    restart finds the file of this run, and ``cfg`` gets ``resume=True``; or none, and it starts as the first one did.
    The first process decides for all.
    """
    if os.environ.get('TORCHELASTIC_MAX_RESTARTS', '0') == '0':
        return
    pointer = Path(cfg.work_dir, POINTER)

    def decide() -> str:
        if os.environ.get(COUNT, '0') != '0':
            return 'resume' if pointer.is_file() else ''
        if not (cfg.get('resume') and not cfg.get('load_from')):
            pointer.unlink(missing_ok=True)
        return ''

    if of_first('restart', decide):
        cfg.resume, cfg.load_from = True, None
