"""One square cut out of all images of a batch."""

import numpy as np
from mmpretrain.registry import BATCH_AUGMENTS
from torch import Tensor

from icd_mmrazor import checks


@BATCH_AUGMENTS.register_module()
class BatchCutout:
    """Set a square to 0, in normalised units, at the same place in all images of a batch.

    The centre is drawn uniformly among the pixels; what lies outside is cut off. This is the cutout of the released
    code of R2KD (Seonghak35/R2KD, commit ece240e), with a side of 8 for CIFAR-100 and 16 for Tiny ImageNet. Labels stay
    as they are.

    Args:
        side: Side of the square in pixels.

    Raises:
        SettingError: ``side`` is not a positive integer.

    Config example::

        model = dict(type='AugmentedDistill', augment=dict(type='BatchCutout', side=8))
    """

    # read by AugmentedDistill
    mixes_images = False

    def __init__(self, side: int = 8) -> None:
        self.side = checks.positive_int(self, 'side', side)

    def __call__(self, images: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return images, ``B x C x H x W``, with the square cut out, and their scores, ``B x classes``, unchanged."""
        top, left = (int(np.random.randint(size)) - self.side // 2 for size in images.shape[-2:])  # noqa: NPY002
        images = images.clone()
        images[..., max(top, 0) : top + self.side, max(left, 0) : left + self.side] = 0
        return images, scores
