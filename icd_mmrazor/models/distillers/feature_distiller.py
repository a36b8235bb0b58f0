"""The distiller that finds named features in any pair of networks."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules import RecorderManager
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.feature_terms import (
    NETWORKS,
    STAGES,
    Term,
    checked_entry,
    class_of,
    connector_names,
    feature_names,
    terms_of,
)
from icd_mmrazor.models.distillers.named_features import (
    AUTO,
    OF_CLASSIFIER,
    classifying_layer,
    find_point,
    find_shapes,
)
from icd_mmrazor.models.distillers.softmax_losses import refuse_softmax_of_labels
from icd_mmrazor.models.losses import FeatureLoss
from icd_mmrazor.models.networks.features import Point, feature_points

# labels and indices of the batch, as the student gets them, for losses with an argument of this name
DATA_SAMPLES = Point('ModuleInputs', '', data_idx=1)

Points = dict[str, dict[str, Point]]
Shapes = dict[str, dict[str, tuple[int, ...]]]


@MODELS.register_module()
class FeatureDistiller(ConfigurableDistiller):
    """mmrazor's ``ConfigurableDistiller`` for features that are called by name, on any pair of networks.

    A config of ``ConfigurableDistiller`` names modules and widths, and so fits one pair. This one names features
    (:mod:`icd_mmrazor.models.networks.features`) and finds modules and shapes in the networks:

    * ``map0``, ``map1``, ...: the feature maps of the stem and of each stage; ``last_map``;
    * ``preactivation1``, ...: those of the stages before their last activation;
    * ``pooled``: the input of the classifying layer; ``logits``: its output;
    * for a loss on each of several: ``maps`` and ``preactivations`` (of the stages), ``consecutive_maps`` (each map
      with the next, starting with the stem's).

    A connector or a loss whose constructor has ``student_shape``, ``teacher_shape`` (``C x H x W``, or ``C``) or
    ``in_features`` is given them. A loss with a method ``check_shapes`` may refuse the shapes of its arguments.

    A loss whose ``forward`` has ``data_samples`` is given those of the batch, one per image or one for all:
    ``torch.cat([sample.gt_label for sample in data_samples])`` are the labels, and
    ``icd_mmrazor.datasets.samples.positions_of(data_samples)`` the positions of the images in the training set.

    Some methods train in two stages, the first without the task: terms of the stage ``initial`` count in the first
    ``initial_epochs`` epochs, those of ``main`` after them (``InitialStageHook``).

    Args:
        losses: By name, ``dict(loss=..., features=...)``:

            * ``loss``: config of the loss. Its first argument is the student's feature, its second the teacher's. It
              may be left out if ``distill_losses`` has ``loss_NAME``;
            * ``features``: name of the feature;
            * ``student_connector``, ``teacher_connector``: config of a connector, or the name of one in
              ``connectors``;
            * ``decay``: if there are several, the weight of each relative to the next deeper; 1 by default;
            * ``stage``: ``'main'`` by default;
            * ``inputs`` instead of ``features``: for each argument of the loss ``dict(network=..., feature=...,
              connector=..., method=...)``; ``method`` of the connector is called instead of its ``forward``.
        connectors: Connectors that several losses share, or that ``loss_forward_mappings`` names.
        student_loss_weight: Weight of the student's own loss; only ``FrozenTeacherDistill`` reads it, and only if this
            is its only distiller.
        initial_epochs: Length of the initial stage in epochs; positive exactly if a loss is of that stage.
        initial_lr: Learning rate of the initial stage; that of the run by default.
        frozen: Names of shared connectors that the main stage does not train.
        image_shape: ``C x H x W`` of the images that the shapes of maps are found for; by default as many channels as
            the networks take and 32 x 32 pixels.
        student_source: Name of the classifying linear layer in the student. ``'auto'``: the one in its head that has as
            many outputs as there are classes
            (:func:`icd_mmrazor.models.networks.classifier_layer.find_classifier`); the log says which.
        teacher_source: The same in the teacher.
        init_cfg: Same as in mmengine's ``BaseModule``.
        **kwargs: Other arguments of ``ConfigurableDistiller``: more losses, which count in the main stage.

    Raises:
        SettingError: A name is unknown or used twice, a setting is out of range, or the features of the two networks
            do not fit the loss or connector. The latter once both networks are known.

    Config example, FitNets (ICLR 2015) and attention transfer (ICLR 2017) at once::

        distiller=dict(
            type='FeatureDistiller',
            losses=dict(
                fitnet=dict(
                    loss=dict(type='L2Loss', normalize=False, div_element=True, loss_weight=100.0),
                    features='map2',
                    student_connector=dict(type='ConvRegressor')),
                at=dict(
                    loss=dict(type='AttentionTransferLoss', loss_weight=1000.0),
                    features='maps')))
    """

    # recorders that are not called like their features
    recorder_names: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        losses: dict[str, dict],
        connectors: dict[str, dict] | None = None,
        student_loss_weight: float = 1.0,
        initial_epochs: int = 0,
        initial_lr: float | None = None,
        frozen: Sequence[str] = (),
        image_shape: Sequence[int] | None = None,
        student_source: str = AUTO,
        teacher_source: str = AUTO,
        init_cfg: dict | None = None,
        loss_forward_mappings: dict[str, dict] | None = None,
        **kwargs: Any,
    ) -> None:
        owner = type(self).__name__
        for setting, value in (('connectors', connectors), ('loss_forward_mappings', loss_forward_mappings)):
            if not isinstance(value, dict | None):
                raise SettingError(f'{owner}: {setting}={value!r} must be a dict by names, or None.')
        for setting, value in (('student_source', student_source), ('teacher_source', teacher_source)):
            if not isinstance(value, str):
                raise SettingError(f'{owner}: {setting}={value!r} must be the name of a linear layer, or {AUTO!r}.')
        if not losses or not isinstance(losses, dict):
            raise SettingError(
                f'{owner}: losses={losses!r} must name at least one, as in '
                "losses=dict(at=dict(loss=dict(type='AttentionTransferLoss'), features='maps'))."
            )
        connectors = connectors or {}
        shared = {name for cfg in losses.values() if isinstance(cfg, Mapping) for name in connector_names(cfg)}
        _refuse_unknown(f'{owner}: connector', shared, connectors)
        # the shared ones are built once the shapes of their features are known
        own = {name: cfg for name, cfg in connectors.items() if name not in shared}
        super().__init__(connectors=own, init_cfg=init_cfg, **kwargs)
        self.shared_connectors = {name: cfg for name, cfg in connectors.items() if name in shared}
        built = dict(self.distill_losses.items())
        self.entries = {name: checked_entry(name, cfg, built) for name, cfg in losses.items()}
        self.own_mappings = loss_forward_mappings or {}
        if isinstance(frozen, str) or not isinstance(frozen, Sequence):
            raise SettingError(f'{owner}: frozen={frozen!r} must be a list of names of connectors.')
        _refuse_unknown(f'{owner}: frozen', frozen, self.shared_connectors)
        initial = [name for name, entry in self.entries.items() if entry['stage'] == 'initial']
        if type(initial_epochs) is not int or initial_epochs < 0 or bool(initial) != (initial_epochs > 0):
            raise SettingError(
                f'{owner}: initial_epochs={initial_epochs!r}, and losses of the stage initial: '
                f'{", ".join(initial) or "none"}. It must be a positive number of epochs if there are any, otherwise 0.'
            )
        self.student_loss_weight = checks.not_negative(self, 'student_loss_weight', student_loss_weight)
        self.initial_epochs = initial_epochs
        self.initial_lr = None if initial_lr is None else checks.positive(self, 'initial_lr', initial_lr)
        self.frozen = tuple(frozen)
        self.image_shape = None if image_shape is None else checks.shape(self, 'image_shape', image_shape)
        self.student_source = student_source
        self.teacher_source = teacher_source
        # with two stages InitialStageHook sets it; until then DDP must take for trained what is frozen later
        self.stage = None if initial_epochs else 'main'
        self.stage_mappings: dict[str, dict] = {stage: {} for stage in STAGES}
        self._networks: dict[str, nn.Module] = {}

    @property
    def needed_networks(self) -> set[str]:
        """The networks whose features the losses of this stage take."""
        return {
            'student' if record['from_student'] else 'teacher'
            for mapping in self.loss_forward_mappings.values()
            for record in mapping.values()
        }

    def prepare_from_student(self, model: nn.Module) -> None:
        """Prepare for a student, once the teacher is known too; raises as the class says."""
        self._prepare(student=model)

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Prepare for a teacher, once the student is known too; raises as the class says."""
        self._prepare(teacher=model)

    def _prepare(self, **network: nn.Module) -> None:
        """Find features and their shapes, build connectors and losses, start the recorders."""
        # in a dict: as an attribute it would become a submodule
        self._networks |= network
        if len(self._networks) < 2:
            return
        networks, self._networks = self._networks, {}
        owner = type(self).__name__
        self.student_source = classifying_layer(owner, 'student', networks['student'], self.student_source)
        self.teacher_source = classifying_layer(owner, 'teacher', networks['teacher'], self.teacher_source)
        sources = {'student': self.student_source, 'teacher': self.teacher_source}
        maps = any(name not in OF_CLASSIFIER for entry in self.entries.values() for name in feature_names(entry))
        known = {network: feature_points(networks[network], maps, sources[network]) for network in NETWORKS}
        terms = [term for name, entry in self.entries.items() for term in terms_of(name, entry, known)]
        points, shapes = {}, {}
        for network in NETWORKS:
            used = [i.feature for term in terms for i in term.inputs.values() if i.network == network]
            points[network] = {name: find_point(owner, network, known[network], name) for name in used}
            shapes[network] = find_shapes(owner, networks[network], sources[network], points[network], self.image_shape)
        for term in terms:
            self._build(term, points, shapes)
        self._start_recorders(networks, points)
        self._add_own_mappings()
        refuse_softmax_of_labels(self, **networks)
        if self.stage == 'main':
            self.set_stage('main')

    def _build(self, term: Term, points: Points, shapes: Shapes) -> None:
        """Build a loss and the connectors of its arguments."""
        given = {f'{i.network}_shape': shapes[i.network][i.feature] for i in term.inputs.values()}
        mapping = {}
        for argument, item in term.inputs.items():
            point = points[item.network][item.feature]
            mapping[argument] = dict(
                recorder=self.recorder_names.get(item.feature, item.feature),
                from_student=item.network == 'student',
                record_idx=point.record_idx,
                data_idx=point.data_idx,
            )
            if item.connector is not None:
                width = shapes[item.network][item.feature][0]
                name = self._connector(f'{term.name}_{argument}', item.connector, {**given, 'in_features': width})
                mapping[argument].update(connector=name, method=item.method)
        name = f'loss_{term.name}'
        if name in self.distill_losses and self.distill_losses[name] is not term.loss:
            raise SettingError(f'{type(self).__name__}: two losses are called {term.name}. Rename one in losses.')
        loss = term.loss if isinstance(term.loss, nn.Module) else _built(term.loss, given)
        self._check_classes(term, loss, shapes)
        if hasattr(loss, 'check_shapes'):
            loss.check_shapes(**{argument: shapes[i.network][i.feature] for argument, i in term.inputs.items()})
        if 'data_samples' in inspect.signature(loss.forward).parameters:
            mapping['data_samples'] = dict(recorder='data_samples', from_student=True, data_idx=DATA_SAMPLES.data_idx)
            points['student']['data_samples'] = DATA_SAMPLES
        self.distill_losses[name] = loss
        self.stage_mappings[term.stage][name] = mapping

    def _connector(self, own_name: str, connector: str | dict, given: dict[str, Any]) -> str:
        """Build a connector, unless it is shared and built already; return its name."""
        shared = isinstance(connector, str)
        name = connector if shared else own_name
        if not shared and name in {*self.connectors, *self.shared_connectors}:
            raise SettingError(f'{type(self).__name__}: two connectors are called {name}. Rename one in connectors.')
        if name not in self.connectors:
            self.connectors[name] = _built(self.shared_connectors[name] if shared else connector, given)
        return name

    def _check_classes(self, term: Term, loss: nn.Module, shapes: Shapes) -> None:
        """Refuse to compare logits of different classes one by one; a ``FeatureLoss`` may compare images instead."""
        plain = all(item.feature == 'logits' and item.connector is None for item in term.inputs.values())
        student, teacher = (shapes[network]['logits'][0] for network in NETWORKS)
        if plain and student != teacher and not isinstance(loss, FeatureLoss):
            raise SettingError(
                f'{type(self).__name__}: {term.name} compares logits, but the teacher has {teacher} classes '
                f'({self.teacher_source}) and the student {student} ({self.student_source}). Use a teacher of the '
                f'same classes, or leave out {term.name}.'
            )

    def _start_recorders(self, networks: dict[str, nn.Module], points: Points) -> None:
        for network, found in points.items():
            recorders = {
                self.recorder_names.get(name, name): dict(_scope_='mmrazor', type=point.type, source=point.source)
                for name, point in found.items()
            }
            manager = getattr(self, f'{network}_recorders')
            twice = sorted({*recorders} & {*manager.recorders})
            if twice:
                raise SettingError(
                    f'{type(self).__name__}: {", ".join(twice)} in {network}_recorders is the name of a feature. '
                    'Rename yours.'
                )
            manager.recorders.update(RecorderManager(recorders).recorders)
            manager.initialize(networks[network])

    def _add_own_mappings(self) -> None:
        """Add the losses of ``loss_forward_mappings``, which may also name recorders and connectors of ``losses``."""
        try:
            self._check_loss_forward_mappings(
                self.distill_losses, self.own_mappings, self.student_recorders, self.teacher_recorders
            )
        except (AssertionError, TypeError) as error:
            reason = ' '.join(str(error).split())
            raise SettingError(f'{type(self).__name__}: loss_forward_mappings: {reason}') from error
        self.stage_mappings['main'].update(self.own_mappings)

    def compute_distill_losses(self) -> dict[str, Tensor]:
        """Compute the losses of the stage.

        Returns:
            Each loss by its name: ``loss_at1``.

        Raises:
            SettingError: There are two stages and nothing has set one.
        """
        if self.stage is None:
            raise SettingError(
                f'{type(self).__name__}: initial_epochs={self.initial_epochs}, but nothing starts the stages. Add '
                "default_hooks=dict(initial_stage=dict(type='InitialStageHook')) to the config."
            )
        return super().compute_distill_losses()

    def set_stage(self, stage: str) -> None:
        """Let the losses of a stage count.

        Args:
            stage: ``'initial'`` or ``'main'``.
        """
        self.stage = stage
        self.loss_forward_mappings = self.stage_mappings[stage]
        for name in self.frozen:
            self.connectors[name].requires_grad_(stage == 'initial')
        self.train(self.training)

    def train(self, mode: bool = True) -> 'FeatureDistiller':
        """Set the mode; frozen connectors stay in eval mode.

        Args:
            mode: Whether to train.
        """
        super().train(mode)
        if self.stage == 'main':
            for name in self.frozen:
                self.connectors[name].eval()
        return self

    def get_record(self, *args: Any, connector: str | None = None, method: str | None = None, **kwargs: Any) -> Any:
        """Get a feature as mmrazor does, or through a method of its connector.

        Args:
            *args: Same as in the base class.
            connector: Name of the connector.
            method: Name of its method; ``None`` calls the connector itself.
            **kwargs: Same as in the base class.
        """
        if method is None:
            return super().get_record(*args, connector=connector, **kwargs)
        return getattr(self.connectors[connector], method)(super().get_record(*args, **kwargs))


def _refuse_unknown(what: str, names: Iterable[str], known: Mapping[str, Any]) -> None:
    unknown = sorted(str(name) for name in names if name not in known)
    if unknown:
        raise SettingError(f'{what} {", ".join(unknown)} is not in connectors: {", ".join(known) or "there are none"}.')


def _built(cfg: Mapping[str, Any], given: dict[str, Any]) -> nn.Module:
    """Build a loss or connector, with what its constructor asks for."""
    cls = class_of(cfg)
    accepted = inspect.signature(cls).parameters
    # by its class, whatever the default scope is
    return MODELS.build({**{name: value for name, value in given.items() if name in accepted}, **cfg, 'type': cls})
