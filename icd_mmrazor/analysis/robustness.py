"""Measures beyond accuracy."""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.analysis.attacks import EPS, STEP, STEPS, attacked, transfer
from icd_mmrazor.analysis.corruptions import CORRUPTIONS, STRENGTHS, corrupt, unfit
from icd_mmrazor.analysis.networks import logits_of
from icd_mmrazor.analysis.scores import accuracy_of_classes, agreement, auroc, calibration
from icd_mmrazor.analysis.subject import BATCH_SIZE, STUDENT, TEACHER, Subject
from icd_mmrazor.analysis.unknown import NOISE, unknown_images
from icd_mmrazor.errors import SettingError, did_you_mean

ATTACKED = 500


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of an analysis.

    Args:
        checks: Names of :data:`CHECKS`; by default all that can be done.
        bins: The number of bins of the calibration.
        corruptions: Names of corruptions; by default all.
        attacked: The number of images that are attacked, drawn from the test images with the seed.
        eps, step, steps: Of the attack, see :func:`~icd_mmrazor.analysis.attacks.pgd`.
        ood: The images that are not of the classes, see :func:`~icd_mmrazor.analysis.unknown.unknown_images`.
        seed: For all random numbers, from 0 to 2**32 - 1.

    Raises:
        SettingError: A name is unknown, or a number is out of range.
    """

    checks: Sequence[str] | None = None
    bins: int = 15
    corruptions: Sequence[str] | None = None
    attacked: int = ATTACKED
    eps: float = EPS
    step: float = STEP
    steps: int = STEPS
    ood: str = NOISE
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('bins', 'attacked', 'steps'):
            checks.positive_int(self, name, getattr(self, name))
        for name in ('eps', 'step'):
            checks.positive(self, name, getattr(self, name))
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise SettingError(f'seed={self.seed!r} must be an integer from 0 to 2**32 - 1.')
        for setting, known in (('checks', CHECKS), ('corruptions', CORRUPTIONS)):
            for name in getattr(self, setting) or ():
                if name not in known:
                    raise SettingError(f'{setting}: {name!r} is unknown.{did_you_mean(name, known)}')


def measure(subject: Subject, settings: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the result of each check, as soon as it is done.

    Raises:
        SettingError: A check that is asked for needs a teacher, labels or other images, and there are none; or there
            are no unknown images as set.
    """
    missing = {name: check.lacks(subject) for name, check in CHECKS.items()}
    for name in settings.checks or ():
        if missing[name]:
            raise SettingError(f'checks: {name} needs {missing[name]}. Leave it out.')
    names = settings.checks or [name for name, lacking in missing.items() if not lacking]
    functions = {name: CHECKS[name].function for name in names}
    if 'ood' in functions:
        # a wrong setting is refused before the long checks
        functions['ood'] = functools.partial(_unknown, others=_others(subject, settings))
    for name in names:
        yield name, functions[name](subject, settings)


def _of_classes(subject: Subject, _: Settings) -> dict[str, Any]:
    count, labels = len(subject.classes), subject.images.labels
    return {'names': [*subject.classes], 'images': labels.bincount(minlength=count).tolist()} | {
        name: accuracy_of_classes(logits.argmax(1), labels, count) for name, logits in subject.clean.items()
    }


def _calibration(subject: Subject, settings: Settings) -> dict[str, Any]:
    return {'bins': settings.bins} | {
        name: calibration(scores, subject.images.labels, settings.bins) for name, scores in subject.scores.items()
    }


def _agreement(subject: Subject, _: Settings) -> dict[str, Any]:
    return agreement(subject.scores[STUDENT], subject.scores[TEACHER])


def _corruptions(subject: Subject, settings: Settings) -> dict[str, Any]:
    flipped = subject.images.source == 'BGR' and subject.images.pixels.shape[1] == 3

    def turned(images: Tensor) -> Tensor:
        return images.flip(1) if flipped else images

    rgb = turned(subject.images.pixels)
    tables: dict[str, dict[str, list[float]]] = {name: {} for name in subject.networks}
    for corruption in settings.corruptions or CORRUPTIONS:
        for strength in STRENGTHS:
            changed = turned(corrupt(rgb, corruption, strength, settings.seed))
            for name, logits in subject.logits(changed).items():
                tables[name].setdefault(corruption, []).append(_accuracy(logits, subject.images.labels))
    return {'strengths': [*STRENGTHS]} | {
        name: {
            'clean': _accuracy(subject.clean[name], subject.images.labels),
            'mean': statistics.fmean(value for values in table.values() for value in values),
            'accuracies': table,
        }
        for name, table in tables.items()
    }


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return 100 * (logits.argmax(1) == labels).double().mean().item()


def _places(subject: Subject, settings: Settings) -> Tensor:
    """Draw the images to attack: a dataset may list one class after the other."""
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.randperm(len(subject.images), generator=generator)[: settings.attacked].sort().values


def _attack(subject: Subject, settings: Settings, name: str) -> tuple[dict[str, Any], Tensor]:
    places = _places(subject, settings)
    pixels, labels = subject.images.pixels[places], subject.images.labels[places]
    attack = {name: getattr(settings, name) for name in ('eps', 'step', 'steps')}
    changed = attacked(subject.networks[name], pixels, labels, BATCH_SIZE, settings.seed, **attack)
    robust = _accuracy(logits_of(subject.networks[name], changed, BATCH_SIZE), labels)
    clean = _accuracy(subject.clean[name][places], labels)
    return {'images': len(pixels), **attack, name: {'clean': clean, 'robust': robust}}, changed


def _attacks(subject: Subject, settings: Settings) -> dict[str, Any]:
    return _attack(subject, settings, STUDENT)[0]


def _transfer(subject: Subject, settings: Settings) -> dict[str, Any]:
    found, changed = _attack(subject, settings, TEACHER)
    places = _places(subject, settings)
    pixels, labels = subject.images.pixels[places], subject.images.labels[places]
    networks = [subject.networks[name] for name in (STUDENT, TEACHER)]
    return found | transfer(*networks, pixels, changed, labels, BATCH_SIZE)


def _others(subject: Subject, settings: Settings) -> Tensor:
    return unknown_images(settings.ood, subject.images, settings.seed)


def _unknown(subject: Subject, settings: Settings, others: Tensor | None = None) -> dict[str, Any]:
    others = _others(subject, settings) if others is None else others
    found: dict[str, Any] = {'source': settings.ood, 'images': len(others)}
    for name, logits in subject.logits(others).items():
        known, unknown = subject.clean[name].double(), logits.double()
        found[name] = {
            'max_probability': auroc(known.softmax(1).amax(1), unknown.softmax(1).amax(1)),
            'energy': auroc(known.logsumexp(1), unknown.logsumexp(1)),
        }
    return found


@dataclasses.dataclass(frozen=True)
class Check:
    """A part of an analysis: the function that does it, and what it needs besides a student and images."""

    function: Callable[[Subject, Settings], dict[str, Any]]
    needs: Sequence[str] = ('labels',)

    def lacks(self, subject: Subject) -> str:
        """Return what is missing, for a message; empty if nothing is."""
        if TEACHER in self.needs and subject.why_no_teacher:
            return f'a teacher, and {subject.why_no_teacher}'
        if 'labels' in self.needs and subject.images.labels is None:
            return 'a label of each test image (test_dataloader), and not all have one'
        return unfit(subject.images.pixels) if 'colours' in self.needs else ''


CHECKS: dict[str, Check] = {
    'classes': Check(_of_classes),
    'calibration': Check(_calibration),
    'agreement': Check(_agreement, (TEACHER,)),
    'corruptions': Check(_corruptions, ('labels', 'colours')),
    'attacks': Check(_attacks),
    'transfer': Check(_transfer, (TEACHER, 'labels')),
    'ood': Check(_unknown, ()),
}
