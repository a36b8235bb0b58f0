"""A teacher's outputs for all views of a training set, computed ahead of the trainings."""

import argparse
import contextlib
import functools
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor
from torch.multiprocessing import ProcessContext, ProcessExitedException, get_context, start_processes
from torch.utils.data import DataLoader
from tqdm import tqdm

from icd_mmrazor import compat
from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.datasets.in_memory import MAX_MEMORY, InMemoryBatches
from icd_mmrazor.datasets.labels import images_are_gray
from icd_mmrazor.datasets.loaders import sample_of_view
from icd_mmrazor.datasets.pipelines import NotInMemoryError
from icd_mmrazor.datasets.view_numbers import FIRST, FixedViews
from icd_mmrazor.datasets.views import no_views_in_memory
from icd_mmrazor.engine.hooks import InMemoryAugmentationHook
from icd_mmrazor.engine.runs import hooks_of, model_of
from icd_mmrazor.engine.teacher_caching import open_teacher_cache
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.launch.runner import ToolRunner
from icd_mmrazor.launch.training import model_type
from icd_mmrazor.machine import cores
from icd_mmrazor.models.networks.preparation import source_of_images
from icd_mmrazor.models.teacher_cache.cache import FOLDER, TeacherCache
from icd_mmrazor.models.teacher_cache.store import OutputStore
from icd_mmrazor.models.teacher_cache.store_folder import readable_size

BATCH_SIZE = 64
START_METHOD = 'spawn'  # a forked process could not use CUDA
SECONDS_BETWEEN_LOOKS = 0.5
ROWS_READ = 2**14  # at a time, to find damaged ones


def part_of(text: str) -> tuple[int, int]:
    """Convert an argument such as ``2/4``, the second of four parts, to its index and their number: ``(1, 4)``."""
    part, _, parts = text.partition('/')
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f'{text!r} is not a part such as 1/4, 2/4, 3/4 or 4/4')
    return int(part) - 1, int(parts)


def folder_of(cfg: Config) -> Path:
    """Return the folder of a config's cache."""
    path = cfg.model.teacher_cache.get('path')
    return Path(path).expanduser() if path else Path(cfg.work_dir, FOLDER)


def check_config(cfg: Config) -> None:
    """Check that a config has a cache that can be filled ahead, before anything is built.

    Raises:
        SettingError: It has not.
    """
    if 'distiller' not in (cfg.get('model') or {}):
        raise SettingError(
            f'The config is not of a distillation: its model is {model_type(cfg) or "missing"}. Give the config of a '
            'FrozenTeacherDistill, such as configs/kd/kd_res32x4_res8x4_cifar100.py.'
        )
    settings = cfg.model.get('teacher_cache')
    if not settings:
        raise SettingError(
            'The config has no model.teacher_cache. Add --cfg-options model.teacher_cache.views=all, or a number of '
            'fixed views.'
        )
    if isinstance(settings, Mapping) and settings.get('views') == FIRST:
        raise SettingError(
            "model.teacher_cache.views='first' stores what a training happens to show first. Set a number of fixed "
            'views, such as 1, to compute them ahead.'
        )
    TeacherCache.of(settings)


def fill_cache(
    cfg: Config, batch_size: int = BATCH_SIZE, part: tuple[int, int] | None = None, processes: int | None = None
) -> OutputStore:
    """Fill the cache of a distillation, with a progress bar: in this process, or in one on each GPU.

    Args:
        cfg: The config, from ``load_config`` and ``name_networks``.
        batch_size: Number of images that the teacher sees at once.
        part: Which part of the outputs, counted from 0, and of how many; by default all.
        processes: The number of processes that share the work; by default one on each GPU. A part has one.

    Returns:
        The files.

    Raises:
        SettingError, CacheError: As in :class:`Filling`.
        UserError: Another process has ended.
    """
    check_config(cfg)
    processes = processes or max(1, torch.cuda.device_count())
    if part is None and processes > 1:
        return _fill_in_processes(processes, cfg, batch_size)
    filling = Filling(cfg, batch_size, *part or (0, 1))
    store = filling.cache.store
    _introduce(store)
    missing, rows = filling.missing, filling.rows
    with _bar(len(rows), len(rows) - len(missing)) as bar:
        filling.run(bar.update)
    return store


def _introduce(store: OutputStore) -> None:
    facts, stored, images = store.facts, store.filled, store.facts['images']['number']
    views = 'a view' if store.rows == images else f'{store.rows // images:,} views'
    print(
        f'{store.rows:,} outputs of the teacher ({facts["teacher"]["network"]}), for {views} of {images:,} images, '
        f'{readable_size(store.size)} in all\n'
        f'folder: {store.folder}{f" ({stored:,} are there)" if stored else ""}',
        flush=True,
    )


def _bar(total: int, initial: int) -> tqdm:
    return tqdm(total=total, initial=initial, unit=' outputs', unit_scale=True, dynamic_ncols=True, file=sys.stderr)


def _fill_in_processes(number: int, cfg: Config, batch_size: int) -> OutputStore:
    context = get_context(START_METHOD)
    errors, opened = context.SimpleQueue(), context.Event()
    arguments = number, cfg, batch_size, errors, opened
    children = start_processes(_fill_part, arguments, number, join=False, start_method=START_METHOD)
    try:
        return _watched(children, opened, folder_of(cfg))
    except ProcessExitedException as error:
        if not errors.empty():
            raise UserError(errors.get()) from error
        raise UserError(
            f'A process was ended ({error.signal_name or error.exit_code}), perhaps for lack of memory. Repeat the '
            'command to continue, with fewer --processes or a smaller --batch-size.'
        ) from error
    finally:
        for process in children.processes:
            process.terminate()
            process.join()


def _fill_part(i: int, number: int, cfg: Config, batch_size: int, errors: Any, opened: Any) -> None:
    """Compute a part in its own process."""
    torch.set_num_threads(min(torch.get_num_threads(), max(1, cores() // number)))
    if torch.cuda.is_available():
        torch.cuda.set_device(i % torch.cuda.device_count())
    compat.runtime()
    try:
        with explained_settings():
            filling = Filling(cfg, batch_size, i, number)
            opened.set()
            filling.run()
    except UserError as error:
        errors.put(str(error))
        sys.exit(1)


def _watched(children: ProcessContext, opened: Any, folder: Path) -> OutputStore:
    """Show the progress of several processes until all have ended, or one has failed; return the files."""
    store, ended = None, False
    with contextlib.ExitStack() as stack:
        while not ended:
            ended = children.join(SECONDS_BETWEEN_LOOKS)
            if store is None and opened.is_set():
                store = OutputStore.open(folder, {})
                _introduce(store)
                bar = stack.enter_context(_bar(store.rows, store.filled))
            if store is not None:
                bar.update(store.filled - bar.n)
    return store


def conclusion(store: OutputStore, cfg: Config, config: str, options: Mapping[str, Any]) -> str:
    """Say what is stored, and how to continue.

    Args:
        store: The files.
        cfg: The config.
        config: Its name on the command line.
        options: The settings given there (``--cfg-options``).
    """
    filled, rows = store.filled, store.rows
    if filled < rows:
        return f'{filled:,} of {rows:,} outputs are stored. The other parts are missing.'
    options = {**options, 'model.teacher_cache.path': str(store.folder)}
    needed = 'several teachers are loaded' if cfg.model.get('teachers') else None
    needed = needed or ('random_teacher is set' if cfg.model.get('random_teacher') else None)
    if not needed:
        options['model.teacher_ckpt'] = None
    settings = [_option(name, value) for name, value in options.items()]
    command = shlex.join(['python', 'tools/train.py', config, '--cfg-options', *settings])
    how = 'Train without the teacher' if not needed else f'Train; the teacher is loaded, and not run ({needed})'
    return f'All {rows:,} outputs are stored. {how}:\n  {command}'


def _option(name: str, value: Any) -> str:
    return f'{name}={value if isinstance(value, str) else repr(value).replace(" ", "")}'


class Filling:
    """The filling of a cache by one process, which may share the work with others.

    Args:
        cfg: The config of a distillation with ``model.teacher_cache``, from ``load_config`` and ``name_networks``.
        batch_size: Number of images that the teacher sees at once.
        part, parts: Which of how many parts of the outputs this process computes, counted from 0.

    Raises:
        SettingError: The cache cannot be used, or the files cannot be written.
        CacheError: The files are damaged, or are not those of a cache.

    Attributes:
        rows (np.ndarray): Numbers of the outputs of this part.
    """

    def __init__(self, cfg: Config, batch_size: int = BATCH_SIZE, part: int = 0, parts: int = 1) -> None:
        self.runner = ToolRunner.from_cfg(cfg)
        self.algorithm, self.batch_size = model_of(self.runner).eval(), batch_size
        # as the checks of a training do, which has the same teacher then
        dataset = self.runner.train_dataloader.dataset
        self.algorithm.check_order_of_channels(source_of_images(cfg), lambda: images_are_gray(dataset))
        self.views = open_teacher_cache(self.runner)
        self.runner.show_warnings()
        self.cache: TeacherCache = self.algorithm.teacher_cache
        store, limit = self.cache.store, self.cache.max_teacher_calls
        if store is None:
            raise SettingError(f'model.teacher_cache cannot be filled: {self.cache.reason}.')
        if limit is not None and store.rows > limit:
            raise SettingError(
                f'model.teacher_cache.max_teacher_calls={limit}: the cache has {store.rows:,} outputs. Raise the limit '
                'or leave it out, or set fewer views or train_dataloader.dataset.indices.'
            )
        if not store.writable and not store.complete:
            raise SettingError(
                f'model.teacher_cache.path {store.folder} is read-only, and has {store.filled:,} of {store.rows:,} '
                'outputs. Allow writing, or give another one.'
            )
        # parts of all, whatever others have stored since they started
        self.rows = np.array_split(np.arange(store.rows), parts)[part]

    @functools.cached_property
    def missing(self) -> np.ndarray:
        """Numbers of the outputs of this part that are not stored, or damaged, before it is filled."""
        starts = range(ROWS_READ, len(self.rows), ROWS_READ)
        return np.concatenate([rows[~self.cache.store.read(rows)[1]] for rows in np.split(self.rows, starts)])

    @torch.no_grad()
    def run(self, tell: Callable[[int], Any] = lambda _: None) -> None:
        """Compute what is missing in this part; ``tell`` is told how many outputs each batch has added.

        Raises:
            SettingError: An output could not be stored, since the disk is full or the folder is read-only.
        """
        rows = self.missing
        parts = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        batches = self._made(parts) if self.views.in_memory else self._loaded(parts)
        for part, batch in zip(parts, batches, strict=True):
            self.cache.add(self.algorithm, part, self.algorithm.data_preprocessor(batch, False)['inputs'])
            tell(len(part))

    def _made(self, parts: list[np.ndarray]) -> Iterator[dict[str, Tensor]]:
        hook = next(iter(hooks_of(self.runner, InMemoryAugmentationHook)), None)
        try:
            limit = MAX_MEMORY if hook is None else hook.max_memory
            batches = InMemoryBatches(self.runner.train_dataloader.dataset, max_memory=limit)
        except NotInMemoryError as reason:
            raise no_views_in_memory(reason, self.views) from None
        batches.views = self.views
        for part in parts:
            yield {'inputs': batches.of_views(*np.divmod(part, self.views.number))}

    def _loaded(self, parts: list[np.ndarray]) -> Iterator[dict[str, Any]]:
        loader = self.runner.train_dataloader
        views = _Views(loader.dataset, self.views)
        settings = {name: getattr(loader, name) for name in ('num_workers', 'collate_fn', 'pin_memory')}
        yield from DataLoader(views, batch_sampler=[part.tolist() for part in parts], **settings)


class _Views:
    """Fixed views of a dataset's images as a dataset, by their numbers."""

    def __init__(self, dataset: Any, views: FixedViews) -> None:
        self.dataset, self.views = dataset, views

    def __len__(self) -> int:
        return len(self.dataset) * self.views.number

    def __getitem__(self, row: int) -> Any:
        return sample_of_view(self.dataset, self.views, *divmod(row, self.views.number))
