"""A linear classifier on the features of a trained network."""

from collections import defaultdict
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmpretrain.models import ClsDataPreprocessor, DeiTClsHead, ImageClassifier, LinearClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import load_strictly, weights_of
from icd_mmrazor.configuration.stored import config_of
from icd_mmrazor.configuration.type_names import dicts, type_name
from icd_mmrazor.datasets.fingerprints import fingerprint_of_tensors
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.output_cache import OutputCache, image_keys
from icd_mmrazor.models.networks.preparation import preparation_of_checkpoint
from icd_mmrazor.models.networks.resolve import network_config
from icd_mmrazor.models.networks.student import student_of

# configs of 0.1 name it: its features passed through
MODELS.register_module(name='ProbeDataPreprocessor', module=ClsDataPreprocessor)


@MODELS.register_module()
class LinearProbe(ImageClassifier):
    """A trained network, frozen, with a new linear classifier on its features.

    Backbone and neck are the student's, in eval mode and without gradients; a checkpoint of the probe is that of a
    plain ``ImageClassifier`` with a ``LinearClsHead``. The feature of an image, recognised by its pixels, is computed
    once; at most 100,000 features are kept in each mode. Students are compared in this way in *Contrastive
    Representation Distillation* (Tian et al., ICLR 2020).

    Args:
        num_classes: Number of classes of the new images.
        student_ckpt: The student's checkpoint, of a distillation or of a plain network: a file or an ``https://``
            address.
        student: The student's network, needed only if the checkpoint has no config; see
            :func:`icd_mmrazor.models.networks.resolve.network_config`.
        **kwargs: Other arguments of mmpretrain's ``ImageClassifier`` except ``backbone``, ``neck``, ``head`` and
            ``pretrained``.

    Attributes:
        trained_on (Preparation | None): How images were prepared for the student, if its checkpoint says so.

    Raises:
        SettingError: ``student_ckpt`` is missing, the network is unknown, or its head does not read one feature.
        CheckpointError: The checkpoint is missing, is not a plain weights file, or does not fit the network.

    Config example::

        model = dict(
            type='LinearProbe', num_classes=10,
            student_ckpt='work_dirs/icd_res56_res20_cifar100/student_last.pth')
    """

    def __init__(
        self, num_classes: int, student_ckpt: str | None = None, student: str | dict | None = None, **kwargs: Any
    ) -> None:
        if not student_ckpt:
            raise SettingError(
                f'LinearProbe: student_ckpt={student_ckpt!r} must be the checkpoint of a trained network, for example '
                '--cfg-options model.student_ckpt=work_dirs/icd_res56_res20_cifar100/student_last.pth.'
            )
        checkpoint = read_checkpoint(student_ckpt)
        network = _build(network_config(student, 'model.student') if student else _network_in(checkpoint, student_ckpt))
        weights = weights_of(checkpoint, student_ckpt)
        weights = {name: weight for name, weight in weights.items() if not name.startswith('head.')}
        self._assemble(network.backbone, network.neck, LinearClsHead(num_classes, network.head.in_channels), kwargs)
        weights |= {f'head.{name}': weight for name, weight in self.head.state_dict().items()}
        load_strictly(self, weights, f'{student_ckpt=!s}')
        self._freeze(checkpoint, student_ckpt)

    def _assemble(self, backbone: nn.Module, neck: nn.Module | None, head: nn.Module, settings: dict[str, Any]) -> None:
        ImageClassifier.__init__(self, backbone=backbone, neck=neck, head=head, **settings)
        self._features: dict[tuple[bool, bool], OutputCache] = defaultdict(OutputCache)

    def _freeze(self, checkpoint: dict, file: str) -> None:
        """Freeze the network, its weights loaded."""
        self.trained_on = preparation_of_checkpoint(checkpoint)
        for part in self._frozen:
            part.requires_grad_(False)
        self._forget_features()
        self.train()
        print_log(
            f'{type(self).__name__}: training a classifier of {self.head.num_classes} classes on the features of '
            f'{file} ({type(self.backbone).__name__}, {self.head.in_channels} wide), which is frozen.',
            logger='current',
        )

    @property
    def _frozen(self) -> list[nn.Module]:
        return [part for part in (self.backbone, self.neck) if part is not None]

    def _fingerprint(self) -> int:
        return fingerprint_of_tensors(t for part in self._frozen for t in (*part.parameters(), *part.buffers()))

    def _forget_features(self) -> None:
        self._features.clear()
        self._features_of = self._fingerprint()

    def init_weights(self) -> None:
        """Initialise the classifier alone: the rest is loaded."""
        self.head.init_weights()

    def train(self, mode: bool = True) -> 'LinearProbe':
        """Set the mode of the classifier; backbone and neck stay in eval mode."""
        if mode != self.training and self._fingerprint() != self._features_of:  # a hook has changed the weights
            self._forget_features()
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        """Forget the features, which are of other weights."""
        self._features.clear()
        super()._load_from_state_dict(*args)

    def extract_feat(self, inputs: Tensor, stage: str = 'neck') -> tuple[Tensor, ...] | Tensor:
        """Compute the features of images that are new, without gradients; arguments as in ``ImageClassifier``.

        For ``stage='neck'`` they are a tuple of one, the feature that the classifier reads.
        """
        cache = self._features[self.training, torch.is_autocast_enabled(inputs.device.type)]

        def compute(places: list[int]) -> Tensor:
            images = inputs if len(places) == len(inputs) else inputs[places]
            return super(LinearProbe, self).extract_feat(images, 'neck')[-1]

        # what is traced or compiled must hold the network, not its stored outputs
        traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
        with torch.no_grad():
            if stage == 'backbone' or traced or not cache.useful:
                return super().extract_feat(inputs, stage)
            feature = cache(image_keys(inputs), compute)
        return feature if stage == 'pre_logits' else (feature,)


def name_student_in_full(model: ConfigDict) -> None:
    """Put the network that a probe reads into the probe's config, so that the config stored with a run is complete."""
    if model.get('student'):
        model.student = network_config(model.student, 'model.student')
    elif model.get('student_ckpt'):
        model.student = _network_in(read_checkpoint(model.student_ckpt), model.student_ckpt)


def _network_in(checkpoint: dict, path: str) -> ConfigDict:
    """Return the config of the student in a checkpoint."""
    try:
        cfg = student_of(config_of(checkpoint, path))
        # it would read the checkpoint that the file names, which may be the file itself
        if any(type_name(part.get('type')) == 'LinearProbe' for part in dicts(cfg)):
            raise SettingError('its network is a LinearProbe. Give the checkpoint of the student that it read.')
        return cfg
    except SettingError as error:
        raise SettingError(
            f'LinearProbe: student_ckpt={path}: {error}\nOr set its network, for example --cfg-options '
            'model.student=configs/vanilla/res20_cifar100.py.'
        ) from error


def _build(cfg: dict) -> ImageClassifier:
    network = MODELS.build(cfg)
    head = getattr(network, 'head', None)
    # a distilled DeiT's reads two features
    one_feature = isinstance(getattr(head, 'in_channels', None), int) and not isinstance(head, DeiTClsHead)
    if not isinstance(network, ImageClassifier) or not one_feature:
        raise SettingError(
            f'LinearProbe: the student is a {type(network).__name__} with a {type(head).__name__}. It must be an '
            'ImageClassifier of mmpretrain whose head has in_channels, the width of the one feature that it reads, as '
            'LinearClsHead has.'
        )
    return network
