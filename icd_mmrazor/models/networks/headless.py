"""Networks without a classifier as teachers."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModel
from mmpretrain.models import BaseClassifier, ClsHead, ImageClassifier, TimmClassifier
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classifier_layer import classifying_layers, find_classifier, is_headless
from icd_mmrazor.models.networks.pooled_feature import PooledFeature
from icd_mmrazor.models.networks.wrappers import unwrapped


class ImageNetwork(BaseClassifier):
    """A network that takes images alone, called as mmpretrain's classifiers are.

    Args:
        model: The network: images, ``B x C x H x W``, to logits, or to features if it has no classifier.
        pooling: Pools the features; None if the network has a classifier.
        data_preprocessor: Same as in mmengine's ``BaseModel``.
    """

    def __init__(
        self, model: nn.Module, pooling: PooledFeature | None, data_preprocessor: dict | nn.Module | None = None
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.model, self.pooling = model, pooling

    def extract_feat(self, inputs: Tensor) -> Any:
        """Return what the network returns for images, ``B x C x H x W``; of a network of timm, the unpooled tokens."""
        # what timm's own forward pools as the network was trained
        unpooled = self.pooling is not None and not self.pooling.free
        if not (unpooled and hasattr(self.model, 'forward_features')):
            return self.model(inputs)
        features = self.model.forward_features(inputs)
        return features.permute(0, 3, 1, 2) if getattr(self.model, 'output_fmt', None) == 'NHWC' else features

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """Return the logits or the pooled feature of images (``mode='tensor'``), or predictions (``'predict'``)."""
        output = self.extract_feat(inputs)
        output = output if self.pooling is None else self.pooling(output)
        if isinstance(output, Mapping) and 'logits' in output:  # of Hugging Face
            output = output['logits']
        if mode == 'tensor':
            return output
        if mode != 'predict' or self.pooling is not None:
            raise SettingError(f'{type(self.model).__name__} as a teacher cannot be called with mode={mode!r}.')
        # the part of TimmClassifier that knows nothing of timm
        return TimmClassifier._get_predictions(self, output, data_samples)


def as_teacher(network: nn.Module, feature: str = 'auto') -> nn.Module:
    """Make a network that has been built, its weights loaded, a teacher that can be called like any other.

    A network without a classifier gets a module that pools its feature: mmpretrain's ``ImageClassifier`` as its
    ``head``, so that the names of its modules stay; any other network becomes an :class:`ImageNetwork`, whose module
    ``model`` it is. A module that takes images alone is one without a classifier unless its last layer is linear.

    Args:
        network: An mmpretrain model, one of its backbones, or any module that takes images alone.
        feature: Which feature is the pooled one, see :class:`PooledFeature`; ``'auto'`` also for classifiers.

    Raises:
        SettingError: The network has a classifier, and ``feature`` is set.
    """
    plain = not isinstance(network, BaseModel)
    headless = is_headless(network) or (plain and feature != 'auto')
    if not headless and feature != 'auto':
        raise SettingError(
            f'FrozenTeacherDistill: teacher_feature={feature!r} is for teachers without a classifier, and this '
            f'{type(network).__name__} has one, whose input is the feature. Remove the setting, or the classifier '
            '(head=None, num_classes=0).'
        )
    if isinstance(network, ImageClassifier) and headless:
        if network.head is None:
            network.head = pooling_for(network.backbone, feature, network.neck is not None)
        return network
    if isinstance(network, TimmClassifier) and headless:
        return ImageNetwork(network.model, pooling_for(network.model, feature), network.data_preprocessor)
    if plain:
        return ImageNetwork(network, pooling_for(network, feature) if headless else None)
    return network


def cut_own_classifier(network: ImageClassifier) -> ImageClassifier:
    """Cut the last layer off the classifier that a backbone has itself, as mmpretrain's VGG, AlexNet and LeNet5 have.

    The network, changed in place, then has no head, and the output of its backbone is the input of that layer.

    Raises:
        SettingError: It is not known which layer computes the logits.
    """
    network.head = ClsHead()  # under which the backbone classifies
    if classifying_layers(network):
        network.set_submodule(find_classifier(network), _BeforeClassifier())
    network.head = None
    return network


class _BeforeClassifier(nn.Module):
    """Return the input of a layer that has been cut off: ``B x D``, also of one image, which LeNet5 squeezes."""

    def forward(self, feature: Tensor) -> Tensor:
        return torch.atleast_2d(feature)


def pooling_for(network: nn.Module, feature: str, has_neck: bool = False) -> PooledFeature:
    """Return what pools the output of a network; one of mmpretrain that would pool itself is told to return tokens."""
    if feature not in ('auto', 'output') and hasattr(network, 'out_type') and not has_neck:
        network.out_type = 'raw'
    for _, module in unwrapped(network):
        for name in ('num_extra_tokens', 'num_prefix_tokens'):
            if isinstance(number := getattr(module, name, None), int):
                return PooledFeature(feature, number)
    return PooledFeature(feature)
