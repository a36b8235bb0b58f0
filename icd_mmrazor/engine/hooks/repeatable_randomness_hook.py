"""Random numbers and data order of a training that follow from where it is."""

from collections.abc import Mapping
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from icd_mmrazor.datasets.loaders import NumberedBatches, number_batches
from icd_mmrazor.datasets.randomness import EPOCH, STEP, VALIDATION, seed_all


@HOOKS.register_module()
class RepeatableRandomnessHook(Hook):
    """Let everything random in a training follow from the run's seed, the rank and the iteration.

    A run that is stopped anywhere and resumed then ends as one that was not stopped, on a CPU bit for bit, without any
    state of a generator in the checkpoint:

    * before each training step Python, numpy and torch (CPU and CUDA) are seeded, so dropout, mixup, CRD's negatives
      and the like depend on nothing else: about 35 microseconds of the host, no wait for a GPU;
    * before the images of a batch are prepared, the process that does it is seeded by the number of the batch, so that
      the images are the same with any number of workers;
    * the order of the data goes on inside an epoch: after a resume from a checkpoint between the ends of epochs
      (``CheckpointHook(by_epoch=False)``) the batches that were trained are left out without loading them;
    * the order's seed is kept in the checkpoint, for a run whose seed was drawn (``randomness.seed=None``).

    Each rank has random numbers of its own, where mmengine seeds all alike; their order of the data is common.

    What stays inexact, with a warning: a checkpoint between two updates of a gradient accumulation, whose gradients
    it does not hold; one from the middle of an epoch that is resumed with another number of batches an epoch, which
    begins the epoch anew. With three or more processes DDP sums the gradients of the first iteration after a start
    in another order, which may change their last bits.

    In an epoch that is gone on with, the log counts its batches from 1 again.

    A sampler of one's own goes on inside an epoch if it draws the order when it is begun, or from the seed and the
    epoch, as all of mmengine and torch do.

    Config example::

        default_hooks=dict(randomness=dict(type='RepeatableRandomnessHook'))
    """

    # before hooks that draw random numbers, and before those that change the DataLoader
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._batches: NumberedBatches | None = None
        # of the checkpoint that is resumed
        self._resumed: dict[str, int] = {}
        # the epoch that runs and the iteration at its beginning
        self._epoch: tuple[int, int] | None = None
        self._warned = False

    def before_run(self, runner: Runner) -> None:
        """Forget an earlier run."""
        self._forget()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Find out at which batch the run was, and the seed of its order."""
        meta = checkpoint.get('meta')
        if runner._resume and isinstance(meta, dict):
            # that of a stranger may hold anything
            names = ('sampler_seed', 'batches_of_epoch', 'trained_of_epoch')
            self._resumed = {name: meta[name] for name in names if type(meta.get(name)) is int}

    def before_train(self, runner: Runner) -> None:
        """Number the batches, and begin with the one that a resumed run is at."""
        batches = self._batches = number_batches(runner.train_loop, runner.seed, get_rank())
        if batches is None:
            runner.logger.warning(
                'RepeatableRandomnessHook: train_dataloader does not take its batches from a dataset by their indices, '
                'so a resumed run sees other images than one that was not stopped.'
            )
            return
        if hasattr(batches.sampler, 'seed') and 'sampler_seed' in self._resumed:
            batches.sampler.seed = self._resumed['sampler_seed']
        trained = self._resumed.get('trained_of_epoch', 0)
        if not trained or _counts_iterations(runner):
            return
        before, now = self._resumed.get('batches_of_epoch'), len(batches)
        if before == now and 0 <= trained <= now:
            batches.skip = trained
            runner.logger.info(f'Epoch {runner.epoch + 1} goes on after {trained} of its {now} batches.')
        else:
            runner.logger.warning(
                f'RepeatableRandomnessHook: the checkpoint was written after {trained} of the {before} batches of '
                f'epoch {runner.epoch + 1}. An epoch has {now} now, so it begins anew: some images are trained on once '
                'more. Resume with the batch size, the number of processes and the images of that run to avoid it.'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed what is drawn at the beginning of an epoch."""
        if self._batches is not None and runner.train_dataloader is not self._batches.loader:  # a hook has set another
            self._batches.undo()
            self._batches = number_batches(runner.train_loop, runner.seed, get_rank())
        skipped = self._batches.skip if self._batches is not None else 0
        self._epoch = (runner.epoch, runner.iter - skipped)
        seed_all(runner.seed, get_rank(), runner.epoch, EPOCH)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the step."""
        seed_all(runner.seed, get_rank(), runner.iter, STEP)

    def before_val_epoch(self, runner: Runner) -> None:
        """Seed what is drawn in a validation."""
        seed_all(runner.seed, get_rank(), runner.iter, VALIDATION)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note down where in the data the run is."""
        if self._batches is None:
            return
        meta: dict[str, Any] = checkpoint['meta']
        if isinstance(getattr(self._batches.sampler, 'seed', None), int):
            meta['sampler_seed'] = self._batches.sampler.seed
        if not _counts_iterations(runner):
            epoch, begin = self._epoch or (None, 0)
            meta['batches_of_epoch'] = len(self._batches)
            # an epoch that has ended is another one already
            meta['trained_of_epoch'] = meta['iter'] - begin if meta['epoch'] == epoch else 0
        self._warn_of_lost_gradients(runner)

    def after_train(self, runner: Runner) -> None:
        """Leave the DataLoader as it was."""
        if self._batches is not None:
            self._batches.undo()
        self._forget()

    def _warn_of_lost_gradients(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        wrappers: Mapping = wrapper if isinstance(wrapper, OptimWrapperDict) else {'': wrapper}
        for each in wrappers.values():
            counts = each._accumulative_counts
            waiting = each.inner_count % counts if not each.should_update() else 0
            if waiting and not self._warned:
                self._warned = True
                runner.logger.warning(
                    f'RepeatableRandomnessHook: this checkpoint lies between two updates of the weights: the gradients '
                    f'of the last {waiting} of optim_wrapper.accumulative_counts={counts} batches are not in it, and a '
                    'run that is resumed from it goes on without them. Write checkpoints at multiples of '
                    f'{counts} iterations (default_hooks.checkpoint.interval with by_epoch=False).'
                )


def _counts_iterations(runner: Runner) -> bool:
    return isinstance(runner.train_loop, IterBasedTrainLoop)
