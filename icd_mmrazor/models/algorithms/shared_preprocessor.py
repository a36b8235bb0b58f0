"""One data preprocessor for teacher and student: what each of them needs of it."""

import inspect
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classifier_layer import number_of_classes
from icd_mmrazor.models.networks.preparation import Preparation

# that differ in where they augment, not in how they normalise
USUAL_KINDS = {'ClsDataPreprocessor', 'ImgDataPreprocessor', 'ProbeDataPreprocessor', 'SelfSupDataPreprocessor'}
# by how much of 255 the channels of a gray image differ after it was normalised and back
GRAY = 0.5


def lost_augmentations(student: nn.Module, preprocessor: nn.Module) -> Any:
    """Return the augmentations of whole batches, Mixup for example, that a student's settings ask for in vain.

    mmpretrain's classifiers hand ``train_cfg.augments`` to the data preprocessor of their own; in an algorithm of
    mmrazor that of the algorithm is at work.

    Args:
        student: The student.
        preprocessor: The data preprocessor that its images go through.
    """
    asked = getattr(getattr(student, 'data_preprocessor', None), 'batch_augments', None)
    return asked if getattr(preprocessor, 'batch_augments', None) is None else None


def adopt_student_settings(student: nn.Module, preprocessor: nn.Module, names_augmentations: bool) -> None:
    """Let the data preprocessor of an algorithm give the student batches as the student's own would.

    Args:
        student: The student. Its augmentations, and whether its labels are vectors, are taken over.
        preprocessor: The algorithm's; changed. One that has its own augmentations keeps them.
        names_augmentations: Whether its config speaks of ``batch_augments``, if only to have none.

    Raises:
        SettingError: It cannot augment batches.
    """
    own = getattr(student, 'data_preprocessor', None)
    augments = None if names_augmentations else lost_augmentations(student, preprocessor)
    if augments is not None:
        if not hasattr(preprocessor, 'batch_augments'):
            raise SettingError(
                f'FrozenTeacherDistill: the student is to be trained with {names_of(augments)} (its train_cfg.augments '
                f'or data_preprocessor), which a {type(preprocessor).__name__} cannot do. Set data_preprocessor.type='
                "'mmpretrain.ClsDataPreprocessor', or model.architecture.train_cfg=None."
            )
        preprocessor.batch_augments = augments
        print_log(
            f'FrozenTeacherDistill: batches are augmented by {names_of(augments)}, as the student asks.', 'current'
        )
    if getattr(preprocessor, 'batch_augments', None) is not None or getattr(own, 'to_onehot', False):
        preprocessor.to_onehot = True
    if getattr(preprocessor, 'to_onehot', False) and getattr(preprocessor, 'num_classes', None) is None:
        preprocessor.num_classes = number_of_classes(student) or getattr(own, 'num_classes', None)


def names_of(augments: Any) -> str:
    """Name the augmentations that are chosen from.

    Args:
        augments: A ``RandomBatchAugment`` of mmpretrain, or any other.
    """
    each = [augment for augment in getattr(augments, 'augments', [augments]) if augment is not None]
    return ' or '.join(type(augment).__name__ for augment in each)


def refuse_unmixed_labels(distiller: nn.Module, preprocessor: nn.Module) -> None:
    """Refuse losses between teacher and student that go by one label an image where images are mixed.

    Args:
        distiller: Any distiller.
        preprocessor: The data preprocessor.

    Raises:
        SettingError: There is such a loss.
    """
    augments = getattr(preprocessor, 'batch_augments', None)
    if augments is None:
        return
    for name, loss in _losses_of(distiller):
        takes = inspect.signature(loss.forward).parameters
        if getattr(loss, 'reads_labels', False) or any('label' in argument for argument in takes):
            raise SettingError(
                f'FrozenTeacherDistill: {type(loss).__name__} ({name}) goes by the one label of each image, but '
                f'{names_of(augments)} mixes images and labels. Set data_preprocessor.batch_augments=None, or take '
                'another loss.'
            )
        if 'data_samples' in takes:
            print_log(
                f'FrozenTeacherDistill: {type(loss).__name__} ({name}) is given data_samples of images that '
                f'{names_of(augments)} mixes. Their gt_score is mixed with them, their gt_label is that of one image.',
                logger='current',
                level=logging.WARNING,
            )


def _losses_of(distiller: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for module in distiller.modules():
        losses = getattr(module, 'distill_losses', None)
        if isinstance(losses, nn.ModuleDict):
            yield from losses.items()


def compare_preparations(
    used: Preparation, told: Preparation | None, trained: Preparation | None, gray: bool = False
) -> None:
    """Refuse images that a teacher sees in another order of the channels than in its own training.

    What its checkpoint says of its training is more certain than what its config says; where the config has been given
    the run's order all the same, that is taken as meant.

    Args:
        used: What both networks get.
        told: What the teacher's config says, if it does.
        trained: What the teacher's checkpoint says, if it does.
        gray: Whether all channels are alike, so that their order does not matter.

    Raises:
        SettingError: The order is another.
    """
    known = trained or told
    same = True if known is None else known.has_order_of(used)
    # last: it may be found out only when it is asked
    if same or (same is None and known.turned == used.turned) or gray:
        return
    where = 'its checkpoint' if trained else 'its config'
    difference = (
        f'the teacher was trained on images with channels {known.order}, as {where} says, and this run gives it '
        f'{used.order}'
    )
    insisted = trained and told and told.turned == used.turned != trained.turned
    if same is None or insisted:
        meant = '; its config says what the run does, which is taken as meant' if insisted else ''
        print_log(
            f'FrozenTeacherDistill: {difference}{meant}. If that is not meant, set data_preprocessor.to_rgb='
            f'{not used.turned}.',
            logger='current',
            level=logging.WARNING,
        )
        return
    raise SettingError(
        f'FrozenTeacherDistill: {difference}. Set data_preprocessor.to_rgb={not used.turned}, or take a teacher '
        f'trained so. If its weights are for this order after all, say so: model.teacher=dict(cfg_path=..., '
        f'data_preprocessor=dict(to_rgb={used.turned})).'
    )


@torch.no_grad()
def channels_of(images: Any, data_samples: list | None, preprocessor: nn.Module) -> tuple[str, bool]:
    """Find out what is to be known of the channels of a batch of which only the batch is known.

    Args:
        images: Images, ``B x C x H x W``, normalised.
        data_samples: Theirs. Those of image files, which are read as BGR, say where the files are.
        preprocessor: What they were normalised by.

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
    """Warn where a teacher was trained on images prepared otherwise, but for the order of the channels.

    Args:
        used: What both networks get.
        told: What the teacher's config says, if it does.
        trained: What the teacher's checkpoint says, if it does, which is more certain.
    """
    own = trained or told
    if own is None:
        return
    other_kind = own.kind != used.kind and not {own.kind, used.kind} <= USUAL_KINDS
    if own.normalisation == used.normalisation and not other_kind:
        return
    kinds = (f' in a {each.kind}' if other_kind else '' for each in (own, used))
    print_log(
        f"FrozenTeacherDistill: the teacher's {'checkpoint' if trained else 'config'} normalises images by "
        f'{own.normalisation or "no mean and std"}{next(kinds)}, but both networks get them by '
        f'{used.normalisation or "no mean and std"}{next(kinds)}. If that is not what its weights were trained with, '
        'set model.data_preprocessor, or take a teacher trained so.',
        logger='current',
        level=logging.WARNING,
    )


def asks_for_weights(network: Any) -> bool:
    """Return whether a network's config has it begin with trained weights.

    Args:
        network: The config, or a part of it; of a built network nothing is known.
    """
    if isinstance(network, list | tuple):
        return any(map(asks_for_weights, network))
    if not isinstance(network, Mapping):
        return False
    named = (
        type_name(network.get('type')) == 'Pretrained' or network.get('pretrained') or network.get('checkpoint_path')
    )
    return bool(named) or any(map(asks_for_weights, network.values()))


def warn_of_first_weights(used: Preparation, told: Preparation | None) -> None:
    """Warn where the weights that a student begins with are for images that are prepared otherwise.

    Args:
        used: What both networks get.
        told: What the student's config says, if it does.
    """
    if told is None or (told.has_order_of(used) and told.normalisation == used.normalisation):
        return
    ours, theirs = (f'{each.normalisation or "no mean and std"}, channels {each.order}' for each in (used, told))
    print_log(
        f'FrozenTeacherDistill: the student begins with trained weights, and its config prepares images by {theirs}; '
        f'it gets them by {ours}. If that is not what they were trained with, set model.data_preprocessor.',
        logger='current',
        level=logging.WARNING,
    )
