"""Layouts of features: maps of convolutional networks, tokens of transformers."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from icd_mmrazor.errors import SettingError

FORMS = ('map', 'tokens', 'class_token')


@dataclass(frozen=True)
class Layout:
    """How the output of a module becomes a feature.

    The output is a map, ``B x C x H x W`` or ``B x H x W x C``; tokens, ``B x N x C``, perhaps with extra ones (class
    token, registers) before those of the patches; or a tuple of tokens and their height and width, as mmpretrain's
    ``PatchEmbed`` and the stages of its ``SwinTransformer`` return. Tokens lie row by row.

    Args:
        form: What it becomes: a ``'map'``, ``B x C x H x W``; the ``'tokens'`` of the patches, ``B x (H W) x C``; or
            the ``'class_token'``, ``B x C``.
        extra: How many tokens come before those of the patches.
        channels_last: Whether a map has its channels last.
        aspect: Height over width of the images, if a tuple does not tell it.
    """

    form: str = 'map'
    extra: int = 0
    channels_last: bool = False
    aspect: float = 1.0

    def __call__(self, output: Any) -> Tensor:
        """Convert the output of a module.

        Raises:
            SettingError: The tokens do not fill a rectangle of the images' shape.
        """
        size = None
        if isinstance(output, tuple | list):
            output, size = output
        if self.form == 'class_token':
            return output[:, 0]
        if output.ndim == 3:
            tokens = output[:, self.extra :]
            if self.form == 'tokens':
                return tokens
            height, width = size or self._size(tokens.shape[1])
            return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)
        maps = output.permute(0, 3, 1, 2) if self.channels_last else output
        return maps.flatten(2).transpose(1, 2) if self.form == 'tokens' else maps

    def _size(self, number: int) -> tuple[int, int]:
        height = round(math.sqrt(number * self.aspect))
        if height == 0 or number % height:
            raise SettingError(
                f'{number} tokens do not form a map whose height is {self.aspect:g} times its width, as that of the '
                'images. Set distiller.image_shape to the shape of the images, C x H x W.'
            )
        return height, number // height
