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
        channels_last: Whether a map has its channels last, if ``channels`` does not tell.
        channels: How many channels a map has, if that is known.
        aspect: Height over width of the images, if a tuple does not tell it.
        has_class_token: Whether the first of the extra tokens is the class token; there may be registers alone.
    """

    form: str = 'map'
    extra: int = 0
    channels_last: bool = False
    channels: int | None = None
    aspect: float = 1.0
    has_class_token: bool = True

    def __call__(self, output: Any) -> Tensor:
        """Convert the output of a module.

        Raises:
            SettingError: The output is something else, or the tokens do not fill a rectangle of the images' shape.
        """
        size = None
        if isinstance(output, tuple | list) and len(output) == 2:
            is_map = isinstance(output[0], Tensor) and output[0].ndim == 4
            if is_map or not isinstance(output[1], Tensor):  # PiT returns a map and its class token
                output, size = output
        dims = (3,) if self.form == 'class_token' else (3, 4)
        if not isinstance(output, Tensor) or output.ndim not in dims:
            expected = 'tokens with a class token' if self.form == 'class_token' else 'a map or tokens'
            raise SettingError(
                f'{_described(output)} is not {expected}. Compare other features, such as pooled or logits.'
            )
        if self.form == 'class_token':
            return output[:, 0]
        if output.ndim == 3:
            tokens = output[:, self.extra :]
            if self.form == 'tokens':
                return tokens
            height, width = size or self._size(tokens.shape[1])
            return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)
        maps = output.permute(0, 3, 1, 2) if self._are_last(output.shape[1], output.shape[3]) else output
        return maps.flatten(2).transpose(1, 2) if self.form == 'tokens' else maps

    def _are_last(self, first: int, last: int) -> bool:
        told = first != last and self.channels in (first, last)
        return last == self.channels if told else self.channels_last

    def _size(self, number: int) -> tuple[int, int]:
        height = round(math.sqrt(number * self.aspect))
        if height == 0 or number % height:
            raise SettingError(
                f'{number} tokens do not form a map whose height is {self.aspect:g} times its width, as that of the '
                'images. Set distiller.image_shape to the shape of the images, C x H x W, or compare pooled features '
                'or logits.'
            )
        return height, number // height


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f'A tensor of shape {tuple(output.shape)}'
    if isinstance(output, tuple | list):
        return f'A {type(output).__name__} of {len(output)}'
    return f'A {type(output).__name__}'
