"""A teacher's outputs for all views of a training set, computed ahead of the trainings."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from icd_mmrazor.datasets.in_memory import InMemoryBatches, crop_and_flip
from icd_mmrazor.datasets.views import AllViews, ViewDataset
from icd_mmrazor.engine.runs import model_of
from icd_mmrazor.engine.teacher_caching import open_teacher_cache
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.launch.runner import ToolRunner
from icd_mmrazor.models.teacher_cache.cache import FIRST, TeacherCache

SECONDS_BETWEEN_LOOKS = 1.0


class Filling:
    """The filling of a cache by this process, or by several of which this is one.

    Args:
        cfg: The config of a distillation with ``model.teacher_cache``, from ``load_config``.
        batch_size: Number of images that the teacher computes at once; by default that of the training.
        part, parts: Which of how many parts of the outputs this process computes, from 0.

    Raises:
        SettingError: The config has no cache, or one that cannot be filled ahead.
        CacheError: The files are damaged, or are not those of a cache.
    """

    def __init__(self, cfg: Config, batch_size: int | None = None, part: int = 0, parts: int = 1) -> None:
        _check(cfg)
        self.runner = ToolRunner.from_cfg(cfg)
        self.runner.leave_out_start()
        self.algorithm = model_of(self.runner)
        open_teacher_cache(self.runner)
        self.cache: TeacherCache = self.algorithm.teacher_cache
        if not self.cache.in_use:
            raise SettingError(f'model.teacher_cache cannot be filled: {self.cache.reason}.')
        self.batch_size = batch_size or self.runner.train_dataloader.batch_size or 64
        self.part, self.parts = part, parts

    @property
    def progress(self) -> tuple[int, int]:
        """How many outputs are stored, by all processes, and how many there are."""
        return self.cache.store.filled, self.cache.store.rows

    @torch.no_grad()
    def run(self, tell: Callable[[int], Any] = lambda number: None) -> None:
        """Compute what is missing; ``tell`` is told how many outputs each batch has added."""
        for rows, images in self._batches():
            tell(self.cache.fill(self.algorithm, rows, lambda which, images=images: self._prepared(images(which))))
