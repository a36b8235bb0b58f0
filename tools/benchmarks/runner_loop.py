"""A run as tools/train.py starts it, on images made up and stepped from outside; for tools/benchmarks/step_time.py."""

import contextlib
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor import recipes
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import load_config
from icd_mmrazor.utils.cell_options import merge_options


class ReadyToStepError(Exception):
    """All is done that comes before the first iteration."""


@LOOPS.register_module(force=True)
class SteppedTrainLoop(EpochBasedTrainLoop):
    """mmengine's loop, which stops before its first iteration and then goes on a step at a time."""

    batches: Iterator = iter(())
    batches_left = 0

    def run(self) -> nn.Module:
        self.runner.call_hook('before_train')
        # past Runner.train: it would let the hooks end what they began
        raise ReadyToStepError

    def start_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self.batches = iter(self.dataloader)
        self.batches_left = len(self.dataloader)
        self._epoch += 1

    def next_batch(self) -> Any:
        self.batches_left -= 1
        return next(self.batches)

    def step(self) -> None:
        self.run_iter(len(self.dataloader) - self.batches_left, self.next_batch())


def composed(pair: str, methods: Sequence[str], name: str, options: Sequence[str]) -> Config:
    """Compose the config of a contender.

    Args:
        pair: One of the benchmark's.
        methods: The same.
        name: What the contender is called, for the message.
        options: ``KEY=VALUE`` for the config.

    Raises:
        SettingError: A name is unknown, or an option does not fit.
    """
    cfg = recipes.compose(pair, methods)
    if 'teacher' not in cfg.model:
        raise SettingError(f'--methods {"+".join(methods)}: there is no teacher, so there is nothing to measure.')
    for option in options:
        if not option.partition('=')[2]:
            raise SettingError(f'--contender {name} {option}: give KEY=VALUE.')
    try:
        merge_options(cfg, '+'.join(methods), options)
    except SettingError as error:
        raise SettingError(f'contender {name}: {error}') from error
    return cfg


def write_images(cfg: Config, file: Path, count: int) -> None:
    """Write random images and labels that fit a config's networks.

    Args:
        cfg: What :func:`composed` gives.
        file: An ``.npz`` file.
        count: How many images.
    """
    size = image_size(cfg)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = np.arange(count) % cfg.model.architecture.head.num_classes
    np.savez(file, images=images, labels=labels)


def image_size(cfg: Config) -> int:
    """Return the height, and width, of the images that a config's networks see."""
    pipeline = cfg.train_dataloader.dataset.pipeline
    return next(step.crop_size for step in pipeline if type_name(step['type']) == 'RandomCrop')


def networks_of(cfg: Config) -> tuple[nn.Module, nn.Module]:
    """Return teacher and student of a config with seeded random weights.

    The teacher's batch norms have the statistics of random images: a deep one would overflow with those it is made
    with.
    """
    torch.manual_seed(0)
    teacher, student = (MODELS.build(cfg.model[name]) for name in ('teacher', 'architecture'))
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        teacher.train().extract_feat(torch.randn(64, 3, image_size(cfg), image_size(cfg)))
    return teacher.eval(), student


class RunnerLoop:
    """The Runner of a config, stepped from outside.

    Args:
        cfg: What :func:`composed` gives; it is changed.
        images: What :func:`write_images` wrote.
        teacher: The teacher's weights.
        student: The student's initial weights.
        batch_size: Images a step.
        folder: For the run's files.

    Attributes:
        parts: What a step's time is spent in: the methods by the name of their part. Where the forward pass is
            compiled, it is one part, ``networks``.
    """

    def __init__(self, cfg: Config, images: Path, teacher: dict, student: dict, batch_size: int, folder: Path) -> None:
        dataset = dict(type='NPZDataset', data_file=str(images), pipeline=cfg.train_dataloader.dataset.pipeline)
        cfg.train_dataloader = {**cfg.train_dataloader, 'batch_size': batch_size, 'dataset': dataset}
        cfg.train_cfg = dict(type='SteppedTrainLoop', max_epochs=cfg.train_cfg.max_epochs)
        for split in ('val', 'test'):
            for part in ('dataloader', 'evaluator', 'cfg'):
                cfg[f'{split}_{part}'] = None
        cfg.model.update(teacher_ckpt=None, random_teacher=True)
        cfg.default_hooks.checkpoint = None
        cfg.log_level = 'WARNING'
        cfg.randomness.seed = 0
        folder.mkdir(parents=True)
        cfg.dump(folder / 'contender.py')
        # what tools/train.py makes of a config
        arguments = Namespace(
            config=folder / 'contender.py', launcher='none', local_rank=0, work_dir=str(folder), cfg_options=None
        )
        cfg = load_config(arguments)
        cfg.experiment_name = str(folder)
        self.runner = Runner.from_cfg(cfg)
        with contextlib.suppress(ReadyToStepError):
            self.runner.train()
        self.loop: SteppedTrainLoop = self.runner.train_loop
        algorithm, wrapper = self.runner.model, self.runner.optim_wrapper
        algorithm.teacher.load_state_dict(teacher)
        algorithm.architecture.load_state_dict(student)
        networks = {
            'teacher': [(algorithm, 'run_teacher')],
            'student': [(algorithm.architecture, 'forward')],
            'losses': [(algorithm.distiller, 'compute_distill_losses')],
        }
        if algorithm.torch_compile:
            networks = {'networks': [(algorithm, 'loss')]}
        self.parts = {
            'data': [(self.loop, 'next_batch'), (algorithm.data_preprocessor, 'forward')],
            **networks,
            'backward': [(wrapper, 'backward')],
            'optimizer': [(wrapper, 'zero_grad'), (wrapper, 'step')],
        }
        self.workers = self.loop.dataloader.num_workers
        self.start_epoch, self.step = self.loop.start_epoch, self.loop.step

    @property
    def batches_left(self) -> int:
        return self.loop.batches_left

    def close(self) -> None:
        """End the processes that load data: they end with their loader."""
        self.loop.batches = iter(())
        self.loop.dataloader = None
