"""The preset of SimKD, which changes the student."""

from typing import Any

from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.feature_distiller import FeatureDistiller
from icd_mmrazor.models.distillers.named_features import CLASSIFIED_MAP


@MODELS.register_module()
class SimKDDistiller(FeatureDistiller):
    """Distil with SimKD (arXiv 2203.14001): the student learns the map that its teacher classifies.

    The student is changed for good: behind its backbone are a projector and the teacher's classifier, whose weights are
    frozen, instead of its own neck and head. ``FrozenTeacherDistill`` does that before anything is recorded
    (:class:`icd_mmrazor.models.classifiers.projected_classifier.ProjectedClassifier`), so that validation, checkpoints,
    exported students, parameter counts and other distillers (``MixedDistiller``) have the changed student.

    Args:
        factor: What the teacher's channels are divided by for the inner layers of the projector: 2 as published, with
            which it is the largest; 4 and 8 are published, too.
        loss_weight: Weight of the loss between the maps.
        student_loss_weight: Weight of the student's own loss, which SimKD does not have. Set
            ``model.calculate_student_loss=False`` if the images have no labels.
        **kwargs: Other arguments of ``FeatureDistiller``.

    Raises:
        SettingError: A setting is out of range, or (once both networks are known) the student is not changed.

    Config example::

        distiller=dict(type='SimKDDistiller')
    """

    # read by icd_mmrazor.models.networks.changed_student
    changes_student = True

    def __init__(
        self, factor: int = 2, loss_weight: float = 1.0, student_loss_weight: float = 0.0, **kwargs: Any
    ) -> None:
        self_losses = dict(simkd=dict(loss=dict(type='SimKDLoss', loss_weight=loss_weight), features=CLASSIFIED_MAP))
        if twice := sorted({*self_losses} & {*checks.settings(self, 'losses', kwargs.get('losses'))}):
            raise SettingError(f'SimKDDistiller: {twice[0]} in losses is its own name. Rename yours.')
        super().__init__(
            **{**kwargs, 'losses': {**self_losses, **(kwargs.get('losses') or {})}},
            student_loss_weight=student_loss_weight,
        )
        self.factor = checks.positive_int(self, 'factor', factor)

    def prepare_from_student(self, model: nn.Module) -> None:
        """Prepare for a student, which must have been changed."""
        if not hasattr(model, 'take_classifier'):
            raise SettingError(
                f'SimKDDistiller: the student is a {type(model).__name__} with its own classifier. Set '
                "model.type='FrozenTeacherDistill', which changes it, or model.architecture.type='ProjectedClassifier'."
            )
        super().prepare_from_student(model)
