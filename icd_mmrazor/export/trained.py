"""Trained students in memory."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmpretrain.datasets import remove_transform
from mmpretrain.registry import TRANSFORMS
from torch import Tensor, nn

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import load_strictly
from icd_mmrazor.configuration.files import apply_cfg_options, read_config_file
from icd_mmrazor.configuration.stored import config_of
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.network import build_network
from icd_mmrazor.export.student import plain_student, student_checkpoint
from icd_mmrazor.models.networks.classifier_layer import number_of_channels
from icd_mmrazor.models.networks.preparation import preparation_by
from icd_mmrazor.models.networks.retrieval import is_retriever

REMEDY = 'Give the config of the training, --config CONFIG; its custom_imports must name your own modules.'
DUMMY_SIZES = ((97, 131), (256, 301))


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedStudent:
    """A plain classifier with its weights, and what is known of it.

    Args:
        model: The classifier, in eval mode, on the CPU.
        cfg: Its plain config, from :func:`icd_mmrazor.export.student.plain_student`.
        checkpoint: Its plain checkpoint, from :func:`icd_mmrazor.export.student.student_checkpoint`.
        run_cfg: The config of the run that it comes from, which may have the training images.
    """

    model: BaseModel
    cfg: Config
    checkpoint: Mapping[str, Any]
    run_cfg: Config

    @property
    def kind(self) -> str:
        """The type of its network, for messages."""
        return type(getattr(self.model, 'backbone', self.model)).__name__

    @property
    def change(self) -> str:
        """How a distiller has changed the network; empty if it has not."""
        return getattr(self.model, 'change', '')

    @property
    def classes(self) -> list[str] | None:
        """The names of its classes, if its checkpoint has them."""
        classes = (self.checkpoint['meta'].get('dataset_meta') or {}).get('classes')
        return list(classes) if isinstance(classes, list | tuple) else None

    @property
    def channels(self) -> int:
        """The number of channels of its images."""
        return number_of_channels(self.model)

    @property
    def pipeline(self) -> list[dict]:
        """The pipeline of its test images; empty if the config has none."""
        return self.cfg.get('test_dataloader', {}).get('dataset', {}).get('pipeline') or []

    def logits(self) -> nn.Module:
        """Return the network that turns normalised images, ``B x C x H x W``, into logits, ``B x num_classes``.

        Of a retriever, it is embeddings instead, ``B x D``.
        """
        return _Logits(self.model).eval()

    def about(self) -> dict[str, Any]:
        """Return what a user of its logits must know, as plain values.

        These are ``mean`` and ``std`` (a number for each channel, for pixels of 0 to 255), ``channel_order`` (``RGB``
        or ``BGR``, for three channels), and ``classes`` if they are known.
        """
        return _normalisation(self) | ({'classes': self.classes} if self.classes else {})

    def image_size(self) -> tuple[int, int]:
        """Return the height and width of the images that its test pipeline makes.

        Raises:
            SettingError: The config has no test pipeline, or one that keeps the size of an image.
        """
        sizes = set()
        if self.pipeline:
            # as in mmpretrain's inferencer
            transforms = Compose([TRANSFORMS.build(t) for t in remove_transform(self.pipeline, 'LoadImageFromFile')])
            for size in DUMMY_SIZES:
                # a gray image in a file is read with three channels
                image = np.zeros((*size, 3 if self.channels == 1 else self.channels), np.uint8)
                sizes.add(tuple(transforms(dict(img=image, img_shape=size, ori_shape=size))['inputs'].shape[-2:]))
        if len(sizes) != 1:
            raise SettingError(
                "--input-size: the config's test pipeline does not set the size of the images. Give --input-size H W."
            )
        return sizes.pop()


def read_student(
    checkpoint: str | os.PathLike,
    config: str | os.PathLike | None = None,
    options: Mapping[str, Any] | None = None,
) -> TrainedStudent:
    """Read the student in a checkpoint of a distillation, or a plain classifier.

    Args:
        checkpoint: The file.
        config: The config of its training, a file that is run; by default the one in the checkpoint, which is data.
        options: Settings of that config to change, by their dotted keys.

    Raises:
        CheckpointError: The checkpoint cannot be read, or does not fit the config.
        SettingError: There is no config, or the student cannot be built from it.
    """
    content = read_checkpoint(checkpoint)
    run_cfg = read_config_file(config, '--config') if config else config_of(content, str(checkpoint))
    apply_cfg_options(run_cfg, options)
    cfg = plain_student(run_cfg)
    student = student_checkpoint(content, cfg, str(checkpoint))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build_network(f'the student of {config or f"the config in {checkpoint}"}', cfg.model, REMEDY).eval()
    load_strictly(model, student['state_dict'], f'the student in {checkpoint}')
    return TrainedStudent(model, cfg, student, run_cfg)


class _Logits(nn.Module):
    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        output = self.model(images, mode='tensor')
        # a retriever of mmpretrain may return its embedding in a tuple
        return output[-1] if isinstance(output, tuple) and is_retriever(self.model) else output


def _normalisation(student: TrainedStudent) -> dict[str, Any]:
    preparation, channels = preparation_by(student.model.data_preprocessor), student.channels
    about: dict[str, Any] = {
        # one number may be for all channels
        'mean': torch.tensor(preparation.mean or (0.0,)).expand(channels).tolist(),
        'std': torch.tensor(preparation.std or (1.0,)).expand(channels).tolist(),
    }
    if channels != 3:
        return about
    # images in files are read as BGR, those in arrays are RGB
    from_arrays = any(type_name(transform.get('type')) == 'ImageAsInDataset' for transform in student.pipeline)
    return {**about, 'channel_order': 'RGB' if from_arrays != preparation.turned else 'BGR'}
