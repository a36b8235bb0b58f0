"""Connectors of factor transfer: mmrazor's, sized by the maps."""

from collections.abc import Sequence
from typing import Any

from mmrazor.models.architectures.connectors.factor_transfer_connectors import Paraphraser, Translator
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError


@MODELS.register_module()
class FTParaphraser(Paraphraser):
    """The autoencoder of the teacher's map in factor transfer (FT), NeurIPS 2018, arXiv 1802.04977.

    It is mmrazor's ``Paraphraser`` without batch norm, as published. It is first trained to :meth:`reconstruct` the
    teacher's map (mean squared error, 30 epochs), then frozen; its output is the factor.

    Args:
        teacher_shape: Shape of the teacher's map, ``(C, H, W)``, or only ``(C,)``.
        rate: Channels of the factor over those of the map.
        init_cfg: Same as in mmengine's ``BaseModule``. By default torch's initialisation, as published.

    Raises:
        SettingError: The shape is invalid, or the rate leaves no channel.

    Config example::

        connectors=dict(teacher=dict(type='FTParaphraser', teacher_shape=(256, 8, 8)))
    """

    def __init__(self, teacher_shape: Sequence[int], rate: float = 0.5, init_cfg: dict | None = None) -> None:
        channels, *_ = checks.shape('FTParaphraser', 'teacher_shape', teacher_shape, dims=(1, 3))
        super().__init__(channels, _factor_channels('FTParaphraser', channels, rate), phase='train', init_cfg=init_cfg)
        self.in_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Compute the factor of the teacher's map, ``B x (rate C) x H x W``, without a gradient."""
        checks.feature_map(self, 'teacher_shape', (self.in_channels,), x)
        return super().forward(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Encode and decode the teacher's map, to train both."""
        checks.feature_map(self, 'teacher_shape', (self.in_channels,), x)
        return self.forward_pretrain(x)


@MODELS.register_module()
class FTTranslator(Translator):
    """The student's map in the form of :class:`FTParaphraser`'s factor: mmrazor's ``Translator`` with batch norm.

    Args:
        student_shape: Shape of the student's map, ``(C, H, W)``, or only ``(C,)``.
        teacher_shape: Shape of the teacher's map, likewise.
        rate: Same as in :class:`FTParaphraser`.
        init_cfg: Same as in mmengine's ``BaseModule``. By default torch's initialisation, as published.

    Raises:
        SettingError: A shape is invalid, or the rate leaves no channel.

    Config example::

        connectors=dict(student=dict(type='FTTranslator', student_shape=(64, 8, 8), teacher_shape=(256, 8, 8)))
    """

    def __init__(
        self,
        student_shape: Sequence[int],
        teacher_shape: Sequence[int],
        rate: float = 0.5,
        init_cfg: dict | None = None,
    ) -> None:
        s_channels, *_ = checks.shape('FTTranslator', 'student_shape', student_shape, dims=(1, 3))
        t_channels, *_ = checks.shape('FTTranslator', 'teacher_shape', teacher_shape, dims=(1, 3))
        super().__init__(s_channels, _factor_channels('FTTranslator', t_channels, rate), init_cfg=init_cfg)
        self.in_channels = s_channels

    def forward_train(self, x: Tensor) -> Tensor:
        """Translate the student's map to ``B x (rate C_teacher) x H x W``."""
        checks.feature_map(self, 'student_shape', (self.in_channels,), x)
        return super().forward_train(x)


def _factor_channels(owner: str, channels: int, rate: Any) -> int:
    if not checks.is_number(rate) or rate * channels < 1:
        raise SettingError(f'{owner}: rate={rate!r} leaves none of {channels} channels. Published is 0.5.')
    return int(rate * channels)
