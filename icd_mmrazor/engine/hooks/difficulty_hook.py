"""Difficulty of the training images, measured before a training."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dataset import Compose, pseudo_collate
from mmengine.dist import all_reduce, get_dist_info
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from icd_mmrazor.datasets.pipelines import pipelines_of
from icd_mmrazor.datasets.randomness import undrawn
from icd_mmrazor.engine.hooks.sample_memory_hook import numbered_images, training_labels
from icd_mmrazor.engine.runs import counts_iterations, is_training, model_of
from icd_mmrazor.errors import DatasetError, SettingError
from icd_mmrazor.models.algorithms.expert_selection_distill import LOSS, NAME, ExpertSelectionDistill

BATCH_SIZE = 64


@HOOKS.register_module()
class DifficultyHook(Hook):
    """Measure how difficult each training image is for a teacher, and choose its expert (``ExpertSelectionDistill``).

    Before the training, one of the teachers (``model.scorer``) runs once on every training image in its plain view,
    without augmentation. Several processes share the images. A resumed run uses what its checkpoint has. At the start
    of each epoch, the algorithm is told its number.

    Args:
        pipeline: The transforms of the plain view. By default those of the validation set.

    Raises:
        SettingError: There is no pipeline, the teacher gives no finite score, or ``ramp_epochs`` is set in a training
            that counts iterations.
        DatasetError: The training set does not number its images, has fewer of them than there are teachers, or no
            labels, which the score ``'loss'`` reads.

    Config example::

        default_hooks=dict(difficulty=dict(type='DifficultyHook'))
    """

    # before EMAHook copies the model
    priority = 'HIGH'

    def __init__(self, pipeline: list[dict] | None = None) -> None:
        if pipeline is not None and not (isinstance(pipeline, list | tuple) and pipeline):
            raise SettingError(f'DifficultyHook: pipeline={pipeline!r} must be a list of transforms, or None.')
        self.pipeline = pipeline
        self._dataset: Any = None
        self._labels: Tensor | None = None

    def before_run(self, runner: Runner) -> None:
        """Look at the training set, and make room for the difficulties."""
        algorithm = model_of(runner)
        if not isinstance(algorithm, ExpertSelectionDistill) or not is_training(runner):
            return
        if algorithm.ramp_epochs is not None and counts_iterations(runner):
            raise SettingError(
                f'{NAME}: ramp_epochs={algorithm.ramp_epochs} counts epochs, and train_cfg counts iterations. Set '
                'train_cfg=dict(by_epoch=True, max_epochs=...), or ramp_epochs=None.'
            )
        _warn_of_ramp(runner, algorithm)
        self._dataset = numbered_images(runner.train_dataloader.dataset, NAME)
        self._labels = None
        if algorithm.score == LOSS:
            try:
                self._labels = training_labels(self._dataset, NAME)
            except DatasetError as error:
                raise DatasetError(f"{error} Or set model.score='confidence'.") from None
        algorithm.set_images(len(self._dataset))

    def before_train(self, runner: Runner) -> None:
        """Measure the difficulty, unless the run is resumed with it."""
        algorithm = model_of(runner)
        if not isinstance(algorithm, ExpertSelectionDistill):
            return
        if runner._resume and algorithm.knows_difficulty:
            return
        number = len(self._dataset)
        runner.logger.info(
            f'DifficultyHook: teachers[{algorithm.scorer}] measures the difficulty ({algorithm.score}) of {number:,} '
            'training images.'
        )
        algorithm.set_difficulty(self._measured(runner, algorithm).to(algorithm.difficulty.device))
        runner.logger.info('DifficultyHook: ' + ', '.join(_described(algorithm)))

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the algorithm the epoch."""
        algorithm = model_of(runner)
        if isinstance(algorithm, ExpertSelectionDistill):
            algorithm.set_epoch(runner.epoch)

    @torch.no_grad()
    def _measured(self, runner: Runner, algorithm: ExpertSelectionDistill) -> Tensor:
        """Return the difficulty of each image, ``N``, on the CPU."""
        views = _PlainViews(self._dataset, self._pipeline(runner))
        rank, processes = get_dist_info()
        rows = torch.arange(rank, len(views), processes)
        parts = rows.split(BATCH_SIZE)
        scores = torch.zeros(len(views), dtype=torch.float64)
        # a resumed run draws what this one would draw without the pass
        with undrawn():
            loader = DataLoader(
                views,
                batch_sampler=[part.tolist() for part in parts],
                num_workers=runner.train_dataloader.num_workers,
                collate_fn=pseudo_collate,
            )
            for part, batch in zip(parts, loader, strict=True):
                images = algorithm.data_preprocessor(batch, False)['inputs']
                # in double precision: the losses of images that a teacher is sure of differ by less than single has
                logits = algorithm.teacher.run_member(algorithm.scorer, images).cpu().double()
                if self._labels is None:
                    scores[part] = -logits.log_softmax(1).amax(1)
                else:
                    scores[part] = F.cross_entropy(logits, self._labels[part], reduction='none')
        scores = scores.to(algorithm.difficulty.device)
        all_reduce(scores)
        return scores

    def _pipeline(self, runner: Runner) -> Any:
        if self.pipeline is not None:
            return Compose(self.pipeline)
        found = None if runner.val_loop is None else pipelines_of(runner.val_loop.dataloader.dataset)[0]
        if found is None:
            raise SettingError(
                'DifficultyHook: there is no val_dataloader whose pipeline would show the training images without '
                'augmentation. Set default_hooks.difficulty.pipeline to a list of transforms.'
            )
        return found


class _PlainViews:
    """The images of a dataset with the pipeline of another one."""

    def __init__(self, dataset: Any, pipeline: Any) -> None:
        self.dataset, self.pipeline = dataset, pipeline

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> Any:
        return self.pipeline(self.dataset.get_data_info(i))


def _warn_of_ramp(runner: Runner, algorithm: ExpertSelectionDistill) -> None:
    """Warn if the training ends before the largest expert is admitted."""
    epochs, number = algorithm.ramp_epochs, len(algorithm.teacher.members)
    if epochs is None or (runner.max_epochs - 1) * number // epochs >= number - 1:
        return
    runner.logger.warning(
        f'DifficultyHook: the training ends after {runner.max_epochs} epochs, before all experts are admitted in '
        f'model.ramp_epochs={epochs}: teachers[{number - 1}] teaches no image. Set a smaller ramp_epochs.'
    )


def _described(algorithm: ExpertSelectionDistill) -> Iterator[str]:
    for i in range(len(algorithm.teacher.members)):
        own = algorithm.difficulty[algorithm.experts == i]
        yield f'{len(own):,} images of difficulty {own.min().item():.3g} to {own.max().item():.3g} for teachers[{i}]'
