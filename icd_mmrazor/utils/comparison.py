"""The common part of the tools that compare a teacher with its students on the same images."""

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from icd_mmrazor.configuration.files import apply_cfg_options, read_config_file
from icd_mmrazor.datasets.class_names import check_class_names, choice_in
from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError
from icd_mmrazor.export.student import student_of
from icd_mmrazor.launch.command_line import key_value
from icd_mmrazor.models.networks.resolve import published_weights
from icd_mmrazor.utils.figures import labels_of
from icd_mmrazor.utils.work_dirs import find_checkpoint, find_config

sys.path.append(str(Path(__file__).resolve().parents[2] / 'tools' / 'analysis'))  # where this file goes, too
from network_outputs import Images, Network, Outputs, load_network, network_outputs


@dataclass
class Comparison:
    """A teacher and its students on the same images.

    Attributes:
        names: What to call the networks; the first is the teacher.
        outputs: What each computed.
        labels: The label of each image, ``N``.
        classes: The chosen classes, ascending.
        class_names: Their names.
        num_classes: How many classes the networks tell apart.
    """

    names: list[str]
    outputs: list[Outputs]
    labels: np.ndarray
    classes: list[int]
    class_names: list[str]
    num_classes: int

    @property
    def images(self) -> str:
        """What the networks were run on, in words."""
        count, total = len(self.classes), self.num_classes
        of_classes = f'all {total} classes' if count == total else f'{count} of {total} classes'
        return f'{len(self.labels)} test images of {of_classes}'


@dataclass
class Run:
    """A training: its config, the checkpoint that is looked at, and what the user named."""

    cfg: Config
    checkpoint: Path
    source: Path


def add_comparison_arguments(parser: argparse.ArgumentParser, max_images: int | None, classes: str) -> None:
    """Add what the tools take.

    Args:
        parser: A tool's parser; gets the arguments.
        max_images: The default of ``--max-images``; None: all images.
        classes: The default of ``--classes`` in words.
    """
    parser.usage = (
        '%(prog)s CONFIG CHECKPOINT [CHECKPOINT ...] [options]\n       %(prog)s WORK_DIR [WORK_DIR ...] [options]'
    )
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='SOURCE',
        help="a distillation's config file and checkpoints of its student, or work folders of trainings: of one "
        'distillation at least; the student alone may be among them',
    )
    parser.add_argument('--teacher-ckpt', metavar='FILE', help="the teacher's checkpoint (default: the config's)")
    parser.add_argument('--labels', nargs='+', metavar='NAME', help='names of the students (default: of their folders)')
    parser.add_argument('--classes', metavar='0-4,7', help=f'numbers of the classes to show (default: {classes})')
    parser.add_argument(
        '--max-images',
        type=int,
        default=max_images,
        metavar='N',
        help=f'of more images so many are drawn at random (default: {max_images or "all are taken"})',
    )
    parser.add_argument('--seed', type=int, default=0, help='of all that is random (default: 0)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        type=key_value,
        action=DictAction,
        metavar='KEY=VALUE',
        help='change settings of the configs: test_dataloader.dataset.data_root=data/cifar100 ...',
    )


def compare(
    args: argparse.Namespace,
    default_classes: Callable[[int], Sequence[int]] = range,
    check_count: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Load the networks that a tool's arguments name and run them on the test images.

    The teacher is the one of the first distillation, and the images are the ``test_dataloader``'s of the first config.

    Args:
        args: What the parser of :func:`add_comparison_arguments` gave.
        default_classes: From the number of classes to those that are shown where ``--classes`` names none.
        check_count: Gets the number of chosen images before the networks are run; may refuse it.

    Returns:
        What teacher and students computed.

    Raises:
        SettingError: An argument is wrong, no config has a teacher, or the networks do not fit each other.
        CheckpointError: A checkpoint is missing or does not fit its network.
        DatasetError: The test images are missing, or none is of the chosen classes.
    """
    if args.max_images is not None and args.max_images < 2:
        raise SettingError(f'--max-images {args.max_images}: give 2 or more.')
    chosen = None if args.classes is None else _parsed_classes(args.classes)
    runs = _runs(args)
    names = ['student'] if len(runs) == 1 and not args.labels else labels_of([run.source for run in runs], args.labels)
    distillation = _distillation_of(runs, args.teacher_ckpt)
    init_default_scope(distillation.cfg.get('default_scope') or 'mmpretrain')
    networks = [_teacher(distillation, args.teacher_ckpt)]
    networks += [_student(run, name) for run, name in zip(runs, names, strict=True)]
    num_classes = _common_classes(networks)
    classes = sorted(set(default_classes(num_classes) if chosen is None else chosen))
    if classes[-1] >= num_classes:
        raise SettingError(
            f'--classes {args.classes}: there is no class {classes[-1]}. The networks have {num_classes} classes, '
            f'0 to {num_classes - 1}.'
        )
    images = _test_images(runs[0].cfg, num_classes)
    for network in networks:
        dataset = [('test_dataloader', images.loader_cfg['dataset'])]
        check_class_names(network.source, network.classes, dataset, choice_in(runs[0].cfg))
    images = images.choose(classes, args.max_images, args.seed)
    if not len(images.chosen):
        raise DatasetError(f'--classes {args.classes}: none of the {len(images.labels)} test images is of them.')
    check_count(len(images.chosen))
    labels, outputs = images.chosen_labels, network_outputs(networks, images)
    print(f'{len(labels)} test images, accuracy among all {num_classes} classes:')
    for network, output in zip(networks, outputs, strict=True):
        print(f'  {network.name}: {100 * np.mean(output.logits.argmax(1) == labels):.2f} %')
    class_names = [images.class_name(number) for number in classes]
    return Comparison([network.name for network in networks], outputs, labels, classes, class_names, num_classes)


def _runs(args: argparse.Namespace) -> list[Run]:
    first, *rest = args.sources
    if first.endswith('.py'):
        if not rest:
            raise SettingError(
                f"config {first}: give checkpoints of its student after it, or the training's work folder in its place."
            )
        cfg = _with_options(read_config_file(first), args.cfg_options)
        return [Run(cfg, Path(checkpoint), Path(checkpoint)) for checkpoint in rest]
    folders = [Path(folder) for folder in args.sources]
    return [Run(_with_options(find_config(f), args.cfg_options), find_checkpoint(f), f) for f in folders]


def _with_options(cfg: Config, options: dict | None) -> Config:
    apply_cfg_options(cfg, copy.deepcopy(options))
    return cfg


def _distillation_of(runs: Sequence[Run], teacher_ckpt: str | None) -> Run:
    """Return the first run with a teacher; all runs that have one have the same."""
    distillations = [run for run in runs if run.cfg.get('model', {}).get('teacher')]
    if not distillations:
        names = ', '.join(str(run.source) for run in runs)
        raise SettingError(
            f"no config of these has a teacher (model.teacher): {names}. Give a distillation's config or work folder; "
            'the student alone may stand beside it.'
        )
    first = distillations[0]
    for run in distillations[1:]:
        for setting in ('teacher', *(() if teacher_ckpt else ('teacher_ckpt',))):
            if run.cfg.model.get(setting) != first.cfg.model.get(setting):
                raise SettingError(
                    f'model.{setting} of {run.source} is another one than that of '
                    f'{first.source}. Make a figure for each teacher'
                    + (', or name the checkpoint of both with --teacher-ckpt.' if setting == 'teacher_ckpt' else '.')
                )
    return first


def _teacher(run: Run, checkpoint: str | None) -> Network:
    model = run.cfg.model
    checkpoint = checkpoint or model.get('teacher_ckpt') or published_weights(model.teacher)
    if not checkpoint:
        raise SettingError(
            f'model.teacher_ckpt={model.get("teacher_ckpt")!r} in the config of {run.source}: give the weights of '
            'its teacher with --teacher-ckpt FILE.'
        )
    if not checkpoint.startswith('https://') and not Path(checkpoint).expanduser().is_file():
        raise CheckpointError(
            f'model.teacher_ckpt={checkpoint!r}: there is no such file (working folder: {Path.cwd()}). Give the '
            "teacher's weights with --teacher-ckpt FILE."
        )
    # the teacher is what the config says with it in the student's place, but it sees what the student sees
    in_its_place = copy.deepcopy(run.cfg)
    in_its_place.model.architecture = model.teacher
    student, teacher = student_of(run.cfg), student_of(in_its_place)
    if 'data_preprocessor' in student:
        teacher.data_preprocessor = student.data_preprocessor
    return load_network('teacher', teacher, checkpoint, *_source(run, 'teacher_source'))


def _student(run: Run, name: str) -> Network:
    return load_network(name, student_of(run.cfg), run.checkpoint, *_source(run, 'student_source'))


def _source(run: Run, name: str) -> tuple[str, str]:
    """Return the name of a classifying layer, if the distiller's settings have it, and the setting."""
    distiller = run.cfg.model.get('distiller') or {}
    return distiller.get(name, 'auto'), f'model.distiller.{name}'


def _common_classes(networks: Sequence[Network]) -> int:
    numbers = {network.name: network.num_classes for network in networks}
    if len(set(numbers.values())) > 1:
        found = ', '.join(f'{name} {number}' for name, number in numbers.items())
        raise SettingError(f'the networks have different numbers of classes: {found}. Compare those of one dataset.')
    return networks[0].num_classes


def _test_images(cfg: Config, num_classes: int) -> Images:
    if not cfg.get('test_dataloader'):
        raise SettingError('the config has no test_dataloader. Its images are what the networks are compared on.')
    images = Images.from_cfg(cfg.test_dataloader)
    if images.labels.min() < 0 or images.labels.max() >= num_classes:
        raise DatasetError(
            f'test_dataloader.dataset has labels from {images.labels.min()} to {images.labels.max()}, the networks '
            f'have {num_classes} classes. Name the dataset that they were trained on.'
        )
    return images


def _parsed_classes(text: str) -> list[int]:
    """Return the numbers of ``0-4,7``."""
    classes: list[int] = []
    for part in text.split(','):
        first, _, last = part.strip().partition('-')
        if not first.isdecimal() or not (last or first).isdecimal() or (last and int(last) < int(first)):
            raise SettingError(f'--classes {text}: {part!r} is neither a number nor a range. Give 0-9 or 0,3,5-7.')
        classes.extend(range(int(first), int(last or first) + 1))
    return classes
