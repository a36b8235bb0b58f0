"""Networks as functions from pixels to logits."""

from collections.abc import Callable
from typing import Any

import torch
from mmengine.device import get_device
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError, first_line
from icd_mmrazor.models.networks.frozen import run_in_view

# from images as the dataset has them, divided by 255, B x C x H x W, to logits, B x num_classes, with gradients
Network = Callable[[Tensor], Tensor]


def student_network(model: nn.Module) -> Network:
    """Make a classifier a function of pixels: its data preprocessor is a part of it.

    Args:
        model: A classifier with its weights; it is put on the device, in eval mode.
    """
    model.to(get_device()).eval().requires_grad_(False)
    return _network(model.data_preprocessor, lambda images: model(images, mode='tensor'), model)


def teacher_network(algorithm: nn.Module) -> Network:
    """Make the teacher of a distillation a function of pixels, which it sees as it was trained.

    Args:
        algorithm: The distillation, from :func:`icd_mmrazor.analysis.distillation.build_algorithm`; it is put on the
            device, in eval mode.
    """
    algorithm.to(get_device()).eval()
    teacher = algorithm.teacher.requires_grad_(False)
    view, dtype = getattr(algorithm, 'teacher_view', None), getattr(algorithm, 'teacher_dtype', None)
    return _network(
        algorithm.data_preprocessor, lambda images: run_in_view(teacher, images, None, 'tensor', view, dtype), teacher
    )


def _network(preprocessor: Any, run: Callable[[Tensor], Tensor], model: nn.Module) -> Network:
    kind = type(getattr(model, 'backbone', model)).__name__
    if 'MultiLabel' in type(getattr(model, 'head', None)).__name__:
        raise SettingError(f'an image may be of several classes for this {kind}, and its analysis needs one.')

    def logits(pixels: Tensor) -> Tensor:
        # images of 0 to 255 survive the division exactly
        found = run(preprocessor({'inputs': 255 * pixels.to(get_device())}, False)['inputs'])
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise SettingError(f'this {kind} gives no logits, B x classes, so it cannot be analysed.')
        return found.float()

    return logits


@torch.no_grad()
def logits_of(network: Network, images: Tensor, batch_size: int) -> Tensor:
    """Return the logits of images, uint8 or of 0 to 1, ``N x C x H x W``, on the CPU.

    Raises:
        SettingError: The network fails on images of this shape.
    """
    found = []
    for part in images.split(batch_size):
        pixels = part.float() / 255 if part.dtype == torch.uint8 else part
        try:
            found.append(network(pixels).cpu())
        except RuntimeError as error:
            shape = ' x '.join(map(str, images.shape[1:]))
            raise SettingError(f'a network fails on images of {shape}: {first_line(error)}') from error
    return torch.cat(found)
