"""Preparation of the images for both networks."""

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from icd_mmrazor.datasets.labels import images_are_gray
from icd_mmrazor.engine.runs import model_of
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.shared_preprocessor import (
    compare_preparations,
    lost_augmentations,
    names_of,
    refuse_unmixed_labels,
)
from icd_mmrazor.models.networks.preparation import (
    Preparation,
    preparation_by,
    preparation_of_checkpoint,
    refuse_other_order,
    source_of_images,
)


class PreparationCheck(Hook):
    """Refuse images that are not prepared as the teacher, or the student's settings, need them.

    Teacher and student share one data preprocessor. If ``load_from`` has weights that were trained with another order
    of the channels, a warning is logged.

    Raises:
        SettingError: The channels come in another order (RGB, BGR) than in the training of the teacher, or of the
            student that a ``LinearProbe`` reads, unless the images are gray; or an algorithm of mmrazor's own would
            leave out augmentations of whole batches that the student's ``train_cfg`` asks for.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the data preprocessor against teacher and student."""
        model = model_of(runner)
        preprocessor = getattr(model, 'data_preprocessor', None)
        if not isinstance(preprocessor, nn.Module):
            return
        settings = runner.cfg.get('model')
        settings = settings if isinstance(settings, Mapping) else {}

        def gray() -> bool:
            return images_are_gray(runner.train_dataloader.dataset)

        augments = 'batch_augments' in (settings.get('data_preprocessor') or runner.cfg.get('data_preprocessor') or {})
        source = source_of_images(runner.cfg)
        used = preparation_by(preprocessor, source)
        ours = hasattr(model, 'check_order_of_channels')
        if not ours and not augments and hasattr(model, 'architecture'):
            _refuse_lost_augmentations(model, preprocessor)
        if not ours and hasattr(model, 'distiller'):
            refuse_unmixed_labels(model)
        trained_on = getattr(model, 'trained_on', None)  # a LinearProbe's student
        if isinstance(trained_on, Preparation):
            refuse_other_order(f'{type(model).__name__}: the student', trained_on, used, gray)
        if ours:
            model.check_order_of_channels(source, gray)
        elif isinstance(getattr(model, 'teacher', None), nn.Module):
            teacher = settings.get('teacher')
            told = teacher.get('data_preprocessor') if isinstance(teacher, Mapping) else None
            if told:
                compare_preparations(used, preparation_by(told), None, gray)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the weights that a training starts with."""
        trained = None if runner._resume else preparation_of_checkpoint(checkpoint)
        preprocessor = getattr(model_of(runner), 'data_preprocessor', None)
        if trained is None or not isinstance(preprocessor, nn.Module):
            return
        used = preparation_by(preprocessor, source_of_images(runner.cfg))
        if trained.has_order_of(used) is False:
            runner.logger.warning(
                f'The weights of load_from were trained on images with channels {trained.order}, and this run has '
                f'{used.order}. If that is not intended, set data_preprocessor.to_rgb={not used.turned}.'
            )


def _refuse_lost_augmentations(model: Any, preprocessor: nn.Module) -> None:
    lost = lost_augmentations(model.architecture, preprocessor)
    if lost is not None:
        raise SettingError(
            f'{type(model).__name__}: the student asks for {names_of(lost)}, but the images go through the data '
            'preprocessor of the algorithm, which has no batch_augments. Set data_preprocessor.batch_augments; None '
            'trains without.'
        )
