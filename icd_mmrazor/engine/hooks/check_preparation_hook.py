"""Image preparation of teacher and student, checked before the first batch."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from icd_mmrazor.datasets.labels import images_are_gray
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.shared_preprocessor import compare_preparations, lost_augmentations, names_of
from icd_mmrazor.models.networks.preparation import (
    Preparation,
    preparation_by,
    preparation_of_checkpoint,
    source_of_images,
)


@HOOKS.register_module()
class CheckPreparationHook(Hook):
    """Refuse images that are not prepared as the teacher, or the student's settings, need them.

    Teacher and student of a distillation share one data preprocessor. Refused are

    * images whose channels come in another order than in the teacher's own training, by the settings in its checkpoint
      or else its config: RGB in place of BGR. Gray images are alike in both;
    * the same of the student that a ``LinearProbe`` reads;
    * augmentations of whole batches in the student's ``train_cfg`` that an algorithm of mmrazor's own would leave out.
      ``FrozenTeacherDistill`` does them.

    Where weights are loaded by ``load_from`` that were trained with another order, it warns.

    Raises:
        SettingError: See above.

    Config example::

        default_hooks=dict(check_preparation=dict(type='CheckPreparationHook'))
    """

    def before_train(self, runner: Runner) -> None:
        """Check the data preprocessor against teacher and student."""
        model = _model_of(runner)
        source, preprocessor = source_of_images(runner.cfg), getattr(model, 'data_preprocessor', None)
        if not isinstance(preprocessor, nn.Module):
            return
        student = getattr(model, 'architecture', None)
        lost = lost_augmentations(student, preprocessor) if student is not None else None
        if lost is not None and not hasattr(model, 'check_order_of_channels') and not _named(runner.cfg):
            raise SettingError(
                f'{type(model).__name__}: the student asks for {names_of(lost)}, but the images go through '
                'the data preprocessor of the algorithm, which has no batch_augments. Set '
                'data_preprocessor.batch_augments; None trains without.'
            )
        trained_on = getattr(model, 'trained_on', None)
        if isinstance(trained_on, Preparation):
            used = preparation_by(preprocessor, source)
            if trained_on.has_order_of(used) is False and not images_are_gray(runner.train_dataloader.dataset):
                raise SettingError(
                    f'{type(model).__name__}: the student was trained on images with channels {trained_on.order}, as '
                    f'its checkpoint says, and this run gives it {used.order}. Set data_preprocessor.to_rgb='
                    f'{not used.turned}.'
                )
        if hasattr(model, 'check_order_of_channels'):
            model.check_order_of_channels(source, images_are_gray(runner.train_dataloader.dataset))
        elif isinstance(getattr(model, 'teacher', None), nn.Module):
            teacher = runner.cfg.get('model', {}).get('teacher')
            told = teacher.get('data_preprocessor') if isinstance(teacher, dict) else None
            if told:
                used = preparation_by(preprocessor, source)
                compare_preparations(used, preparation_by(told), None, images_are_gray(runner.train_dataloader.dataset))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the weights that a training begins with."""
        trained = None if runner._resume else preparation_of_checkpoint(checkpoint)
        preprocessor = getattr(_model_of(runner), 'data_preprocessor', None)
        if trained is None or not isinstance(preprocessor, nn.Module):
            return
        used = preparation_by(preprocessor, source_of_images(runner.cfg))
        if trained.has_order_of(used) is False:
            runner.logger.warning(
                f'CheckPreparationHook: the weights of load_from were trained on images with channels {trained.order}, '
                f'and this run has {used.order}. If that is not meant, set data_preprocessor.to_rgb={not used.turned}.'
            )


def _model_of(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _named(cfg: Any) -> bool:
    """Return whether the algorithm's own settings speak of augmentations, if only to have none."""
    model = cfg.get('model', {})
    return 'batch_augments' in (model.get('data_preprocessor') or cfg.get('data_preprocessor') or {})
