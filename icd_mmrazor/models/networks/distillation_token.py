"""The two classifiers of a network with a distillation token."""

from typing import NamedTuple

from mmpretrain.models import DeiTClsHead
from torch import nn


class TokenClassifiers(NamedTuple):
    """The names of modules of a network with a distillation token (DeiT, arXiv 2012.12877)."""

    class_token: str  # the linear layer that classifies the class token
    distillation_token: str  # the one that classifies the distillation token
    average: str  # the module that returns the average of both


def token_classifiers(network: nn.Module) -> TokenClassifiers | None:
    """Return the classifiers of mmpretrain's ``DeiTClsHead``, or of timm's distilled DeiT; None of other networks."""
    if isinstance(getattr(network, 'head', None), DeiTClsHead):
        return TokenClassifiers('head.layers.head', 'head.layers.head_dist', 'head')
    inner = getattr(network, 'model', None)
    if hasattr(inner, 'dist_token') and isinstance(getattr(inner, 'head_dist', None), nn.Linear):
        return TokenClassifiers('model.head', 'model.head_dist', 'model')
    return None
