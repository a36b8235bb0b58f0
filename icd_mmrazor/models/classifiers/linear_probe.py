"""How well the features of a trained network serve other images."""

from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmpretrain.models import DeiTClsHead, ImageClassifier, LinearClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import load_strictly, weights_of
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.preparation import preparation_of_checkpoint
from icd_mmrazor.models.networks.resolve import network_config


@MODELS.register_module()
class LinearProbe(ImageClassifier):
    """A trained network whose features a new linear classifier reads.

    Backbone and neck are those of the student, in eval mode, and no gradient reaches them. The new classifier begins
    with normal weights of deviation 0.01 and a bias of 0. A checkpoint holds all three, so it is that of a plain
    ``ImageClassifier`` with this backbone, this neck and a ``LinearClsHead``.

    Tian, Krishnan and Isola, *Contrastive Representation Distillation*, ICLR 2020, compare students so: trained on
    CIFAR-100, probed on STL-10 and Tiny ImageNet.

    Args:
        num_classes: How many classes the new images have.
        student_ckpt: The student's checkpoint, of a distillation or of a plain network: a file or an ``https://``
            address.
        student: The student's network, where the checkpoint does not say it, in any form that
            :func:`icd_mmrazor.models.networks.resolve.network_config` takes. Those that mmengine wrote and exported
            students say it.
        data_preprocessor: Config of what the network sees the new images through; its type is
            :class:`ProbeDataPreprocessor` unless it names another.
        **kwargs: Other arguments of mmpretrain's ``ImageClassifier`` but ``backbone``, ``neck``, ``head`` and
            ``pretrained``.

    Attributes:
        trained_on (Preparation | None): How images were prepared for the student, where its checkpoint says so.

    Raises:
        SettingError: ``student_ckpt`` is not given, nothing says the network, or it is no network with one feature in
            front of its head.
        CheckpointError: The checkpoint is missing, is not a plain weights file, or is of another network.

    Config example::

        model = dict(
            type='LinearProbe', num_classes=10,
            student_ckpt='work_dirs/icd_res56_res20_cifar100/student_last.pth')
    """

    def __init__(
        self,
        num_classes: int,
        student_ckpt: str | None = None,
        student: str | dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if not student_ckpt:
            raise SettingError(
                f'LinearProbe: student_ckpt={student_ckpt!r}. A probe reads a trained network: give its checkpoint, '
                'for example --cfg-options model.student_ckpt=work_dirs/icd_res56_res20_cifar100/student_last.pth.'
            )
        checkpoint = read_checkpoint(student_ckpt)
        network = _build(network_config(student, 'model.student') if student else _network_in(checkpoint, student_ckpt))
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {'type': 'ProbeDataPreprocessor', **(data_preprocessor or {})}
        super().__init__(
            backbone=network.backbone,
            neck=network.neck,
            head=LinearClsHead(num_classes, network.head.in_channels),
            data_preprocessor=data_preprocessor,
            **kwargs,
        )
        weights = weights_of(checkpoint, student_ckpt)
        weights = {name: weight for name, weight in weights.items() if not name.startswith('head.')}
        weights |= {f'head.{name}': weight for name, weight in self.head.state_dict().items()}
        load_strictly(self, weights, f'{student_ckpt=!s}')
        self.trained_on = preparation_of_checkpoint(checkpoint)
        for part in self._frozen:
            part.requires_grad_(False)
        self.train()
        print_log(
            f'LinearProbe: a new classifier of {num_classes} classes reads the feature, {self.head.in_channels} wide, '
            f'of {student_ckpt} ({type(self.backbone).__name__}), which stays as it is.',
            logger='current',
        )

    @property
    def _frozen(self) -> list[nn.Module]:
        return [part for part in (self.backbone, self.neck) if part is not None]

    def init_weights(self) -> None:
        """Initialise the classifier alone: the rest is loaded."""
        self.head.init_weights()

    def train(self, mode: bool = True) -> 'LinearProbe':
        """Set the mode of the classifier; backbone and neck stay in eval mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def extract_feat(self, inputs: Tensor, stage: str = 'neck') -> tuple[Tensor, ...] | Tensor:
        """Compute the features of images, without gradients.

        Args:
            inputs: Images, ``B x C x H x W``, normalised; or features, ``B x E``, which were computed before.
            stage: As of ``ImageClassifier``.

        Returns:
            As of ``ImageClassifier``: the features of each stage, or that in front of the classifier.
        """
        if inputs.ndim == 2:
            return inputs if stage == 'pre_logits' else (inputs,)
        with torch.no_grad():
            return super().extract_feat(inputs, stage)


def name_student_in_full(model: ConfigDict) -> None:
    """Put the network that a probe reads into the probe's config.

    The config that is stored with a run then says all of the plain classifier that the run makes.

    Args:
        model: Config of a :class:`LinearProbe`; changed.

    Raises:
        SettingError: Nothing says the network.
        CheckpointError: The student's checkpoint is missing or is not a plain weights file.
    """
    if model.get('student'):
        model.student = network_config(model.student, 'model.student')
    elif model.get('student_ckpt'):
        model.student = _network_in(read_checkpoint(model.student_ckpt), model.student_ckpt)


def _network_in(checkpoint: dict, path: str) -> ConfigDict:
    """Return the config of the student that a checkpoint says."""
    # here: that module imports from this package
    from icd_mmrazor.configuration.stored import config_of
    from icd_mmrazor.export.student import student_of

    try:
        cfg = student_of(config_of(checkpoint, path))
        # it would read the checkpoint that the file names, which may be the file itself
        if 'LinearProbe' in repr(cfg):
            raise SettingError('its network is a LinearProbe. Give the checkpoint of the student that it read.')
        return cfg
    except SettingError as error:
        raise SettingError(
            f'LinearProbe: student_ckpt={path}: {error}\nOr name its network here, for example --cfg-options '
            'model.student=configs/vanilla/res20_cifar100.py.'
        ) from error


def _build(cfg: dict) -> ImageClassifier:
    network = MODELS.build(cfg)
    head = getattr(network, 'head', None)
    # a distilled DeiT's reads two features
    one_feature = isinstance(getattr(head, 'in_channels', None), int) and not isinstance(head, DeiTClsHead)
    if not isinstance(network, ImageClassifier) or not one_feature:
        raise SettingError(
            f'LinearProbe: the student is of type {type(network).__name__} with a head of type {type(head).__name__}. '
            'It must be an ImageClassifier of mmpretrain whose head reads one feature and says how wide that is '
            '(in_channels), as LinearClsHead does.'
        )
    return network
