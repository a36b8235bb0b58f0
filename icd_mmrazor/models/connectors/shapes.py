"""Check of the maps that a connector is called with."""

from typing import Any

from torch import Tensor

from icd_mmrazor.errors import SettingError


def check_map(owner: Any, name: str, shape: tuple[int, ...], feature: Tensor) -> None:
    """Refuse a map of another shape than the argument ``name`` of its connector gives, ``(C, H, W)`` or ``(C,)``."""
    if feature.ndim != 4 or tuple(feature.shape[1 : 1 + len(shape)]) != shape:
        raise SettingError(
            f'{type(owner).__name__}({name}={shape}) got a feature of shape {tuple(feature.shape)}. Set {name} to the '
            "shape of the recorded map, without the batch (a FeatureDistiller's image_shape to that of the images), or "
            'record another.'
        )
