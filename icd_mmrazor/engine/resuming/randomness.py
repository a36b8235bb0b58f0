"""Repeatable randomness, derived from seed, rank, iteration."""

from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from icd_mmrazor.datasets.loaders import NumberedBatches, number_batches
from icd_mmrazor.datasets.randomness import EPOCH, STEP, VALIDATION, seed_all
from icd_mmrazor.engine.runs import counts_iterations, optimizers_of

# what a checkpoint's meta says about the data
POSITION = ('sampler_seed', 'batches_of_epoch', 'trained_of_epoch')


class Randomness(Hook):
    """Derive everything random in a training from the run's seed, the rank and the iteration.

    No state of a generator has to be stored. Before each step Python, numpy and torch (CPU and CUDA) are seeded, in 35
    microseconds of the host; the process that prepares the images of a batch is seeded by the number of the batch, so
    that the number of workers does not matter. A run that is resumed within an epoch continues with the next batch,
    without loading the earlier ones. The seed of the data order is stored, for a run whose seed was drawn.

    Each rank has its own random numbers (mmengine seeds all alike); the order of the data is common. A custom sampler
    continues within an epoch if it draws the order when it is iterated, or from the seed and the epoch.

    Inexact, with a warning: a checkpoint between two updates of a gradient accumulation; a resume within an epoch with
    another number of batches. With three or more processes DDP sums the gradients of the first iteration after a start
    in another order, which may change their last bits.
    """

    # before hooks that draw random numbers or change the DataLoader
    priority = 5

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._batches: NumberedBatches | None = None
        # POSITION in the checkpoint that is resumed
        self._resumed: dict[str, int] = {}
        # the current epoch and the iteration that it started with
        self._epoch: tuple[int, int] | None = None
        self._warned = False

    def before_run(self, runner: Runner) -> None:
        """Forget an earlier run."""
        self._reset()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Read where in the data the run was, and the seed of its order."""
        meta = checkpoint.get('meta')
        if runner._resume and isinstance(meta, dict):
            # a stranger's may hold anything
            self._resumed = {name: meta[name] for name in POSITION if type(meta.get(name)) is int}

    def before_train(self, runner: Runner) -> None:
        """Number the batches; skip those that were trained on before the resume."""
        batches = self._batches = number_batches(runner.train_loop, runner.seed, get_rank())
        if batches is None:
            runner.logger.warning(
                'ExactResumeHook: train_dataloader does not take its batches from a dataset by their indices, so a '
                'resumed run sees other images.'
            )
            return
        if hasattr(batches.sampler, 'seed') and 'sampler_seed' in self._resumed:
            batches.sampler.seed = self._resumed['sampler_seed']
        trained = self._resumed.get('trained_of_epoch', 0)
        if not trained or counts_iterations(runner):
            return
        before, now = self._resumed.get('batches_of_epoch'), len(batches)
        if before == now and 0 <= trained <= now:
            batches.skip = trained
            runner.logger.info(f'Epoch {runner.epoch + 1} continues after {trained} of its {now} batches.')
        else:
            runner.logger.warning(
                f'ExactResumeHook: the checkpoint was written after {trained} of the {before} batches of epoch '
                f'{runner.epoch + 1}, which has {now} now, so the epoch starts again.'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed what is drawn at the start of an epoch."""
        if self._batches is not None and runner.train_dataloader is not self._batches.loader:  # a hook replaced it
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
        """Store where in the data the run is."""
        if self._batches is None:
            return
        meta: dict[str, Any] = checkpoint['meta']
        if isinstance(getattr(self._batches.sampler, 'seed', None), int):
            meta['sampler_seed'] = self._batches.sampler.seed
        if not counts_iterations(runner):
            epoch, start = self._epoch or (None, 0)
            meta['batches_of_epoch'] = len(self._batches)
            # an epoch that has ended is counted already
            meta['trained_of_epoch'] = meta['iter'] - start if meta['epoch'] == epoch else 0
        self._warn_of_lost_gradients(runner)

    def after_train(self, runner: Runner) -> None:
        """Restore the DataLoader."""
        if self._batches is not None:
            self._batches.undo()
        self._reset()

    def _warn_of_lost_gradients(self, runner: Runner) -> None:
        for wrapper in optimizers_of(runner):
            counts = wrapper._accumulative_counts
            waiting = 0 if wrapper.should_update() else wrapper.inner_count % counts
            if waiting and not self._warned:
                self._warned = True
                runner.logger.warning(
                    f'ExactResumeHook: a run that is resumed from this checkpoint lacks the gradients of the last '
                    f'{waiting} of optim_wrapper.accumulative_counts={counts} batches. Set '
                    f'default_hooks.checkpoint.interval to a multiple of {counts} iterations.'
                )
