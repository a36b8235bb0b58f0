"""The image size that a network takes."""

from typing import Any

from mmpretrain.models import VGG, AlexNet, LeNet5
from torch import nn

from icd_mmrazor.models.networks.wrappers import unwrapped

# their own classifiers take a map of one size
WITH_CLASSIFIER = {VGG: 224, AlexNet: 224, LeNet5: 32}


def image_size_of(network: nn.Module) -> tuple[int, int] | None:
    """Return the height and width of the images that a network was built for; None if it takes any.

    It is that of the position embeddings of mmpretrain's and timm's transformers, what the config of a network of
    Hugging Face says, what mmpretrain's VGG, AlexNet and LeNet5 need for their own classifiers, or what the network
    says itself in ``image_size``.
    """
    for _, module in unwrapped(network):
        patch_embed, config = getattr(module, 'patch_embed', None), getattr(module, 'config', None)
        places = ((module, 'image_size'), (module, 'img_size'), (patch_embed, 'img_size'), (config, 'image_size'))
        for owner, name in places:
            if size := _pair(getattr(owner, name, None)):
                return size
        if type(module) in WITH_CLASSIFIER and module.num_classes > 0:
            return _pair(WITH_CLASSIFIER[type(module)])
    return None


def _pair(size: Any) -> tuple[int, int] | None:
    values = (size, size) if type(size) is int else size
    right = isinstance(values, list | tuple) and len(values) == 2 and all(type(value) is int for value in values)
    return (values[0], values[1]) if right else None
