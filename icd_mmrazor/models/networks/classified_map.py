"""The map whose average a network classifies."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classifier_layer import is_headless, linear_layer
from icd_mmrazor.models.networks.features import Point, in_eval_mode, usual_image_shape
from icd_mmrazor.models.networks.wrappers import unwrapped

REMEDY = 'Use a network that averages its last map (ResNet, WideResNet, VGG, ...), or a method that compares last_map.'


@dataclass(frozen=True)
class ClassifiedMap:
    """The map whose average over the positions is the input of a network's classifying layer.

    Attributes:
        point: Where it is.
        shape: ``C x H x W``.
        has_negatives: Whether it has negative values; after a ReLU it has none.
    """

    point: Point
    shape: tuple[int, int, int]
    has_negatives: bool


def classified_map(
    network: nn.Module, classifier: str, image_shape: tuple[int, ...] | None = None, what: str = 'the network'
) -> ClassifiedMap:
    """Find the map whose average over the positions a network classifies.

    It is the last output of a module with this average before it is pooled, in a forward pass of a random image. So it
    comes after everything between the last stage and the pooling, such as the batch norm and ReLU that end a wide
    ResNet.

    Args:
        network: The network.
        classifier: The name of its classifying layer.
        image_shape: ``C x H x W`` of the image; that which the network was built for by default.
        what: What the network is, for messages.

    Raises:
        SettingError: The network classifies something else, such as a class token.
    """
    *_, (_, inner) = unwrapped(network)
    name = f'{what}, {type(inner).__name__},'
    if getattr(network, 'is_stored', False) or is_headless(network):
        missing = 'is not in memory: its outputs are stored' if getattr(network, 'is_stored', False) else 'has none'
        raise SettingError(f'{name} needs a classifier, but it {missing}. Give model.teacher_ckpt, of a classifier.')
    layer, inputs = linear_layer(network, classifier, 'the classifying layer'), []
    found: list[tuple[ClassifiedMap, Tensor]] = []  # each map of the pass, and its average
    counts: dict[str, int] = {}
    parameter = next(network.parameters())
    image = torch.rand(1, *(image_shape or usual_image_shape(network)), generator=torch.Generator().manual_seed(0))

    def record(source: str, output: Any) -> None:
        call = counts[source] = counts.get(source, -1) + 1
        # of a tuple the last one, as mmpretrain's necks and heads take it
        several = isinstance(output, list | tuple) and len(output) > 0
        output = output[-1] if several else output
        if isinstance(output, Tensor) and output.ndim == 4:
            point = Point('ModuleOutputs', source, call, -1 if several else None)
            shown = ClassifiedMap(point, tuple(output.shape[1:]), bool((output < 0).any()))
            found.append((shown, output.detach().mean((2, 3))))

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: record(name, output))
        for name, module in network.named_modules()
        if name
    ]
    handles.append(layer.register_forward_pre_hook(lambda _module, given: inputs.append(given[0].detach())))
    try:
        with in_eval_mode(network), torch.no_grad():
            network(image.to(parameter), mode='tensor')
    except (RuntimeError, AssertionError) as error:
        shape = tuple(image.shape[1:])
        raise SettingError(
            f'{name} does not take images of image_shape={shape}: {error}. Set distiller.image_shape to the shape of '
            'the images, C x H x W.'
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    places = [i for i, (_, average) in enumerate(found) if len(inputs) == 1 and _agree(inputs[0], average)]
    # what pools it may return a map of one position
    place = max(reversed(places), key=lambda i: _positions(found[i]), default=None)
    if place is None or _is_after_pooling(found, place):
        raise SettingError(f'{name} does not classify the average of a map (input of {classifier}). {REMEDY}')
    return found[place][0]


def _is_after_pooling(found: list[tuple[ClassifiedMap, Tensor]], place: int) -> bool:
    """Return whether a map of one position is a larger map that was pooled, and then changed, as by a norm."""
    if _positions(found[place]) > 1:
        return False
    before = found[:place]
    alike = [each for each in before if each[0].shape[0] == found[place][0].shape[0]]
    # what pools comes first, a shortcut that averages second; or it is not a module, and nothing else lies between
    return any(_pooled(before)[:1]) or (any(_positions(each) > 1 for each in alike) and all(_pooled(alike)))


def _pooled(found: list[tuple[ClassifiedMap, Tensor]]) -> list[bool]:
    """Return which of the maps after the last one of several positions are its average."""
    last = next((i for i in reversed(range(len(found))) if _positions(found[i]) > 1), len(found))
    return [_agree(average, found[last][1]) for _, average in found[last + 1 :]]


def _positions(found: tuple[ClassifiedMap, Tensor]) -> int:
    return math.prod(found[0].shape[1:])


def _agree(pooled: Tensor, average: Tensor) -> bool:
    if average.shape != pooled.shape:
        return False
    # an untrained network may overflow
    largest = float(pooled.abs().nan_to_num().max())
    return torch.allclose(average, pooled, rtol=1e-3, atol=1e-5 * largest, equal_nan=True)
