"""Folders of images."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from icd_mmrazor.datasets.extensions import EXTENSIONS
from icd_mmrazor.errors import DatasetError, SettingError, printable
from icd_mmrazor.workflow.image_files import Inspection, find_images, inspect_images

TRAIN = 'train'
UNLABELED = 'unlabeled'  # may lie next to them, for --unlabeled
# names of the folder to validate on, in the order of preference
VALIDATION = ('val', 'valid', 'validation', 'test')
SHOWN = 5


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The images of a folder and their classes.

    Args:
        root: The folder that the paths are relative to, absolute.
        classes: The names of the classes, sorted as mmpretrain sorts them; empty without labels.
        train: Path and label of each image to train on.
        val: The same of the images to validate on; empty if the folder has no such part.
        ignored: The number of files that are not images.
        notes: What to tell about it.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[tuple[str, int], ...]
    val: tuple[tuple[str, int], ...] = ()
    ignored: int = 0
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """All paths."""
        return [file for file, _ in (*self.train, *self.val)]

    def without(self, files: Sequence[str]) -> 'ImageFolder':
        """Return the folder without some of its images."""
        left_out = set(files)
        train, val = (tuple(item for item in part if item[0] not in left_out) for part in (self.train, self.val))
        return dataclasses.replace(self, train=train, val=val)

    def fingerprint(self) -> list[tuple[str, int]]:
        """Return path and size of each file: what tells whether the folder has changed."""
        return [(file, (self.root / file).stat().st_size) for file in self.files]


def read_folder(data: str | os.PathLike, setting: str = '--data') -> ImageFolder:
    """Read the layout of a folder of classes: ``CLASS/*``, or ``train/CLASS/*`` with ``val/CLASS/*``.

    Args:
        data: The folder.
        setting: The setting that names it, for messages.

    Raises:
        DatasetError: It has fewer than two classes, a class is empty, the classes of its two parts differ, or its
            folders look like parts with other names.
        SettingError: There is no such folder.
    """
    root = _existing(data, setting)
    inside = _subfolders(root)
    if TRAIN in inside and inside <= {TRAIN, *VALIDATION, UNLABELED} and _subfolders(root / TRAIN):
        val = next((name for name in VALIDATION if name in inside), None)
        return _of_two_parts(root, val, setting)
    _refuse_other_parts(root, inside, setting)
    classes, images, ignored = _classes_in(root, setting)
    return ImageFolder(root, classes, tuple(images), ignored=ignored)


def read_unlabeled(data: str | os.PathLike, setting: str = '--unlabeled') -> ImageFolder:
    """Read a folder of images without classes; folders inside it have no meaning.

    Raises:
        DatasetError: It has no images, or the name of one has a line break.
        SettingError: There is no such folder.
    """
    root = _existing(data, setting)
    files, ignored = find_images(root)
    if not files:
        raise DatasetError(f'{setting} {root} has no images.{_of_other_files(ignored)}')
    _refuse_line_breaks(files, f'{setting} {root}')
    return ImageFolder(root, (), tuple((file, -1) for file in files), ignored=ignored)


def check_readable(folder: ImageFolder, skip: bool, setting: str = '--data') -> tuple[ImageFolder, Inspection]:
    """Read all images of a folder.

    Args:
        folder: The folder.
        skip: Whether files that cannot be read are left out.
        setting: The setting that names it, for messages.

    Returns:
        The folder without those that are left out, and what the images are like.

    Raises:
        DatasetError: A file cannot be read, and ``skip`` is not set; or a class has no other images.
    """
    found = inspect_images(folder.root, folder.files)
    if not found.unreadable:
        return folder, found
    named = [f'{file} ({problem})' for file, problem in found.unreadable.items()]
    listed = printable(named[:SHOWN], '\n  ') + ('\n  ...' if len(named) > SHOWN else '')
    number = f'{len(named)} of {len(folder.files)} images'
    if not skip:
        raise DatasetError(
            f'{setting} {folder.root}: {number} cannot be read:\n  {listed}\nRepair or remove them, or leave them out '
            'with --skip-unreadable.'
        )
    folder = dataclasses.replace(
        folder.without([*found.unreadable]), notes=(*folder.notes, f'left out {number}, unreadable:\n  {listed}')
    )
    for part, items in ((TRAIN, folder.train), ('val', folder.val)):
        if items or part == TRAIN:
            _refuse_empty(folder.classes, items, f'{setting} {folder.root}', ' that can be read')
    return folder, found


def _of_two_parts(root: Path, val: str | None, setting: str) -> ImageFolder:
    classes, images, ignored = _classes_in(root / TRAIN, setting)
    train = tuple((f'{TRAIN}/{file}', label) for file, label in images)
    if val is None:
        return ImageFolder(root, classes, train, ignored=ignored)
    others, images, more = _classes_in(root / val, setting, of_val=True)
    if missing := sorted({*classes} ^ {*others}):
        here = [name for name in missing if name in classes]
        there = [name for name in missing if name in others]
        parts = [(TRAIN, here, val), (val, there, TRAIN)]
        texts = [
            f'{part} has {printable(map(repr, names[:SHOWN]))}{", ..." if len(names) > SHOWN else ""} and {other} does '
            'not'
            for part, names, other in parts
            if names
        ]
        raise DatasetError(
            f'{setting} {root}: the classes of {TRAIN} and {val} differ: {"; ".join(texts)}. Give both the same '
            f'folders, or remove {val}: then a part of {TRAIN} is split off.'
        )
    notes = ("validates on the folder 'test', since there is no 'val'",) if val == 'test' else ()
    valid = tuple((f'{val}/{file}', label) for file, label in images)
    return ImageFolder(root, classes, train, valid, ignored + more, notes)


def _refuse_other_parts(root: Path, inside: set[str], setting: str) -> None:
    """Refuse ``Training/CLASS/*`` with ``Testing/CLASS/*``, or a third folder next to the two, taken for classes."""
    parts = {
        name: _subfolders(root / name)
        for name in sorted(inside)
        if name.lower().startswith((TRAIN, *VALIDATION)) and name != UNLABELED
    }
    same = [name for name in parts if any(parts[name] & parts[other] for other in parts if other != name)]
    if len(same) > 1:
        others = sorted(inside - {*same})
        away = f', and move {printable(map(repr, others[:SHOWN]))} elsewhere' if others else ''
        raise DatasetError(
            f'{setting} {root}: {printable(map(repr, same))} have folders of the same names inside, so they seem to be '
            f"parts of the data, not classes. Call them '{TRAIN}' and '{VALIDATION[0]}'{away}."
        )


def _classes_in(root: Path, setting: str, of_val: bool = False) -> tuple[tuple[str, ...], list[tuple[str, int]], int]:
    """Return the classes of a folder, its images with their labels, and the number of other files."""
    classes = sorted(_subfolders(root) - {UNLABELED})
    if len(classes) < 2 and not of_val:
        loose = [file for file in find_images(root)[0] if '/' not in file]
        found = f"one class, '{printable(classes)}'" if classes else 'no folders of classes'
        found += f' and {len(loose)} images outside of one' if loose else ''
        raise DatasetError(
            f'{setting} {root} has {found}. It needs two classes or more: CLASS/* or {TRAIN}/CLASS/*. Images without '
            'classes are for --unlabeled.'
        )
    images, ignored = [], 0
    for label, name in enumerate(classes):
        files, others = find_images(root / name)
        images += [(f'{name}/{file}', label) for file in files]
        ignored += others
    _refuse_line_breaks([file for file, _ in images], f'{setting} {root}')
    _refuse_empty(classes, images, f'{setting} {root}', _of_other_files(ignored))
    return tuple(classes), images, ignored


def _refuse_line_breaks(files: Sequence[str], where: str) -> None:
    """Refuse names that a list of files, one a line, cannot hold."""
    if unusable := [file for file in files if {'\n', '\r'} & {*file}]:
        raise DatasetError(f'{where}: the name {unusable[0]!r} contains a line break. Rename the file.')


def _refuse_empty(classes: Sequence[str], images: Sequence[tuple[str, int]], where: str, what: str) -> None:
    counts = Counter(label for _, label in images)
    empty = [name for label, name in enumerate(classes) if not counts[label]]
    if empty:
        names = f'class{"es" if len(empty) > 1 else ""} {printable(map(repr, empty[:SHOWN]))}'
        raise DatasetError(f'{where}: no images{what} in {names}. Add some, or remove the folder.')


def _of_other_files(number: int) -> str:
    return f' ({number} files of other kinds than {", ".join(EXTENSIONS)})' if number else ''


def _existing(data: str | os.PathLike, setting: str) -> Path:
    try:
        root = Path(data).expanduser()
        problem = '' if root.is_dir() else 'is not a folder' if root.exists() else 'does not exist'
    except (OSError, RuntimeError, ValueError) as error:  # a NUL, an unknown user, a name that is too long
        raise SettingError(f'{setting} {data}: {error}. Give a folder of images.') from None
    if problem:
        raise SettingError(f'{setting} {data} {problem} (working folder: {Path.cwd()}). Give a folder of images.')
    return root.resolve()


def _subfolders(root: Path) -> set[str]:
    return {entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith('.')}
