"""The features of several teachers by name."""

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.feature_terms import split_member
from icd_mmrazor.models.distillers.named_features import AUTO, NamedFeatures, of_stages
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble
from icd_mmrazor.models.networks.features import Point, output_of

LOGITS = 'logits'


class MemberFeatures(NamedFeatures):
    """The features of one of several teachers, each placed in the whole.

    Args:
        owner: Class of the distiller, for messages.
        model: The teachers.
        number: The member.
        source: Name of the linear layer that computes its logits, such as ``1.head.fc``, or ``'auto'``.
        maps: Whether feature maps are wanted.

    Raises:
        SettingError: There is no such member, or its classifying layer or maps are unknown.
    """

    def __init__(self, owner: str, model: TeacherEnsemble, number: int, source: str, maps: bool) -> None:
        if number >= len(model.members):
            raise SettingError(
                f'{owner}: there is no teacher {number}; {len(model.members)} teachers are counted from 0.'
            )
        self._prefix = f'{number}.'
        own = source.removeprefix(self._prefix) if source.startswith(self._prefix) else AUTO
        super().__init__(f'{owner}: teachers[{number}]', 'teacher', model.members[number], own, maps)
        self._whole, self.source = model, f'{self._prefix}{self.source}'

    def use(self, names: Iterable[str], image_shape: tuple[int, ...] | None) -> None:
        """Find the places and shapes of features, see :meth:`NamedFeatures.use`."""
        super().use(names, image_shape)
        prefixed = {name: replace(point, source=f'{self._prefix}{point.source}') for name, point in self.points.items()}
        self.points.update(prefixed)
        self.model = self._whole


class EnsembleFeatures:
    """The features of several teachers: ``0.pooled``, ``1.map2``, and their combined ``logits``.

    It is used like :class:`NamedFeatures`. If one of them is the main one (``PrunedPair``), ``pooled`` is its feature.

    Args:
        owner: Class of the distiller, for messages.
        model: The teachers.
        source: Same as in :class:`MemberFeatures`.
        names: The features that are wanted.

    Raises:
        SettingError: A feature has no number or that of an unknown member, or there are no combined logits.
    """

    def __init__(self, owner: str, model: TeacherEnsemble, source: str, names: Iterable[str]) -> None:
        self.model, self.source = model, source
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.points: dict[str, Point] = {}
        wanted: dict[str, list[str]] = {}
        names = list(names)
        for name in names:
            prefix, feature = split_member(name)
            wanted.setdefault(prefix, []).append(feature)
        if model.head is not None and not model.head.sees_all_images and {*names} != {LOGITS}:
            others = ', '.join(sorted({*names} - {LOGITS}))
            raise SettingError(
                f'{owner}: {others} of the teachers are compared, but each image goes through one of them, and only '
                'their logits are put together. Use a method that compares logits, such as kd, or FrozenTeacherDistill.'
            )
        main = getattr(model, 'main_member', None)
        self._main = '' if main is None else f'{main}.'
        if self._main:
            wanted.setdefault(self._main, [])
        for feature in wanted.pop('', []):
            if self._main and feature != LOGITS:
                wanted.setdefault(self._main, []).append(feature)
            elif feature != LOGITS:
                raise SettingError(
                    f'{owner}: several teachers together have no feature {feature!r}. Name one of them, '
                    f"'0.{feature}', or set teacher_member=0 in a distiller for each (MixedDistiller)."
                )
            if model.head is None:
                raise SettingError(
                    f'{owner}: several teachers have no combined logits, since {model.why_not_combined}. Compare those '
                    "of one, '0.logits'."
                )
            self.shapes[LOGITS], self.points[LOGITS] = (model.head.num_classes,), output_of('head')
        self._members = {
            prefix: MemberFeatures(owner, model, int(prefix[:-1]), self._source_of(prefix), of_stages(features))
            for prefix, features in wanted.items()
        }
        if self._main:
            self.shapes = {**self._members[self._main].shapes, **self.shapes}

    def _source_of(self, prefix: str) -> str:
        unnumbered = self.source != AUTO and not split_member(self.source)[0]
        return f'{prefix}{self.source}' if unnumbered and prefix == self._main else self.source

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """The numbers of maps and pre-activations of the members that are used, as ``0.teacher``."""
        counts = {f'{prefix}teacher': member.counts['teacher'] for prefix, member in self._members.items()}
        return counts | ({'teacher': counts[f'{self._main}teacher']} if self._main else {})

    @property
    def classifier(self) -> nn.Linear | None:
        """The classifying layer of the main one, if there is one."""
        return self._members[self._main].classifier if self._main else None

    def use(self, names: Iterable[str], image_shape: tuple[int, ...] | None) -> None:
        """Find the places and shapes of features, see :meth:`NamedFeatures.use`."""
        names = list(names)
        of_main = [name for name in names if self._main and name != LOGITS and not split_member(name)[0]]
        for prefix, member in self._members.items():
            called = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
            called |= dict(zip(of_main, of_main, strict=True)) if prefix == self._main else {}
            member.use(called.values(), image_shape)
            self.points.update({name: member.points[own] for name, own in called.items()})
            self.shapes.update({name: member.shapes[own] for name, own in called.items()})
