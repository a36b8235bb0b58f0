"""Export of a student that is a network of timm as weights for timm."""

from typing import Any

import torch
from mmpretrain.models import ImageClassifier, TIMMBackbone, TimmClassifier
from torch import Tensor

from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.export.content import Content, images_note, state_data
from icd_mmrazor.export.running import verify
from icd_mmrazor.export.trained import TrainedStudent

TOLERANCE = 1e-5  # of the largest logit
# settings of mmpretrain's wrappers; all others are those of timm.create_model
WRAPPER = ('type', '_scope_', 'loss', 'train_cfg', 'with_cp', 'data_preprocessor', 'init_cfg', 'features_only')
BACKBONE = 'backbone.timm_model.'


def timm_settings(student: TrainedStudent) -> tuple[str, dict[str, Any]]:
    """Return the name in ``timm.create_model`` that makes a student's network, and the other arguments.

    Raises:
        SettingError: It is not a ``TimmClassifier``, or a ``TIMMBackbone`` with a linear head.
    """
    model, cfg = student.model, student.cfg.model.to_dict()
    if isinstance(model, TimmClassifier):
        settings = {name: value for name, value in cfg.items() if name not in WRAPPER}
        return settings.pop('model_name'), settings
    if isinstance(model, ImageClassifier) and isinstance(model.backbone, TIMMBackbone):
        settings = {name: value for name, value in cfg['backbone'].items() if name not in WRAPPER}
        channels = {'in_chans': settings.pop('in_channels')} if 'in_channels' in settings else {}
        return settings.pop('model_name'), {**settings, **channels, 'num_classes': model.head.num_classes}
    raise SettingError(
        f'--to timm: the student ({student.kind}) is not a network of timm (TimmClassifier, TIMMBackbone). Export it '
        '--to torchscript, pt2, onnx or safetensors.'
    )


def as_timm(student: TrainedStudent, size: tuple[int, int]) -> Content:
    """Export a student to a plain state dict of timm, loaded into timm's network strictly, with the same logits.

    Args:
        student: The student.
        size: Height and width of the images that are compared.

    Returns:
        The content of the file.

    Raises:
        SettingError: The student is not a network of timm.
        UserError: timm's network has other weights, or gives other logits.
    """
    import timm

    name, settings = timm_settings(student)
    network = timm.create_model(name, **settings).eval()
    weights = _weights(student, network)
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())[:300]
        raise UserError(f'--to timm: the weights do not fit the network that timm makes: {reason}') from error
    difference = verify('timm', network, student.logits(), (student.channels, *size), TOLERANCE)
    return Content(state_data(weights), images_note(student.channels, size, difference))


def _weights(student: TrainedStudent, network: torch.nn.Module) -> dict[str, Tensor]:
    weights = student.checkpoint['state_dict']
    if isinstance(student.model, TimmClassifier):
        return dict(weights)  # mmpretrain drops the prefix
    classifier = network.pretrained_cfg.get('classifier')
    names = {BACKBONE: '', 'head.fc.': f'{classifier}.'}
    return {_renamed(name, names): weight for name, weight in weights.items()}


def _renamed(name: str, prefixes: dict[str, str]) -> str:
    for prefix, new in prefixes.items():
        if name.startswith(prefix):
            return new + name.removeprefix(prefix)
    return name
