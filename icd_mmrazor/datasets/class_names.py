"""What the numbers of the classes stand for: compared by name wherever a network meets images."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from icd_mmrazor.errors import DatasetError, printable

SHOWN_DIFFERENCES = 3
CHOICES = ('refuse', 'list')
SETTING = 'default_hooks.sanity_check.class_names'
SYNSET = re.compile(r'n\d{8}')
BETWEEN_WORDS = re.compile(r'(?<=\w)[\s_-]+(?=\w)')


def class_names(meta: Any) -> tuple[str, ...] | None:
    """Return the names of the classes in the order of their numbers.

    Args:
        meta: The ``metainfo`` of a dataset, or the ``meta`` of a checkpoint, of mmengine or of mmcls 0.x.

    Returns:
        The names; None where there are none.
    """
    if not isinstance(meta, Mapping):
        return None
    for within in (meta, meta.get('dataset_meta')):
        for key in ('classes', 'CLASSES'):
            names = within.get(key) if isinstance(within, Mapping) else None
            if not isinstance(names, str | Mapping) and hasattr(names, '__len__') and len(names):
                return tuple(str(name) for name in names)
    return None


def differing_labels(names: Sequence[str], others: Sequence[str]) -> list[int]:
    """Return the numbers that stand for other classes in one list of names than in another.

    Case and the characters between words do not count, and of synonyms (``'tench, Tinca tinca'``) one is enough. The
    ids of WordNet, as ImageNet's folders are called, cannot be compared with words: they differ in nothing.

    Args:
        names: A name for each number, from 0.
        others: Likewise.

    Returns:
        The numbers, ascending; those beyond the end of the shorter list too.
    """
    if len({all(SYNSET.fullmatch(name) for name in each) for each in (names, others)}) > 1:
        return []
    shorter, longer = sorted((len(names), len(others)))
    differing = [i for i in range(shorter) if not _synonyms(names[i]) & _synonyms(others[i])]
    return [*differing, *range(shorter, longer)]


def _synonyms(name: str) -> set[str]:
    return {BETWEEN_WORDS.sub('', part.strip().casefold()) for part in name.split(',')}


def listed_differences(
    names: Sequence[str], others: Sequence[str], differing: Sequence[int], places: tuple[str, str]
) -> str:
    """Return what labels stand for, in words: the first few, and how many there are.

    Args:
        names: A name for each number.
        others: Likewise.
        differing: The numbers.
        places: Where either are, in words: ``('in the file', 'in the dataset')``.

    Returns:
        ``"label 2 is 'two' in the file and '2' in the dataset, label 3 'x' and '3' (2 of 10 labels differ)"``.
    """

    def name(known: Sequence[str], label: int) -> str:
        return f"'{printable([known[label]])}'" if label < len(known) else 'no class'

    first, *more = differing[:SHOWN_DIFFERENCES]
    pairs = [f'label {first} is {name(names, first)} {places[0]} and {name(others, first)} {places[1]}']
    pairs += [f'label {label} {name(names, label)} and {name(others, label)}' for label in more]
    return f'{", ".join(pairs)} ({len(differing)} of {max(len(names), len(others))} labels differ)'


def check_class_names(
    source: str,
    names: Sequence[str] | None,
    datasets: Iterable[tuple[str, Any]],
    choice: str = 'refuse',
    log: Callable[[str], None] = print,
) -> None:
    """Refuse weights that were trained with other class names than those of the images they are used on.

    Args:
        source: Where the weights come from: ``"model.teacher_ckpt='FILE'"``.
        names: The names of the classes that they were trained on; None if they are not known.
        datasets: Each dataset with the setting that it stands under. One without names fits everything.
        choice: ``'refuse'``, or ``'list'`` to write the difference to the log only.
        log: What writes it.

    Raises:
        DatasetError: Names differ, and ``choice`` is ``'refuse'``.
    """
    for setting, dataset in datasets:
        others = class_names(getattr(dataset, 'metainfo', None))
        differing = differing_labels(names, others) if names and others else []
        if not differing:
            continue
        order = ', in another order' if sorted(names) == sorted(others) else ''
        listed = listed_differences(names, others, differing, ('in the file', 'in the dataset'))
        message = f'{source} was trained on other classes than {setting}.dataset has{order}: {listed}.'
        if choice == 'refuse':
            raise DatasetError(
                f'{message} Give images and weights of the same classes in the same order; a folder of images gives '
                'them the alphabetical order of its folders. If the same classes are only called otherwise, add '
                f'--cfg-options {SETTING}=list.'
            )
        log(message)


def choice_in(cfg: Mapping[str, Any]) -> str:
    """Return what a config wants done where class names differ, as of :func:`check_class_names`.

    Args:
        cfg: The config of a run.
    """
    hooks = cfg.get('default_hooks') or {}
    # that of version 0.1 first: a config that has it, has been told so
    former, check = hooks.get('check_weights') or {}, hooks.get('sanity_check') or {}
    return former.get('names') or check.get('class_names') or CHOICES[0]
