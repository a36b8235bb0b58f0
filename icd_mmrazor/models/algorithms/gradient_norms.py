"""Gradient norms of the terms of a loss at the student."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.predictions import pooled_feature

# of a backward pass that cannot be taken alone, such as that of a reentrant checkpoint
IMPOSSIBLE = (RuntimeError, NotImplementedError)


class GradientNorms(NamedTuple):
    """Norms of the gradients of one batch.

    Attributes:
        place: Where the gradients are taken: ``"student's pooled feature"``, or ``"student's weights"`` if a term does
            not reach the feature.
        norms: The norm of each term's gradient there, by the name of the term; 0 if it does not reach the student.
    """

    place: str
    norms: dict[str, float]

    def __str__(self) -> str:
        """Format the norms, as multiples of the first term's: ``'student.loss 0.052, distill.loss_icd 1.8 x'``."""
        (first, unit), *others = self.norms.items()
        parts = [f'{first} {unit:.3g}']
        parts += [f'{name} {norm / unit:.2g} x' if unit else f'{name} {norm:.3g}' for name, norm in others]
        return f'gradient at the {self.place} in the first batch: {", ".join(parts)}'

    @property
    def relative(self) -> dict[str, float]:
        """The norms as multiples of the first term's, the task's, for the log: ``{'gradient.icd': 1.8}``.

        Their names do not contain "loss": mmengine adds up everything that does. Without a gradient of the first term,
        the norms themselves.
        """
        (_, unit), *others = self.norms.items()
        return {f'gradient.{_plain(name)}': norm / (unit or 1.0) for name, norm in others}


def measured(algorithm: Any, loss: Callable[[], Mapping[str, Tensor]]) -> tuple[Any, GradientNorms | None]:
    """Compute the losses of a batch, and how large the gradient of each term is at the student.

    No state changes: gradients are taken in the graph that the losses leave for their own backward pass, which costs a
    pass down to the feature for each term, or down to the images if a term does not reach the feature.

    Args:
        algorithm: A ``FrozenTeacherDistill``.
        loss: Computes the losses; what has "loss" in its name is a term.

    Returns:
        The losses, and the norms; None if there is no term, or its gradient cannot be taken alone.
    """
    student = algorithm.student
    with contextlib.ExitStack() as stack:
        features: list[Tensor] = []
        with contextlib.suppress(SettingError):  # its classifier is unknown
            source = getattr(algorithm.distiller, 'student_source', None)
            features = stack.enter_context(pooled_feature(student, source))
        losses = loss()
    terms = {name: value for name, value in losses.items() if 'loss' in name and _has_gradient(value)}
    weights = [parameter for parameter in student.parameters() if parameter.requires_grad]
    places = {"student's pooled feature": list(filter(_has_gradient, features)), "student's weights": weights}
    for place, tensors in places.items():
        if not terms or not tensors:
            continue
        try:
            norms = {name: _norm(value, tensors) for name, value in terms.items()}
        except IMPOSSIBLE:
            break
        if all(norms.values()) or tensors is weights:
            return losses, GradientNorms(place, norms)
    return losses, None


def _plain(term: str) -> str:
    """Return the name of a term without what all of them have: ``'icd'`` for ``'distill.loss_icd'``."""
    return term.removeprefix('distill.').replace('loss_', '').replace('loss', 'task')


def _has_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _norm(term: Tensor, tensors: list[Tensor]) -> float:
    found = torch.autograd.grad(term.sum(), tensors, retain_graph=True, allow_unused=True)
    norms = [gradient.float().norm() for gradient in found if gradient is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
