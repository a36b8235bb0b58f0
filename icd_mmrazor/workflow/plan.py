"""The plan of a distillation."""

import dataclasses
import math
from collections import Counter
from datetime import timedelta

from icd_mmrazor.machine import cores
from icd_mmrazor.workflow.cost import Cost
from icd_mmrazor.workflow.folder import ImageFolder
from icd_mmrazor.workflow.image_files import Inspection
from icd_mmrazor.workflow.networks import PUBLISHED, WEIGHTS, Network
from icd_mmrazor.workflow.request import Request


@dataclasses.dataclass
class Plan:
    """What a request comes to.

    Args:
        request: The request.
        folder: The images with labels, a validation set among them.
        found: What these are like.
        unlabeled: The images without labels, and what these are like.
        teacher: The teacher.
        student: The student.
        probe: Why the teacher needs a new classifier; empty if it does not.
        image_size: Height and width of the images that the student gets.
        batch_size: Images in a batch, with and without labels.
        labeled: Images with labels in a batch.
        epochs: Epochs of the distillation.
        probe_epochs: Epochs of the teacher's classifier.
        workers: Processes that read images.
        processes: Processes that train.
        cost: What a step takes.
    """

    request: Request
    folder: ImageFolder
    found: Inspection
    unlabeled: tuple[ImageFolder, Inspection] | None
    teacher: Network
    student: Network
    probe: str
    image_size: int
    batch_size: int
    labeled: int
    epochs: int
    probe_epochs: int
    workers: int
    processes: int = 1
    cost: Cost | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, in which every image is trained on."""
        steps = len(self.folder.train) // (self.labeled * self.processes)
        if self.unlabeled:
            parts = (
                (len(self.folder.train), self.labeled),
                (len(self.unlabeled[0].train), self.batch_size - self.labeled),
            )
            steps = max(math.ceil(images / (number * self.processes)) for images, number in parts)
        return max(1, steps)

    @property
    def alone_epochs(self) -> int:
        """Epochs of the student alone, which makes as many steps, on as many images with labels each."""
        own = max(1, len(self.folder.train) // (self.labeled * self.processes))
        return round(self.epochs * self.steps_per_epoch / own)

    @property
    def parameters(self) -> list[int]:
        """The numbers of parameters of teacher and student."""
        return [self.cost.teacher_parameters, self.student.parameters]

    @property
    def gray(self) -> bool:
        """Whether all images are gray."""
        return self.found.gray and (self.unlabeled is None or self.unlabeled[1].gray)

    @property
    def temperature(self) -> float:
        """The temperature of KD: the stronger the teacher, the lower (docs/howto/recipes.md)."""
        if self.probe:
            return 1.0  # a linear classifier on the feature of a pretrained network is not too sure of itself
        weights = str(self.teacher.weights)
        return 2.0 if weights == PUBLISHED or '://' in weights else 4.0

    @property
    def seconds(self) -> dict[str, float]:
        """Estimated seconds of each training."""
        cost, train, val = self.cost, len(self.folder.train), len(self.folder.val)
        evaluation = val * (cost.alone / 3 / self.batch_size + cost.reading / self.workers)
        step = cost.with_reading(cost.step, self.batch_size, self.workers)
        seconds = {}
        if self.probe:
            reading = (train + val) * cost.reading / self.workers
            seconds['teacher'] = (train + val) / self.batch_size * cost.teacher + self.probe_epochs * reading
        if self.request.baseline:
            alone = cost.with_reading(cost.alone, self.labeled, self.workers)
            seconds['alone'] = self.epochs * (self.steps_per_epoch * alone + evaluation)
        seconds['distilled'] = (self.epochs + cost.initial_epochs) * (self.steps_per_epoch * step + evaluation)
        return seconds

    def __str__(self) -> str:
        rows = {
            'images': self._images(),
            'teacher': self._teacher(),
            'student': self._student(),
            'method': f'{self.request.method}, recipe {self.request.recipe}',
            'training': self._training(),
        }
        if self.cost:
            total = _duration(sum(self.seconds.values()))
            parts = ', '.join(f'{name} {_duration(value)}' for name, value in self.seconds.items())
            where = f'{cores()} cores' if self.cost.device == 'cpu' else self.cost.device
            rows['estimate'] = (
                f'{total} ({parts}) and {_size(self.cost.memory)} of memory, measured on {where}: '
                f'{self.cost.step:.2f} s per step'
            )
        rows['work folder'] = str(self.request.work_dir)
        indent = '\n' + ' ' * 13
        return '\n'.join(f'{name:11}  {text}'.replace('\n', indent) for name, text in rows.items())

    def _images(self) -> str:
        folder = self.folder
        counts = Counter(label for _, label in folder.train)
        least, most = min(counts.values()), max(counts.values())
        spread = str(least) if least == most else f'{least} to {most}'
        lines = [
            str(folder.root),
            f'{len(folder.classes)} classes; {len(folder.train)} images to train on ({spread} per class), '
            f'{len(folder.val)} to validate on; {self.found.size_range} pixels',
        ]
        lines += _notes(folder, self.found)
        if self.unlabeled:
            images, found = self.unlabeled
            lines += [str(images.root), f'{len(images.train)} images without labels; {found.size_range} pixels']
            lines += _notes(images, found)
        return '\n'.join(lines)

    def _teacher(self) -> str:
        teacher = self.teacher
        kind = 'no classifier' if teacher.headless else f'{teacher.classes} classes'
        weights = '' if teacher.name.endswith(WEIGHTS) else f', weights {teacher.weights}'
        lines = [f'{teacher.name}, {teacher.parameters:,} parameters, {kind}{weights}']
        if self.cost and self.cost.teacher_size != (self.image_size, self.image_size):
            height, width = self.cost.teacher_size
            lines.append(f'images are resized to {width} x {height} for it')
        if self.probe:
            lines.append(f'{self.probe}: a linear one of {len(self.folder.classes)} classes is trained first')
        return '\n'.join(lines)

    def _student(self) -> str:
        lines = [f'{self.student.name}, {self.student.parameters:,} parameters']
        if self.cost:
            lines[0] += f'; {self.cost.trained:,} more in connectors and losses'
            lines += [self.cost.change] if self.cost.change else []
        if self.student.parameters > self.teacher.parameters:
            lines.append('it is larger than its teacher')
        return '\n'.join(lines)

    def _training(self) -> str:
        initial = f'{self.cost.initial_epochs} initial epochs and ' if self.cost and self.cost.initial_epochs else ''
        mixed = f' ({self.labeled} with labels)' if self.unlabeled else ''
        processes = f' in each of {self.processes} processes' if self.processes > 1 else ''
        return (
            f'{initial}{self.epochs} epochs of {self.steps_per_epoch} steps, batches of {self.batch_size}{mixed}'
            f'{processes}, images of {self.image_size} x {self.image_size}, seed {self.request.seed}'
        )


def _notes(folder: ImageFolder, found: Inspection) -> list[str]:
    notes = [*folder.notes]
    if found.converted:
        kinds = ', '.join(f'{mode} ({number})' for mode, number in found.converted.items())
        notes.append(f'read as RGB with 8 bits: {kinds}')
    if folder.ignored:
        notes.append(f'{folder.ignored} files of other kinds are ignored')
    return notes


def _size(number: int) -> str:
    return f'{number / 2**20:.0f} MB' if number < 2**30 else f'{number / 2**30:.1f} GB'


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f'{max(1, round(seconds))} s'
    return f'{round(seconds / 60)} min' if seconds < 5400 else str(timedelta(seconds=round(seconds / 60) * 60))[:-3]
