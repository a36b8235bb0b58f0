"""The features of a network that distillation compares.

These are the outputs of the stem and of each stage (maps), the outputs of the stages before their last activation
(pre-activations), the outputs of all blocks, the pooled feature and the logits. A transformer without stages has four
groups of blocks, whose tokens are maps, too. Other backbones can be added::

    from icd_mmrazor.models.networks.features import input_of, output_of, points_of_backbone

    @points_of_backbone.register
    def _(backbone: MyBackbone):
        maps = [output_of('stem'), output_of('stage1'), output_of('stage2')]
        preactivations = [input_of('stage1.relu'), input_of('stage2.relu')]
        return maps, preactivations  # and optionally the blocks: [output_of('stage1.block1'), ...]

A module that returns tokens has a layout: ``output_of('block11', Layout(extra=1))``. A class inherits the points of its
base class. A network without a ``backbone`` is added itself.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError

# registers the points of its backbones
from icd_mmrazor.models.networks import backbone_points  # noqa: F401
from icd_mmrazor.models.networks.classifier_layer import find_classifier, number_of_channels, pooling_layer
from icd_mmrazor.models.networks.image_size import image_size_of
from icd_mmrazor.models.networks.layouts import Layout
from icd_mmrazor.models.networks.points import Point, input_of, output_of, points_of_backbone, within
from icd_mmrazor.models.networks.retrieval import embedding_of
from icd_mmrazor.models.networks.timm_points import is_of_timm, points_of_timm

__all__ = [
    'FeaturePoints',
    'Layout',
    'Point',
    'feature_points',
    'feature_shapes',
    'in_eval_mode',
    'input_of',
    'output_of',
    'points_of_backbone',
    'usual_image_shape',
]


@dataclass(frozen=True)
class FeaturePoints:
    """The places of all features of a network.

    Pre-activations are ``maps[1:]`` before the last activation of the stage. Stages of wide ResNets end without one:
    there it is the output of the next batch norm. In networks whose stages end without an activation and are not
    followed by a norm (MobileNetV2, ConvNeXt, transformers), it is the map.

    Blocks are all residual blocks, all units of a MobileNet or ShuffleNet, all convolutions of a VGG (activated), and
    all blocks of a transformer; the stem is not one. Those of wide ResNets end in a sum without an activation: there
    it is the output of the norm and activation that follow. Where blocks are not known, there are none.
    """

    maps: tuple[Point, ...]
    preactivations: tuple[Point, ...]
    pooled: Point
    logits: Point | None  # None in a network without a classifier
    blocks: tuple[Point, ...] = ()


def feature_points(network: nn.Module, maps: bool = True, classifier: str | None = None) -> FeaturePoints:
    """Find the features of a network.

    Without ``maps`` the backbone does not matter. The ``classifier`` layer is found by default.

    Raises:
        SettingError: The backbone is unknown, or the classifying layer cannot be found.
    """
    pooling = None if classifier else pooling_layer(network)
    classifier = classifier or pooling or find_classifier(network)
    of_maps, before, *others = _points_of_maps(network) if maps else ([], [])
    # the pooling layer is not a classifier
    last = (embedding_of(network, pooling), None) if pooling else (input_of(classifier), output_of(classifier))
    return FeaturePoints(tuple(of_maps), tuple(before), *last, blocks=tuple(others[0]) if others else ())


def _points_of_maps(network: nn.Module) -> tuple[list[Point], ...]:
    if is_of_timm(network):
        return points_of_timm(network)
    if points_of_backbone.dispatch(type(network)) is points_of_backbone.dispatch(object):
        for part in ('backbone', 'model'):
            if isinstance(inner := getattr(network, part, None), nn.Module):
                return within(f'{part}.', _points_of_maps(inner))
    return points_of_backbone(network)


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


def usual_image_shape(network: nn.Module) -> tuple[int, int, int]:
    """Return the shape of the images that a network was built for, ``C x H x W``; 32 x 32 pixels if it takes any."""
    return number_of_channels(network), *(image_size_of(network) or (32, 32))


def feature_shapes(
    network: nn.Module, points: Iterable[Point], image_shape: tuple[int, ...] | None = None
) -> list[tuple[int, ...]]:
    """Find the shapes of features, without the batch, by a forward pass that leaves no trace in the network.

    The image has the :func:`usual_image_shape` by default.

    Raises:
        SettingError: A point names a module that does not exist, or a call of it that does not happen.
    """
    points = list(points)
    modules = dict(network.named_modules())
    if missing := [point.source for point in points if point.source not in modules]:
        raise SettingError(f'{", ".join(missing)} is not a module of this {type(network).__name__}.')
    calls: dict[str, list[dict[str, Any]]] = {point.source: [] for point in points}
    parameter = next(network.parameters(), torch.zeros(()))
    image = torch.zeros(1, *(image_shape or usual_image_shape(network)), device=parameter.device, dtype=parameter.dtype)
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
    if point.layout is not None:
        data = point.layout(data)
    if not isinstance(data, Tensor):
        raise SettingError(f'{point.source} ({point.type}) is a {type(data).__name__}, not a feature.')
    return tuple(data.shape[1:])
