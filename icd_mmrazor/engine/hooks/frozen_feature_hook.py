"""Features of a frozen network, computed once."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from icd_mmrazor.datasets.whole_batches import NoWholeBatchesError, split_pipeline
from icd_mmrazor.models.classifiers import LinearProbe, ProbeDataPreprocessor
from icd_mmrazor.utils.loaders import MadeBatches, NumberedBatches, number_batches

BATCH_SIZE = 256
MB = 1e6


@HOOKS.register_module()
class FrozenFeatureHook(Hook):
    """Compute the features of a :class:`LinearProbe` once and run the loops on them.

    Validation images look the same every time, so from the second validation on the backbone need not be run on them.
    Training images do where there is nothing random in their pipeline. The result is that of the images, but for
    rounding; with ``--amp`` the features are in full precision all the same. In each process the features stay on the
    device of the model: ``N x E`` numbers.

    The log says what is computed once, and what not and why.

    Config example::

        custom_hooks=[dict(type='FrozenFeatureHook')]
    """

    # before WholeBatchHook, which leaves alone what this one gives
    priority = 'NORMAL'

    def __init__(self) -> None:
        self._made: list[MadeBatches] = []
        self._numbered: NumberedBatches | None = None

    def before_train(self, runner: Runner) -> None:
        """Compute the features, or say why not."""
        # of an earlier training, which was interrupted
        self.after_train(runner)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        preprocessor = getattr(model, 'data_preprocessor', None)
        if not isinstance(model, LinearProbe) or not isinstance(preprocessor, ProbeDataPreprocessor):
            runner.logger.info(
                'FrozenFeatureHook: features are computed again in every epoch: the model is a '
                f'{type(model).__name__} with a {type(preprocessor).__name__}, not a LinearProbe with a '
                'ProbeDataPreprocessor.'
            )
            return
        if runner.val_loop is not None:
            self._compute(runner, 'validation', runner.val_loop.dataloader, model)
        reason = _why_random(runner.train_dataloader, model)
        if reason:
            runner.logger.info(
                f'FrozenFeatureHook: features of the training images are computed again in every epoch: {reason}.'
            )
            return
        # also lets a loop that counts iterations see that the loader was changed
        self._numbered = number_batches(runner.train_loop, runner.seed, get_rank())
        self._compute(runner, 'training', runner.train_dataloader, model)

    def after_train(self, runner: Runner) -> None:
        """Leave the DataLoaders as they were, and the memory."""
        while self._made:
            self._made.pop().undo()
        if self._numbered is not None:
            self._numbered.undo()
            self._numbered = None

    def _compute(self, runner: Runner, which: str, loader: DataLoader, model: LinearProbe) -> None:
        # first: it may take a while
        runner.logger.info(f'FrozenFeatureHook: computes the features of {len(loader.dataset):,} {which} images.')
        features = FrozenFeatures(loader, model)
        self._made.append(MadeBatches(loader, features, features.features.device.type == 'cpu'))
        number, width = features.features.shape
        runner.logger.info(
            f'FrozenFeatureHook: {number:,} features, {width} wide, lie on {features.features.device} '
            f'({features.features.nbytes / MB:,.1f} MB); the {which} runs on them from now on.'
        )


class FrozenFeatures:
    """The features of all images of a dataset.

    Args:
        loader: DataLoader of the dataset.
        model: The network.

    Attributes:
        features (Tensor): ``N x E``.
        samples (list): The data samples of the images.
    """

    def __init__(self, loader: DataLoader, model: LinearProbe) -> None:
        features, self.samples = [], []
        # all images once, whatever the order and the part of this process; workers that end with it
        for batch in DataLoader(
            loader.dataset, BATCH_SIZE, num_workers=loader.num_workers, collate_fn=loader.collate_fn
        ):
            data = model.data_preprocessor(batch, False)
            features.append(model.extract_feat(data['inputs'], stage='pre_logits'))
            self.samples += data['data_samples']
        self.features = torch.cat(features)

    def __call__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Make a batch.

        Args:
            indices: The images, by their place in the dataset.

        Returns:
            ``inputs``: their features, ``B x E``. ``data_samples``: theirs.
        """
        places = torch.tensor(indices, device=self.features.device)
        return {
            'inputs': self.features.index_select(0, places),
            'data_samples': [self.samples[index] for index in indices],
        }


def _why_random(loader: DataLoader, model: LinearProbe) -> str | None:
    """Say what makes a training image look different every time."""
    if model.data_preprocessor.batch_augments is not None:
        return 'data_preprocessor.batch_augments change the images'
    try:
        _, crop, flip = split_pipeline(loader.dataset)
    except NoWholeBatchesError as reason:
        return str(reason)
    random = [type(transform).__name__ for transform in (crop, flip) if transform]
    return f'their pipeline has {" and ".join(random)}' if random else None
