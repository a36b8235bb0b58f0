"""A teacher's outputs for all views of a training set, computed ahead of the trainings."""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from icd_mmrazor.datasets.in_memory import InMemoryBatches, crop_and_flip
from icd_mmrazor.datasets.randomness import seed_all
from icd_mmrazor.datasets.view_numbers import AllViews, FixedViews
from icd_mmrazor.engine.runs import model_of
from icd_mmrazor.engine.teacher_caching import open_teacher_cache
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.launch.runner import ToolRunner
from icd_mmrazor.machine import cores
from icd_mmrazor.models.teacher_cache.cache import FIRST, FOLDER, TeacherCache
from icd_mmrazor.models.teacher_cache.store import OutputStore

BATCH_SIZE = 64
SECONDS_BETWEEN_LOOKS = 1.0
LINES_OF_ERROR = 15


def part_of(text: str) -> tuple[int, int]:
    """Convert an argument such as ``2/4``, the second of four parts, to its index and their number: ``(1, 4)``."""
    part, _, parts = text.partition('/')
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f'{text!r} is not a part such as 1/4, 2/4, 3/4 or 4/4')
    return int(part) - 1, int(parts)


def fill_cache(cfg: Config, batch_size: int, part: tuple[int, int] | None = None, processes: int | None = None) -> None:
    """Fill the cache of a distillation, with a progress bar: in this process, or in one on each GPU.

    Args:
        cfg: The config, from ``load_config`` and ``name_networks``.
        batch_size: Number of images that the teacher sees at once.
        part: Which part of the outputs, and of how many; by default all.
        processes: The number of processes; by default one on each GPU.

    Raises:
        SettingError, CacheError: As in :class:`Filling`.
        UserError: A process has failed; the message has the end of what it printed.
    """
    processes = processes or max(1, torch.cuda.device_count())
    if part is None and processes > 1 and cfg.launcher == 'none':
        _fill_in_processes(processes, folder_of(cfg))
        return
    filling = Filling(cfg, batch_size, *part or (0, 1))
    stored, rows = filling.progress
    with tqdm(total=rows, initial=stored, unit='output', unit_scale=True, disable=part is not None) as bar:
        filling.run(bar.update)
    stored, rows = filling.progress
    print_log(f'{filling.cache.store.folder}: {stored:,} of {rows:,} outputs are stored.', 'current')


def folder_of(cfg: Config) -> Path:
    """Return the folder of a config's cache."""
    path = (cfg.model.get('teacher_cache') or {}).get('path')
    return Path(path).expanduser() if path else Path(cfg.work_dir, FOLDER)


def _fill_in_processes(number: int, folder: Path) -> None:
    """Run this command again in several processes, each for a part."""
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(number)]
        children = []
        for i, output in enumerate(outputs):
            environment = {**os.environ, 'OMP_NUM_THREADS': str(max(1, cores() // number))}
            if torch.cuda.is_available():
                visible = os.environ.get('CUDA_VISIBLE_DEVICES', '')
                names = visible.split(',') if visible else [*map(str, range(torch.cuda.device_count()))]
                environment['CUDA_VISIBLE_DEVICES'] = names[i % len(names)]
            command = [sys.executable, *sys.argv, '--part', f'{i + 1}/{number}']
            child = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            stack.callback(_end, child)
            children.append(child)
        _watch(children, folder)
        for child, output in zip(children, outputs, strict=True):
            if child.returncode:
                output.seek(0)
                lines = output.read().decode(errors='replace').splitlines()[-LINES_OF_ERROR:]
                raise UserError('\n'.join(['A process has failed. The end of what it printed:', *lines]))


def _watch(children: Sequence[subprocess.Popen], folder: Path) -> None:
    """Show the progress of several processes until all have ended, or one has failed."""
    store, bar = None, None
    while any(child.poll() is None for child in children) and not any(child.poll() for child in children):
        time.sleep(SECONDS_BETWEEN_LOOKS)
        if store is None and OutputStore.about(folder) is not None:
            store = OutputStore.open(folder, {})
            bar = tqdm(total=store.rows, initial=store.filled, unit='output', unit_scale=True)
        if store is not None:
            bar.update(store.filled - bar.n)
    if bar is not None:
        bar.update(store.filled - bar.n)
        bar.close()


def _end(child: subprocess.Popen) -> None:
    if child.poll() is None:
        child.terminate()
        child.wait()


class Filling:
    """The filling of a cache by one process, which may share the work with others.

    Args:
        cfg: The config of a distillation with ``model.teacher_cache``, from ``load_config`` and ``name_networks``.
        batch_size: Number of images that the teacher sees at once.
        part, parts: Which of how many parts of the outputs this process computes, counted from 0.

    Raises:
        SettingError: The config has no cache, or one that cannot be filled ahead.
        CacheError: The files are damaged, or are not those of a cache.
    """

    def __init__(self, cfg: Config, batch_size: int = BATCH_SIZE, part: int = 0, parts: int = 1) -> None:
        settings = cfg.model.get('teacher_cache')
        if not settings:
            raise SettingError(
                'The config has no model.teacher_cache. Add --cfg-options model.teacher_cache.views=all, or a number '
                'of fixed views.'
            )
        if settings.get('views') == FIRST:
            raise SettingError(
                "model.teacher_cache.views='first' stores what a training happens to show first. Set a number of fixed "
                'views, such as 1, to compute them ahead.'
            )
        self.runner = ToolRunner.from_cfg(cfg)
        self.runner.leave_out_start()
        algorithm = model_of(self.runner)
        algorithm.eval()
        self.views = open_teacher_cache(self.runner)
        self.cache: TeacherCache = algorithm.teacher_cache
        if not self.cache.in_use:
            raise SettingError(f'model.teacher_cache cannot be filled: {self.cache.reason}.')
        if get_world_size() > 1:  # under a launcher
            part, parts = get_rank(), get_world_size()
        self.algorithm, self.batch_size, self.part, self.parts = algorithm, batch_size, part, parts

    @property
    def progress(self) -> tuple[int, int]:
        """How many outputs are stored, by all processes together, and how many there are."""
        store = self.cache.store
        return store.filled, store.rows

    @torch.no_grad()
    def run(self, tell: Callable[[int], Any]) -> None:
        """Compute what is missing in this part; ``tell`` is told how many outputs each batch has added.

        Raises:
            SettingError: An output could not be stored, since the disk is full or the folder is read-only.
        """
        # parts of all, whatever others have stored since they started
        mine = np.array_split(np.arange(self.cache.store.rows), self.parts)[self.part]
        mine = mine[~self.cache.store.stored(mine)]
        make = self._in_memory() if isinstance(self.views, AllViews) else None
        batches = self._made(mine, make) if make else self._loaded(mine)
        for rows, batch in batches:
            images = self.algorithm.data_preprocessor(batch, False)['inputs']
            self.cache.add(self.algorithm, rows, images)
            tell(len(rows))

    def _made(self, rows: np.ndarray, make: Callable[[np.ndarray], Tensor]) -> Iterator[tuple[np.ndarray, dict]]:
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            yield part, {'inputs': make(part)}

    def _in_memory(self) -> Callable[[np.ndarray], Tensor]:
        device = next(self.algorithm.parameters()).device
        batches = InMemoryBatches(self.runner.train_dataloader.dataset, device, max_memory=np.inf)

        def make(rows: np.ndarray) -> Tensor:
            images, views = np.divmod(rows, self.views.number)
            numbers = (images, *self.views.crop(views))
            chosen, tops, lefts, flipped = (torch.from_numpy(np.asarray(each)).to(device) for each in numbers)
            return crop_and_flip(batches.images, chosen, tops, lefts, flipped.bool(), batches.size)

        return make

    def _loaded(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, dict]]:
        loader = self.runner.train_dataloader
        views = _Views(loader.dataset, self.views, rows)
        images = DataLoader(views, self.batch_size, num_workers=loader.num_workers, collate_fn=pseudo_collate)
        for i, batch in enumerate(images):
            yield rows[i * self.batch_size : (i + 1) * self.batch_size], batch


class _Views:
    """Fixed views of a dataset's images as a dataset."""

    def __init__(self, dataset: Any, views: FixedViews, rows: np.ndarray) -> None:
        self.dataset, self.views, self.rows = dataset, views, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        index, view = divmod(int(self.rows[i]), self.views.number)
        seed_all(*self.views.key(index, view))
        return self.dataset[index]
