"""Distillation with images on the teacher's decision boundary."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.frozen_teacher_distill import FrozenTeacherDistill
from icd_mmrazor.models.losses.boundary_sample_loss import (
    BoundarySampleLoss,
    base_samples,
    boundary_attack,
    target_classes,
)
from icd_mmrazor.models.networks.classifier_layer import find_classifier, number_of_classes
from icd_mmrazor.models.networks.frozen import run_in_view


@MODELS.register_module()
class BoundarySampleDistill(FrozenTeacherDistill):
    """``FrozenTeacherDistill`` with boundary supporting samples (Heo et al., AAAI 2019, arXiv 1805.05532).

    From some images of a batch that both networks classify correctly, an attack on the teacher makes images close to
    its decision boundary, and the student learns the teacher's probabilities for these as well. The attack is
    :func:`~icd_mmrazor.models.losses.boundary_sample_loss.boundary_attack`. On at most 64 images it takes 10 passes
    through the teacher, forwards and backwards, and the loss on them one more of each network. It is a
    ``BoundarySampleLoss`` in the distiller's ``distill_losses``, and is logged there: ``distill.loss_boundary``.

    Args:
        *args: Those of ``FrozenTeacherDistill``.
        boundary_samples: The number of images of a batch that are attacked, at most.
        steps: Number of steps of an attack.
        step_size: Share of the way that a step covers.
        limit: Largest absolute value of a normalised pixel that an attack may give.
        **kwargs: Those of ``FrozenTeacherDistill``.

    Raises:
        SettingError: An argument is out of range, there is no ``BoundarySampleLoss``, or the teacher is not there to be
            attacked: its outputs are stored, or it is not a classifier of the student's classes. Also raised by the
            first batch, if several processes synchronise the student's batch norms.

    Config example::

        model=dict(
            type='BoundarySampleDistill',
            distiller=dict(
                type='FeatureDistiller',
                losses=dict(kd=dict(loss=dict(type='KLDivergence', tau=3.0), features='logits')),
                distill_losses=dict(loss_boundary=dict(type='BoundarySampleLoss', tau=3.0))))
    """

    def __init__(
        self,
        *args: Any,
        boundary_samples: int = 64,
        steps: int = 10,
        step_size: float = 0.3,
        limit: float = 2.5,
        **kwargs: Any,
    ) -> None:
        self.boundary_samples = checks.positive_int(self, 'boundary_samples', boundary_samples)
        self.attack = {
            'steps': checks.positive_int(self, 'steps', steps),
            'step_size': checks.positive(self, 'step_size', step_size),
            'limit': checks.positive(self, 'limit', limit),
        }
        super().__init__(*args, **kwargs)
        if getattr(self.teacher, 'is_stored', False):
            raise SettingError(
                'BoundarySampleDistill attacks the teacher, and only its outputs are stored. Set model.teacher_ckpt.'
            )
        teacher, student = number_of_classes(self.teacher), number_of_classes(self.student)
        if teacher != student or not teacher:
            raise SettingError(
                f'BoundarySampleDistill attacks the teacher, which has {teacher or "no"} classes, and the student '
                f"{student or 'none'}. Use a teacher that classifies the student's classes."
            )
        found = [name for name, module in self.distiller.named_modules() if isinstance(module, BoundarySampleLoss)]
        if len(found) != 1:
            raise SettingError(
                f'BoundarySampleDistill: the distiller has {len(found)} losses of type BoundarySampleLoss. Set '
                "one: distill_losses=dict(loss_boundary=dict(type='BoundarySampleLoss'))."
            )
        (self._loss_name,) = found
        self._classifier = find_classifier(self.student)

    @property
    def boundary_loss(self) -> BoundarySampleLoss:
        """The loss on images at the boundary."""
        return self.distiller.get_submodule(self._loss_name)

    def loss(self, batch_inputs: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the losses of a batch, with that of images on the boundary.

        Args:
            batch_inputs: Images, ``B x C x H x W``, normalised.
            data_samples: Their labels, as mmpretrain packs them.
        """
        if not self.first_batch_passed:
            _refuse_synchronised_norms(self.student)
        initial = getattr(self.distiller, 'stage', None) == 'initial'  # of another method
        if initial or self.distillation_stopped or not self.boundary_loss.weight:
            return super().loss(batch_inputs, data_samples)
        with _outputs(self.student.get_submodule(self._classifier)) as own, _outputs(self.teacher) as whole:
            losses = super().loss(batch_inputs, data_samples)
        labels = torch.cat([sample.gt_label for sample in data_samples]).to(batch_inputs.device)
        # a cache does not run it on the batch, nor do methods that do not compare it
        known = whole and self.teacher_cache is None
        teacher = _full(whole[-1] if known else self.run_teacher(batch_inputs))
        chosen = base_samples(_full(own[-1].detach()), teacher, labels, self.boundary_samples)
        found = batch_inputs.new_zeros(())
        if len(chosen):
            moved = boundary_attack(self._teacher, batch_inputs[chosen], target_classes(teacher[chosen]), **self.attack)
            found = self.boundary_loss(self.student(moved, mode='tensor'), self.run_teacher(moved))
        # as a MixedDistiller names its terms
        name = self._loss_name.replace('distillers.', '').replace('distill_losses.', '')
        return losses | {f'distill.{name}': found}

    def _teacher(self, images: Tensor) -> Tensor:
        return _full(run_in_view(self.teacher, images, None, 'tensor', self.teacher_view, self.teacher_dtype))


def _full(logits: Tensor) -> Tensor:
    # differences of logits are as small as 1e-4
    return logits if logits.dtype is torch.float64 else logits.float()


def _refuse_synchronised_norms(student: nn.Module) -> None:
    name = next((name for name, each in student.named_modules() if type(each).__name__ == 'SyncBatchNorm'), None)
    if name is not None and get_world_size() > 1:
        raise SettingError(
            f'BoundarySampleDistill: {name} of the student is a SyncBatchNorm, and would wait forever for a process '
            "that has found no image to attack. Remove sync_bn, or norm_cfg=dict(type='SyncBN')."
        )


@contextlib.contextmanager
def _outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a module returns."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()
