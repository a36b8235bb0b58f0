"""The preset of ICD, alone or with other losses."""

from typing import Any, ClassVar

from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.connectors import LinearProjection
from icd_mmrazor.models.distillers.feature_distiller import FeatureDistiller
from icd_mmrazor.models.distillers.named_features import AUTO, NamedFeatures

STUDENT, TEACHER = 'icd_student', 'icd_teacher'


@MODELS.register_module()
class ICDDistiller(FeatureDistiller):
    """Distil with ICD (arXiv 2407.11802), and with whatever else is configured.

    A :class:`FeatureDistiller` that compares the pooled features of the two networks through one learned
    :class:`LinearProjection` each, and optionally their logits. ``icd_contrastive``, ``icd_invariance`` and ``icd_tau``
    are logged next to the losses, ``loss_icd`` and ``loss_kd``.

    Args:
        student_source, teacher_source: Same as in ``FeatureDistiller``.
        embed_dims: Width of the embeddings, 2 or more.
        icd: Settings of the loss between the embeddings; its type is :class:`ICDLoss` by default.
        kd: Settings of a loss between the logits; its type is mmrazor's ``KLDivergence`` by default. ``None``: no such
            loss.
        losses, connectors, distill_losses: Same as in ``FeatureDistiller``: more losses, added to these.
        **kwargs: Other arguments of ``FeatureDistiller``, which include those of mmrazor's ``ConfigurableDistiller``.

    Raises:
        SettingError: Same as in ``FeatureDistiller``.

    Config example, ICD+KD as published::

        distiller=dict(
            type='ICDDistiller',
            icd=dict(alpha=0.5),
            kd=dict(tau=4.0))
    """

    # loss_forward_mappings may refer to them
    recorder_names: ClassVar[dict[str, str]] = {'pooled': 'icd_feature', 'logits': 'icd_logits'}

    def __init__(
        self,
        student_source: str = AUTO,
        teacher_source: str = AUTO,
        embed_dims: int = 128,
        icd: dict | None = None,
        kd: dict | None = None,
        losses: dict[str, dict] | None = None,
        connectors: dict[str, dict] | None = None,
        distill_losses: dict[str, dict] | None = None,
        **kwargs: Any,
    ) -> None:
        if checks.positive_int(self, 'embed_dims', embed_dims) < 2:
            raise SettingError('ICDDistiller: embed_dims=1 embeds a feature as a sign. Give 2 or more.')
        icd = checks.settings(self, 'icd', icd)
        projection = dict(type='LinearProjection', out_features=embed_dims)
        own_losses = dict(loss_icd={'_scope_': 'mmrazor', 'type': 'ICDLoss', **icd})
        entries = dict(icd=dict(features='pooled', student_connector=STUDENT, teacher_connector=TEACHER))
        if kd is not None:
            own_losses['loss_kd'] = {'_scope_': 'mmrazor', 'type': 'KLDivergence', **checks.settings(self, 'kd', kd)}
            entries['kd'] = dict(features='logits')
            if 'tau' in kd:
                checks.positive(self, 'kd.tau', kd['tau'])
        super().__init__(
            losses=_joined('losses', entries, losses),
            connectors=_joined('connectors', {STUDENT: projection, TEACHER: projection}, connectors),
            distill_losses=_joined('distill_losses', own_losses, distill_losses),
            student_source=student_source,
            teacher_source=teacher_source,
            **kwargs,
        )
        self.embed_dims = embed_dims

    def _find_features(self, network: str, model: nn.Module) -> NamedFeatures:
        features = super()._find_features(network, model)
        # drawn as soon as a network is known, so that a seed gives the same weights in any mix of distillers
        self.connectors[f'icd_{network}'] = LinearProjection(*features.shapes['pooled'], self.embed_dims)
        return features


def _joined(setting: str, own: dict[str, Any], given: Any) -> dict[str, Any]:
    given = checks.settings('ICDDistiller', setting, given)
    if twice := sorted({*given} & {*own}):
        raise SettingError(f'ICDDistiller: {", ".join(twice)} in {setting} is one of its own names. Rename yours.')
    return {**own, **given}
