"""Checks of datasets with two views of each image."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from icd_mmrazor.engine.runs import model_of
from icd_mmrazor.errors import SettingError


class ViewCheck(Hook):
    """Refuse a loss that compares two views of an image, if the training set gives one, and two views to evaluate.

    Raises:
        SettingError: There is such a loss (``MultiLevelLogitLoss``), and ``train_dataloader.dataset`` is not a
            ``TwoViewDataset``; or the validation or test set is one.
    """

    def before_val(self, runner: Runner) -> None:
        """Check the validation set."""
        _refuse_two_views('val_dataloader', runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Check the test set."""
        _refuse_two_views('test_dataloader', runner.test_dataloader)

    def before_train(self, runner: Runner) -> None:
        """Check the validation set, and the losses against the training set."""
        if runner.val_loop is not None:
            _refuse_two_views('val_dataloader', runner.val_dataloader)
        dataset = getattr(runner.train_dataloader, 'dataset', None)
        if getattr(dataset, 'views', 1) == 2:
            return
        for name, loss in model_of(runner).named_modules():
            if getattr(loss, 'reads_views', False):
                raise SettingError(
                    f'{type(loss).__name__} ({name}) compares two views of each image, and train_dataloader.dataset '
                    f"({type(dataset).__name__}) gives one. Set train_dataloader.dataset=dict(type='TwoViewDataset', "
                    'strong=[...], dataset=...), around any other wrapper, as configs/mlkd does.'
                )


def _refuse_two_views(setting: str, loader: Any) -> None:
    if getattr(getattr(loader, 'dataset', None), 'views', 1) == 2:
        raise SettingError(
            f'{setting}.dataset is a TwoViewDataset, but one view of each image is evaluated. Set it to the dataset '
            'inside.'
        )
