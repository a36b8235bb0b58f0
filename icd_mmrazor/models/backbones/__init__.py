"""Backbones that mmpretrain and mmrazor lack."""

from icd_mmrazor.models.backbones.cifar_hkd import CIFARConvNet, CIFARPreActResNet
from icd_mmrazor.models.backbones.cifar_mobilenet_v2 import CIFARMobileNetV2
from icd_mmrazor.models.backbones.cifar_resnet import CIFARResNet
from icd_mmrazor.models.backbones.cifar_shufflenet import CIFARShuffleNetV1, CIFARShuffleNetV2
from icd_mmrazor.models.backbones.cifar_vgg import CIFARVGG
from icd_mmrazor.models.backbones.hugging_face import HuggingFaceBackbone

__all__ = [
    'CIFARVGG',
    'CIFARConvNet',
    'CIFARMobileNetV2',
    'CIFARPreActResNet',
    'CIFARResNet',
    'CIFARShuffleNetV1',
    'CIFARShuffleNetV2',
    'HuggingFaceBackbone',
]
