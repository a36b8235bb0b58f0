"""Contents of a report, as far as a run has them."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mmpretrain.registry import DATASETS
from torch import nn

from icd_mmrazor.analysis.distillation import build_algorithm
from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.engine.description import why_not_evaluated
from icd_mmrazor.errors import first_line
from icd_mmrazor.export.trained import TrainedStudent, read_student
from icd_mmrazor.report.predictions import Cost, Predictions, cost, predict, trains_classifier
from icd_mmrazor.report.run_folder import RunFolder

Found = TypeVar('Found')


@dataclasses.dataclass
class Material:
    """The contents of a report.

    Args:
        run: Its work folder.
        baseline: That of the student alone.
        checkpoint: The checkpoint of the student to show.
        student: The student in it.
        algorithm: The distillation, with its teacher.
        predictions: Those of teacher and student on the validation images.
        costs: Parameters and multiply-adds of each network; None for what could not be counted.
        shape: The shape of an image, ``(C, H, W)``.
        images: Descriptions of the training images and the validation images.
        notes: The parts that are missing, and why.
    """

    run: RunFolder
    baseline: RunFolder | None
    checkpoint: Path | None = None
    student: TrainedStudent | None = None
    algorithm: nn.Module | None = None
    predictions: Predictions | None = None
    costs: Mapping[str, Cost] = dataclasses.field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    images: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def attempt(self, what: str, function: Callable[..., Found], *args: Any) -> Found | None:
        """Call a function; if it fails, note why and return None."""
        try:
            with explained_settings():
                return function(*args)
        except Exception as error:  # of a dataset, a network or a file, whoever wrote it
            self.notes.append(f'{what}: {first_line(error)}')
            return None


def collect(found: Material, max_images: int) -> None:
    """Collect the contents of a report; what fails is noted, and the rest is collected all the same.

    Args:
        found: The contents so far; the rest is added.
        max_images: The number of validation images to look at.
    """
    run = found.run
    if found.checkpoint is None:
        found.notes.append('There is no checkpoint yet, so no network was run for this page.')
    else:
        found.student = found.attempt('The student could not be read', read_student, found.checkpoint)
    found.algorithm = found.attempt('The teacher could not be built', build_algorithm, run.cfg)
    found.images = found.attempt('The training images could not be read', _training_images, run) or {}
    if found.student is None:
        return
    if not run.cfg.get('val_dataloader'):
        found.notes.append('The run has no validation set, so no image is shown and no accuracy known.')
    elif found.algorithm is not None and not trains_classifier(found.algorithm):
        found.notes.append("No loss reads the student's logits: its feature is trained, but not its classifier.")
    else:
        found.predictions = _predictions(found, max_images)
    if found.predictions is not None:
        found.images['validation images'] = f'{found.predictions.total:,}'
        if found.algorithm is not None and found.predictions.teacher is None and why_not_evaluated(found.algorithm):
            found.notes.append(f'The teacher gives no classes: {why_not_evaluated(found.algorithm)}.')
        if found.predictions.labels is None:
            found.notes.append('The validation images have no labels: the student is compared with its teacher.')
    if found.predictions is not None:
        found.shape = (found.student.channels, *found.predictions.shape[1:])
    elif size := found.attempt('The size of the images is not known', found.student.image_size):
        found.shape = (found.student.channels, *size)
    networks = found.student, found.algorithm
    found.costs = found.attempt('The multiply-adds could not be counted', cost, *networks, found.shape) or {}
    if not found.costs:
        found.costs = cost(*networks, None)


def _predictions(found: Material, max_images: int) -> Predictions | None:
    if found.algorithm is not None:
        arguments = found.run.cfg, found.student, found.algorithm, max_images
        predictions = found.attempt('The teacher could not be run', predict, *arguments)
        if predictions is not None:
            return predictions
    of_teacher = len(found.notes) - 1
    arguments = found.run.cfg, found.student, None, max_images
    predictions = found.attempt('Nothing is said of single images', predict, *arguments)
    if predictions is None and found.algorithm is not None:
        del found.notes[of_teacher]  # the student fails, too, which the last note says
    return predictions


def _training_images(run: RunFolder) -> dict[str, str]:
    if said := run.described.get('training images') or run.described.get('images'):
        return {'training images': said[0]}
    dataset = DATASETS.build(run.cfg.train_dataloader['dataset'])
    return {'training images': f'{len(dataset):,}'}
