"""The common part of ``tools/train.py`` and ``tools/test.py``."""

import argparse
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.utils import digit_version

from icd_mmrazor.utils.errors import SettingError, UserError

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
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
        SettingError: There is no such config file, or the work folder is a file.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not Path(args.config).is_file():
        raise SettingError(f'config {args.config}: there is no such file (working folder: {Path.cwd()}).')
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(args.config).stem))
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if Path(cfg.work_dir).is_file():
        raise SettingError(f'--work-dir {cfg.work_dir} is a file. Give a folder.')
    for name in DATALOADERS:
        if cfg.get(name):
            cfg[name].setdefault('collate_fn', dict(type='default_collate'))
            cfg[name].setdefault('persistent_workers', cfg[name].get('num_workers', 0) > 0)
            cfg[name].setdefault('pin_memory', torch.cuda.is_available())
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
    if optimizer.get('type') not in FUSED_OPTIMIZERS or {'fused', 'foreach', 'differentiable'} & {*optimizer}:
        return
    # SGD has it since torch 2.3, and all three on the CPU since 2.4
    offered = 'fused' in inspect.signature(getattr(torch.optim, optimizer['type'])).parameters
    on_cpu = digit_version(torch.__version__) >= digit_version('2.4.0')
    if offered and {'cuda': True, 'cpu': on_cpu}.get(get_device(), False):
        optimizer['fused'] = True


def run(main: Callable[[], None]) -> None:
    """Run a tool; print an error that the user can mend as its message alone and exit with status 1.

    Args:
        main: The tool's main function.
    """
    try:
        main()
    except UserError as error:
        rank = os.environ.get('RANK')
        print(f'\n{"" if rank is None else f"[rank {rank}] "}error: {error}', file=sys.stderr)
        sys.exit(1)
