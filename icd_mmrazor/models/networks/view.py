"""The images of a run as a teacher expects them."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from icd_mmrazor.models.networks.preparation import Preparation

INTERPOLATIONS = ('bilinear', 'bicubic')


class TeacherView(nn.Module):
    """From images as the run's data preprocessor gives them to images as one network expects them.

    One affine step for each channel turns the student's normalisation into the teacher's, with the channels in its
    order; then the image is resized to the teacher's size, antialiased. A crop, a flip or a mixture of images is the
    same for both networks. Where nothing differs, the images are returned as they are.

    Args:
        used: How the run's data preprocessor prepares images.
        own: How the network expects them; None: as they are.
        size: Height and width that the network expects; None: as they are.
        interpolation: ``'bilinear'`` or ``'bicubic'``.

    Attributes:
        turned (bool): Whether the order of the channels is reversed, see :meth:`turn`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        used: Preparation,
        own: Preparation | None = None,
        size: tuple[int, int] | None = None,
        interpolation: str = 'bilinear',
    ) -> None:
        super().__init__()
        self.used, self.own = used, used if own is None else own
        self.size, self.interpolation = size, interpolation
        self.register_buffer('scale', torch.ones(1), persistent=False)
        self.register_buffer('shift', torch.zeros(1), persistent=False)
        self.turn(False)

    def turn(self, turned: bool) -> None:
        """Set whether the network expects the channels in reverse order."""
        self.turned = turned
        # as they are rounded in messages, so that the same values, written differently, change nothing
        alike = self.used.normalisation == self.own.normalisation
        self.normalises = not alike or (turned and bool(self.used.normalisation))
        if not self.normalises:
            return
        mean, std = _statistics(self.used)
        if turned:
            mean, std = mean.flip(0), std.flip(0)
        own_mean, own_std = _statistics(self.own)
        device = self.scale.device
        self.scale = (std / own_std).float().view(1, -1, 1, 1).to(device)
        self.shift = ((mean - own_mean) / own_std).float().view(1, -1, 1, 1).to(device)

    def forward(self, images: Tensor) -> Tensor:
        """Convert images, ``B x C x H x W``."""
        if self.turned:
            images = images.flip(1)
        if self.normalises:
            images = torch.addcmul(self.shift, images, self.scale)
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = interpolate(images, self.size, mode=self.interpolation, antialias=True)
        return images

    @property
    def changes(self) -> bool:
        """Whether the network sees other images than the student."""
        return self.turned or self.normalises or self.size is not None

    def extra_repr(self) -> str:
        """Describe what the network sees, for the report."""
        texts = [self.own.normalisation or 'no mean and std']
        texts += ['channels in reverse order'] if self.turned else []
        texts += [f'{self.size[0]} x {self.size[1]} pixels ({self.interpolation})'] if self.size else []
        return ', '.join(texts)


def _statistics(preparation: Preparation) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation in double precision, one value for each channel or for all."""
    mean = torch.tensor(preparation.mean or (0.0,), dtype=torch.float64)
    return mean, torch.tensor(preparation.std or (1.0,), dtype=torch.float64)
