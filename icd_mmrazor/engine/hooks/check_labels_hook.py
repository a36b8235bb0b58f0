"""Classes and labels against the classifier, before the first batch."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from icd_mmrazor.utils.errors import DatasetError


@HOOKS.register_module()
class CheckLabelsHook(Hook):
    """Refuse a dataset that does not fit the classifier.

    Without it a loss fails deep inside the first epoch, on a GPU with an assertion that names nothing, or a network
    of 100 classes learns 10. Checked are the training and the validation set, where a dataset offers
    ``get_gt_labels`` (mmpretrain's do), against ``head.num_classes`` of the model, or of the student of a distillation.

    Raises:
        DatasetError: The dataset names another number of classes, or a label is negative or too large.

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
        labels, named = dataset.get_gt_labels(), dataset.metainfo.get('classes')
        if labels.dtype.kind != 'i':  # several labels an image
            return
        low, high = labels.min(), labels.max()
        if named and len(named) != classes:
            found = f'{len(named)} classes'
        elif low < 0 or high >= classes:
            found = f'labels from {low} to {high}'
        else:
            return
        raise DatasetError(
            f'{setting}.dataset ({type(dataset).__name__}) has {found}; the model has {classes} classes, labels 0 to '
            f'{classes - 1}. Set head.num_classes of the model (of teacher and architecture in a distillation), or '
            'correct the dataset.'
        )
