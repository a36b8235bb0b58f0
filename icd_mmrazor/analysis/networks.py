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
    return _network('student', model.data_preprocessor, lambda images: model(images, mode='tensor'), model)


def teacher_network(algorithm: nn.Module) -> Network:
    """Make the teacher of a distillation a function of pixels, which it sees as it was trained.

    Args:
        algorithm: The distillation, from :func:`icd_mmrazor.analysis.distillation.build_algorithm`, with its teacher
            :func:`in float32 <icd_mmrazor.analysis.distillation.in_float32>`; it is put on the device, in eval mode.
    """
    algorithm.to(get_device()).eval()
    teacher = algorithm.teacher.requires_grad_(False)
    view = getattr(algorithm, 'teacher_view', None)
    return _network(
        'teacher',
        algorithm.data_preprocessor,
        lambda images: run_in_view(teacher, images, None, 'tensor', view),
        teacher,
    )


def _network(role: str, preprocessor: Any, run: Callable[[Tensor], Tensor], model: nn.Module) -> Network:
    name = f'the {role} ({type(getattr(model, "backbone", model)).__name__})'
    if 'MultiLabel' in type(getattr(model, 'head', None)).__name__:
        raise SettingError(
            f'{name} may give an image several classes, and this analysis needs one. Give a checkpoint of a classifier '
            'that has one label for each image.'
        )

    def logits(pixels: Tensor) -> Tensor:
        # images of 0 to 255 survive the division exactly
        try:
            found = run(preprocessor({'inputs': 255 * pixels.to(get_device())}, False)['inputs'])
        except RuntimeError as error:
            shape = ' x '.join(map(str, pixels.shape[1:]))
            raise SettingError(
                f'{name} fails on images of {shape}: {first_line(error)}. Give images like those of its training '
                '(test_dataloader).'
            ) from error
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise SettingError(f'{name} gives no logits, B x classes. Give a checkpoint of a classifier.')
        return found.float()

    return logits


@torch.no_grad()
def logits_of(network: Network, images: Tensor, batch_size: int) -> Tensor:
    """Return the logits of images, uint8 or of 0 to 1, ``N x C x H x W``, on the CPU."""
    found = []
    for part in images.split(batch_size):
        pixels = part.float() / 255 if part.dtype == torch.uint8 else part
        found.append(network(pixels).cpu())
    return torch.cat(found)
