"""The networks of an analysis with their images."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from icd_mmrazor.analysis.distillation import build_algorithm, in_float32
from icd_mmrazor.analysis.images import Images, read_images
from icd_mmrazor.analysis.networks import Network, logits_of, student_network, teacher_network
from icd_mmrazor.checkpoints.reading import read_checkpoint, sha256
from icd_mmrazor.datasets.class_names import check_class_names, choice_in
from icd_mmrazor.datasets.labels import images_are_gray
from icd_mmrazor.engine.description import why_not_evaluated
from icd_mmrazor.errors import DatasetError, SettingError
from icd_mmrazor.export.trained import TrainedStudent, read_student
from icd_mmrazor.models.networks.classifier_layer import number_of_classes
from icd_mmrazor.models.networks.preparation import preparation_by, preparation_of_checkpoint, refuse_other_order

STUDENT, TEACHER = 'student', 'teacher'
BATCH_SIZE = 256
MAX_IMAGES = 2000


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """Networks and images to analyse.

    Args:
        networks: The student's network and, if it is known, the teacher's.
        images: The test images.
        classes: The names of the classes.
        why_no_teacher: Reason for the missing teacher; empty if there is one.
        checkpoint: The name of the student's checkpoint.
        sha256: Its SHA-256 sum, which tells it from others of that name.
    """

    networks: Mapping[str, Network]
    images: Images
    classes: Sequence[str]
    why_no_teacher: str = ''
    checkpoint: str = ''
    sha256: str = ''

    @property
    def origin(self) -> dict[str, Any]:
        """Checkpoint and numbers of images, for a file of results."""
        of = {'checkpoint': self.checkpoint, 'sha256': self.sha256}
        return {**of, 'images': len(self.images), 'total': self.images.total}

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """Return the logits of each network for images, ``N x C x H x W``."""
        return {name: logits_of(network, images, BATCH_SIZE) for name, network in self.networks.items()}

    @functools.cached_property
    def clean(self) -> dict[str, Tensor]:
        """The logits of each network for the test images."""
        return self.logits(self.images.pixels)

    @property
    def scores(self) -> dict[str, Tensor]:
        """The probabilities of each network for the test images."""
        return {name: logits.double().softmax(1) for name, logits in self.clean.items()}


def read_subject(
    checkpoint: str | Path,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    max_images: int = MAX_IMAGES,
    seed: int = 0,
) -> Subject:
    """Read the student in a checkpoint, its teacher, and test images.

    Args:
        checkpoint: Of a distillation or of a plain classifier.
        config: The config of its training, a file that is run; by default the one in the checkpoint, which is data.
        options: Settings of that config to change, by their dotted keys.
        max_images: The number of test images; of more, some are drawn with the seed.
        seed: The seed.

    Raises:
        CheckpointError: The checkpoint cannot be read, or does not fit the config.
        SettingError: A network cannot be built, or there are no test images.
    """
    student, content = read_student(checkpoint, config, options), read_checkpoint(checkpoint)
    if not student.cfg.get('test_dataloader'):
        raise SettingError('test_dataloader: the config has no test images. Give the config of the training.')
    images = read_images(student.cfg.test_dataloader, student.cfg.default_scope, max_images, seed)
    gray = functools.partial(images_are_gray, [{'inputs': image} for image in images.pixels])
    classes = _check_images(student, content, images, gray, str(checkpoint))
    networks, why = {STUDENT: student_network(student.model)}, 'the config has no teacher'
    if {'teacher', 'teachers'} & {*(student.run_cfg.get('model') or {})}:
        algorithm = build_algorithm(in_float32(student.run_cfg), content)
        why = why_not_evaluated(algorithm) or ''
        if hasattr(algorithm, 'check_order_of_channels'):
            algorithm.check_order_of_channels(images.source, gray)
        if not why:
            networks[TEACHER] = teacher_network(algorithm)
    return Subject(networks, images, classes, why, Path(checkpoint).name, sha256(Path(checkpoint)))


def _check_images(
    student: TrainedStudent, content: Mapping[str, Any], images: Images, gray: Callable[[], bool], file: str
) -> list[str]:
    """Refuse images that the student was not trained for; return the names of the classes."""
    trained, used = preparation_of_checkpoint(content), preparation_by(student.model.data_preprocessor, images.source)
    if images.source is not None:
        refuse_other_order('the network', trained, used, gray, 'this analysis')
    dataset = SimpleNamespace(metainfo={'classes': images.classes or ()})
    names = [('test_dataloader', dataset)]
    check_class_names(f'checkpoint {file}', student.classes, names, choice_in(student.run_cfg))
    count = number_of_classes(student.model) or len(images.classes or ())
    if images.labels is not None and count and int(images.labels.max()) >= count:
        raise DatasetError(
            f'test_dataloader: an image has label {int(images.labels.max())}, and the student {count} classes. Give '
            'the images of its training.'
        )
    names = images.classes or student.classes or ()
    return list(names) if len(names) == count else [str(i) for i in range(count)]
