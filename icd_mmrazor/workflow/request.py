"""The request of a user."""

import contextlib
import dataclasses
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from icd_mmrazor import checks, recipes
from icd_mmrazor.checkpoints.writing import check_writable, write_json
from icd_mmrazor.errors import SettingError, did_you_mean
from icd_mmrazor.export.formats import FORMATS
from icd_mmrazor.launch.run_config import LAUNCHERS

CLASSIFICATION, RETRIEVAL = TASKS = ('classification', 'retrieval')
RECIPES = ('fast', 'standard', 'patient')
# smaller images have nothing to see, a batch of larger ones fits no memory
IMAGE_SIZES = (8, 2048)
FILE = 'request.json'
# a later command may differ in these
FREE = ('work_dir', 'dry_run', 'export', 'launcher')
# what a distillation sets in its configs itself
OWN = {
    'work_dir': '--work-dir',
    'launcher': '--launcher',
    'resume': 'the same command again',
    'load_from': '--teacher-ckpt',
}


@dataclasses.dataclass
class Request:
    """The arguments of :func:`icd_mmrazor.distill`, which describes them, checked."""

    teacher: str | os.PathLike | dict
    student: str | os.PathLike | dict
    data: str | os.PathLike
    task: str = CLASSIFICATION
    unlabeled: str | os.PathLike | None = None
    method: str | Sequence[str] = 'icd+kd'
    recipe: str = 'standard'
    image_size: int | None = None
    flip: bool = True
    epochs: int | None = None
    batch_size: int | None = None
    teacher_ckpt: str | os.PathLike | None = None
    baseline: bool = False
    val_fraction: float = 0.2
    seed: int = 0
    skip_unreadable: bool = False
    export: Sequence[str] | str | None = ()
    work_dir: str | os.PathLike | None = None
    dry_run: bool = False
    launcher: str = 'none'
    cfg_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.teacher, self.student = _network(self.teacher, '--teacher'), _network(self.student, '--student')
        if self.task not in TASKS:
            raise SettingError(
                f'--task {self.task}: there is no such task.{did_you_mean(self.task, TASKS)} Leave it out to classify.'
            )
        for name in ('image_size', 'epochs', 'batch_size'):
            if getattr(self, name) is not None:
                checks.positive_int('distill', name, getattr(self, name))
        if self.image_size and not IMAGE_SIZES[0] <= self.image_size <= IMAGE_SIZES[1]:
            least, most = IMAGE_SIZES
            raise SettingError(f'distill: image_size={self.image_size} must be from {least} to {most} pixels.')
        for name in ('flip', 'baseline', 'skip_unreadable', 'dry_run'):
            checks.boolean('distill', name, getattr(self, name))
        checks.one_of('distill', 'launcher', self.launcher, LAUNCHERS)
        if not checks.is_number(self.val_fraction) or not 0 < self.val_fraction < 1:
            raise SettingError(f'distill: val_fraction={self.val_fraction!r} must be between 0 and 1.')
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise SettingError(f'distill: seed={self.seed!r} must be an integer from 0 to 4294967295.')
        if isinstance(self.method, list | tuple):
            self.method = '+'.join(map(str, self.method))
        self.recipe, self.method = (re.sub(r'\s', '', str(text)).lower() for text in (self.recipe, self.method))
        recipes.check_name('recipe', self.recipe, RECIPES)
        self.method = recipes.canonical_name(self.method.replace(',', '+'))
        known = [name for name in recipes.method_names() if name != recipes.STUDENT_ALONE]
        for name in (methods := self.method.split('+')):
            recipes.check_name('method', name, known)
        if len(set(methods)) < len(methods):
            raise SettingError(f'distill: method={self.method!r} names a method twice.')
        names = self.export.split(',') if isinstance(self.export, str) else self.export or ()
        self.export = tuple(dict.fromkeys(text for name in names if (text := str(name).strip().lower())))
        for name in self.export:
            if name not in FORMATS:
                raise SettingError(f'distill: export={name!r}: no such format.{did_you_mean(name, FORMATS)}')
        self.data, self.unlabeled = _path(self.data, '--data'), _path(self.unlabeled, '--unlabeled')
        self.teacher_ckpt = None if self.teacher_ckpt is None else str(self.teacher_ckpt)
        self.cfg_options = dict(checks.settings('distill', 'cfg_options', self.cfg_options))
        for name in self.cfg_options:
            if name in OWN:
                raise SettingError(f'--cfg-options {name}: the command sets it itself. Use {OWN[name]}.')
        self.work_dir = Path(_text(self.work_dir, '--work-dir') or Path('work_dirs', self.name()))
        if self.work_dir.is_file():
            raise SettingError(f'--work-dir {self.work_dir} is a file. Give a folder.')
        try:
            check_writable(self.work_dir / FILE, '--work-dir')
        except SettingError as error:
            raise SettingError(f'--work-dir {self.work_dir} cannot be written. Give another folder.') from error

    @property
    def methods(self) -> list[str]:
        """The methods one by one."""
        return self.method.split('+')

    def name(self) -> str:
        """Return a name for the work folder: ``'digits_resnet50_resnet18_icd+kd'``."""
        what = self.method if self.task == CLASSIFICATION else self.task
        parts = (Path(self.data).name, _short(self.teacher), _short(self.student), what)
        return '_'.join(re.sub(r'[^\w.+-]+', '-', part) for part in parts if part)

    def settings(self) -> dict[str, Any]:
        """Return what a later command for the same work folder must not change, as plain values."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if key not in FREE}
        return json.loads(json.dumps(values, default=str))


@contextlib.contextmanager
def formats_as_export() -> Iterator[None]:
    """Let errors of formats name the setting ``--export``, which is ``--to`` in ``tools/model_converters``."""
    try:
        yield
    except SettingError as error:
        raise SettingError(str(error).replace('--to ', '--export ')) from None


def read_settings(work_dir: Path) -> dict[str, Any] | None:
    """Return what the work folder was made for; None if it is new.

    Raises:
        SettingError: It has other files, or its ``request.json`` is damaged.
    """
    file = work_dir / FILE
    if file.is_file():
        try:
            stored = json.loads(file.read_text(encoding='utf-8'))
        except ValueError as error:
            raise SettingError(f'{file} is damaged ({error}). Give another --work-dir.') from None
        if isinstance(stored, dict):
            return stored
        raise SettingError(f'{file} is damaged. Give another --work-dir.')
    if work_dir.is_dir() and any(not entry.name.startswith('.') for entry in work_dir.iterdir()):
        raise SettingError(
            f'--work-dir {work_dir} has files that another program wrote. Give a new or an empty folder.'
        )
    return None


def refuse_other_settings(work_dir: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a command for a work folder that was made for another one.

    Raises:
        SettingError: Settings differ; the message lists them.
    """
    names = [name for name in {**stored, **now} if stored.get(name) != now.get(name)]
    if names:
        listed = '\n  '.join(f'{name}: {_shown(stored.get(name))} there, {_shown(now.get(name))} now' for name in names)
        raise SettingError(
            f'--work-dir {work_dir} was made for other settings:\n  {listed}\nGive another folder, or the same '
            'settings to continue.'
        )


def write_settings(work_dir: Path, settings: Mapping[str, Any]) -> None:
    """Write what a work folder is made for into it."""
    write_json(settings, work_dir / FILE)


def _network(network: Any, setting: str) -> str | dict:
    if isinstance(network, nn.Module):
        raise SettingError(
            f'{setting}: a built {type(network).__name__} cannot be written into a config. Register its class, '
            '@mmpretrain.registry.MODELS.register_module(), and give dict(type=..., its arguments).'
        )
    if not network:
        raise SettingError(f'{setting} {network!r} is empty. Name a network.')
    return network if isinstance(network, dict) else _text(network, setting)


def _text(path: Any, setting: str) -> str:
    if not isinstance(path, str | os.PathLike | None):
        raise SettingError(f'{setting}: {_shown(path)} is not a name or a path.')
    return '' if path is None else os.fspath(path)


def _path(path: str | os.PathLike | None, setting: str) -> str | None:
    if path is None:
        return None
    if not _text(path, setting).strip():
        raise SettingError(f'{setting} {path!r} is empty. Give a folder of images.')
    try:
        path = Path(path).expanduser()
    except RuntimeError:  # there is no such user; whether there is such a folder is checked when it is read
        path = Path(path)
    return str(path.absolute())


def _short(network: str | dict) -> str:
    if isinstance(network, dict):
        network = network.get('cfg_path') or network.get('backbone', {}).get('type') or network.get('type') or ''
    name = unicodedata.normalize('NFC', str(network)).rpartition('::')[2].rstrip('/').rpartition('/')[2]
    return re.sub(r'\.(py|pth|pt|safetensors)$', '', name)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'
