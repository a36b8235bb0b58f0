"""The pooled feature of a network without a classifier."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError

FEATURES = ('auto', 'class_token', 'mean', 'class_token+mean', 'output')


class PooledFeature(nn.Module):
    """One vector for each image, from what a network without a classifier returns.

    ============================  =======================  ====================================================
    the network returns           ``'auto'``               other choices
    ============================  =======================  ====================================================
    a vector, ``B x D``           as it is                 none
    a map, ``B x C x H x W``      mean over the positions  ``'mean'``
    tokens, ``B x N x D``         the class token, if      ``'class_token'``; ``'mean'`` of the patch tokens;
                                  there is one; else the   ``'class_token+mean'``, one after the other
                                  mean of all tokens
    ============================  =======================  ====================================================

    The last of several outputs counts. Of an output of Hugging Face's ``transformers``, ``pooler_output`` is the vector
    and ``last_hidden_state`` has the tokens or the map. It has no parameters.

    Args:
        feature: One of ``'auto'``, ``'class_token'``, ``'mean'``, ``'class_token+mean'`` and ``'output'``, which is
            ``'auto'`` for a network that ends in a linear layer that is not a classifier.
        extra_tokens: The number of tokens before those of the patches: class token, registers. By default as many as
            remain after the largest square.

    Raises:
        SettingError: ``feature`` is something else, or (by the first images) the network's output does not have it.
    """

    def __init__(self, feature: str = 'auto', extra_tokens: int | None = None) -> None:
        super().__init__()
        self.feature = checks.one_of('FrozenTeacherDistill', 'teacher_feature', feature, FEATURES)
        self.extra_tokens = extra_tokens
        # without a choice what is there is taken
        self.free = feature in ('auto', 'output')

    def forward(self, output: Any) -> Tensor:
        """Pool the output of a network: a tensor, a sequence of them, or an output of ``transformers``; ``B x D``."""
        if isinstance(output, Mapping):
            output = _of_transformers(output, self.free)
        while isinstance(output, list | tuple) and output:
            output = output[-1]
        dimensions = output.ndim if isinstance(output, Tensor) else None
        if dimensions == 2 and self.free:
            return output
        if dimensions == 4 and (self.free or self.feature == 'mean'):
            return output.mean((2, 3))
        if dimensions == 3:
            return self._of_tokens(output)
        found = {2: 'a vector', 4: 'a map'}.get(dimensions, f'a {type(output).__name__}')
        shape = f' of shape {tuple(output.shape)}' if isinstance(output, Tensor) else ''
        raise SettingError(
            f'FrozenTeacherDistill: teacher_feature={self.feature!r}, but the teacher returns {found}{shape}. It must '
            "return a vector, a map or tokens for each image; 'auto' takes what is there."
        )

    def _of_tokens(self, tokens: Tensor) -> Tensor:
        extra = self.extra_tokens
        if extra is None:
            extra = tokens.shape[1] - math.isqrt(tokens.shape[1]) ** 2
        if not extra and 'class_token' in self.feature:
            raise SettingError(
                f'FrozenTeacherDistill: teacher_feature={self.feature!r}, but the teacher has no class token among its '
                f"{tokens.shape[1]} tokens. Set 'mean'."
            )
        mean = tokens[:, extra:].mean(1)
        if self.feature == 'mean' or not extra:
            return mean
        return tokens[:, 0] if self.free or self.feature == 'class_token' else torch.cat([tokens[:, 0], mean], 1)

    def extra_repr(self) -> str:
        """Return the setting, for printing."""
        return f'feature={self.feature!r}'


def _of_transformers(output: Mapping[str, Any], pooled: bool) -> Any:
    vector = output.get('pooler_output') if pooled else None
    if vector is not None:
        return vector.flatten(1)  # of a convolutional network: B x C x 1 x 1
    return output.get('last_hidden_state')
