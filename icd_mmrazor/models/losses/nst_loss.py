"""Neuron selectivity transfer (NST)."""

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.models.losses.base import FeatureLoss


@MODELS.register_module()
class NSTLoss(FeatureLoss):
    """Neuron selectivity transfer (NST), arXiv 1707.01219, with its polynomial kernel.

    The squared maximum mean discrepancy between the channels of two maps: each channel is normalised over the pixels,
    and the kernel of two channels is the square of their dot product. The numbers of channels may differ. Published on
    the maps of all stages, with weight 50. Arguments and errors are those of :class:`FeatureLoss`.

    Config example::

        distill_losses=dict(loss_nst=dict(type='NSTLoss', loss_weight=50.0))
    """

    takes_maps = True

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of maps ``B x C_s x H x W`` and ``B x C_t x H x W``."""
        s, t = (F.normalize(m.flatten(2), dim=2) for m in (student, teacher))
        return _mean_kernel(t, t) + _mean_kernel(s, s) - 2 * _mean_kernel(s, t)


def _mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of ``<a_i, b_j>^2`` over images and pairs of channels of ``B x C_a x N`` and ``B x C_b x N``."""
    channel_pairs = a.shape[1] * b.shape[1]
    if a.shape[2] ** 2 < channel_pairs:
        # the same sum over pairs of pixels, of which deep maps have few
        return ((a.mT @ a) * (b.mT @ b)).sum() / (len(a) * channel_pairs)
    return (a @ b.mT).square().mean()
