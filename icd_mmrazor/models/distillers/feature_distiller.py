"""From names of features to recorders, connectors and losses."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules import RecorderManager
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.checks import is_number
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.feature_terms import (
    NETWORKS,
    OF_CLASSIFIER,
    STAGES,
    Term,
    checked_entry,
    class_of,
    feature_names,
    find_point,
    terms_of,
)
from icd_mmrazor.models.distillers.softmax_losses import refuse_softmax_of_labels
from icd_mmrazor.models.networks.classifier_layer import number_of_channels
from icd_mmrazor.models.networks.features import Point, feature_points, feature_shapes

# the labels and indices of the batch, as the student gets them: a loss that wants them names them so
DATA_SAMPLES = Point('ModuleInputs', '', data_idx=1)


@MODELS.register_module()
class FeatureDistiller(ConfigurableDistiller):
    """mmrazor's ``ConfigurableDistiller`` for features that are called by name, on any pair of networks.

    A config of ``ConfigurableDistiller`` names modules and widths, and so fits one pair. This one names features
    (:mod:`icd_mmrazor.models.networks.features`) and finds modules and shapes in the networks:

    * ``map0``, ``map1``, ...: the feature maps, of the stem and of each stage; ``last_map``;
    * ``preactivation1``, ...: those of the stages before their last activation;
    * ``pooled``: what the classifier takes; ``logits``: what it gives;
    * for a loss on each of several: ``maps`` and ``preactivations`` (of the stages), ``consecutive_maps`` (each map
      with the next, beginning with the stem's).

    A connector or a loss whose constructor has ``student_shape``, ``teacher_shape`` (``C x H x W``, or ``C``) or
    ``in_features`` is given them. A loss with a method ``check_shapes`` may refuse the shapes of its arguments.

    A loss whose ``forward`` has ``data_samples`` is given those of the batch: a list of one for each image, or, as a
    rule, of one for all, whose ``gt_label`` holds the labels (``B``) and whose ``sample_idx`` is a list of ``B``
    positions. For both, ``torch.cat([sample.gt_label for sample in data_samples])`` are the labels, and
    ``icd_mmrazor.utils.positions_of(data_samples)`` the positions.

    Some methods train in two stages, the first without the task: terms of the stage ``initial`` count in the first
    ``initial_epochs`` epochs, those of ``main`` after them (``InitialStageHook``).

    Args:
        losses: By name, ``dict(loss=..., features=...)``:

            * ``loss``: config of the loss. Its first argument is the student's feature, its second the teacher's;
            * ``features``: name of the feature;
            * ``student_connector``, ``teacher_connector``: config of a connector, or the name of one in
              ``connectors``;
            * ``decay``: where there are several, the weight of each relative to the next deeper; 1 unless given;
            * ``stage``: ``'main'`` unless given;
            * ``inputs`` instead of ``features``: for each argument of the loss ``dict(network=..., feature=...,
              connector=..., method=...)``; ``method`` is called of the connector in place of its ``forward``.
        connectors: Connectors that several losses share, by name.
        student_loss_weight: Weight of the student's own loss beside these; only ``FrozenTeacherDistill`` reads it, and
            only where this distiller is alone.
        initial_epochs: Length of the initial stage in epochs; more than 0 just where a loss is of that stage.
        initial_lr: Learning rate of the initial stage; that of the run unless given.
        frozen: Names of connectors that the main stage does not train.
        image_shape: ``C x H x W`` of the images, for which the shapes are found; as many channels as the networks take
            and 32 x 32 pixels unless given.
        init_cfg: As of every mmengine module.

    Raises:
        SettingError: A name is unknown or used twice, a setting is out of range, or the features of the two networks
            do not fit the loss or connector.

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

    def __init__(
        self,
        losses: dict[str, dict],
        connectors: dict[str, dict] | None = None,
        student_loss_weight: float = 1.0,
        initial_epochs: int = 0,
        initial_lr: float | None = None,
        frozen: list[str] | tuple[str, ...] = (),
        image_shape: tuple[int, int, int] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not losses or not isinstance(losses, dict):
            raise SettingError(
                f'FeatureDistiller: losses={losses!r} must name at least one: '
                "losses=dict(at=dict(loss=dict(type='AttentionTransferLoss'), features='maps'))."
            )
        if not isinstance(connectors, dict | None):
            raise SettingError(f'FeatureDistiller: connectors={connectors!r} must be a dict of connectors by name.')
        if isinstance(frozen, str) or not isinstance(frozen, Sequence):
            raise SettingError(f'FeatureDistiller: frozen={frozen!r} must be a list of names of connectors.')
        if not is_number(student_loss_weight) or student_loss_weight < 0:
            raise SettingError(
                f'FeatureDistiller: student_loss_weight={student_loss_weight!r} must be a number, 0 or more.'
            )
        if initial_lr is not None and not (is_number(initial_lr) and initial_lr > 0):
            raise SettingError(f'FeatureDistiller: initial_lr={initial_lr!r} must be a positive number, or None.')
        self.loss_cfgs = {name: checked_entry(name, cfg) for name, cfg in losses.items()}
        self.shared_connectors = connectors or {}
        unknown = sorted(str(name) for name in frozen if name not in [*self.shared_connectors])
        if unknown:
            raise SettingError(
                f'FeatureDistiller: {", ".join(unknown)} in frozen is not in connectors: '
                f'{", ".join(self.shared_connectors) or "there are none"}.'
            )
        initial = [name for name, entry in self.loss_cfgs.items() if entry['stage'] == 'initial']
        if type(initial_epochs) is not int or initial_epochs < 0 or bool(initial) != (initial_epochs > 0):
            raise SettingError(
                f'FeatureDistiller: initial_epochs={initial_epochs!r}, and losses of the stage initial: '
                f'{", ".join(initial) or "none"}. Where there are such losses it must be a positive number of epochs, '
                'otherwise 0.'
            )
        sizes = tuple(image_shape) if isinstance(image_shape, list | tuple) else ()
        if image_shape is not None and (len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes)):
            raise SettingError(f'FeatureDistiller: image_shape={image_shape!r} must be C x H x W, such as (3, 32, 32).')
        self.student_loss_weight = student_loss_weight
        self.initial_epochs = initial_epochs
        self.initial_lr = initial_lr
        self.frozen = tuple(frozen)
        self.image_shape = None if image_shape is None else tuple(image_shape)
        # with two stages InitialStageHook sets it; until then what is frozen later must be known to DDP as trained
        self.stage = None if initial_epochs else 'main'
        self.stage_mappings: dict[str, dict] = {stage: {} for stage in STAGES}

    @property
    def needed_networks(self) -> set[str]:
        """The networks whose features the losses of this stage take."""
        return {
            'student' if record['from_student'] else 'teacher'
            for mapping in self.loss_forward_mappings.values()
            for record in mapping.values()
        }

    def prepare_from_student(self, model: nn.Module) -> None:
        """Remember the student until the teacher is known too.

        Args:
            model: The student.
        """
        # in a dict: an attribute would make it a submodule
        self._unprepared = {'student': model}

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Find features and their shapes, build connectors and losses, start the recorders.

        Args:
            model: The teacher.

        Raises:
            SettingError: See the class.
        """
        networks = {**self._unprepared, 'teacher': model}
        del self._unprepared
        maps = any(name not in OF_CLASSIFIER for entry in self.loss_cfgs.values() for name in feature_names(entry))
        points = {name: feature_points(network, maps) for name, network in networks.items()}
        terms = [term for name, cfg in self.loss_cfgs.items() for term in terms_of(name, cfg, points)]
        used = {
            network: {i.feature: None for term in terms for i in term.inputs.values() if i.network == network}
            for network in NETWORKS
        }
        found = {
            network: {name: find_point(points[network], name, network) for name in names}
            for network, names in used.items()
        }
        shapes = {network: self._shapes(networks[network], names) for network, names in found.items()}
        for term in terms:
            self._build(term, found, shapes)
        unused = sorted({*self.shared_connectors} - {*self.connectors})
        if unused:
            raise SettingError(f'FeatureDistiller: no loss names the connector {", ".join(unused)} in connectors.')
        self._start_recorders(networks, found)
        refuse_softmax_of_labels(self, **networks)
        if self.stage == 'main':
            self.set_stage('main')

    def _shapes(self, network: nn.Module, points: dict[str, Point]) -> dict[str, tuple[int, ...]]:
        try:
            return dict(zip(points, feature_shapes(network, points.values(), self.image_shape), strict=True))
        except RuntimeError as error:
            shape = self.image_shape or (number_of_channels(network), 32, 32)
            raise SettingError(
                f'FeatureDistiller: image_shape={shape} does not fit the network: {error}. Give the shape '
                'of the images, C x H x W, as distiller.image_shape.'
            ) from None

    def _build(self, term: Term, found: dict[str, dict[str, Point]], shapes: dict[str, dict[str, tuple]]) -> None:
        """Build a loss and the connectors of its arguments."""
        given = {f'{i.network}_shape': shapes[i.network][i.feature] for i in term.inputs.values()}
        mapping = {}
        for argument, item in term.inputs.items():
            point = found[item.network][item.feature]
            mapping[argument] = dict(
                recorder=item.feature,
                from_student=item.network == 'student',
                record_idx=point.record_idx,
                data_idx=point.data_idx,
            )
            if item.connector is None:
                continue
            shared = isinstance(item.connector, str)
            name = item.connector if shared else f'{term.name}_{argument}'
            if shared != (name in self.shared_connectors):
                raise SettingError(
                    f'FeatureDistiller: connector {name!r} of {term.name} '
                    + (
                        f'is not in connectors: {", ".join(self.shared_connectors) or "there are none"}.'
                        if shared
                        else 'has the name of one in connectors. Rename that one.'
                    )
                )
            if name not in self.connectors:
                cfg = self.shared_connectors[name] if shared else item.connector
                width = shapes[item.network][item.feature][0]
                self.connectors[name] = _built(cfg, {**given, 'in_features': width})
            mapping[argument].update(connector=name, method=item.method)
        if f'loss_{term.name}' in self.distill_losses:
            raise SettingError(f'FeatureDistiller: two losses are called {term.name}. Rename one in losses.')
        loss = _built(term.loss, given)
        if hasattr(loss, 'check_shapes'):
            loss.check_shapes(**{name: shapes[item.network][item.feature] for name, item in term.inputs.items()})
        if 'data_samples' in inspect.signature(loss.forward).parameters:
            mapping['data_samples'] = dict(recorder='data_samples', from_student=True, data_idx=DATA_SAMPLES.data_idx)
            found['student']['data_samples'] = DATA_SAMPLES
        self.distill_losses[f'loss_{term.name}'] = loss
        self.stage_mappings[term.stage][f'loss_{term.name}'] = mapping

    def _start_recorders(self, networks: dict[str, nn.Module], found: dict[str, dict[str, Point]]) -> None:
        for network, points in found.items():
            recorders = {name: dict(type=point.type, source=point.source) for name, point in points.items()}
            manager = RecorderManager(recorders)
            manager.initialize(networks[network])
            setattr(self, f'{network}_recorders', manager)

    def compute_distill_losses(self) -> dict[str, Tensor]:
        """Compute the losses of the stage.

        Returns:
            Each loss by its name: ``loss_at1``.

        Raises:
            SettingError: There are two stages and nothing has said which it is.
        """
        if self.stage is None:
            raise SettingError(
                f'FeatureDistiller: initial_epochs={self.initial_epochs}, but nothing begins the stages. Add '
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
        """Set the mode; what is frozen stays in eval mode.

        Args:
            mode: Whether to train.

        Returns:
            The distiller.
        """
        super().train(mode)
        if self.stage == 'main':
            for name in self.frozen:
                self.connectors[name].eval()
        return self

    def get_record(self, *args: Any, connector: str | None = None, method: str | None = None, **kwargs: Any) -> Any:
        """Get a feature as mmrazor does, or through a method of its connector.

        Args:
            *args: As of the base class.
            connector: Name of the connector.
            method: Name of its method; ``None`` calls the connector itself.
            **kwargs: As of the base class.

        Returns:
            The feature.
        """
        if method is None:
            return super().get_record(*args, connector=connector, **kwargs)
        return getattr(self.connectors[connector], method)(super().get_record(*args, **kwargs))


def _built(cfg: Mapping[str, Any], given: dict[str, Any]) -> nn.Module:
    """Build a loss or connector, with what its constructor asks for."""
    accepted = inspect.signature(class_of(cfg)).parameters
    return MODELS.build({**{name: value for name, value in given.items() if name in accepted}, **cfg})
