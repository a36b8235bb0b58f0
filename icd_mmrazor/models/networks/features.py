"""Where in a network the features lie that distillation compares.

The features are those of the published CIFAR benchmark: the output of the stem and of each stage (maps), the outputs of
the stages before their last activation (pre-activations), the pooled feature and the logits.

A backbone that is not known here declares its own::

    from icd_mmrazor.models.networks.features import input_of, output_of, points_of_backbone

    @points_of_backbone.register
    def _(backbone: MyBackbone):
        maps = [output_of('stem'), output_of('stage1'), output_of('stage2')]
        preactivations = [input_of('stage1.relu'), input_of('stage2.relu')]
        return maps, preactivations

The names are those of modules within the backbone; a class inherits the points of its base class.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmpretrain.models.backbones import VGG, MobileNetV2, ResNet, ShuffleNetV1
from mmrazor.models.architectures.backbones import WideResNet
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.backbones import CIFARShuffleNetV2
from icd_mmrazor.models.networks.classifier_layer import find_classifier, number_of_channels
from icd_mmrazor.models.networks.passes import in_eval_mode

LAST_CALL = -1


@dataclass(frozen=True)
class Point:
    """A place in a network, as mmrazor's recorders and ``loss_forward_mappings`` name it.

    Args:
        type: ``'ModuleInputs'`` or ``'ModuleOutputs'``.
        source: Name of the module.
        record_idx: Which call of the module in a forward pass; -1 is the last.
        data_idx: Which of its inputs; ``None`` with ``'ModuleOutputs'``.
    """

    type: str
    source: str
    record_idx: int = 0
    data_idx: int | None = None


@dataclass(frozen=True)
class FeaturePoints:
    """The places of all features of a network.

    Args:
        maps: The feature maps ``f0``, ``f1``, ...: stem, then each stage.
        preactivations: As ``maps[1:]``, but before the last activation of the stage. In wide ResNets, whose stages end
            without one, behind the batch norm that comes next; in MobileNetV2, where none comes next, the maps.
        pooled: What the classifier takes.
        logits: What it gives.
    """

    maps: tuple[Point, ...]
    preactivations: tuple[Point, ...]
    pooled: Point
    logits: Point


def output_of(source: str) -> Point:
    """Return the point of a module's output.

    Args:
        source: Name of the module, which is called once.
    """
    return Point('ModuleOutputs', source)


def input_of(source: str, call: int = 0) -> Point:
    """Return the point of a module's first input.

    Args:
        source: Name of the module.
        call: Which of its calls; -1 is the last.
    """
    return Point('ModuleInputs', source, record_idx=call, data_idx=0)


@singledispatch
def points_of_backbone(backbone: nn.Module) -> tuple[list[Point], list[Point]]:
    """Return where the features of a backbone lie; ``points_of_backbone.register`` adds one, see above.

    Args:
        backbone: The network without neck and head.

    Returns:
        The points of the maps, from the stem on, and those of the pre-activations, without the stem.

    Raises:
        SettingError: The backbone is not known.
    """
    known = sorted(cls.__name__ for cls in points_of_backbone.registry if cls is not object)
    raise SettingError(
        f'backbone {type(backbone).__name__}: it is not known where its feature maps lie. Known, with what is derived '
        f'from them: {", ".join(known)}. icd_mmrazor/models/feature_points.py says how a backbone declares its own. '
        'Methods that compare pooled features or logits need none.'
    )


@points_of_backbone.register
def _resnet(backbone: ResNet) -> tuple[list[Point], list[Point]]:
    stem = 'stem' if backbone.deep_stem else 'relu'
    # all activations of a block are one module
    last_relus = [f'{name}.{len(getattr(backbone, name)) - 1}.relu' for name in backbone.res_layers]
    maps = [output_of(name) for name in (stem, *backbone.res_layers)]
    return maps, [input_of(name, LAST_CALL) for name in last_relus]


@points_of_backbone.register
def _wide_resnet(backbone: WideResNet) -> tuple[list[Point], list[Point]]:
    maps = [output_of(name) for name in ('conv1', *backbone.res_layers)]
    next_norms = [f'{name}.0.bn1' for name in backbone.res_layers[1:]]
    return maps, [output_of(name) for name in (*next_norms, 'bn1')]


@points_of_backbone.register
def _vgg(backbone: VGG) -> tuple[list[Point], list[Point]]:
    blocks = [
        max(i for i in range(*limits) if isinstance(backbone.features[i], ConvModule))
        for limits in backbone.range_sub_modules
    ]
    maps = [output_of(f'features.{i}') for i in blocks]
    return maps, [input_of(f'features.{i}.activate') for i in blocks[1:]]


@points_of_backbone.register
def _mobilenet_v2(_: MobileNetV2) -> tuple[list[Point], list[Point]]:
    maps = [output_of(name) for name in ('conv1', 'layer2', 'layer3', 'layer5', 'layer7')]
    return maps, maps[1:]


@points_of_backbone.register(ShuffleNetV1)
@points_of_backbone.register(CIFARShuffleNetV2)
def _shufflenet(backbone: ShuffleNetV1 | CIFARShuffleNetV2) -> tuple[list[Point], list[Point]]:
    stages = {f'layers.{i}': stage for i, stage in enumerate(backbone.layers) if isinstance(stage, nn.Sequential)}
    maps = [output_of(name) for name in ('conv1', *stages)]
    return maps, [input_of(f'{name}.{len(stage) - 1}.act') for name, stage in stages.items()]


def feature_points(network: nn.Module, maps: bool = True, classifier: str | None = None) -> FeaturePoints:
    """Find the features of a network.

    Args:
        network: A classifier whose last linear layer can be found
            (:func:`icd_mmrazor.models.networks.classifier_layer.find_classifier`), with a ``backbone`` where maps are
            wanted.
        maps: Whether maps and pre-activations are wanted. The other features lie in every backbone's classifier.
        classifier: Name of the classifying layer; found by default.

    Returns:
        The points, named from the network on.

    Raises:
        SettingError: The backbone is not known, or the classifying layer cannot be found.
    """
    classifier = classifier or find_classifier(network)
    in_backbone = (
        tuple(replace(point, source=f'backbone.{point.source}') for point in points)
        for points in (points_of_backbone(getattr(network, 'backbone', network)) if maps else ((), ()))
    )
    return FeaturePoints(*in_backbone, input_of(classifier), output_of(classifier))


def feature_shapes(
    network: nn.Module, points: Iterable[Point], image_shape: tuple[int, ...] | None = None
) -> list[tuple[int, ...]]:
    """Find the shapes of features by one forward pass, in eval mode and without gradients.

    Args:
        network: mmpretrain's ``ImageClassifier``. Its weights, its buffers and the mode of its modules stay as they
            are, and so does the state of the random numbers.
        points: Places in it.
        image_shape: ``C x H x W`` of an image; as many channels as the network takes and 32 x 32 pixels unless given.

    Returns:
        The shape of each feature, without the batch dimension.

    Raises:
        SettingError: A point names a module that does not exist, or a call of it that does not happen.
    """
    points = list(points)
    modules = dict(network.named_modules())
    missing = [point.source for point in points if point.source not in modules]
    if missing:
        raise SettingError(f'{", ".join(missing)} is no module of this {type(network).__name__}.')
    calls: dict[str, list[dict[str, Any]]] = {point.source: [] for point in points}
    parameter = next(network.parameters())
    image_shape = image_shape or (number_of_channels(network), 32, 32)
    image = torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)
    with contextlib.ExitStack() as stack, torch.no_grad():
        for source, records in calls.items():

            def record(_module: nn.Module, inputs: tuple, output: Any, records: list = records) -> None:
                records.append({'ModuleInputs': inputs, 'ModuleOutputs': output})

            stack.callback(modules[source].register_forward_hook(record).remove)
        with in_eval_mode(network):
            network(image, mode='tensor')
    return [_shape(point, calls[point.source]) for point in points]


def _shape(point: Point, records: list[dict[str, Any]]) -> tuple[int, ...]:
    try:
        data = records[point.record_idx][point.type]
    except IndexError:
        raise SettingError(
            f'{point.source} is called {len(records)} times in a forward pass; there is no call {point.record_idx}.'
        ) from None
    data = data if point.data_idx is None else data[point.data_idx]
    if not isinstance(data, Tensor):
        raise SettingError(f'{point.source} gives a {type(data).__name__} ({point.type}), not a feature.')
    return tuple(data.shape[1:])
