"""The config of a run, from the arguments of a tool."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device

from icd_mmrazor.configuration.batch_size import tell_losses
from icd_mmrazor.configuration.files import DATALOADERS, STAGES, apply_cfg_options, check_sections, read_config_file
from icd_mmrazor.configuration.image_size import tell_distillers
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.datasets.first_image import shape_of_first_image
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import add_cfg_options

# mmengine has a default for each, but not if it is None
OPTIONAL_SECTIONS = ('auto_scale_lr', 'env_cfg', 'randomness')
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
FUSED_OPTIMIZERS = ('SGD', 'Adam', 'AdamW')
# mmengine itself leaves these out if they are None
MMENGINE_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
# settings may be given for these in a config that does not have them; the last two are names of version 0.1
OPTIONAL_HOOKS = {
    'sanity_check': 'SanityCheckHook',
    'check_resume': 'CheckResumeHook',
    'check_weights': 'CheckWeightsHook',
}


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of both tools, under the names of mmpretrain's and mmrazor's tools."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: ./work_dirs/CONFIG_NAME)')
    add_cfg_options(parser, 'change settings: model.distiller.embed_dims=64 train_cfg.max_epochs=60 ...')
    add_launcher_arguments(parser)


def add_launcher_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--launcher``, and what launchers pass."""
    started = 'what started the processes (default: none, a single one)'
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help=started)
    # torchrun sets the variable LOCAL_RANK, older launchers pass an argument
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace, stage: str = 'train') -> Config:
    """Read a tool's config, apply the common arguments, and set what every run wants and few configs say.

    That is batches as one tensor, workers that persist, pinned memory for a GPU, a fused optimizer, and distillers that
    know the shape of the images and the size of the batches.

    Args:
        args: The tool's arguments, those of :func:`add_common_arguments` among them.
        stage: What the config must have the sections for: ``'train'`` or ``'test'``.

    Raises:
        SettingError: There is no such config file, it or ``--cfg-options`` has a mistake, or the work folder is a file.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config_file(args.config)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(args.config).stem))
    apply_cfg_options(cfg, args.cfg_options)
    check_sections(cfg, args.config)
    _refuse_sharding(cfg)
    if cfg.get(f'{stage}_dataloader') is None:
        raise SettingError(f'config {args.config} has no {", ".join(STAGES[stage])}, so there is nothing to {stage}.')
    for section in OPTIONAL_SECTIONS:
        if cfg.get(section, ...) is None:
            cfg.pop(section)
    if Path(cfg.work_dir).is_file():
        raise SettingError(f'--work-dir {cfg.work_dir} is a file. Give a folder.')
    for name in DATALOADERS:
        if cfg.get(name):
            cfg[name].setdefault('collate_fn', dict(type='default_collate'))
            cfg[name].setdefault('persistent_workers', cfg[name].get('num_workers', 0) > 0)
            cfg[name].setdefault('pin_memory', torch.cuda.is_available())
    if (cfg.get('randomness') or {}).get('deterministic'):
        # without it, deterministic matrix products on a GPU are errors; read when cuBLAS starts
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    complete_hooks(cfg)
    use_fused_optimizer(cfg)
    tell_distillers(cfg, shape_of_first_image)
    tell_losses(cfg)
    return cfg


def _refuse_sharding(cfg: Config) -> None:
    """Refuse what mmengine's ``FlexibleRunner`` reads, and FSDP: it would shard what is trained, not the teacher."""
    wrapper = type_name((cfg.get('model_wrapper_cfg') or {}).get('type')) if cfg.get('model_wrapper_cfg') else ''
    given = {
        'strategy': cfg.get('strategy'),
        'runner_type': type_name(cfg.get('runner_type')) == 'FlexibleRunner',
        'model_wrapper_cfg': 'FullyShardedDataParallel' in wrapper,
    }
    name = next((name for name, value in given.items() if value), None)
    if name is not None:
        raise SettingError(
            f'{name}={cfg[name]!r}: the tools train with DistributedDataParallel, and FSDP would shard the student '
            "alone. For a teacher that is too large for a GPU set model.teacher_precision='bf16-true' or "
            "model.teacher_offload='blocks', and remove the setting."
        )


def complete_hooks(cfg: Config) -> None:
    """Leave out hooks that are None, name the type of those for which only settings are given, and make the section."""
    if not cfg.get('default_hooks'):
        cfg.default_hooks = {}
    hooks = cfg.default_hooks
    for name, hook in [*hooks.items()]:
        if hook is None and name not in MMENGINE_HOOKS:
            del hooks[name]
        elif name in OPTIONAL_HOOKS and hook is not None:
            hook.setdefault('type', OPTIONAL_HOOKS[name])


def use_intact_checkpoints(cfg: Config) -> None:
    """Let ``IntactCheckpointHook`` write the checkpoints of a run whose config names mmengine's hook, or none."""
    hook = cfg.default_hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    if isinstance(hook, Mapping) and type_name(hook.get('type')) == 'CheckpointHook':
        cfg.default_hooks.checkpoint['type'] = 'IntactCheckpointHook'


def count_iterations(cfg: Config) -> None:
    """Let the checkpoints and the log of a training that counts iterations count them, too, unless the config says how.

    mmengine's defaults count epochs, of which such a training has one: it would write a single checkpoint, at its end.
    An interval of 1, the default, becomes that of the validations.
    """
    loop = cfg.get('train_cfg') or {}
    if type_name(loop.get('type')) != 'IterBasedTrainLoop' and loop.get('by_epoch', True):
        return
    hook = cfg.default_hooks.get('checkpoint')
    if isinstance(hook, Mapping) and 'by_epoch' not in hook:
        interval = hook.get('interval', 1)
        hook.update(by_epoch=False, interval=loop.get('val_interval', 1000) if interval == 1 else interval)
    cfg.setdefault('log_processor', dict(by_epoch=False))


def use_fused_optimizer(cfg: Config) -> None:
    """Let torch's optimizer update all weights in one kernel, which changes only the rounding.

    A config that sets ``fused``, ``foreach`` or ``differentiable``, or has several optimizers, stays as it is.
    """
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    chosen = {'fused', 'foreach', 'differentiable'} & {*optimizer}
    if not chosen and type_name(optimizer.get('type')) in FUSED_OPTIMIZERS and get_device() in ('cuda', 'cpu'):
        optimizer['fused'] = True
