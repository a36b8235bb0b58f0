"""How much of a network a file of weights fills, where mmengine loads it leniently."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from icd_mmrazor.errors import printable

STUDENT = 'architecture.'
OF_PROCESSES = re.compile(r'^module\.')  # what mmengine strips, too
SHOWN_NAMES = 3
# a file that has less than this of a network's weights is one of another network
LEAST_PART = 0.5


class Fit(NamedTuple):
    """Names of weights, without the counters of batch norms.

    Attributes:
        filled: Those of the network that the file has, in the same shape.
        missing: Those of the network that it does not have.
        other_shapes: Those that it has in another shape.
        unused: Those that only the file has.
    """

    filled: list[str]
    missing: list[str]
    other_shapes: list[str]
    unused: list[str]

    def of(self, prefix: str) -> 'Fit':
        """Return what concerns a part of the network; what only the file has stays.

        Args:
            prefix: What the names of its weights begin with.
        """
        parts = ([name for name in names if name.startswith(prefix)] for names in self[:3])
        return Fit(*parts, self.unused)

    def without(self, prefix: str) -> 'Fit':
        """Return what does not concern a part of the network.

        Args:
            prefix: What the names of its weights begin with.
        """
        return Fit(*([name for name in names if not name.startswith(prefix)] for names in self))

    @property
    def total(self) -> int:
        """The number of the network's weights."""
        return len(self.filled) + len(self.missing) + len(self.other_shapes)

    @property
    def part(self) -> float:
        """The part of the network's weights that the file fills."""
        return len(self.filled) / self.total if self.total else 1.0

    def __str__(self) -> str:
        lists = (
            ('not in the file', self.missing),
            ('of another shape in the file', self.other_shapes),
            ('only in the file', self.unused),
        )
        texts = [f'{title}: {_first(names)}' for title, names in lists if names]
        return '; '.join([f'{len(self.filled)} of {self.total} weights', *texts])


def _first(names: list[str]) -> str:
    more = f' and {len(names) - SHOWN_NAMES} more' if len(names) > SHOWN_NAMES else ''
    return f'{printable(names[:SHOWN_NAMES])}{more}'


def tensors_in(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights in a checkpoint by their names, as mmengine loads them.

    Args:
        checkpoint: A checkpoint (``{'state_dict': ...}``) or a bare state dict.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    weights = weights if isinstance(weights, Mapping) else {}
    return {OF_PROCESSES.sub('', str(name)): value for name, value in weights.items() if isinstance(value, Tensor)}


def named_for(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name weights as a network does, where the one is a distillation and the other is a plain classifier.

    Of a distillation's weights a classifier gets the student's, and a classifier's become those of the student.

    Args:
        network: A distillation, which has its student as ``architecture``, or a classifier.
        weights: The weights of either.
    """
    has_student = isinstance(getattr(network, 'architecture', None), nn.Module)
    student = {name: value for name, value in weights.items() if name.startswith(STUDENT)}
    if has_student and not student:
        return {STUDENT + name: value for name, value in weights.items()}
    if student and not has_student:
        return {name.removeprefix(STUDENT): value for name, value in student.items()}
    return dict(weights)


def fit_of(network: nn.Module, weights: Mapping[str, Tensor]) -> Fit:
    """Compare weights with those of a network, after all that the network does to what it loads.

    mmpretrain's networks rename weights of other origins so, and resize embeddings of positions. What they make anew
    themselves, and so take out, counts as filled.

    Args:
        network: The network; nothing is loaded into it.
        weights: The weights by their names.
    """
    modules = [(f'{name}.' if name else '', m) for name, m in network.named_modules(remove_duplicate=False)]
    own: dict[str, Any] = {}
    in_file, weights = weights, dict(weights)
    for prefix, module in modules:
        module._save_to_state_dict(own, prefix, keep_vars=True)
        for prepare in module._load_state_dict_pre_hooks.values():
            prepare(weights, prefix, {}, False, [], [], [])
    own = {name: value for name, value in own.items() if _counts(name) and isinstance(value, Tensor)}
    found = {**in_file, **weights}
    common = [name for name in own if name in found]
    same = {name for name in common if found[name].shape == own[name].shape}
    return Fit(
        filled=[name for name in common if name in same],
        missing=[name for name in own if name not in found],
        other_shapes=[name for name in common if name not in same],
        unused=[name for name in weights if name not in own and _counts(name)],
    )


def _counts(name: str) -> bool:
    return not name.endswith('num_batches_tracked')


def best_prefix(network: nn.Module, names: Iterable[str]) -> str | None:
    """Find the part of a file that is most like a network, to tell a user.

    Args:
        network: The network.
        names: The names of the weights in the file.

    Returns:
        What the names of that part begin with, without the last dot; None where no part has any name of the network.
    """
    own = {*network.state_dict()}
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split('.')
        for i in range(1, len(parts)):
            if '.'.join(parts[i:]) in own and _counts(name):
                prefix = '.'.join(parts[:i])
                counts[prefix] = counts.get(prefix, 0) + 1
    return max(counts, key=counts.__getitem__, default=None)
