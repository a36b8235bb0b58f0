"""The common part of ``tools/train.py`` and ``tools/test.py``."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device

from icd_mmrazor import compat
from icd_mmrazor.compat.distributed import lost_connection
from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.configuration.files import DATALOADERS, apply_cfg_options, check_sections, read_config_file
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.launch.processes import end_process, end_with_launcher, several_processes

FUSED_OPTIMIZERS = ('SGD', 'Adam', 'AdamW')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what both tools take, under the names of mmpretrain's and mmrazor's tools.

    Args:
        parser: The tool's parser; gets the arguments.
    """
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: ./work_dirs/CONFIG_NAME)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        type=key_value,
        action=DictAction,
        metavar='KEY=VALUE',
        help='change settings of the config: model.distiller.embed_dims=64 train_cfg.max_epochs=60 ...',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='who started the processes (default: none, a single one)',
    )
    # torchrun sets the variable LOCAL_RANK, older launchers pass an argument
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def key_value(text: str) -> str:
    """Check an item of ``--cfg-options``, for ``argparse``; mmengine's ``DictAction`` takes it apart.

    Args:
        text: The item.

    Raises:
        argparse.ArgumentTypeError: It is not ``KEY=VALUE``.
    """
    key, equals, _ = text.partition('=')
    if not key or not equals:
        raise argparse.ArgumentTypeError(f'{text!r} is not KEY=VALUE, such as train_cfg.max_epochs=60')
    return text


def load_config(args: argparse.Namespace) -> Config:
    """Read the config of a tool's arguments and apply those that both tools have.

    The work folder is, in this order, the argument, the config's, or ``./work_dirs/CONFIG_NAME``. A dataloader gets
    what every run wants and few configs say: whole batches as one tensor, workers that stay, pinned memory for a GPU.
    The optimizer is a fused one where torch has it.

    Args:
        args: What the tool's parser gave.

    Returns:
        The config of the run.

    Raises:
        SettingError: There is no such config file, something in it or in ``--cfg-options`` is wrong, or the work folder
            is a file.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config_file(args.config)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(args.config).stem))
    apply_cfg_options(cfg, args.cfg_options)
    check_sections(cfg, args.config)
    if Path(cfg.work_dir).is_file():
        raise SettingError(f'--work-dir {cfg.work_dir} is a file. Give a folder.')
    for name in DATALOADERS:
        if cfg.get(name):
            cfg[name].setdefault('collate_fn', dict(type='default_collate'))
            cfg[name].setdefault('persistent_workers', cfg[name].get('num_workers', 0) > 0)
            cfg[name].setdefault('pin_memory', torch.cuda.is_available())
    hook = (cfg.get('default_hooks') or {}).get('check_weights')
    if hook:
        # its settings may be given to a config that does not name it
        hook.setdefault('type', 'CheckWeightsHook')
    use_fused_optimizer(cfg)
    return cfg


def use_fused_optimizer(cfg: Config) -> None:
    """Let torch's optimizer update all weights in one kernel, not in several for each weight.

    The result is the same but for rounding. torch does not do it unless it is told to. A config that says how its
    optimizer computes (``fused``, ``foreach``, ``differentiable``) keeps what it says, and so do several optimizers.

    Args:
        cfg: The run's; its ``optim_wrapper.optimizer`` gets ``fused=True``.
    """
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    said = {'fused', 'foreach', 'differentiable'} & {*optimizer}
    if said or type_name(optimizer.get('type')) not in FUSED_OPTIMIZERS:
        return
    if get_device() in ('cuda', 'cpu'):
        optimizer['fused'] = True


def run(main: Callable[[], None], when_stopped: str = '') -> None:
    """Run a tool, and let it end with a message that says who has what to do.

    An error that the user can mend is its message alone, exit status 1, and so is a full disk. Ctrl-C and SIGTERM are
    a line, exit status 130 and 143. Of several processes each names its rank; what all of them find is printed once;
    and a process that loses the connection to another says so in a line, since the reason is the other's. Anything else
    keeps its trace.

    Args:
        main: The tool's main function.
        when_stopped: How to go on after Ctrl-C or SIGTERM, a sentence.
    """
    end_with_launcher()
    with _terminated_as_interrupted():
        try:
            compat.runtime()
            with explained_settings():
                main()
        except UserError as error:
            _end(f'error: {error}', 1)
        except KeyboardInterrupt as stop:
            _end_stopped(stop, when_stopped)
        except Exception as error:
            if stop := _interrupt_behind(error):
                _end_stopped(stop, when_stopped)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                # a log or a config: what writes checkpoints has a message of its own
                _end(f'error: {error.strerror}. Make room on the disk that the run writes to. {when_stopped}', 1)
            if not several_processes():
                raise
            if not lost_connection(error):
                _end(traceback.format_exc(), 1)
            # whose end it was is for the launcher to see first
            time.sleep(2)
            _end(
                'error: the connection to another process is lost: it has ended, or its machine is gone. Its own '
                f"message, or the launcher's, says why. ({str(error).splitlines()[0]})",
                1,
            )


class _Terminated(KeyboardInterrupt):
    """SIGTERM; takes the way of Ctrl-C through whatever is running."""


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end a single process as Ctrl-C does.

    One of several is ended by the signal itself: a process that waits for others in C++ would not get to Python.
    """
    process = os.getpid()

    def stop(*_: object) -> None:
        if os.getpid() != process:  # a child that has inherited it
            os._exit(143)
        raise _Terminated

    here = not several_processes() and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if here else None
    try:
        yield
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interrupt that an error has followed: a signal to a process group ends DataLoader workers, too."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _end_stopped(stop: KeyboardInterrupt, how_to_go_on: str) -> NoReturn:
    name, status = ('SIGTERM', 143) if isinstance(stop, _Terminated) else ('Ctrl-C', 130)
    _end(f'stopped by {name}. {how_to_go_on}', status)


def _end(message: str, status: int) -> NoReturn:
    if several_processes():
        end_process(message, status)
    print(f'\n{message}', file=sys.stderr)
    sys.exit(status)
