"""The features of a network that distillation compares.

These are the outputs of the stem and of each stage (maps), the outputs of the stages before their last activation
(pre-activations), the pooled feature and the logits. Other backbones can be added::

    from icd_mmrazor.models.networks.features import input_of, output_of, points_of_backbone

    @points_of_backbone.register
    def _(backbone: MyBackbone):
        maps = [output_of('stem'), output_of('stage1'), output_of('stage2')]
        preactivations = [input_of('stage1.relu'), input_of('stage2.relu')]
        return maps, preactivations

A class inherits the points of its base class. A network without a ``backbone``, such as a ``TimmClassifier``, is added
itself.
"""

import contextlib
from collections.abc import Iterable, Iterator
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
from icd_mmrazor.models.networks.classifier_layer import find_classifier, number_of_channels, pooling_layer
from icd_mmrazor.models.networks.image_size import image_size_of

LAST_CALL = -1


@dataclass(frozen=True)
class Point:
    """A place in a network, as mmrazor's recorders and ``loss_forward_mappings`` name it."""

    type: str  # 'ModuleInputs' or 'ModuleOutputs'
    source: str
    record_idx: int = 0  # which call of the module in a forward pass
    data_idx: int | None = None  # which of its inputs


@dataclass(frozen=True)
class FeaturePoints:
    """The places of all features of a network.

    Pre-activations are ``maps[1:]`` before the last activation of the stage. Stages of wide ResNets end without one:
    there it is the output of the next batch norm. In MobileNetV2, where no batch norm follows, it is the map.
    """

    maps: tuple[Point, ...]
    preactivations: tuple[Point, ...]
    pooled: Point
    logits: Point | None  # None in a network without a classifier


def output_of(source: str) -> Point:
    """Return the point of the output of a module that is called once."""
    return Point('ModuleOutputs', source)


def input_of(source: str, call: int = 0) -> Point:
    """Return the point of a module's first input, in one of its calls; -1 is the last."""
    return Point('ModuleInputs', source, record_idx=call, data_idx=0)


@singledispatch
def points_of_backbone(backbone: nn.Module) -> tuple[list[Point], list[Point]]:
    """Return the points of a backbone's maps, starting with the stem, and of its pre-activations, without the stem."""
    known = sorted(cls.__name__ for cls in points_of_backbone.registry if cls is not object)
    raise SettingError(
        f'backbone {type(backbone).__name__}: its feature maps are unknown. Use {", ".join(known)} or a class derived '
        f'from them, add it as {__name__} shows, or compare pooled features or logits.'
    )


@points_of_backbone.register
def _resnet(backbone: ResNet) -> tuple[list[Point], list[Point]]:
    stem = 'stem' if backbone.deep_stem else 'relu'
    # one module for all activations of a block
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

    Without ``maps`` the backbone does not matter. The ``classifier`` layer is found by default.

    Raises:
        SettingError: The backbone is unknown, or the classifying layer cannot be found.
    """
    pooling = None if classifier else pooling_layer(network)
    classifier = classifier or pooling or find_classifier(network)
    backbone, place = (network.backbone, 'backbone.') if hasattr(network, 'backbone') else (network, '')
    of_backbone = (
        tuple(replace(point, source=f'{place}{point.source}') for point in points)
        for points in (points_of_backbone(backbone) if maps else ((), ()))
    )
    # the pooling layer is not a classifier
    last = (output_of(pooling), None) if pooling else (input_of(classifier), output_of(classifier))
    return FeaturePoints(*of_backbone, *last)


@contextlib.contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and afterwards each of its modules back into its own mode."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def feature_shapes(
    network: nn.Module, points: Iterable[Point], image_shape: tuple[int, ...] | None = None
) -> list[tuple[int, ...]]:
    """Find the shapes of features, without the batch, by a forward pass that leaves no trace in the network.

    The image has the network's channels and size by default; 32 x 32 pixels if it takes any.

    Raises:
        SettingError: A point names a module that does not exist, or a call of it that does not happen.
    """
    points = list(points)
    modules = dict(network.named_modules())
    if missing := [point.source for point in points if point.source not in modules]:
        raise SettingError(f'{", ".join(missing)} is not a module of this {type(network).__name__}.')
    calls: dict[str, list[dict[str, Any]]] = {point.source: [] for point in points}
    parameter = next(network.parameters(), torch.zeros(()))
    image_shape = image_shape or (number_of_channels(network), *(image_size_of(network) or (32, 32)))
    image = torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)
    with contextlib.ExitStack() as stack, in_eval_mode(network), torch.no_grad():
        for source, records in calls.items():

            def record(_module: nn.Module, inputs: tuple, output: Any, records: list = records) -> None:
                records.append({'ModuleInputs': inputs, 'ModuleOutputs': output})

            stack.callback(modules[source].register_forward_hook(record).remove)
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
        raise SettingError(f'{point.source} ({point.type}) is a {type(data).__name__}, not a feature.')
    return tuple(data.shape[1:])
