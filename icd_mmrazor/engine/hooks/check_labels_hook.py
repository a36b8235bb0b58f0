"""Labels against the classifier, before the first batch."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from icd_mmrazor.utils.errors import DatasetError


@HOOKS.register_module()
class CheckLabelsHook(Hook):
    """Refuse a dataset whose labels the classifier has no output for.

    Without it a loss fails deep inside the first epoch, on a GPU with an assertion that names nothing. Checked are
    the training and the validation set, where a dataset offers ``get_gt_labels`` (mmpretrain's do), against
    ``head.num_classes`` of the model, or of the student of a distillation.

    Raises:
        DatasetError: A label is negative or too large.

    Config example::

        default_hooks=dict(check_labels=dict(type='CheckLabelsHook'))
    """

    def before_train(self, runner: Runner) -> None:
        """Check the training and the validation set."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        classifier = getattr(model, 'architecture', model)
        classes = getattr(getattr(classifier, 'head', None), 'num_classes', None)
        if classes is None:
            return
        self._check('train_dataloader', runner.train_dataloader.dataset, classes)
        if runner.val_loop is not None:
            self._check('val_dataloader', runner.val_dataloader.dataset, classes)

    @staticmethod
    def _check(setting: str, dataset: object, classes: int) -> None:
        if not hasattr(dataset, 'get_gt_labels') or not len(dataset):
            return
        labels = dataset.get_gt_labels()
        if labels.dtype.kind != 'i':  # several labels an image
            return
        low, high = labels.min(), labels.max()
        if low < 0 or high >= classes:
            raise DatasetError(
                f'{setting}.dataset ({type(dataset).__name__}) has labels from {low} to {high}; the model has '
                f'{classes} classes, 0 to {classes - 1}. Set head.num_classes of the model '
                '(of teacher and architecture in a distillation) or correct the labels.'
            )
