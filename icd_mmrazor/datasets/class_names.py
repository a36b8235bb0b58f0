"""Names of classes, compared wherever a network meets images."""

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
    """Return the class names in the ``metainfo`` of a dataset or the ``meta`` of a checkpoint (mmengine, mmcls 0.x)."""
    if not isinstance(meta, Mapping):
        return None
    for within in (meta, meta.get('dataset_meta')):
        for key in ('classes', 'CLASSES'):
            names = within.get(key) if isinstance(within, Mapping) else None
            if not isinstance(names, str | Mapping) and hasattr(names, '__len__') and len(names):
                return tuple(str(name) for name in names)
    return None


def differing_labels(names: Sequence[str], others: Sequence[str]) -> list[int]:
    """Return the labels that stand for different classes in two lists of names, or that only one of them has.

    Case and the characters between words do not count, and of synonyms (``'tench, Tinca tinca'``) one is enough.
    WordNet ids cannot be compared with words and differ in nothing.
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
    """List labels that differ: ``"label 2 is 'two' in the file and '2' in the dataset (1 of 10 labels differ)"``."""

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
        names: The classes that they were trained on, if known.
        datasets: Each dataset with its setting. One without names fits everything.
        choice: ``'refuse'``, or ``'list'`` to pass the difference to ``log``.
        log: What logs it.

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
                f'{message} Give images and weights of the same classes in the same order (that of a folder of images '
                f'is alphabetical). If only their names differ, add --cfg-options {SETTING}=list.'
            )
        log(message)


def choice_in(cfg: Mapping[str, Any]) -> str:
    """Return the ``choice`` of :func:`check_class_names` that the config of a run sets."""
    hooks = cfg.get('default_hooks') or {}
    # a config of version 0.1 has the former name
    former, check = hooks.get('check_weights') or {}, hooks.get('sanity_check') or {}
    return former.get('names') or check.get('class_names') or CHOICES[0]
