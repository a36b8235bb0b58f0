"""CIFAR networks that mmpretrain and mmrazor lack."""

from icd_mmrazor.models.backbones.cifar_resnet import CIFARResNet

__all__ = ['CIFARResNet']
