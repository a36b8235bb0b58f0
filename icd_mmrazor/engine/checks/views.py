"""Two views of each image for losses that compare them."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from icd_mmrazor.engine.runs import model_of
from icd_mmrazor.errors import SettingError


class ViewCheck(Hook):
    """Refuse a loss that compares two views of an image, if the training set gives one.

    Raises:
        SettingError: There is such a loss (``MultiLevelLogitLoss``), and ``train_dataloader.dataset`` is not a
            ``TwoViewDataset``.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the losses against the training set."""
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
