"""The data preprocessor of a distillation, against the settings of each network."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from mmengine.logging import print_log
from mmpretrain.models import SeesawLoss
from torch import Tensor, nn

from icd_mmrazor.configuration.type_names import dicts, type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.student_losses import losses_of, losses_of_labels
from icd_mmrazor.models.networks.classifier_layer import number_of_classes
from icd_mmrazor.models.networks.preparation import Preparation, preparation_by
from icd_mmrazor.models.networks.retrieval import is_retriever

# these normalise alike
USUAL_KINDS = {
    'ClsDataPreprocessor',
    'ImgDataPreprocessor',
    'ProbeDataPreprocessor',
    'SelfSupDataPreprocessor',
    'SeparateMixingPreprocessor',
}
# how much of 255 the channels of a gray image may differ by once normalised and back
GRAY = 0.5


def lost_augmentations(student: nn.Module, preprocessor: nn.Module) -> Any:
    """Return the augmentations of whole batches, such as Mixup, that a student asks for in vain.

    mmpretrain's classifiers hand ``train_cfg.augments`` to their own data preprocessor; mmrazor uses the algorithm's.
    """
    asked = getattr(getattr(student, 'data_preprocessor', None), 'batch_augments', None)
    return asked if getattr(preprocessor, 'batch_augments', None) is None else None


def names_of(augments: Any) -> str:
    """Name the augmentations of a ``RandomBatchAugment``, or a single one: ``'Mixup or CutMix'``."""
    each = [augment for augment in getattr(augments, 'augments', [augments]) if augment is not None]
    return ' or '.join(type(augment).__name__ for augment in each)


def adopt_student_settings(student: nn.Module, preprocessor: nn.Module, names_augmentations: bool) -> None:
    """Let the data preprocessor of an algorithm augment batches as the student's own would.

    One that has augmentations keeps them. ``names_augmentations``: its config has ``batch_augments``, perhaps None.
    """
    own = getattr(student, 'data_preprocessor', None)
    if is_retriever(student):  # with which it prepares the images of its gallery
        student.data_preprocessor = preprocessor
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


def refuse_unmixed_labels(algorithm: nn.Module) -> None:
    """Refuse losses of a distiller or a student that read one label or two views of each image, if images are mixed.

    Raises:
        SettingError: There is such a loss.
    """
    augments = getattr(algorithm.data_preprocessor, 'batch_augments', None)
    if augments is None:
        return
    owner, mixes = type(algorithm).__name__, f'{names_of(augments)} mixes images with their labels'
    remedy = 'Set data_preprocessor.batch_augments=None, or use another loss.'
    for loss in losses_of_labels(algorithm.distiller, mixed=True):
        raise SettingError(f'{owner}: {loss} reads one label for each image, but {mixes}. {remedy}')
    for name, loss in losses_of(algorithm.distiller):
        if getattr(loss, 'reads_views', False):
            raise SettingError(
                f'{owner}: {type(loss).__name__} ({name}) compares two views of each image, but {names_of(augments)} '
                f'would mix views of different images. {remedy}'
            )
        takes_samples = 'data_samples' in inspect.signature(loss.forward).parameters
        if takes_samples and not getattr(loss, 'reads_scores', False):
            _log(
                f'{type(loss).__name__} ({name}) gets data_samples of images mixed by {names_of(augments)}, but their '
                'gt_label is that of one.',
                logging.WARNING,
            )
    if algorithm.calculate_student_loss:
        refuse_hard_labels(algorithm, augments, 'data_preprocessor.batch_augments=None')


def refuse_hard_labels(algorithm: nn.Module, augments: Any, without: str) -> None:
    """Refuse a student whose own loss, or accuracy in training, reads one label of each image, for mixed images.

    Args:
        algorithm: An algorithm with a student.
        augments: What mixes images.
        without: A setting without them, for messages.

    Raises:
        SettingError: It does.
    """
    owner, mixes = type(algorithm).__name__, f'{names_of(augments)} mixes images with their labels'
    head = getattr(algorithm.architecture, 'head', None)
    if isinstance(getattr(head, 'loss_module', None), SeesawLoss):
        raise SettingError(
            f"{owner}: the student's SeesawLoss reads one label for each image, but {mixes}. Set {without}, or use "
            'another loss.'
        )
    if getattr(head, 'cal_acc', False):
        raise SettingError(
            f"{owner}: the student's head computes the accuracy on training images (cal_acc=True), but {mixes}. Set "
            f'model.architecture.head.cal_acc=False, or {without}.'
        )


def declared_preparation(network: dict | nn.Module) -> Preparation | None:
    """Return how a network, built or as a config, says that its images are prepared; None if it does not."""
    if not isinstance(network, nn.Module):
        return preparation_by(network['data_preprocessor']) if network.get('data_preprocessor') else None
    preprocessor = getattr(network, 'data_preprocessor', None)
    declared = preparation_by(preprocessor) if isinstance(preprocessor, nn.Module) else None
    # otherwise it is the default of a network built without one
    return declared if declared and (declared.normalisation or declared.turned) else None


def compare_preparations(
    used: Preparation, declared: Preparation | None, trained: Preparation | None, gray: Callable[[], bool]
) -> None:
    """Refuse images with another channel order than a teacher was trained on.

    The teacher's checkpoint is more certain than its config. A config that has been given the order of the run is
    taken as intended, though, and only warned about.

    Args:
        used: What both networks get.
        declared: What the teacher's config says, if it does.
        trained: What the teacher's checkpoint says, if it does.
        gray: Returns whether all channels are alike, so that their order does not matter; called last, since it may
            read images.

    Raises:
        SettingError: The order differs.
    """
    known = trained or declared
    same = True if known is None else known.has_order_of(used)
    if same or (same is None and known.turned == used.turned) or gray():
        return
    difference = (
        f'the teacher was trained on images with channels {known.order}, as its {"checkpoint" if trained else "config"}'
        f' says, and this run gives it {used.order}'
    )
    remedy = f'data_preprocessor.to_rgb={not used.turned}'
    intended = is_intended(used, declared, trained)
    if intended or same is None:
        because = ', as its config says' if intended else ''
        _log(f'{difference}{because}. If that is not intended, set {remedy}.', logging.WARNING)
        return
    raise SettingError(
        f'FrozenTeacherDistill: {difference}. Set {remedy}, or use another teacher. If it takes this order after '
        f'all, say so with model.teacher_preprocessor=dict(to_rgb={used.turned}).'
    )


def is_intended(used: Preparation, declared: Preparation | None, trained: Preparation | None) -> bool:
    """Return whether a teacher's config asks for the channel order of the run, which its checkpoint contradicts."""
    return bool(trained and declared) and declared.turned == used.turned != trained.turned


@torch.no_grad()
def channels_of(images: Any, data_samples: list | None, preprocessor: nn.Module) -> tuple[str, bool]:
    """Find out the order of the channels of a normalised batch in its dataset, and whether all are alike."""
    # image files are read as BGR
    files = bool(data_samples) and 'img_path' in getattr(data_samples[0], 'metainfo', {})
    gray = False
    if isinstance(images, Tensor) and images.ndim == 4:
        mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
        images = images if mean is None or std is None else images * std + mean
        gray = bool((images - images[:, :1]).abs().max() < GRAY)
    return 'BGR' if files else 'the dataset', gray


def warn_of_preparation(used: Preparation, own: Preparation | None, whose: str, order: bool = False) -> None:
    """Warn if weights were trained on images that were prepared differently, according to ``whose`` settings.

    The order of the channels counts only if ``order`` is set.
    """
    if own is None:
        return
    other_order = order and not own.has_order_of(used)
    other_kind = own.kind != used.kind and not {own.kind, used.kind} <= USUAL_KINDS
    if own.normalisation != used.normalisation or other_order or other_kind:
        theirs, ours = (
            (each.normalisation or 'no mean and std')
            + (f', channels {each.order}' if other_order else '')
            + (f' in a {each.kind}' if other_kind else '')
            for each in (own, used)
        )
        _log(
            f'{whose} normalises images by {theirs}, but both networks get them by {ours}. If its weights were not '
            'trained like this, set model.data_preprocessor.',
            logging.WARNING,
        )


def asks_for_weights(network: Any) -> bool:
    """Return whether a network's config starts from trained weights; nothing is known of a built network."""
    return any(
        part.get('pretrained') or part.get('checkpoint_path') or type_name(part.get('type')) == 'Pretrained'
        for part in dicts(network)
    )


def _log(text: str, level: int = logging.INFO) -> None:
    print_log(f'FrozenTeacherDistill: {text}', logger='current', level=level)
