"""The last map of a backbone."""

import torch
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.features import in_eval_mode, points_of_backbone


def cut_after_last_map(backbone: nn.Module) -> None:
    """Leave out the convolutions that follow the last stage of a backbone, in place.

    They widen its last map for a classifier. Whatever else follows it, such as the batch norm and ReLU that end a wide
    ResNet, stays. A backbone whose stages are not known stays as it is.
    """
    try:
        maps, *_ = points_of_backbone(backbone)
    except SettingError:
        return
    parent, _, last = maps[-1].source.rpartition('.')
    parts = backbone.get_submodule(parent)
    names = [name for name, _ in parts.named_children()]
    for name in names[names.index(last) + 1 :]:
        if any(isinstance(module, nn.Conv2d) for module in parts.get_submodule(name).modules()):
            parts.set_submodule(name, nn.Identity())


def map_shape(backbone: nn.Module, image_shape: tuple[int, ...], what: str) -> tuple[int, int, int]:
    """Find the shape of the last map that a backbone returns, ``C x H x W``, for images of a shape.

    ``what`` is whose backbone it is, for messages.

    Raises:
        SettingError: It returns no map, or does not take such images.
    """
    inner = getattr(backbone, 'timm_model', backbone)
    name = f'{what}, {type(inner).__name__},'
    parameter = next(backbone.parameters())
    image = torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)
    try:
        with in_eval_mode(backbone), torch.no_grad():
            output = backbone(image)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(
            f'{name} does not take images of image_shape={image_shape}: {error}. Set '
            'distiller.image_shape to the shape of the images, C x H x W.'
        ) from None
    output = output[-1] if isinstance(output, list | tuple) and len(output) else output
    if isinstance(output, Tensor) and output.ndim == 4 and getattr(inner, 'output_fmt', None) != 'NHWC':
        channels, height, width = output.shape[1:]
        return channels, height, width
    found = f'a tensor of shape {tuple(output.shape)}' if isinstance(output, Tensor) else f'a {type(output).__name__}'
    raise SettingError(
        f'{name} returns {found}, not a map, images x channels x height x width. Use a convolutional network, or a '
        'method that compares pooled features or logits.'
    )
