"""Golden numbers of losses between logits, and slow pieces to compare the losses with."""

import functools
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DATA
from torch import Tensor

# of a loss: relative, absolute; of gradients: relative, absolute, of the largest entry
TOLERANCES = {torch.float64: (1e-9, 1e-12, 1e-9, 1e-12, 0.0), torch.float32: (5e-5, 1e-6, 0.0, 1e-6, 5e-6)}


@functools.cache
def _arrays(file: str) -> dict[str, np.ndarray]:
    return dict(np.load(DATA / f'{file}_loss_vectors.npz'))


def cases(file: str, method: str) -> list[str]:
    """Return the cases of a file that have numbers of a method."""
    return [key.split('/')[0] for key in _arrays(file) if key.endswith(f'/{method}/loss')]


class Golden:
    """The inputs of a golden case in a type, and the numbers of a method.

    Attributes:
        student: Logits, which get a gradient.
        teacher: Logits.
        labels: The class of each image.
    """

    def __init__(self, file: str, case: str, method: str, dtype: torch.dtype = torch.float64) -> None:
        self.case, self.method, self.dtype, self._file = case, method, dtype, file
        self.student = self.input('student').requires_grad_()
        self.teacher = self.input('teacher')
        self.labels = torch.from_numpy(_arrays(file)[f'{case}/target'])

    def input(self, name: str) -> Tensor:
        """Return another input."""
        return torch.from_numpy(_arrays(self._file)[f'{self.case}/{name}']).to(self.dtype)

    def settings(self, **names: str) -> dict[str, float]:
        """Return settings, by our names for those of the authors."""
        return {ours: float(self._number(theirs)) for ours, theirs in names.items()}

    def check(self, loss: Tensor, learned: Mapping[str, Tensor] | None = None, atol: float | None = None) -> None:
        """Compare a loss without its weight, its gradients, and those of the published objective.

        Args:
            loss: The loss.
            learned: Other inputs with gradients, by their names.
            atol: Absolute tolerance of their gradients, if it is another.
        """
        leaves = {'student': self.student, **(learned or {})}
        self._compare('loss', 'grad', loss, leaves, atol)
        if f'{self.case}/{self.method}/total' in _arrays(self._file):
            weights = self.settings(ce='ce_weight', loss='loss_weight')
            total = weights['ce'] * F.cross_entropy(self.student, self.labels) + weights['loss'] * loss
            self._compare('total', 'total_grad', total, leaves, atol)

    def _compare(self, name: str, gradient: str, got: Tensor, leaves: dict[str, Tensor], atol: float | None) -> None:
        rtol, absolute, *of_gradients = TOLERANCES[self.dtype]
        if self.case == 'equal' and self.dtype == torch.float32:
            absolute = 5e-5  # there is nothing but rounding
        assert got.dtype == self.dtype
        assert got.item() == pytest.approx(float(self._number(name)), rel=rtol, abs=absolute)
        gradients = torch.autograd.grad(got, list(leaves.values()), retain_graph=True)
        for (leaf, of_leaf), value in zip(leaves.items(), gradients, strict=True):
            want = torch.from_numpy(self._number(f'{gradient}_{leaf}')).reshape(of_leaf.shape)
            relative, absolute, of_largest = of_gradients
            absolute = absolute + of_largest * want.abs().max().item()
            if atol is not None and leaf != 'student':
                absolute = atol
            torch.testing.assert_close(value.double(), want, rtol=relative, atol=absolute)

    def _number(self, name: str) -> np.ndarray:
        return _arrays(self._file)[f'{self.case}/{self.method}/{name}']


def probabilities(row: list[float]) -> list[float]:
    """Return the softmax of a row of numbers."""
    powers = [math.exp(x - max(row)) for x in row]
    return [x / math.fsum(powers) for x in powers]


def divergence(p: list[float], q: list[float]) -> float:
    """Return the KL divergence of two rows of probabilities."""
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def logits(dtype: torch.dtype, images: int = 5, classes: int = 7) -> tuple[Tensor, Tensor, list[int]]:
    """Return random logits of student and teacher, and labels."""
    student, teacher = (3 * torch.randn(images, classes).to(dtype) for _ in range(2))
    return student, teacher, torch.randint(0, classes, (images,)).tolist()
