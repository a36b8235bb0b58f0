"""What a network costs: parameters, and multiply-adds for an image."""

from typing import NamedTuple

import torch
from mmengine.config import ConfigDict
from torch.utils.flop_counter import FlopCounterMode

from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.export.network import build_network
from icd_mmrazor.models.networks.classifier_layer import number_of_channels

# how a transform says the size of its result
SIZE_SETTINGS = ('crop_size', 'scale', 'size')


class Complexity(NamedTuple):
    """What a network costs.

    Attributes:
        parameters: Number of its parameters, the classifier's included.
        multiply_adds: Multiplications with the additions that follow, of its convolutions, linear layers and matrix
            products (attention), for one image. Normalisation, activations and pooling are not counted.
    """

    parameters: int
    multiply_adds: int


def complexity(network: ConfigDict, input_size: tuple[int, int], name: str = 'the network') -> Complexity:
    """Count a network's parameters and multiply-adds with torch's counter; nothing is computed.

    torch counts two operations for a multiply-add. mmengine's ``FlopAnalyzer`` counts one, but does not know the
    attention of transformers, and adds two for each number that a batch norm has.

    Args:
        network: The full config of a plain classifier.
        input_size: Height and width of its images in pixels.
        name: What to call it in the message.

    Returns:
        The counts.

    Raises:
        SettingError: The network cannot be built.
    """
    # on the meta device a tensor is its shape, and attention is made of the matrix products that are counted
    model = build_network(name, network).eval().to('meta')
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, number_of_channels(model), *input_size, device='meta'))
    return Complexity(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)


def image_size(pipeline: list[dict]) -> tuple[int, int] | None:
    """Return the size of the images that leave a pipeline, as its settings say.

    Args:
        pipeline: Configs of transforms, those of a test as a rule.

    Returns:
        Height and width in pixels; None if no transform says them. Where they differ it does not count, either:
        transforms have them in different orders.
    """
    for transform in reversed(pipeline):
        size = next((transform[name] for name in SIZE_SETTINGS if name in transform), None)
        # of an image that is not square, ResizeEdge says one side only
        if size is not None and type_name(transform['type']) != 'ResizeEdge':
            sides = (size, size) if isinstance(size, int) else tuple(size)
            return sides if len(sides) == 2 and sides[0] == sides[1] else None
    return None
