"""The distiller that finds named features in any pair of networks."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules import RecorderManager
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.class_labels import LABELS, SAMPLES, ClassLabels
from icd_mmrazor.models.distillers.ensemble_features import EnsembleFeatures, MemberFeatures
from icd_mmrazor.models.distillers.feature_terms import (
    NETWORKS,
    STAGES,
    Term,
    checked_entries,
    connector_names,
    feature_names,
    refuse_unknown,
    terms_of,
)
from icd_mmrazor.models.distillers.loss_mappings import gather, join_own, record_of, records_of
from icd_mmrazor.models.distillers.named_features import AUTO, NamedFeatures, of_stages
from icd_mmrazor.models.distillers.softmax_losses import refuse_softmax_of_labels
from icd_mmrazor.models.distillers.term_losses import build_for, given_by, logged_terms, loss_of, shapes_of
from icd_mmrazor.models.distillers.weight_schedule import ScheduledWeight
from icd_mmrazor.models.losses.functional import standardized
from icd_mmrazor.models.losses.gather import gather_rows
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble
from icd_mmrazor.models.networks.features import Point, usual_image_shape

# labels and indices of the batch, as the student gets them, for losses with an argument of this name
DATA_SAMPLES = Point('ModuleInputs', '', data_idx=1)


@MODELS.register_module()
class FeatureDistiller(ConfigurableDistiller):
    """mmrazor's ``ConfigurableDistiller`` for features that are called by name, on any pair of networks.

    It finds the modules and shapes of these features in the networks:

    * ``map0``, ``map1``, ...: the feature maps of the stem and of each stage; ``last_map``. A transformer without
      stages has four groups of blocks, whose tokens lie in maps;
    * ``tokens1``, ..., ``patch_tokens``: the same as tokens, ``N x C``; ``class_token``;
    * ``preactivation1``, ...: the maps of the stages before their last activation;
    * ``block1``, ...: the outputs of all residual blocks, of all units (MobileNet), or of all blocks of a transformer;
    * ``pooled``: the input of the classifying layer; ``classified_map``: the map whose average that is; ``logits``:
      its output; ``distillation_logits``: those of the student's distillation token (DeiT), or ``logits``;
    * of one of several teachers (``FrozenTeacherDistill.teachers``): ``0.pooled``, ``1.logits``, which is compared with
      the student's feature without the number; their combined ``logits``;
    * for a loss on each of several: ``maps``, ``tokens`` and ``preactivations`` (of the stages), ``blocks``, and
      ``consecutive_maps`` (each map with the next, from the stem's on). If one network has more, those of them that lie
      at equal distances are compared, the last one with the last one.

    A connector or a loss whose constructor has ``student_shape`` or ``teacher_shape`` is given them (``C x H x W``, or
    ``C``), one that has ``teacher_classifier`` the teacher's linear layer, which it must not register, and one that has
    ``teacher_norm`` the batch norm before the last activation of the teacher's stage; a connector that has
    ``in_features`` is given its width. A loss with a method ``check_shapes`` may refuse its arguments, one with
    ``set_progress`` is told the epoch and iteration, and what it has in ``terms`` is logged. One whose ``forward`` has
    ``gt_labels`` is given the class of each image, with ``data_samples`` those of the batch.

    Losses of the stage ``initial`` count in the first ``initial_epochs`` epochs, without the task; those of ``main``
    after them. ``LossScheduleHook`` sets the stage, and weights that change over time.

    Args:
        losses: By name, ``dict(loss=..., features=...)``:

            * ``loss``: config of the loss, called with the student's feature and the teacher's. It may be left out if
              ``distill_losses`` has ``loss_NAME``;
            * ``features``: name of the feature;
            * ``student_connector``, ``teacher_connector``: config or name (in ``connectors``) of a connector;
            * ``decay``: if there are several, the weight of each relative to the next deeper; 1 by default;
            * ``stage``: ``'main'`` by default;
            * ``standardize``: whether to standardise logits before they are compared;
            * ``gather_distributed``: whether the loss gets the images of all processes, with their gradients;
            * ``weight_schedule``: how the weight of the loss changes over time (:class:`WeightSchedule`);
            * ``inputs`` instead of ``features``: for each argument of the loss ``dict(network=..., feature=...,
              connector=..., method=...)``; ``method`` of the connector is called instead of its ``forward``. An
              argument that gets a list of features has ``feature=['maps', 'pooled']``, without a connector; its
              constructor may have ``student_shapes`` or ``teacher_shapes``.
        connectors: Connectors by name, which several losses may share.
        student_loss_weight: Weight of the student's own loss in a ``FrozenTeacherDistill`` without other distillers.
        initial_epochs: Length of the initial stage in epochs; positive exactly if a loss is of that stage.
        initial_lr: Learning rate of the initial stage; that of the run by default.
        frozen: Names of shared connectors that the main stage does not train.
        image_shape: ``C x H x W`` of the images. Our tools find it in the training pipeline; otherwise it is by default
            that of the images that the student was built for, and 32 x 32 pixels if it takes any.
        init_cfg: Same as in mmengine's ``BaseModule``.
        student_source, teacher_source: Names of the classifying linear layers. ``'auto'``: the one in the head that has
            as many outputs as there are classes; the log says which.
        teacher_member: The one of several teachers, counted from 0, whose features are meant where no number is given.
        loss_forward_mappings: Same as in ``ConfigurableDistiller``: more losses, which count in the main stage. They
            may also name the recorders and connectors of ``losses``.
        **kwargs: Other arguments of ``ConfigurableDistiller``.

    Raises:
        SettingError: A name is unknown or used twice, a setting is out of range, or (once both networks are known) the
            features do not fit the loss or connector.

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
        init_cfg: dict | None = None,
        student_source: str = AUTO,
        teacher_source: str = AUTO,
        teacher_member: int | None = None,
        loss_forward_mappings: dict[str, dict] | None = None,
        **kwargs: Any,
    ) -> None:
        owner = type(self).__name__
        super().__init__(init_cfg=init_cfg, **kwargs)
        connectors = checks.settings(self, 'connectors', connectors)
        self.own_mappings = checks.settings(self, 'loss_forward_mappings', loss_forward_mappings)
        self.entries = checked_entries(losses, {**self.distill_losses})
        named = {*self.own_mappings, *(f'loss_{name}' for name in self.entries)}
        named |= {name for name, loss in self.distill_losses.items() if hasattr(loss, 'computed_by')}
        if idle := [name for name in self.distill_losses if name not in named]:
            raise SettingError(
                f'{owner}: nothing computes {", ".join(idle)} in distill_losses. Name it in losses, or remove it.'
            )
        shared = {name for entry in self.entries.values() for name in connector_names(entry)}
        refuse_unknown(f'{owner}: connector', shared, connectors)
        self.shared_connectors = {name: cfg for name, cfg in connectors.items() if name in shared}
        own = {name: cfg for name, cfg in connectors.items() if name not in shared}
        if own and not self.own_mappings:
            raise SettingError(f'{owner}: no loss names {", ".join(map(str, own))} in connectors. Remove it.')
        self.connectors.update(self.build_connectors(own))
        refuse_unknown(f'{owner}: frozen', frozen, self.shared_connectors)
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
        self.student_source, self.teacher_source = student_source, teacher_source
        if teacher_member is not None and (type(teacher_member) is not int or teacher_member < 0):
            raise SettingError(f'{owner}: teacher_member={teacher_member!r} must be the number of a teacher, from 0.')
        self.teacher_member = teacher_member
        # with two stages LossScheduleHook sets it; until then DDP must take for trained what is frozen later
        self.stage = None if initial_epochs else 'main'
        # by the name of the loss; the others stay the same
        self.scheduled_weights, self.progress_is_known = nn.ModuleDict(), False
        self.stage_mappings: dict[str, dict] = {stage: {} for stage in STAGES}
        self._features: dict[str, NamedFeatures] = {}

    @property
    def needed_networks(self) -> set[str]:
        """The networks whose features the losses of this stage take; both if there are deliveries between them."""
        if self.deliveries.deliveries:
            return {*NETWORKS}
        records = [record for mapping in self.loss_forward_mappings.values() for record in records_of(mapping)]
        return {'student' if record['from_student'] else 'teacher' for record in records}

    def prepare_from_student(self, model: nn.Module) -> None:
        """Prepare for a student, once the teacher is known too."""
        self._prepare('student', model)

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Prepare for a teacher, once the student is known too."""
        self._prepare('teacher', model)

    def _prepare(self, network: str, model: nn.Module) -> None:
        self._features[network] = self._find_features(network, model)
        if len(self._features) < len(NETWORKS):
            return
        features, self._features = {name: self._features[name] for name in NETWORKS}, {}
        counts = {name: each for network in features.values() for name, each in network.counts.items()}
        terms = [term for name, entry in self.entries.items() for term in terms_of(name, entry, counts)]
        # the teacher gets the same images, unless they are resized for it
        shape = self.image_shape or usual_image_shape(features['student'].model)
        for name, each in features.items():
            used = [each for term in terms for i in term.inputs.values() if i.network == name for each in i.features]
            each.use(used, shape)
        for term in terms:
            self._build(term, features)
        for name, each in features.items():
            self._start_recorders(name, each)
        self._add_own_mappings()
        refuse_softmax_of_labels(self, *(each.model for each in features.values()))
        if self.stage == 'main':
            self.set_stage('main')

    def _find_features(self, network: str, model: nn.Module) -> NamedFeatures:
        names = [name for entry in self.entries.values() for name in feature_names(entry, network)]
        maps = of_stages(names)
        owner, source = type(self).__name__, getattr(self, f'{network}_source')
        if isinstance(model, TeacherEnsemble) and network == 'teacher':
            if self.teacher_member is None:
                return EnsembleFeatures(owner, model, source, names)
            features = MemberFeatures(owner, model, self.teacher_member, source, maps)
        else:
            features = NamedFeatures(owner, network, model, source, maps)
        setattr(self, f'{network}_source', features.source)
        return features

    def _build(self, term: Term, features: dict[str, NamedFeatures]) -> None:
        shapes = {argument: shapes_of(item, features) for argument, item in term.inputs.items()}
        given = given_by(term, shapes, features)
        mapping: dict[str, dict[str, Any]] = {}
        for argument, item in term.inputs.items():
            points = features[item.network].points
            records = [record_of(self._recorder(name), item.network, points[name]) for name in item.features]
            if isinstance(item.feature, tuple):
                mapping[argument] = dict(records=records)
                continue
            (mapping[argument],) = records
            if term.standardize:
                mapping[argument]['layout'] = standardized
            if item.connector is not None:
                width = shapes[argument][0]
                name = self._connector(f'{term.name}_{argument}', item.connector, {**given, 'in_features': width})
                mapping[argument].update(connector=name, method=item.method)
        name = f'loss_{term.name}'
        if name in self.distill_losses and self.distill_losses[name] is not term.loss:
            raise SettingError(f'{type(self).__name__}: two losses are called {term.name}. Rename one in losses.')
        sources = {network: getattr(self, f'{network}_source') for network in NETWORKS}
        loss = loss_of(type(self).__name__, term, shapes, sources, given)
        arguments = inspect.signature(loss.forward).parameters
        labels = ClassLabels(type(loss).__name__, getattr(loss, 'reads_scores', False))
        for argument, layout in ((SAMPLES, None), (LABELS, labels)):
            if argument in arguments:
                mapping[argument] = record_of(SAMPLES, 'student', replace(DATA_SAMPLES, layout=layout))
                features['student'].points[SAMPLES] = DATA_SAMPLES
        if self.entries[term.entry]['gather_distributed']:
            gather(name, loss, mapping)
        self.distill_losses[name] = loss
        if schedule := self.entries[term.entry]['weight_schedule']:
            self.scheduled_weights[name] = ScheduledWeight(schedule)
        self.stage_mappings[term.stage][name] = mapping

    def _recorder(self, feature: str) -> str:
        return self.recorder_names.get(feature, feature)

    def _connector(self, own_name: str, connector: str | dict, given: dict[str, Any]) -> str:
        """Build a connector, unless it is shared and built already; return its name."""
        shared = isinstance(connector, str)
        name = connector if shared else own_name
        if not shared and name in {*self.connectors, *self.shared_connectors}:
            raise SettingError(f'{type(self).__name__}: two connectors are called {name}. Rename one in connectors.')
        if name not in self.connectors:
            self.connectors[name] = build_for(self.shared_connectors[name] if shared else connector, given)
        return name

    def _start_recorders(self, network: str, features: NamedFeatures) -> None:
        recorders = {
            self._recorder(name): dict(_scope_='mmrazor', type=point.type, source=point.source)
            for name, point in features.points.items()
        }
        manager = getattr(self, f'{network}_recorders')
        if twice := sorted({*recorders} & {*manager.recorders}):
            raise SettingError(f'{", ".join(twice)} in {network}_recorders is the name of a feature. Rename yours.')
        manager.recorders.update(RecorderManager(recorders).recorders)
        manager.initialize(features.model)

    def _add_own_mappings(self) -> None:
        join_own(
            type(self).__name__,
            self.own_mappings,
            self.stage_mappings,
            lambda: self._check_loss_forward_mappings(
                self.distill_losses, self.own_mappings, self.student_recorders, self.teacher_recorders
            ),
        )

    def compute_distill_losses(self) -> dict[str, Tensor]:
        """Compute the losses of the stage by their names: ``loss_at1``."""
        if self.stage is None or (self.scheduled_weights and not self.progress_is_known):
            raise SettingError(
                f'{type(self).__name__}: an initial stage or a weight_schedule depends on the epoch, which nothing '
                "tells it. Add default_hooks=dict(loss_schedule=dict(type='LossScheduleHook')) to the config, or call "
                'set_stage() and set_progress() in your own loop.'
            )
        losses = super().compute_distill_losses()
        losses |= {name: weight(losses[name]) for name, weight in self.scheduled_weights.items() if name in losses}
        return losses | logged_terms({name: self.distill_losses[name] for name in losses})

    def set_progress(self, epoch: int, iteration: int) -> None:
        """Set what changes over time, weights and losses, to an epoch and iteration, both counted from 0."""
        self.progress_is_known = True
        for part in (*self.scheduled_weights.values(), *self.distill_losses.values()):
            if hasattr(part, 'set_progress'):
                part.set_progress(epoch, iteration)

    def set_stage(self, stage: str) -> None:
        """Let the losses of a stage count, ``'initial'`` or ``'main'``."""
        self.stage = stage
        self.loss_forward_mappings = self.stage_mappings[stage]
        for name in self.frozen:
            self.connectors[name].requires_grad_(stage == 'initial')
        self.train(self.training)

    def train(self, mode: bool = True) -> 'FeatureDistiller':
        """Set the mode; frozen connectors stay in eval mode."""
        super().train(mode)
        if self.stage == 'main':
            for name in self.frozen:
                self.connectors[name].eval()
        return self

    def get_record(
        self,
        *args: Any,
        connector: str | None = None,
        method: str | None = None,
        layout: Callable[[Any], Any] | None = None,
        records: Sequence[Mapping[str, Any]] | None = None,
        gathered: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Get a feature as mmrazor does, or a list of ``records``: in its layout, through a method of its connector."""
        if records is not None:
            return [self.get_record(**record) for record in records]
        record = super().get_record(*args, **kwargs)
        record = record if layout is None else layout(record)
        if connector is not None:
            record = getattr(self.connectors[connector], method or '__call__')(record)
        return gather_rows(record)[0][0] if gathered else record
