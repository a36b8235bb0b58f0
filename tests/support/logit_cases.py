"""Golden numbers of losses between logits, with what slow rewrites of their formulas have in common."""

import functools
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DATA
from mmengine.config import ConfigDict
from torch import Tensor

from icd_mmrazor import recipes

# of the loss: relative, absolute; of a gradient: relative, absolute, as a share of its largest entry
TOLERANCES = {torch.float64: (1e-9, 1e-12, 1e-9, 1e-12, 0.0), torch.float32: (5e-5, 1e-6, 0.0, 1e-6, 5e-6)}
DTYPES = pytest.mark.parametrize('dtype', TOLERANCES, ids=str)


@functools.cache
def golden(file: str) -> dict[str, np.ndarray]:
    return dict(np.load(DATA / f'{file}_loss_vectors.npz'))


def cases(file: str, method: str) -> list[str]:
    """Return the names of all cases of a method in a file."""
    found = [name.split('/')[0] for name in golden(file) if name.endswith(f'/{method}/loss')]
    assert found
    return found


class Case:
    """A golden case of a method: its inputs in a type, its settings, and the numbers to compare with."""

    def __init__(self, file: str, name: str, method: str, dtype: torch.dtype = torch.float64) -> None:
        self.numbers, self.prefix, self.dtype = golden(file), f'{name}/{method}', dtype
        self.student = torch.from_numpy(self.numbers[f'{name}/student']).to(dtype).requires_grad_()
        self.teacher = torch.from_numpy(self.numbers[f'{name}/teacher']).to(dtype)
        self.labels = torch.from_numpy(self.numbers[f'{name}/target'])

    def __getitem__(self, setting: str) -> float:
        return float(self.numbers[f'{self.prefix}/{setting}'])

    def check(self, value: Tensor, part: str = 'loss') -> None:
        """Compare a loss and its gradient with those of the case, or of a part of it."""
        prefix = '' if part == 'loss' else f'{part}_'
        want = torch.from_numpy(self.numbers[f'{self.prefix}/{prefix}grad_student'])
        rtol, atol, *of_gradient, of_largest = TOLERANCES[self.dtype]
        assert value.item() == pytest.approx(self[part], rel=rtol, abs=atol)
        (got,) = torch.autograd.grad(value, self.student, retain_graph=True)
        atol = of_gradient[1] + of_largest * want.abs().max().item()
        torch.testing.assert_close(got.double(), want, rtol=of_gradient[0], atol=atol)

    def check_total(self, weighted: Tensor) -> None:
        """Compare the weighted loss, added to the weighted cross-entropy, with the published objective."""
        self.check(self['ce_weight'] * F.cross_entropy(self.student, self.labels) + weighted, 'total')


class Golden(Case):
    """A golden case of a loss that may learn something, checked with the published objective at once."""

    def __init__(self, file: str, case: str, method: str, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(file, case, method, dtype)
        self.case = case

    def input(self, name: str) -> Tensor:
        """Return another input."""
        return torch.from_numpy(self.numbers[f'{self.case}/{name}']).to(self.dtype)

    def settings(self, **names: str) -> dict[str, float]:
        """Return settings, by our names for those of the authors."""
        return {ours: self[theirs] for ours, theirs in names.items()}

    def check(self, loss: Tensor, learned: Mapping[str, Tensor] | None = None, atol: float | None = None) -> None:
        """Compare a loss without its weight, its gradients, and those of the published objective.

        Args:
            loss: The loss.
            learned: Other inputs with gradients, by their names.
            atol: Absolute tolerance of their gradients, if it is another.
        """
        leaves = {'student': self.student, **(learned or {})}
        self._compare('loss', 'grad', loss, leaves, atol)
        if f'{self.prefix}/total' in self.numbers:
            total = self['ce_weight'] * F.cross_entropy(self.student, self.labels) + self['loss_weight'] * loss
            self._compare('total', 'total_grad', total, leaves, atol)

    def _compare(self, name: str, gradient: str, got: Tensor, leaves: dict[str, Tensor], atol: float | None) -> None:
        rtol, absolute, *of_gradients = TOLERANCES[self.dtype]
        if self.prefix.startswith('equal/') and self.dtype == torch.float32:
            absolute = 5e-5  # there is nothing but rounding
        assert got.dtype == self.dtype
        assert got.item() == pytest.approx(self[name], rel=rtol, abs=absolute)
        gradients = torch.autograd.grad(got, list(leaves.values()), retain_graph=True)
        for (leaf, of_leaf), value in zip(leaves.items(), gradients, strict=True):
            want = torch.from_numpy(self.numbers[f'{self.prefix}/{gradient}_{leaf}']).reshape(of_leaf.shape)
            relative, absolute, of_largest = of_gradients
            absolute = absolute + of_largest * want.abs().max().item()
            if atol is not None and leaf != 'student':
                absolute = atol
            torch.testing.assert_close(value.double(), want, rtol=relative, atol=absolute)


def on_pair(method: str, pair: str) -> ConfigDict:
    """Return the config of a method's distiller with the settings of its authors for a pair."""
    return ConfigDict(recipes.compose_distiller([method], pair=pair))


def random_logits(dtype: torch.dtype, images: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of student and teacher and labels, the first one the teacher's most likely class."""
    student, teacher = (3 * torch.randn(images, classes).to(dtype) for _ in range(2))
    labels = torch.randint(classes, (images,))
    labels[0] = teacher[0].argmax()
    return student, teacher, labels


def logits(dtype: torch.dtype, images: int = 5, classes: int = 7) -> tuple[Tensor, Tensor, list[int]]:
    """Return the same with a list of labels."""
    student, teacher, labels = random_logits(dtype, images, classes)
    return student, teacher, labels.tolist()


def softmax(row: list[float], tau: float = 1.0) -> list[float]:
    powers = [math.exp((x - max(row)) / tau) for x in row]
    return [x / math.fsum(powers) for x in powers]


def kl(p: list[float], q: list[float]) -> float:
    return math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True))


def split(p: list[float], i: int) -> list[float]:
    """Return the probability of a class and that of all others together."""
    return [p[i], sum(p[:i] + p[i + 1 :])]


def rows(*logits: Tensor) -> list[list[list[float]]]:
    return [each.tolist() for each in logits]
