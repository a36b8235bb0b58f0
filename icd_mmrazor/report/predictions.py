"""Predictions on the validation images of a run."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor, nn

from icd_mmrazor.analysis.distillation import way_to_run_teacher
from icd_mmrazor.datasets.class_names import class_names
from icd_mmrazor.datasets.labels import images_are_gray
from icd_mmrazor.engine.description import why_not_evaluated
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.evaluation import build_loader_of_some
from icd_mmrazor.export.latency import multiply_adds
from icd_mmrazor.export.plain_test import plain_dataset
from icd_mmrazor.export.trained import TrainedStudent
from icd_mmrazor.models.algorithms.records import reads_logits
from icd_mmrazor.models.networks.preparation import source_of_images

THUMBNAIL = 96  # pixels, the longer side of a larger image


class Cost(NamedTuple):
    """The parameters of a network, and its multiply-adds for an image; None if they could not be counted.

    ``change`` says how a distiller has changed the network.
    """

    parameters: int
    multiply_adds: int | None
    change: str = ''


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The scores of N validation images.

    Args:
        images: Their places in the dataset.
        total: The number of images in it.
        classes: The names of the classes.
        labels: The class of each image, ``N``; None if they have none.
        student: The student's probabilities, ``N x C``.
        teacher: The teacher's, ``N x C``; None if it has no classifier of these classes.
        shape: The shape of an image, ``(C, H, W)``.
        thumbnail: Returns an image, by its place, as the content of a PNG file.
    """

    images: list[int]
    total: int
    classes: list[str]
    labels: np.ndarray | None
    student: np.ndarray
    teacher: np.ndarray | None
    shape: tuple[int, ...]
    thumbnail: Callable[[int], bytes]

    def disagreements(self, at_most: int) -> list[int]:
        """Return the rows in which teacher and student differ, those in which both are most confident first."""
        differ = np.flatnonzero(self.teacher.argmax(1) != self.student.argmax(1))
        confidence = self.teacher.max(1)[differ] * self.student.max(1)[differ]
        return differ[np.argsort(-confidence, kind='stable')][:at_most].tolist()

    def mistakes(self, at_most: int) -> list[int]:
        """Return the rows in which the student is wrong, the most confident first."""
        wrong = np.flatnonzero(self.student.argmax(1) != self.labels)
        return wrong[np.argsort(-self.student.max(1)[wrong], kind='stable')][:at_most].tolist()


def predict(cfg: Config, student: TrainedStudent, algorithm: nn.Module | None, at_most: int) -> Predictions:
    """Run student and teacher on the validation images of a run, without its training.

    Args:
        cfg: The config of the run.
        student: Its student.
        algorithm: Its distillation, from :func:`icd_mmrazor.analysis.distillation.build_algorithm`, which knows how
            the teacher sees images; None leaves the teacher out.
        at_most: The number of images; of more, some are drawn with a fixed seed.

    Raises:
        UserError: There are no validation images, they cannot be read, or the student does not give one class each.
    """
    if not cfg.get('val_dataloader'):
        raise SettingError('the run has no validation images (val_dataloader).')
    # one process: a report is short, and an interrupted one leaves nothing behind
    settings = {**cfg.val_dataloader, 'num_workers': 0, 'pin_memory': False}
    settings['dataset'] = plain_dataset(copy.deepcopy(cfg.val_dataloader.dataset))
    loader = build_loader_of_some(student, settings, at_most)
    dataset, images = loader.dataset, loader.sampler
    source = source_of_images(cfg, ('val',))
    model = student.model.to(get_device()).eval()
    if 'MultiLabel' in type(getattr(model, 'head', None)).__name__:
        raise SettingError('an image may be of several classes, so classes are not confused with one another.')
    with_teacher = algorithm is not None and why_not_evaluated(algorithm) is None
    if with_teacher:
        algorithm.to(get_device()).eval()
        run_teacher = way_to_run_teacher(algorithm)
        if hasattr(algorithm, 'check_order_of_channels'):
            algorithm.check_order_of_channels(source, lambda: images_are_gray(dataset))
    labels: list[Tensor] = []
    scores: tuple[list[Tensor], list[Tensor]] = ([], [])
    with torch.no_grad():
        for batch in loader:
            if with_teacher:
                data = algorithm.data_preprocessor(batch, False)
                scores[1].extend(_scores(run_teacher(data['inputs'], data['data_samples'], mode='predict')))
            found = model.test_step(batch)
            labels += [each.get('gt_label', torch.empty(0)).cpu() for each in found]
            scores[0].extend(_scores(found))
    model.cpu()
    known = all(label.numel() == 1 for label in labels)
    student_scores = torch.stack(scores[0]).numpy()
    names = class_names(getattr(dataset, 'metainfo', None)) or student.classes or ()
    count = student_scores.shape[1]
    return Predictions(
        images=images,
        total=len(dataset),
        classes=list(names) if len(names) == count else [str(i) for i in range(count)],
        labels=torch.cat(labels).numpy() if known else None,
        student=student_scores,
        teacher=torch.stack(scores[1]).numpy() if with_teacher else None,
        shape=tuple(dataset[images[0]]['inputs'].shape),
        thumbnail=lambda place: _png(dataset[place]['inputs'], source),
    )


def trains_classifier(algorithm: nn.Module) -> bool:
    """Return whether a loss of a distillation reads the student's logits."""
    return getattr(algorithm, 'calculate_student_loss', True) or reads_logits(algorithm.distiller, algorithm.teacher)


def cost(student: TrainedStudent, algorithm: nn.Module | None, shape: tuple[int, ...] | None) -> dict[str, Cost]:
    """Count the parameters of student and teacher, and their multiply-adds for an image of a shape, ``(C, H, W)``."""
    networks: dict[str, tuple[nn.Module, Callable]] = {'student': (student.model.cpu().eval(), student.logits())}
    if algorithm is not None and not getattr(algorithm.teacher, 'is_stored', False):
        algorithm.cpu().eval()
        networks['teacher'] = (algorithm.teacher, way_to_run_teacher(algorithm))
    return {
        name: Cost(
            sum(parameter.numel() for parameter in network.parameters()),
            None if shape is None else multiply_adds(whole, torch.zeros(1, *shape)),
            getattr(network, 'change', ''),
        )
        for name, (network, whole) in networks.items()
    }


def _scores(samples: list) -> list[Tensor]:
    if any('pred_score' not in each for each in samples):
        raise SettingError('a network predicts no scores of classes.')
    return [each.pred_score.detach().float().cpu() for each in samples]


def _png(inputs: Any, source: str | None) -> bytes:
    """Return an image as the networks are given it, ``C x H x W`` of 0 to 255, as the content of a PNG file."""
    image = np.moveaxis(np.asarray(torch.as_tensor(inputs).float()), 0, -1)
    if image.shape[-1] not in (1, 3):
        image = image[..., :1]
    if image.min() < 0 or image.max() > 255 or 0 < image.max() <= 1:  # normalised by the pipeline
        image = 255 * (image - image.min()) / max(float(np.ptp(image)), 1e-9)
    image = image.round().astype(np.uint8)
    if source == 'RGB':  # OpenCV writes BGR
        image = image[..., ::-1]
    factor = THUMBNAIL / max(image.shape[:2])
    if factor < 1:
        size = [max(1, round(factor * side)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode('.png', np.ascontiguousarray(image))[1].tobytes()
