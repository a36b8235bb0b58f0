"""Places in a network where features are, by the type of its backbone."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import singledispatch

from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.layouts import Layout


@dataclass(frozen=True)
class Point:
    """A place in a network, as mmrazor's recorders and ``loss_forward_mappings`` name it."""

    type: str  # 'ModuleInputs' or 'ModuleOutputs'
    source: str
    record_idx: int = 0  # which call of the module in a forward pass
    data_idx: int | None = None  # which of its inputs or outputs
    layout: Layout | None = None  # None: the feature is what is recorded


def output_of(source: str, layout: Layout | None = None) -> Point:
    """Return the point of the output of a module that is called once."""
    return Point('ModuleOutputs', source, layout=layout)


def input_of(source: str, call: int = 0) -> Point:
    """Return the point of a module's first input, in one of its calls; -1 is the last."""
    return Point('ModuleInputs', source, record_idx=call, data_idx=0)


def within(prefix: str, points: Iterable[Iterable[Point]]) -> tuple[list[Point], ...]:
    """Return the same lists of points for a network of which theirs is a part: ``'backbone.'``."""
    return tuple([replace(point, source=f'{prefix}{point.source}') for point in each] for each in points)


def evenly_spaced(number: int, of: int) -> list[int]:
    """Choose indices of a sequence at equal distances, the last one among them: ``[2, 5, 8, 11]`` for 4 of 12."""
    number = min(number, of)
    return [round((i + 1) * of / number) - 1 for i in range(number)]


@singledispatch
def points_of_backbone(backbone: nn.Module) -> tuple[list[Point], ...]:
    """Return the points of a backbone's maps, starting with the stem, and of its pre-activations, without the stem.

    A third list, if there is one, has the points of its blocks.
    """
    known = sorted(cls.__name__ for cls in points_of_backbone.registry if cls is not object)
    raise SettingError(
        f'backbone {type(backbone).__name__}: its feature maps are unknown. Use {", ".join(known)}, a class derived '
        'from them or a network of timm, add it as icd_mmrazor.models.networks.features shows, or compare pooled '
        'features or logits.'
    )
