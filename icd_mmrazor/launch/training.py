"""A training, from the config that a tool has read."""

import contextlib
import logging
import os

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner
from mmrazor.registry import MODELS

from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.engine.checks import WeightCheck
from icd_mmrazor.engine.hooks import SanityCheckHook
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.restarts import resume_after_restart
from icd_mmrazor.launch.run_config import count_iterations, use_intact_checkpoints
from icd_mmrazor.launch.runner import ToolRunner
from icd_mmrazor.launch.stopping import StopHook
from icd_mmrazor.models.algorithms import FrozenTeacherDistill
from icd_mmrazor.models.classifiers import name_student_in_full, name_teacher_in_full
from icd_mmrazor.models.networks.changed_student import record_changed_student
from icd_mmrazor.models.networks.resolve import name_networks_in_full
from icd_mmrazor.models.precision import check_precision

COMPLETE = {
    'LinearProbe': name_student_in_full,
    'TeacherProbe': name_teacher_in_full,
}
OPTIM_WRAPPERS = {'fp16': 'AmpOptimWrapper', 'bf16': 'AutocastOptimWrapper'}


def model_type(cfg: Config) -> str:
    """Return the type of a config's model; empty if it has none."""
    return type_name(cfg.get('model', {}).get('type'))


def is_of_frozen_teacher(cfg: Config) -> bool:
    """Return whether a config's model is a ``FrozenTeacherDistill`` or of a class derived from it."""
    with contextlib.suppress(Exception):  # one of the families raises if it does not find a name
        return issubclass(MODELS.get(model_type(cfg)), FrozenTeacherDistill)
    return False


def name_networks(cfg: Config) -> None:
    """Write the networks of a config in full, so that what is stored with the run is complete."""
    if is_of_frozen_teacher(cfg):
        name_networks_in_full(cfg.model)
        record_changed_student(cfg.model)
    elif model_type(cfg) in COMPLETE:
        COMPLETE[model_type(cfg)](cfg.model)


def use_mixed_precision(cfg: Config, precision: str) -> None:
    """Let a config train with automatic mixed precision, ``'fp16'`` or ``'bf16'``, also a frozen teacher.

    Raises:
        SettingError: There is no GPU for fp16, the GPU has no bf16, or the config has another precision.
    """
    if precision == 'bf16' and get_device() == 'cuda':
        check_precision(torch.bfloat16, torch.device('cuda'), '--amp bf16')
    if precision == 'fp16' and get_device() == 'cpu':
        raise SettingError('--amp fp16 needs a GPU, and this machine shows none. Leave it out, or give --amp bf16.')
    wrapper = type_name(cfg.optim_wrapper.get('type', 'OptimWrapper'))
    if wrapper not in ('OptimWrapper', OPTIM_WRAPPERS[precision]):
        raise SettingError(f'--amp {precision}: optim_wrapper.type={wrapper!r} of the config has its own precision.')
    cfg.optim_wrapper.type = OPTIM_WRAPPERS[precision]
    if precision == 'fp16':
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if is_of_frozen_teacher(cfg):
        cfg.model.setdefault('teacher_precision', precision)


def scale_learning_rate(cfg: Config) -> None:
    """Let mmengine scale the learning rate of a config by the total batch size.

    Raises:
        SettingError: The config does not say which batch size its learning rate is for.
    """
    if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
        raise SettingError(
            '--auto-scale-lr: the config does not say for which batch size its learning rate is. '
            'Add auto_scale_lr = dict(base_batch_size=64) to it.'
        )
    cfg.auto_scale_lr.enable = True


def warn_of_hidden_gpus(logger: logging.Logger) -> None:
    """Say that a run for which GPUs were chosen uses the CPU, since torch sees none of them."""
    chosen = os.environ.get('CUDA_VISIBLE_DEVICES', '')
    if chosen not in ('', '-1') and get_device() == 'cpu':
        logger.warning(
            f'CUDA_VISIBLE_DEVICES={chosen}, and torch finds no such GPU, so this run uses the CPU. Compare with the '
            'numbers that nvidia-smi shows; unset it for all GPUs.'
        )


def train(cfg: Config, show_start: bool = True) -> Runner:
    """Train a config, in a process group if it has a launcher; return the runner when it has ended.

    Args:
        cfg: The config, from ``load_config`` and :func:`name_networks`; ``resume`` continues the run in its
            ``work_dir``.
        show_start: Whether the console shows the environment and the config, too; the log file always has them.
    """
    resume_after_restart(cfg)
    use_intact_checkpoints(cfg)
    count_iterations(cfg)
    runner = ToolRunner.from_cfg(cfg)
    warn_of_hidden_gpus(runner.logger)
    if not show_start:
        runner.leave_out_start()
    if not any(isinstance(hook, SanityCheckHook | WeightCheck) for hook in runner.hooks):
        # a config that is not built on ours
        runner.register_hook(WeightCheck())
    runner.register_hook(StopHook())
    runner.train()
    return runner
