"""The data preprocessor of a distillation, against the settings of each network."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classifier_layer import number_of_classes
from icd_mmrazor.models.networks.preparation import Preparation, preparation_by

# these normalise alike
USUAL_KINDS = {'ClsDataPreprocessor', 'ImgDataPreprocessor', 'ProbeDataPreprocessor', 'SelfSupDataPreprocessor'}
# how much of 255 the channels of a gray image may differ by once normalised and back
GRAY = 0.5


def lost_augmentations(student: nn.Module, preprocessor: nn.Module) -> Any:
    """Return the augmentations of whole batches, such as Mixup, that a student asks for in vain.

    mmpretrain's classifiers hand ``train_cfg.augments`` to their own data preprocessor, but mmrazor's algorithms use
    that of the algorithm.

    Args:
        student: The student.
        preprocessor: The data preprocessor in use.
    """
    asked = getattr(getattr(student, 'data_preprocessor', None), 'batch_augments', None)
    return asked if getattr(preprocessor, 'batch_augments', None) is None else None


def names_of(augments: Any) -> str:
    """Name the augmentations of a ``RandomBatchAugment``, or a single one: ``'Mixup or CutMix'``."""
    each = [augment for augment in getattr(augments, 'augments', [augments]) if augment is not None]
    return ' or '.join(type(augment).__name__ for augment in each)


def adopt_student_settings(student: nn.Module, preprocessor: nn.Module, names_augmentations: bool) -> None:
    """Let the data preprocessor of an algorithm augment batches as the student's own would.

    Args:
        student: The student.
        preprocessor: The data preprocessor of the algorithm; changed, unless it has augmentations itself.
        names_augmentations: Whether its config has ``batch_augments``, if only to turn them off.

    Raises:
        SettingError: It cannot augment batches.
    """
    own = getattr(student, 'data_preprocessor', None)
    augments = None if names_augmentations else lost_augmentations(student, preprocessor)
    if augments is not None:
        if not hasattr(preprocessor, 'batch_augments'):
            raise SettingError(
                f'FrozenTeacherDistill: the student (train_cfg.augments or data_preprocessor) asks for '
                f'{names_of(augments)}, which a {type(preprocessor).__name__} cannot do. Set data_preprocessor.type='
                "'mmpretrain.ClsDataPreprocessor', or model.architecture.train_cfg=None."
            )
        preprocessor.batch_augments = augments
        _log(f'batches are augmented by {names_of(augments)}, as the student asks.')
    if getattr(preprocessor, 'batch_augments', None) is not None or getattr(own, 'to_onehot', False):
        preprocessor.to_onehot = True
    if getattr(preprocessor, 'to_onehot', False) and getattr(preprocessor, 'num_classes', None) is None:
        preprocessor.num_classes = number_of_classes(student) or getattr(own, 'num_classes', None)


def refuse_unmixed_labels(distiller: nn.Module, preprocessor: nn.Module) -> None:
    """Refuse losses of a distiller that read a single label for each image, if images are mixed.

    Raises:
        SettingError: There is such a loss.
    """
    augments = getattr(preprocessor, 'batch_augments', None)
    groups = [getattr(module, 'distill_losses', None) for module in distiller.modules()]
    if augments is None:
        return
    for name, loss in (item for losses in groups if isinstance(losses, nn.ModuleDict) for item in losses.items()):
        takes, what = inspect.signature(loss.forward).parameters, f'{type(loss).__name__} ({name})'
        if getattr(loss, 'reads_labels', False) or any('label' in argument for argument in takes):
            raise SettingError(
                f'FrozenTeacherDistill: {what} reads one label for each image, but {names_of(augments)} mixes images '
                'with their labels. Set data_preprocessor.batch_augments=None, or use another loss.'
            )
        if 'data_samples' in takes:
            _log(
                f'{what} gets data_samples of images mixed by {names_of(augments)}. Their gt_score is mixed too, their '
                'gt_label is that of one image.',
                logging.WARNING,
            )


def preparation_told(network: dict | nn.Module) -> Preparation | None:
    """Return how a network, built or as a config, says that its images are prepared; None if it does not."""
    if not isinstance(network, nn.Module):
        return preparation_by(network['data_preprocessor']) if network.get('data_preprocessor') else None
    preprocessor = getattr(network, 'data_preprocessor', None)
    told = preparation_by(preprocessor) if isinstance(preprocessor, nn.Module) else None
    # otherwise it is the default of a network built without one
    return told if told and (told.normalisation or told.turned) else None


def compare_preparations(
    used: Preparation, told: Preparation | None, trained: Preparation | None, gray: bool = False
) -> None:
    """Refuse images with another channel order than a teacher was trained on.

    The teacher's checkpoint is more certain than its config. A config that has been given the order of the run is
    taken as intended, though, and only warned about.

    Args:
        used: What both networks get.
        told: What the teacher's config says, if it does.
        trained: What the teacher's checkpoint says, if it does.
        gray: Whether all channels are alike, so that their order does not matter.

    Raises:
        SettingError: The order differs.
    """
    known = trained or told
    same = True if known is None else known.has_order_of(used)
    # gray last: finding out may mean to read images
    if same or (same is None and known.turned == used.turned) or gray:
        return
    difference = (
        f'the teacher was trained on images with channels {known.order}, as its {"checkpoint" if trained else "config"}'
        f' says, and this run gives it {used.order}'
    )
    remedy = f'data_preprocessor.to_rgb={not used.turned}'
    intended = trained and told and told.turned == used.turned != trained.turned
    if intended or same is None:
        because = ', as its config says' if intended else ''
        _log(f'{difference}{because}. If that is not intended, set {remedy}.', logging.WARNING)
        return
    raise SettingError(
        f'FrozenTeacherDistill: {difference}. Set {remedy}, or use another teacher. If its weights are for this order '
        f'after all, say so with model.teacher=dict(cfg_path=..., data_preprocessor=dict(to_rgb={used.turned})).'
    )


@torch.no_grad()
def channels_of(images: Any, data_samples: list | None, preprocessor: nn.Module) -> tuple[str, bool]:
    """Find out about the channels of images of which only a batch is known.

    Args:
        images: The batch, ``B x C x H x W``, normalised.
        data_samples: Of the images. Those of image files, which are read as BGR, hold paths.
        preprocessor: The data preprocessor that normalised them.

    Returns:
        Their order in the dataset, and whether all channels are alike.
    """
    files = bool(data_samples) and 'img_path' in getattr(data_samples[0], 'metainfo', {})
    gray = False
    if isinstance(images, Tensor) and images.ndim == 4:
        mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
        images = images if mean is None or std is None else images * std + mean
        gray = bool((images - images[:, :1]).abs().max() < GRAY)
    return 'BGR' if files else 'the dataset', gray


def warn_of_normalisation(used: Preparation, told: Preparation | None, trained: Preparation | None) -> None:
    """Warn if a teacher was trained on images that were normalised differently; arguments as above."""
    own = trained or told
    if own is None:
        return
    other_kind = own.kind != used.kind and not {own.kind, used.kind} <= USUAL_KINDS
    if own.normalisation != used.normalisation or other_kind:
        theirs, ours = (
            (each.normalisation or 'no mean and std') + (f' in a {each.kind}' if other_kind else '')
            for each in (own, used)
        )
        _log(
            f"the teacher's {'checkpoint' if trained else 'config'} normalises images by {theirs}, but both networks "
            f'get them by {ours}. If its weights were not trained like this, set model.data_preprocessor.',
            logging.WARNING,
        )


def asks_for_weights(network: Any) -> bool:
    """Return whether a network's config starts from trained weights; nothing is known of a built network."""
    if isinstance(network, list | tuple):
        return any(map(asks_for_weights, network))
    if not isinstance(network, Mapping):
        return False
    named = network.get('pretrained') or network.get('checkpoint_path')
    return bool(named) or type_name(network.get('type')) == 'Pretrained' or asks_for_weights([*network.values()])


def warn_of_first_weights(used: Preparation, told: Preparation | None) -> None:
    """Warn if the weights that a student starts from are for images that its config prepares differently."""
    if told is None or (told.has_order_of(used) and told.normalisation == used.normalisation):
        return
    ours, theirs = (f'{each.normalisation or "no mean and std"}, channels {each.order}' for each in (used, told))
    _log(
        f'the student starts from trained weights, and its config prepares images by {theirs}, but it gets them by '
        f'{ours}. If they were not trained like this, set model.data_preprocessor.',
        logging.WARNING,
    )


def _log(text: str, level: int = logging.INFO) -> None:
    print_log(f'FrozenTeacherDistill: {text}', logger='current', level=level)
