"""Export of a classifier to ONNX, verified in onnxruntime."""

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import BaseModel
from mmpretrain.datasets import remove_transform
from mmpretrain.registry import TRANSFORMS
from torch import Tensor, nn

from icd_mmrazor.checkpoints.writing import atomic_write
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.export.network import quiet
from icd_mmrazor.models.networks.classifier_layer import number_of_channels

PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
TOLERANCE = 1e-4  # of the largest logit
DUMMY_SIZES = ((97, 131), (256, 301))


def require_onnx() -> None:
    """Raise a ``SettingError`` if a package for an export is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingError(
            f"--onnx needs {', '.join(missing)}, not installed here. Install: pip install 'icd-mmrazor[onnx]'"
        )


def input_size(cfg: Config, channels: int) -> tuple[int, int]:
    """Return the height and width of the images that a plain classifier's test pipeline makes.

    Raises:
        SettingError: There is no such pipeline, or it keeps the size of an image.
    """
    pipeline, sizes = _pipeline(cfg), set()
    if pipeline:
        # as in mmpretrain's inferencer
        transforms = Compose([TRANSFORMS.build(t) for t in remove_transform(pipeline, 'LoadImageFromFile')])
        for size in DUMMY_SIZES:
            # a gray image in a file is read with three channels
            image = np.zeros((*size, 3 if channels == 1 else channels), np.uint8)
            sizes.add(tuple(transforms(dict(img=image, img_shape=size, ori_shape=size))['inputs'].shape[-2:]))
    if len(sizes) != 1:
        raise SettingError(
            "--onnx: the config's test pipeline does not set the size of the images. Give --input-size H W."
        )
    return sizes.pop()


def write_onnx(model: BaseModel, cfg: Config, path: Path, size: tuple[int, int], classes: list[str] | None) -> float:
    """Write a classifier to an ONNX file, after comparing its logits in onnxruntime with those in torch.

    The input ``images`` is ``B x C x H x W``, float32, normalised, for any ``B``; the output ``logits`` is
    ``B x num_classes``. The metadata holds, as JSON, ``mean`` and ``std`` (C numbers each, for pixels of 0 to 255),
    ``channel_order`` (``RGB`` or ``BGR``, for three channels), and ``classes`` if they are known.

    Args:
        model: The classifier.
        cfg: Its plain config.
        path: The file; its folder exists.
        size: Height and width of the images.
        classes: Names of the classes.

    Returns:
        The largest difference of the logits, on random images.

    Raises:
        UserError: The network cannot be exported, or its logits differ.
    """
    import onnx
    import onnxruntime

    network = _Logits(model).eval()
    shape = number_of_channels(model), *size
    # torch.export takes a batch of one for a constant
    images = torch.zeros(2, *shape)
    try:
        with _without_progress(), torch.no_grad():
            program = torch.onnx.export(
                network,
                (images,),
                input_names=['images'],
                output_names=['logits'],
                dynamic_shapes={'images': {0: torch.export.Dim('batch')}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # of any operation
        reason = str(error).strip().partition('\n')[0]
        raise UserError(f'--onnx: torch cannot export this {type(model).__name__}: {reason}') from error
    proto = program.model_proto
    about = _normalisation(model, cfg) | ({'classes': list(classes)} if classes else {})
    onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in about.items()})
    content = proto.SerializeToString()

    batch = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    found = session.run(['logits'], {'images': batch.numpy()})[0]
    with torch.no_grad():
        expected = network(batch).numpy()
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise UserError(
            f'--onnx: the logits in onnxruntime differ by {difference:.2g} from those in torch, so no file was written.'
        )
    atomic_write(content, path)
    return difference


def _pipeline(cfg: Config) -> list[dict]:
    return cfg.get('test_dataloader', {}).get('dataset', {}).get('pipeline') or []


class _Logits(nn.Module):
    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, mode='tensor')


def _normalisation(model: BaseModel, cfg: Config) -> dict[str, Any]:
    preprocessor, channels = model.data_preprocessor, number_of_channels(model)
    mean, std = torch.zeros(channels), torch.ones(channels)
    if getattr(preprocessor, 'mean', None) is not None:
        # one number may be for all channels
        mean, std = preprocessor.mean.flatten().expand(channels), preprocessor.std.flatten().expand(channels)
    about: dict[str, Any] = {'mean': mean.tolist(), 'std': std.tolist()}
    if channels != 3:
        return about
    # images in files are read as BGR, those in arrays are RGB
    from_arrays = any(type_name(transform.get('type')) == 'ImageAsInDataset' for transform in _pipeline(cfg))
    turned = any(getattr(preprocessor, name, False) for name in ('to_rgb', '_channel_conversion'))
    order = 'RGB' if from_arrays != turned else 'BGR'
    return {**about, 'channel_order': order}


@contextlib.contextmanager
def _without_progress() -> Iterator[None]:
    log = quiet(logging.getLogger('torch.onnx'), logging.ERROR)
    with log, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        yield
