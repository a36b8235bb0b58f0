"""The stored outputs of a teacher in a distillation, to which missing ones are added."""

import inspect
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmpretrain.models import MultiLabelClsHead
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.checkpoints.weights import weights_digest
from icd_mmrazor.compat.layout import laid_out
from icd_mmrazor.datasets.samples import view_indices
from icd_mmrazor.datasets.view_numbers import ALL, FIRST
from icd_mmrazor.errors import CacheError, SettingError, did_you_mean
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble
from icd_mmrazor.models.networks.points import Point
from icd_mmrazor.models.networks.pooled_feature import PooledFeature
from icd_mmrazor.models.teacher_cache.draws import draws_between
from icd_mmrazor.models.teacher_cache.layout import DTYPES, RowLayout
from icd_mmrazor.models.teacher_cache.points import captured, fill_recorders, other_records, source_in, stored_points
from icd_mmrazor.models.teacher_cache.store import OutputStore
from icd_mmrazor.models.teacher_cache.store_folder import UNITS, readable_size

OWNER = 'FrozenTeacherDistill'
SETTING = 'teacher_cache'
FOLDER = 'teacher_cache'
# in batches of a multiple of this the output of an image is the same bit for bit, whatever the others are (on a CPU)
MULTIPLE = 4
# by how much outputs that were computed elsewhere may differ, as a part of the largest
TOLERANCES = {'float32': 1e-3, 'float16': 5e-2, 'bfloat16': 5e-2}


class TeacherCache:
    """The outputs of a frozen teacher by image and view: read from files if they are there, computed and stored if not.

    Stored are the pooled feature and the logits, so that any method finds what it compares. The files belong to one
    teacher, dataset, pipeline and precision; runs, seeds, methods and students share them, at the same time if you
    like. On a CPU, outputs are the same bit for bit as without a cache: those that are missing are computed in batches
    of a multiple of 4 images, in which the others make no difference. Other batches of a training, such as a last one
    of 7, may differ in the last bits; so may, by 2e-6 of the largest value, MobileNet, EfficientNet and ShuffleNet in
    batches that are not a multiple of 16, and what another machine or memory layout has computed.

    Args:
        views: ``'all'``: each crop and flip of the in-memory pipeline is stored once it has been seen. A number K:
            each image is seen in K fixed views, of any pipeline; epochs take turns. ``'first'``: the teacher sees each
            image once; what it said is its answer for all later views, too (an approximation).
        path: Folder of the files; by default ``teacher_cache`` in the run's work folder.
        dtype: Type in which outputs are stored: ``'float32'``, ``'bfloat16'``, ``'float16'``; by default the one in
            which the teacher computes.
        max_size: How large the files may become, such as ``'16GB'``; a larger cache is refused before it is made.
        top_k: How many of the logits are stored, the largest; the others share what remains of the probability. All by
            default.
        verify: The teacher computes one batch in so many again, and the run ends if it finds something else; 0: none.
            Has no effect with ``views='first'`` or ``max_teacher_calls``.
        max_teacher_calls: How many images the teacher may be run on for this cache, by all runs together.
        seed: Of the K views. The seed of the run has no influence on them.

    Attributes:
        asked, computed (int): How many outputs the run has used, and on how many images the teacher was run for them.
        in_use (bool): Whether outputs are read and stored, once the cache is open.

    Raises:
        SettingError: A setting is unknown or out of range.
    """

    def __init__(
        self,
        views: int | str = ALL,
        path: str | None = None,
        dtype: str | None = None,
        max_size: int | str = '16GB',
        top_k: int | None = None,
        verify: int = 200,
        max_teacher_calls: int | None = None,
        seed: int = 0,
    ) -> None:
        if views not in (ALL, FIRST) and not (type(views) is int and views > 0):
            raise SettingError(
                f"{OWNER}: {SETTING}.views={views!r} must be 'all', the number of fixed views of an image, or 'first'."
            )
        self.views_setting = views
        if path is not None and not (isinstance(path, str | Path) and str(path)):
            raise SettingError(f'{OWNER}: {SETTING}.path={path!r} must be the name of a folder.')
        self.path = None if path is None else Path(path).expanduser()
        self.dtype = None if dtype is None else checks.one_of(OWNER, f'{SETTING}.dtype', dtype, DTYPES)
        self.max_size = _bytes(max_size)
        self.top_k = None if top_k is None else checks.positive_int(OWNER, f'{SETTING}.top_k', top_k)
        if type(verify) is not int or verify < 0:
            raise SettingError(f'{OWNER}: {SETTING}.verify={verify!r} must be an integer, 0 or greater.')
        if max_teacher_calls is not None:
            checks.positive_int(OWNER, f'{SETTING}.max_teacher_calls', max_teacher_calls)
        self.max_teacher_calls = max_teacher_calls
        # it would take calls; the first view is not known any more
        self.verify = 0 if max_teacher_calls or views == FIRST else verify
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise SettingError(f'{OWNER}: {SETTING}.seed={seed!r} must be an integer from 0 to 2^32 - 1.')
        self.seed = seed
        self.asked = self.computed = 0
        # why the cache is not in use; None until that is known
        self.reason: str | None = None
        self._store: OutputStore | None = None
        self._layout: RowLayout | None = None
        self._points: dict[str, Point] = {}
        # how many batches have to pass until one is verified; how many outputs could not be stored
        self._unverified = self._unstored = 0

    @classmethod
    def of(cls, settings: Any) -> 'TeacherCache | None':
        """Return the cache that settings of a ``FrozenTeacherDistill`` describe; None if they are."""
        if settings is None:
            return None
        if not isinstance(settings, Mapping):
            raise SettingError(f"{OWNER}: {SETTING}={settings!r} must be a dict, such as dict(views='all').")
        known = inspect.signature(cls).parameters
        if unknown := sorted({*settings} - {*known}, key=str):
            hint = did_you_mean(unknown[0], known)
            raise SettingError(f'{OWNER}: {SETTING} has no setting {unknown[0]!r}.{hint} It has {", ".join(known)}.')
        return cls(**settings)

    def __deepcopy__(self, memo: dict) -> 'TeacherCache':
        """Share it: a copy of a model reads and writes the same files."""
        return self

    @property
    def in_use(self) -> bool:
        """Whether outputs are read and stored."""
        return self._store is not None

    @property
    def store(self) -> OutputStore | None:
        """The files, if the cache is in use."""
        return self._store

    def why_not(self, distiller: nn.Module, teacher: nn.Module) -> str | None:
        """Return why the cache cannot be used for a distillation; None if it can."""
        try:
            points = stored_points(teacher, source_in(distiller))
        except SettingError as error:
            return str(error)
        if others := other_records(distiller, points):
            compared, stored = (' and '.join(names) for names in (others, points))
            return f'the method compares {compared} of the teacher, and only {stored} are stored'
        return None

    def open(self, algorithm: nn.Module, views: Any, images: Tensor, facts: Mapping[str, Any], folder: Path) -> None:
        """Open the files, or make them.

        Args:
            algorithm: The ``FrozenTeacherDistill``.
            views: The numbering of the views, see :mod:`icd_mmrazor.datasets.views`.
            images: A few training images as the data preprocessor gives them, ``B x C x H x W``.
            facts: What the images are, as JSON, see :func:`icd_mmrazor.engine.teacher_caching.facts_of_images`.
            folder: Where the files are, unless ``path`` is set.

        Raises:
            SettingError: They are of another teacher, dataset, pipeline or precision, or too large.
            CacheError: They are damaged, or are not those of a cache.
        """
        self._store, self.reason = None, None
        self._points = stored_points(algorithm.teacher, source_in(algorithm.distiller))
        known, folder = {'views': views.description, 'images': facts}, self.path or folder
        if getattr(algorithm.teacher, 'is_stored', False):
            self._store, self.verify = OutputStore.open(folder, known), 0  # nothing computes them again
            self._layout = RowLayout.from_facts(self._store.facts['outputs'])
        else:
            self._layout = RowLayout.of(self._run(algorithm, images), self.dtype, self.top_k)
            known |= {'outputs': self._layout.facts, 'teacher': _facts_of_teacher(algorithm)}
            if OutputStore.about(folder) is None:  # a run without the teacher takes the same random numbers
                known['draws'] = draws_between(*algorithm.teacher_draws)
            rows = views.number * facts['number']
            self._store = OutputStore(folder, rows, self._layout.row_bytes, known, self.max_size)
        store, kept = self._store, ', '.join(f'{n} {f.dtype}' for n, f in self._layout.outputs.items())
        _log(
            f'the outputs of the teacher ({kept}) are stored in {folder}: {views} of {facts["number"]:,} images, '
            f'{readable_size(store.size)} when all are there; {store.filled / store.rows:.1%} are.'
        )

    def leave_out(self, reason: str) -> None:
        """Train without stored outputs, and say why."""
        self._store, self.reason = None, reason
        _log(f'the teacher cache is not used: {reason}. The teacher runs in every step.', logging.WARNING)

    def refuse_change(self, reason: str) -> None:
        """Stop using the files because the images are not any more those that they are about."""
        if self._store is None:
            return
        self._store, self.reason = None, reason
        _log(f'from now on the teacher cache is not used: {reason}.', logging.WARNING)

    def outputs(self, algorithm: nn.Module, images: Tensor, data_samples: list | None) -> dict[str, Tensor] | None:
        """Return the teacher's outputs for a batch, ``B x ...`` each; None if the teacher has to run.

        Args:
            algorithm: The ``FrozenTeacherDistill``.
            images: The batch, ``B x C x H x W``.
            data_samples: Its data samples, which tell the views of the images.

        Raises:
            SettingError: Nothing has opened the cache, the views are unknown, there were too many teacher calls, or a
                teacher that is needed is not in memory.
            CacheError: What is stored is not what the teacher says.
        """
        if self._store is None:
            if self.reason is None:
                raise SettingError(
                    f'{OWNER}: {SETTING} is set, and nothing has opened it. Add default_hooks.sample_memory=dict(type='
                    "'SampleMemoryHook') to the config."
                )
            if getattr(algorithm.teacher, 'is_stored', False):
                raise SettingError(
                    f'{OWNER}: the teacher is not in memory, and its stored outputs are of no use: {self.reason}. Set '
                    'model.teacher_ckpt.'
                )
            return None
        rows = self._rows(data_samples, len(images))
        values, found = self._store.read(rows)
        missing = np.flatnonzero(~found)
        self.asked += len(rows)
        if self.verify and found.any() and self._unverified <= 0:
            self._unverified = self.verify
            fresh = self._layout.pack(self._run(algorithm, images, np.arange(len(images))))
            self._compare(values[found], fresh[found])
            new = fresh[missing]
        elif len(missing):
            self._refuse_call(len(missing))
            new = self._layout.pack(self._run(algorithm, images, missing))
        self._unverified -= 1
        if len(missing):
            self._unstored += 0 if self._store.write(rows[missing], new) else len(missing)
            values[missing] = new
        return self._layout.unpack(values, images.device)

    def fill_recorders(self, distiller: nn.Module, outputs: Mapping[str, Tensor]) -> None:
        """Let the teacher's recorders hold the outputs."""
        fill_recorders(distiller, self._points, outputs)

    def add(self, algorithm: nn.Module, rows: np.ndarray, images: Tensor) -> None:
        """Compute and store outputs.

        Args:
            algorithm: The ``FrozenTeacherDistill``.
            rows: Numbers of the views, ``B``.
            images: The views as the data preprocessor gives them, ``B x C x H x W``.

        Raises:
            SettingError: They are not stored: the disk is full, the folder read-only, or a limit of calls reached.
        """
        self._refuse_call(len(rows))
        outputs = self._run(algorithm, images, np.arange(len(images)))
        if not self._store.write(rows, self._layout.pack(outputs)):
            raise SettingError(
                f'{self._store.folder} takes no more outputs, and has {self._store.filled:,} of {self._store.rows:,}. '
                'Make room or allow writing there, and repeat the command: it continues.'
            )

    def _rows(self, data_samples: list | None, number: int) -> np.ndarray:
        views = view_indices(data_samples)
        if views is None or len(views) != number:
            raise SettingError(
                f'{OWNER}: {SETTING} is set, and a batch does not tell the views of its images. Use the training '
                'DataLoader of a config with default_hooks.exact_resume and default_hooks.sample_memory.'
            )
        return np.asarray(views, dtype=np.int64)

    def _refuse_call(self, number: int) -> None:
        limit = self.max_teacher_calls
        if limit is not None and (made := self._store.filled + self._unstored) + number > limit:
            raise SettingError(
                f'{OWNER}: {SETTING}.max_teacher_calls={limit}: {made:,} were made, and this batch needs '
                f'{number} more. Train on fewer images (train_dataloader.dataset.indices={limit}) with '
                f"{SETTING}.views='first' or 1, or raise the limit."
            )

    def _run(self, algorithm: nn.Module, images: Tensor, which: np.ndarray | None = None) -> dict[str, Tensor]:
        """Run the teacher on images, or on some of them, of which a few are repeated to make a multiple."""
        number = len(images) if which is None else len(which)
        # a limit counts the images that the teacher sees
        if which is not None and self.max_teacher_calls is None:
            which = np.resize(which, -(-number // MULTIPLE) * MULTIPLE)
        if which is not None and not np.array_equal(which, np.arange(len(images))):
            images = images[torch.from_numpy(which).to(images.device)]
        if images.ndim == 4:  # as without a cache
            images = laid_out(images, algorithm.channels_last)
        if getattr(algorithm.teacher, 'is_stored', False):
            raise SettingError(
                f'{OWNER}: the teacher is not in memory, and {number} of its outputs for this batch are not in '
                f'{self._store.folder}. Fill it with tools/cache_teacher.py, or set model.teacher_ckpt.'
            )
        with captured(algorithm.teacher, self._points) as found:
            algorithm.run_teacher(images)
        if which is not None:
            self.computed += len(images)
        return {name: found[name][:number] for name in self._points}

    def _compare(self, stored: np.ndarray, fresh: np.ndarray) -> None:
        before, now = self._layout.read(stored), self._layout.read(fresh)
        for name, field in self._layout.fields.items():
            if field.dtype not in TOLERANCES:
                continue
            then, new = before[name].double(), now[name].double()
            largest = new.nan_to_num(0, 0, 0).abs().max().item()
            # a teacher may say NaN, as long as it does so again
            if not torch.isclose(then, new, rtol=0, atol=TOLERANCES[field.dtype] * largest, equal_nan=True).all():
                difference = (then - new).abs().nan_to_num().max().item()
                raise CacheError(
                    f'{self._store.folder}: the stored {name} of the teacher differ from what it computes now, by up '
                    f'to {difference:.3g} of {largest:.3g}. Delete this folder, or set another model.{SETTING}.path.'
                )


def _facts_of_teacher(algorithm: nn.Module) -> dict[str, Any]:
    teacher = algorithm.teacher
    together = isinstance(teacher, TeacherEnsemble)
    dtypes = getattr(teacher, 'dtypes', None) or [algorithm.teacher_dtype]
    views = getattr(teacher, 'views', None) or [algorithm.teacher_view]
    return {
        # of several, with how their logits are combined: the combined ones are stored
        'network': teacher.description if together else type(getattr(teacher, 'backbone', teacher)).__name__,
        'features': [module.feature for module in teacher.modules() if isinstance(module, PooledFeature)],
        'weights': weights_digest(teacher),
        'classes': algorithm.teacher_classes and list(algorithm.teacher_classes),
        'several_labels': isinstance(getattr(teacher, 'head', None), MultiLabelClsHead),
        'precision': [str(dtype or torch.float32).removeprefix('torch.') for dtype in dtypes],
        'images': [view.extra_repr() if view.changes else "the student's" for view in views],
    }


def _bytes(size: Any) -> int:
    found = re.fullmatch(r'\s*([0-9.]+)\s*([KMGT]?B)\s*', size, re.IGNORECASE) if isinstance(size, str) else None
    try:
        value = float(found[1]) * UNITS[found[2].upper()] if found else float(size)
    except (TypeError, ValueError):
        value = 0
    if isinstance(size, bool) or not 0 < value < float('inf'):
        raise SettingError(f"{OWNER}: {SETTING}.max_size={size!r} must be a size, such as '16GB' or '500MB'.")
    return int(value)


def _log(message: str, level: int = logging.INFO) -> None:
    print_log(f'{OWNER}: {message}', logger='current', level=level)
