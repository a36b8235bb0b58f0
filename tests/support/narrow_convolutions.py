"""Train strided 1 x 1 convolutions in the layout that is taken for them; print the widths whose gradients are right."""

import torch
from torch import nn

from icd_mmrazor.compat.layout import channels_last_is_sound


def gradients(convolution: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return those of images and weights."""
    images = images.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    convolution.zero_grad()
    convolution(images).square().sum().backward()
    return [images.grad.contiguous(), convolution.weight.grad.contiguous()]


def main() -> None:
    for channels in (4, 8, 12, 15, 16, 24):
        torch.manual_seed(0)
        convolution = nn.Conv2d(channels, 16, 1, stride=2, bias=False)
        images = torch.randn(16, channels, 32, 32)  # as where raw_stack.py sees it break
        want = gradients(convolution, images)
        layout = torch.channels_last if channels_last_is_sound(convolution) else torch.contiguous_format
        convolution.to(memory_format=layout)
        for _ in range(5):
            got = gradients(convolution, images.contiguous(memory_format=layout))
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-2)
        print(channels)


if __name__ == '__main__':
    main()
