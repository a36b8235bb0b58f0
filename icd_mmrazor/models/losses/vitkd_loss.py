"""Feature distillation between vision transformers (ViTKD)."""

from collections.abc import Sequence

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.feature_lists import FeatureListLoss, Shapes


@MODELS.register_module()
class ViTKDLoss(FeatureListLoss):
    """Feature distillation between vision transformers (ViTKD), arXiv 2209.02432.

    The student mimics the tokens of the first blocks, each through a linear layer. Of its last tokens, also through a
    linear layer, a random share is hidden behind a learned token, and two convolutions generate the teacher's tokens
    from the rest. With sums over tokens and channels::

        (alpha * sum |linear(student) - teacher|^2 + beta / hidden * sum over hidden tokens |generated - teacher|^2) / B

    The features of each network are maps in which the tokens lie, ``B x D x H x W``, without a class token: the outputs
    of the first blocks, two as published, and the last tokens after the final norm. The linear layers are left out if
    both networks have the same width. The sums grow with the number of tokens and the width, so the weights are those
    of 14 x 14 tokens. As released (yzd-v/cls_KD, 1e5d48f), whose configs also switch NKD on.

    Args:
        student_shapes, teacher_shapes: Shapes of the maps, ``(D, H, W)`` each; all of a network are equal.
        alpha: Weight of the first term, 0 or greater.
        beta: Weight of the second term, likewise.
        hidden: Share of the tokens that is hidden, greater than 0, 1 at most.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range, or the maps are not those of two transformers with equally many
            tokens.

    Config example::

        losses=dict(vitkd=dict(
            loss=dict(type='ViTKDLoss'),
            inputs=dict(
                s_features=dict(network='student', feature=['block1', 'block2', 'last_map']),
                t_features=dict(network='teacher', feature=['block1', 'block2', 'last_map']))))
    """

    def __init__(
        self,
        student_shapes: Shapes,
        teacher_shapes: Shapes,
        alpha: float = 3e-5,
        beta: float = 3e-6,
        hidden: float = 0.5,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.alpha = checks.not_negative(self, 'alpha', alpha)
        self.beta = checks.not_negative(self, 'beta', beta)
        if not checks.is_number(hidden) or not 0 < hidden <= 1:
            raise SettingError(f'ViTKDLoss: hidden={hidden!r} must be a number greater than 0, 1 at most.')
        self.hidden = hidden
        self.check_shapes(student_shapes, teacher_shapes)
        s_width, t_width = student_shapes[0][0], teacher_shapes[0][0]
        same = s_width == t_width
        # one for each feature, the last one for the last tokens
        self.linears = nn.ModuleList(nn.Identity() if same else nn.Linear(s_width, t_width) for _ in student_shapes)
        self.mask_token = nn.Parameter(torch.zeros(t_width))
        self.generation = nn.Sequential(
            nn.Conv2d(t_width, t_width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(t_width, t_width, 3, padding=1),
        )

    def check_shapes(self, s_features: Shapes, t_features: Shapes) -> None:
        """Refuse maps other than those of two plain transformers, given their shapes, ``D x H x W``.

        Raises:
            SettingError: Their numbers differ or are less than two, or their sizes or those in a network differ.
        """
        lists = [[tuple(shape) for shape in shapes] for shapes in (s_features, t_features)]
        shapes = f'the student has {lists[0]}, the teacher {lists[1]}'
        if len(lists[0]) != len(lists[1]) or len(lists[0]) < 2:
            raise SettingError(
                f'ViTKDLoss compares the first blocks and the last tokens; {shapes}. Name the same '
                'number of features of both, at least two.'
            )
        if any(len({*each}) > 1 or len(each[0]) != 3 for each in lists):
            raise SettingError(
                'ViTKDLoss compares the tokens of plain vision transformers, which have one width and size from the '
                f'first block to the last; {shapes}. Use another method for networks with stages.'
            )
        if lists[0][0][1:] != lists[1][0][1:]:
            raise SettingError(
                f'ViTKDLoss compares transformers with the same number of tokens, height x width; {shapes}. Use '
                'networks of the same patch size and image size.'
            )

    def forward(
        self, s_features: Sequence[Tensor], t_features: Sequence[Tensor], noise: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            s_features: Maps of the student, ``B x D x H x W``: outputs of the first blocks, and the last tokens.
            t_features: Those of the teacher, of the same images.
            noise: A number for each token, ``B x (H W)``; the tokens with the largest are hidden. Random by default.

        Raises:
            SettingError: The maps cannot be compared.
        """
        return self._checked_loss(s_features, t_features, noise=noise)

    def compare(self, student: list[Tensor], teacher: list[Tensor], noise: Tensor | None = None) -> Tensor:
        """Compute the loss without its weight, a scalar, of maps ``B x D x H x W`` of both networks."""
        if noise is None:
            noise = torch.rand(len(student[-1]), student[-1][0, 0].numel(), device=student[-1].device)
        *low, high = (_through(linear, m) for linear, m in zip(self.linears, student, strict=True))
        mimicking = torch.stack([(s - t).square().sum() for s, t in zip(low, teacher, strict=False)]).sum()
        mask = hidden_tokens(noise, self.hidden).view(-1, 1, *high.shape[2:])
        generated = self.generation(torch.where(mask, self.mask_token.view(-1, 1, 1).to(high.dtype), high))
        missing = ((generated - teacher[-1]) * mask).square().sum()
        return (self.alpha * mimicking + self.beta / self.hidden * missing) / len(high)


def hidden_tokens(noise: Tensor, share: float) -> Tensor:
    """Return which tokens are hidden, ``B x N``: a share of those of each image, the ones with the largest noise."""
    kept = int(noise.shape[1] * (1 - share))
    return noise.argsort(dim=1).argsort(dim=1) >= kept


def _through(linear: nn.Module, feature: Tensor) -> Tensor:
    """Return a map, ``B x D x H x W``, of which each token has passed through a linear layer."""
    return linear(feature.movedim(1, 3)).movedim(3, 1)
