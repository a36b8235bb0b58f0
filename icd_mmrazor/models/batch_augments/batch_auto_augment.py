"""One policy of AutoAugment for all images of a batch."""

from collections.abc import Sequence

import torch
from mmpretrain.registry import BATCH_AUGMENTS
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError

POLICIES = {policy.value: policy for policy in AutoAugmentPolicy}


@BATCH_AUGMENTS.register_module()
class BatchAutoAugment:
    """torchvision's ``AutoAugment`` on a batch that is normalised: all images get the same operations.

    The batch is converted back to pixels, 0 to 255, and normalised again afterwards. As in the released code of R2KD
    (Seonghak35/R2KD, commit ece240e), with the policy ``cifar10`` for CIFAR-100 and ``imagenet`` for Tiny ImageNet.
    Gray values are computed as for RGB images. Labels stay as they are.

    Args:
        policy: ``'cifar10'``, ``'imagenet'`` or ``'svhn'``.
        mean, std: Those that the images were normalised with, a number for each channel or for all. An
            ``AugmentedDistill`` takes them from its data preprocessor.

    Raises:
        SettingError: The policy is unknown, or ``mean`` and ``std`` are not numbers; or images have other than one or
            three channels.

    Config example::

        model = dict(type='AugmentedDistill', augment=dict(type='BatchAutoAugment', policy='imagenet'))
    """

    # read by AugmentedDistill
    mixes_images = False

    def __init__(self, policy: str = 'cifar10', mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)) -> None:
        self.policy = checks.one_of(self, 'policy', policy, POLICIES)
        for name, values in (('mean', mean), ('std', std)):
            numbers = isinstance(values, list | tuple) and len(values) in (1, 3) and all(map(checks.is_number, values))
            if not numbers or (name == 'std' and min(values) <= 0):
                raise SettingError(
                    f'BatchAutoAugment: {name}={values!r} must be a list of one number or three, of pixels between 0 '
                    'and 255' + ('; each positive.' if name == 'std' else '.')
                )
        self.mean, self.std = tuple(mean), tuple(std)
        self._transform = AutoAugment(POLICIES[policy])

    def __call__(self, images: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return augmented images, ``B x C x H x W``, and their scores, ``B x classes``, unchanged."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise SettingError(
                f'BatchAutoAugment takes gray or RGB images, and a batch has shape {tuple(images.shape)}. Use another '
                'augmentation, such as BatchCutout.'
            )
        mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        pixels = (images * std + mean).round().clamp(0, 255).to(torch.uint8)
        return (self._transform(pixels).to(images.dtype) - mean) / std, scores
