"""The image size that a network takes."""

from collections.abc import Mapping
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


def tell_image_size(network: nn.Module, setting: Any, published: tuple[int, int] | None = None) -> None:
    """Let a teacher say itself which images it gets, for the shapes of its features.

    That is ``image_size``, if it is set or published with the teacher's weights, or ``sees_student_images``.

    Args:
        network: The teacher.
        setting: Its ``teacher_preprocessor``.
        published: Height and width of the images that its weights were published for.
    """
    network.sees_student_images = setting == 'student'
    explicit = setting.get('size') if isinstance(setting, Mapping) else None
    size = explicit or (None if setting == 'student' else published)
    if size and (explicit or image_size_of(network) is None):
        network.image_size = (size, size) if isinstance(size, int) else tuple(size)


def image_shape_seen(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the images that a teacher sees, ``C x H x W``, given that of the student's."""
    size = None if getattr(network, 'sees_student_images', False) else image_size_of(network)
    return shape if size is None else (shape[0], *size)


def _pair(size: Any) -> tuple[int, int] | None:
    values = (size, size) if type(size) is int else size
    right = isinstance(values, list | tuple) and len(values) == 2 and all(type(value) is int for value in values)
    return (values[0], values[1]) if right else None
