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

from icd_mmrazor.datasets.fingerprints import fingerprint, fingerprint_of_dataset, fingerprint_of_tensors
from icd_mmrazor.datasets.in_memory import NoWholeBatchesError, split_pipeline
from icd_mmrazor.datasets.loaders import MadeBatches, NumberedBatches, number_batches
from icd_mmrazor.models.classifiers import LinearProbe, ProbeDataPreprocessor

BATCH_SIZE = 256
MB = 1e6


@HOOKS.register_module()
class FrozenFeatureHook(Hook):
    """Compute the features of a :class:`LinearProbe` once and run the loops on them.

    Validation images look the same every time, so from the second validation on the backbone need not be run on them.
    Training images do where there is nothing random in their pipeline. The result is that of the images, but for
    rounding; with ``--amp`` the features are in full precision all the same. In each process the features stay on the
    device of the model: ``N x E`` numbers.

    The log says what is computed once, and what not and why. Before each pass over the images the hook looks whether
    the network, the data preprocessor, the dataset and its pipeline are what they were, and computes the features
    again if not.

    Config example::

        custom_hooks=[dict(type='FrozenFeatureHook')]
    """

    # before WholeBatchHook, which leaves alone what this one gives
    priority = 'NORMAL'

    def __init__(self) -> None:
        self._kept: dict[str, _KeptFeatures] = {}
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
        while self._kept:
            self._kept.popitem()[1].made.undo()
        if self._numbered is not None:
            self._numbered.undo()
            self._numbered = None

    def before_train_epoch(self, runner: Runner) -> None:
        """Have the network and the training images looked at with the first batch, after all hooks had their turn."""
        self._look_again('training')

    def before_val_epoch(self, runner: Runner) -> None:
        """Have the network and the validation images looked at with the first batch."""
        self._look_again('validation')

    def _look_again(self, which: str) -> None:
        if which in self._kept:
            self._kept[which].batches_left = 0

    def _compute(self, runner: Runner, which: str, loader: DataLoader, model: LinearProbe) -> None:
        # first: it may take a while
        runner.logger.info(f'FrozenFeatureHook: computes the features of {len(loader.dataset):,} {which} images.')
        try:
            self._kept[which] = _KeptFeatures(runner, which, loader, model)
        except NoWholeBatchesError as reason:
            runner.logger.info(f'FrozenFeatureHook: those of the {which} images are computed every time: {reason}.')


class _KeptFeatures:
    """The features of a loader's images, which stand in for them as long as they are what they were."""

    def __init__(self, runner: Runner, which: str, loader: DataLoader, model: LinearProbe) -> None:
        self.runner, self.which, self.loader, self.model = runner, which, loader, model
        self.batches_left = len(loader)
        self.features, self.state = FrozenFeatures(loader, model), self._state()
        self.made = MadeBatches(loader, self._make, self.features.features.device.type == 'cpu')
        number, width = self.features.features.shape
        runner.logger.info(
            f'FrozenFeatureHook: {number:,} features, {width} wide, lie on {self.features.features.device} '
            f'({self.features.features.nbytes / MB:,.1f} MB); the {which} runs on them from now on.'
        )

    def _make(self, indices: Sequence[int]) -> dict[str, Any] | None:
        if not self.batches_left:
            # in a loop that counts iterations no hook is told where a pass over the data begins
            self.batches_left = len(self.loader)
            if not self._keep_up():
                return None
        self.batches_left -= 1
        return self.features(indices)

    def _keep_up(self) -> bool:
        """Compute the features again if they would be others now, and return whether they can stand in still."""
        try:
            state = self._state()
            if state == self.state:
                return True
            reason = self.which == 'training' and _why_random(self.loader, self.model)
        except NoWholeBatchesError as error:
            reason = error
        images = f'{len(self.loader.dataset):,} {self.which} images'
        if reason:
            self.runner.logger.info(
                f'FrozenFeatureHook: from now on the features of {images} are computed every time: {reason}.'
            )
            self.made.undo()
            return False
        self.runner.logger.info(
            f'FrozenFeatureHook: the network or the data have changed; computes the features of {images} again.'
        )
        self.made.undo()
        self.features, self.state = FrozenFeatures(self.loader, self.model), state
        self.made = MadeBatches(self.loader, self._make, self.features.features.device.type == 'cpu')
        return True

    def _state(self) -> list:
        """Return what the features depend on."""
        preprocessor = self.model.data_preprocessor
        frozen = [part for part in (self.model.backbone, self.model.neck) if part is not None]
        tensors = [tensor for part in (*frozen, preprocessor) for tensor in (*part.parameters(), *part.buffers())]
        settings = {n: value for n, value in vars(preprocessor).items() if n != 'training' and not n.startswith('_')}
        try:
            return [
                fingerprint_of_tensors(tensors),
                fingerprint([module.training for part in frozen for module in part.modules()]),
                fingerprint([type(preprocessor), settings]),
                fingerprint_of_dataset(self.loader.dataset),
            ]
        except Exception as error:  # pickle raises anything
            raise NoWholeBatchesError(
                f'a change would not be noticed, since they cannot be pickled ({error})'
            ) from error


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
