"""From a two-line config to recorders, projections and losses."""

from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules import RecorderManager
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.checks import is_number
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.connectors import LinearProjection
from icd_mmrazor.models.distillers.softmax_losses import refuse_softmax_of_labels
from icd_mmrazor.models.networks.classifier_layer import find_classifier

AUTO = 'auto'
FEATURE, LOGITS = 'icd_feature', 'icd_logits'
STUDENT, TEACHER = 'icd_student', 'icd_teacher'


@MODELS.register_module()
class ICDDistiller(ConfigurableDistiller):
    """Distil with ICD (arXiv 2407.11802), and with whatever else is configured beside it.

    The source is the classifier's linear layer, which is found in the network. Its input is the feature that ICD
    embeds, its ``in_features`` the width of that feature, its output the logits for ``kd``. The embeddings are learned
    with the student.

    The losses appear as ``loss_icd`` and ``loss_kd``; ``icd_contrastive``, ``icd_invariance`` and ``icd_tau`` are
    logged beside them.

    Args:
        student_source: Name of the linear layer in the student. ``'auto'``: the one in its head that has as many
            outputs as there are classes
            (:func:`icd_mmrazor.models.networks.classifier_layer.find_classifier`); the log says which.
        teacher_source: The same in the teacher.
        embed_dims: Width of the embeddings, 2 or more.
        icd: Settings of the loss between the embeddings; its type is :class:`ICDLoss` unless they name another.
        kd: Settings of a loss between the logits, called with ``preds_S`` and ``preds_T``; its type is mmrazor's
            ``KLDivergence`` unless they name another. ``None``: no such loss.
        student_recorders, teacher_recorders, distill_losses, connectors, loss_forward_mappings, distill_deliveries:
            As of mmrazor's ``ConfigurableDistiller``: more losses, added to these.
        init_cfg: As of every mmengine module.

    Raises:
        SettingError: A source is not a linear layer of its network, or none or several may be the one that ``'auto'``
            asks for; a width is out of range, a name is used twice, or ``kd`` compares different numbers of classes, or
            softmaxes of a head for several labels an image.

    Config example, ICD+KD as published::

        distiller=dict(
            type='ICDDistiller',
            icd=dict(alpha=0.5),
            kd=dict(tau=4.0))
    """

    def __init__(
        self,
        student_source: str = AUTO,
        teacher_source: str = AUTO,
        embed_dims: int = 128,
        icd: dict | None = None,
        kd: dict | None = None,
        student_recorders: dict[str, dict] | None = None,
        teacher_recorders: dict[str, dict] | None = None,
        distill_losses: dict[str, dict] | None = None,
        connectors: dict[str, dict] | None = None,
        loss_forward_mappings: dict[str, dict] | None = None,
        distill_deliveries: dict[str, dict] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if type(embed_dims) is not int or embed_dims < 2:
            raise SettingError(
                f'ICDDistiller: embed_dims={embed_dims!r} must be an integer of 2 or more; published is 128. (A '
                'normalised embedding of width 1 is a sign, which nothing can be learned from.)'
            )
        for name, settings in (('icd', icd), ('kd', kd)):
            if settings is not None and not isinstance(settings, dict):
                raise SettingError(f'ICDDistiller: {name}={settings!r} must be settings: {name}=dict(...), or None.')
        if kd and 'tau' in kd and not (is_number(kd['tau']) and kd['tau'] > 0):
            raise SettingError(f'ICDDistiller: kd.tau={kd["tau"]!r}, the temperature, must be a positive number.')
        for name, source in (('student_source', student_source), ('teacher_source', teacher_source)):
            if not isinstance(source, str):
                raise SettingError(f'ICDDistiller: {name}={source!r} must be the name of a linear layer, or {AUTO!r}.')
        own_settings = dict(
            student_recorders=student_recorders,
            teacher_recorders=teacher_recorders,
            distill_losses=distill_losses,
            connectors=connectors,
            loss_forward_mappings=loss_forward_mappings,
            distill_deliveries=distill_deliveries,
        )
        for name, settings in own_settings.items():
            if not isinstance(settings, dict | None):
                raise SettingError(f'ICDDistiller: {name}={settings!r} must be a dict by names, or None.')
        self.student_source = student_source
        self.teacher_source = teacher_source
        self.embed_dims = embed_dims

        losses = {'loss_icd': {'type': 'ICDLoss', **(icd or {})}}
        mappings = {
            'loss_icd': {
                's_feature': dict(recorder=FEATURE, from_student=True, data_idx=0, connector=STUDENT),
                't_feature': dict(recorder=FEATURE, from_student=False, data_idx=0, connector=TEACHER),
            }
        }
        if kd is not None:
            losses['loss_kd'] = {'type': 'KLDivergence', **kd}
            mappings['loss_kd'] = {
                'preds_S': dict(recorder=LOGITS, from_student=True),
                'preds_T': dict(recorder=LOGITS, from_student=False),
            }

        # their sources are known from the networks; the base class wants them now, to check mappings against
        own = {FEATURE: dict(_scope_='mmrazor', type='ModuleInputs', source=AUTO)}
        if kd is not None:
            own[LOGITS] = dict(_scope_='mmrazor', type='ModuleOutputs', source=AUTO)
        _refuse_names(connectors, (STUDENT, TEACHER), 'connectors')
        _refuse_names(loss_forward_mappings, mappings, 'loss_forward_mappings')
        super().__init__(
            student_recorders=_merged(own, student_recorders, 'student_recorders'),
            teacher_recorders=_merged(own, teacher_recorders, 'teacher_recorders'),
            distill_losses=_merged(losses, distill_losses, 'distill_losses'),
            connectors=connectors,
            loss_forward_mappings=loss_forward_mappings,
            distill_deliveries=distill_deliveries,
            init_cfg=init_cfg,
        )
        self.own_recorders = own
        self.compares_logits = kd is not None
        self.classes: dict[str, int] = {}
        # the base class wants every connector of a mapping to exist; ours need the width, known from the networks
        self.loss_forward_mappings = {**mappings, **self.loss_forward_mappings}

    def prepare_from_student(self, model: nn.Module) -> None:
        """Start the student's recorders and make the projection of its feature.

        Args:
            model: The student.

        Raises:
            SettingError: ``student_source`` is not a linear layer of the model or cannot be found, or ``kd`` is set and
                the two networks have different numbers of classes.
        """
        self._prepare('student', STUDENT, model)
        super().prepare_from_student(model)
        refuse_softmax_of_labels(self, student=model)

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Start the teacher's recorders and make the projection of its feature.

        Args:
            model: The teacher.

        Raises:
            SettingError: ``teacher_source`` is not a linear layer of the model or cannot be found, or ``kd`` is set and
                the two networks have different numbers of classes.
        """
        self._prepare('teacher', TEACHER, model)
        super().prepare_from_teacher(model)
        refuse_softmax_of_labels(self, teacher=model)

    def _prepare(self, network: str, connector: str, model: nn.Module) -> None:
        """Find a network's classifier, and make its projection and recorders."""
        setting = f'{network}_source'
        given = getattr(self, setting)
        source = find_classifier(model, setting) if given == AUTO else given
        setattr(self, setting, source)
        layer = _linear_layer(model, source, setting)
        if given == AUTO:
            print_log(
                f'ICDDistiller: {network} feature: input of {source}, {layer.in_features} wide, '
                f'{layer.out_features} classes',
                logger='current',
            )
        self.connectors[connector] = LinearProjection(layer.in_features, self.embed_dims)
        self._compare_classes(**{network: layer.out_features})
        own = RecorderManager({name: {**recorder, 'source': source} for name, recorder in self.own_recorders.items()})
        getattr(self, f'{network}_recorders').recorders.update(own.recorders)

    def _compare_classes(self, **classes: int) -> None:
        self.classes |= classes
        if self.compares_logits and len(set(self.classes.values())) > 1:
            raise SettingError(
                f'ICDDistiller: kd compares logits, but the teacher has {self.classes["teacher"]} classes '
                f'({self.teacher_source}) and the student {self.classes["student"]} ({self.student_source}). '
                'Use a teacher of the same classes, or set kd=None.'
            )

    def compute_distill_losses(self) -> dict[str, Tensor]:
        """Compute the losses from what was recorded.

        Returns:
            Each loss by its name, and the terms of ICD and tau for the log under names without "loss".
        """
        losses = super().compute_distill_losses()
        terms = getattr(self.distill_losses['loss_icd'], 'terms', {})
        losses.update({f'icd_{name}': value for name, value in terms.items()})
        return losses


def _refuse_names(given: Mapping[str, Any] | None, taken: Any, setting: str) -> None:
    twice = sorted(set(given or {}) & set(taken))
    if twice:
        raise SettingError(
            f'ICDDistiller: {", ".join(twice)} in {setting} is a name of its own. Give yours another name.'
        )


def _merged(own: dict[str, dict], given: Mapping[str, dict] | None, setting: str) -> dict[str, dict]:
    _refuse_names(given, own, setting)
    return {**own, **(given or {})}


def _linear_layer(model: nn.Module, source: str, setting: str) -> nn.Linear:
    modules = dict(model.named_modules())
    layer = modules.get(source)
    if isinstance(layer, nn.Linear):
        return layer
    found = f'is a {type(layer).__name__}' if layer is not None else 'is no module of the network'
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    raise SettingError(
        f'ICDDistiller: {setting}={source!r} {found}; it must be a linear layer, the classifier. '
        f'Linear layers of this {type(model).__name__}: {", ".join(linear[-8:]) or "none"}.'
    )
