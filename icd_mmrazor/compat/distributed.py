"""Several processes: groups on a CPU, restarts by torchrun, connections that fail or are lost."""

import contextlib
import datetime
import gc
import importlib
import os
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device

from icd_mmrazor.errors import SettingError

WATCHDOGS_LEAD = 60  # seconds
# the most seconds to connect, and the most of the watchdog's time, which does not know why a connection fails
CONNECTING, SHARE = 300, 0.8


def lost_connection(error: Exception) -> bool:
    """Return whether an error only says that another process of a process group has gone.

    Where: torch, all versions: gloo raises a plain ``RuntimeError``, NCCL one error class for this and all else.
    """
    text = str(error)
    return isinstance(error, dist.DistNetworkError) or any(
        said in text for said in ('gloo/transport/', 'ncclRemoteError', 'remote process exited')
    )


def forget_earlier_starts() -> None:
    """Let processes restarted by torchrun not find the addresses of those that have ended.

    Where: torch 2.14, ``_create_c10d_store``: it expects a new store for every attempt, and torchrun's
    ``DynamicRendezvousHandler`` keeps its first one. A process that reads an old address fails: "Connection refused".
    """
    # by its name: torch.distributed.rendezvous is a function
    rendezvous = importlib.import_module('torch.distributed.rendezvous')
    attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    create = getattr(rendezvous, '_create_c10d_store', None)
    if attempt == '0' or create is None:
        return

    def create_for_this_start(*args: Any, **kwargs: Any) -> Any:
        return dist.PrefixStore(f'attempt_{attempt}', create(*args, **kwargs))

    rendezvous._create_c10d_store = create_for_this_start


def failed_to_connect(error: Exception) -> bool:
    """Return whether an error says that another process could not be reached.

    Where: torch, gloo: a plain ``RuntimeError``, with an address that often belongs to a wrong interface, or with the
    name of an interface that does not exist.
    """
    return any(said in str(error) for said in ('connectFullMesh failed', 'Unable to find address for'))


def limit_of_waiting(cfg: Any) -> datetime.timedelta:
    """Return how long a collective operation on the CPU may wait: longer than the watchdog, which knows whom to blame.

    Args:
        cfg: The run's ``Config``; ``env_cfg.dist_cfg.timeout`` is the watchdog's time in seconds, torch's default else.
    """
    return datetime.timedelta(seconds=_watchdogs_time(cfg) + WATCHDOGS_LEAD)


def _watchdogs_time(cfg: Any) -> float:
    timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    return timeout or dist.distributed_c10d.default_pg_timeout.total_seconds()


def _set_timeout(timeout: datetime.timedelta) -> None:
    # older versions of torch know it by its former name only
    module = dist.distributed_c10d
    set_timeout = getattr(module, 'set_timeout', None) or module._set_pg_timeout
    set_timeout(timeout)


def _check_gpus(processes: int) -> None:
    found, visible = torch.cuda.device_count(), os.environ.get('CUDA_VISIBLE_DEVICES')
    if processes > found:
        shown = '' if visible is None else f' (CUDA_VISIBLE_DEVICES={visible})'
        raise SettingError(
            f'{processes} processes were started on this machine, and torch sees {found} GPUs{shown}. Each process '
            f'needs its own GPU: start at most {found} processes.'
        )


@contextlib.contextmanager
def process_group(cfg: Any) -> Iterator[None]:
    """Hold the process group of a tool: gloo where there is no GPU, what mmengine starts where there is one.

    Where: mmengine, both families, ``init_dist`` and ``Runner.wrap_model``: without an accelerator
    ``torch.cuda.set_device`` fails, and DDP is given a device number. The group is left to the end of the process,
    where a gloo thread that still holds a tensor may outlive the interpreter (torch 2.14, about one run in ten). DDP,
    in reference cycles, keeps these threads alive, so cycles are collected here; nothing built inside may be kept.

    Args:
        cfg: The run's ``Config``, ``launcher`` set; gets a ``model_wrapper_cfg`` for the CPU.

    Raises:
        SettingError: ``pytorch`` without torchrun or with fewer GPUs than processes, or another launcher without an
            accelerator.
    """
    if cfg.launcher == 'pytorch' and 'RANK' not in os.environ:
        raise SettingError(
            "launcher='pytorch' is for processes that torchrun or tools/dist_train.sh start. Start them like that, or "
            'leave out --launcher for a single one.'
        )
    forget_earlier_starts()
    if cfg.launcher == 'pytorch' and get_device() == 'cuda':
        _check_gpus(int(os.environ.get('LOCAL_WORLD_SIZE', 1)))
    if cfg.launcher != 'none' and get_device() == 'cpu':
        if cfg.launcher != 'pytorch':
            raise SettingError(
                f"launcher='{cfg.launcher}' needs a GPU and this machine shows none. Start the processes with "
                'tools/dist_train.sh or torchrun (launcher pytorch), which works on a CPU.'
            )
        # a connection that fails is not worth the time that a slow process gets
        seconds = min(CONNECTING, SHARE * _watchdogs_time(cfg))
        dist.init_process_group('gloo', timeout=datetime.timedelta(seconds=seconds))
        _set_timeout(limit_of_waiting(cfg))
        wrapper = dict(broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False))
        cfg.model_wrapper_cfg = {'type': 'MMDistributedDataParallel', **wrapper, **cfg.get('model_wrapper_cfg', {})}
        cfg.model_wrapper_cfg.device_ids = None
    # not after an error: it would wait for the processes that have not had it
    yield
    if dist.is_available() and dist.is_initialized():
        time.sleep(0.1)  # for a gloo thread to let go of the last tensors
        dist.destroy_process_group()
        gc.collect()
