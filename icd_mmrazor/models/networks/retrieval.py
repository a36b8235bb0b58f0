"""Networks that embed images to search them."""

from dataclasses import dataclass
from typing import Any

from mmpretrain.models import BaseRetriever
from torch import Tensor, nn

from icd_mmrazor.models.networks.layouts import Layout
from icd_mmrazor.models.networks.points import Point, output_of

# of mmpretrain's ImageToImageRetriever
ENCODER = 'image_encoder'


@dataclass(frozen=True)
class LastOutput(Layout):
    """The last of the outputs of a module that returns a tuple, as ``B x D``."""

    def __call__(self, output: Any) -> Tensor:
        """Take the last output."""
        return (output[-1] if isinstance(output, tuple | list) else output).flatten(1)


def is_retriever(network: nn.Module) -> bool:
    """Return whether a network is one of mmpretrain's retrievers of images."""
    return isinstance(network, BaseRetriever) and hasattr(network, ENCODER)


def embedding_of(network: nn.Module, pooling: str) -> Point:
    """Return the point of what a network without a classifier returns; ``pooling`` is the module that computes it."""
    return output_of(pooling, LastOutput() if is_retriever(network) else None)
