"""Flow of the solution procedure (FSP)."""

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import full_precision, pool_to_smaller


@MODELS.register_module()
class FSPLoss(FeatureLoss):
    """Flow of the solution procedure (FSP), "A Gift from Knowledge Distillation", CVPR 2017.

    The flow between two maps of a network is the mean over the pixels of the products of their channels,
    ``C_bottom x C_top``, the larger map averaged to the size of the smaller; the loss is the mean squared difference
    between the student's flow and the teacher's. The networks must have the same widths; their sizes may differ.
    Published on each map and the next, starting with the stem's, with weight 1 in an initial stage of 30 epochs without
    other losses. Arguments and errors are those of :class:`FeatureLoss`.

    Config example::

        distill_losses=dict(loss_fsp=dict(type='FSPLoss'))
    """

    def forward(self, s_bottom: Tensor, s_top: Tensor, t_bottom: Tensor, t_top: Tensor) -> Tensor:
        """Compute the loss of a map of the student, ``B x C_bottom x H x W``, a later one, and two of the teacher.

        Raises:
            SettingError: One is not a map, or batch sizes or widths differ.
        """
        maps = dict(s_bottom=s_bottom, s_top=s_top, t_bottom=t_bottom, t_top=t_top)
        shapes = ', '.join(f'{name} is {tuple(m.shape)}' for name, m in maps.items())
        if any(m.ndim != 4 or m.numel() == 0 for m in maps.values()):
            raise SettingError(
                f'FSPLoss takes four maps, images x channels x height x width: {shapes}. Record stages of the networks.'
            )
        if len({len(m) for m in maps.values()}) > 1:
            raise SettingError(f'FSPLoss compares maps of the same images, the batch sizes differ: {shapes}.')
        self.check_shapes(**{name: m.shape[1:] for name, m in maps.items()})
        return super().forward(_flow(s_bottom, s_top), _flow(t_bottom, t_top))

    @staticmethod
    def check_shapes(
        s_bottom: tuple[int, ...], s_top: tuple[int, ...], t_bottom: tuple[int, ...], t_top: tuple[int, ...]
    ) -> None:
        """Refuse networks of different widths; the arguments are the shapes of the maps, ``C x H x W``."""
        student, teacher = (s_bottom[0], s_top[0]), (t_bottom[0], t_top[0])
        if student != teacher:
            raise SettingError(
                f'FSPLoss needs equal widths: two maps of the student have {student[0]} and {student[1]} channels, '
                f'those of the teacher {teacher[0]} and {teacher[1]}. Use a pair of one family, or another method.'
            )

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of flows, flattened to ``B x (C_bottom C_top)``."""
        return F.mse_loss(student, teacher)


def _flow(bottom: Tensor, top: Tensor) -> Tensor:
    """Return the flow between two maps, ``B x C_bottom x C_top``."""
    with full_precision(bottom, top) as maps:
        bottom, top = (m.flatten(2) for m in pool_to_smaller(*maps))
        return bottom @ top.mT / top.shape[2]
