"""Teachers and students run on the same test images, for the figures that compare them."""

import argparse
import copy
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from network_outputs import Images, Network, Outputs, load_network, network_outputs

from icd_mmrazor.checkpoints.resuming import latest_valid_checkpoint
from icd_mmrazor.checkpoints.writing import check_writable
from icd_mmrazor.configuration.files import apply_cfg_options, read_config_file
from icd_mmrazor.configuration.stored import read_config_text
from icd_mmrazor.configuration.type_names import by_names
from icd_mmrazor.datasets.class_names import check_class_names, choice_in
from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError
from icd_mmrazor.launch.command_line import key_value
from icd_mmrazor.models.networks.resolve import published_weights
from icd_mmrazor.models.networks.student import student_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT_SIZE = 9
TITLE_WIDTH = 26  # characters
SUFFIXES = ('.png', '.svg', '.pdf')


@dataclass
class Comparison:
    """A teacher and its students on the same images.

    Attributes:
        names: Names of the networks; the first is the teacher.
        outputs: The features and logits of each network.
        labels: The label of each image, ``N``.
        classes: The chosen classes, ascending.
        class_names: Their names.
        num_classes: The number of classes of the networks.
    """

    names: list[str]
    outputs: list[Outputs]
    labels: np.ndarray
    classes: list[int]
    class_names: list[str]
    num_classes: int

    @property
    def images(self) -> str:
        """Describe the images, for the figure."""
        count, total = len(self.classes), self.num_classes
        of_classes = f'all {total} classes' if count == total else f'{count} of {total} classes'
        return f'{len(self.labels)} test images of {of_classes}'


@dataclass
class Run:
    """A training: its config, the checkpoint to look at, and what the user named."""

    cfg: Config
    checkpoint: Path
    source: Path


def add_arguments(parser: argparse.ArgumentParser, max_images: int | None, classes: str, out: str) -> None:
    """Add the arguments that both figures have.

    Args:
        parser: The parser of a tool.
        max_images: The default of ``--max-images``; None for all images.
        classes: The default of ``--classes`` in words.
        out: The default of ``--out``.
    """
    parser.usage = (
        '%(prog)s CONFIG CHECKPOINT [CHECKPOINT ...] [options]\n       %(prog)s WORK_DIR [WORK_DIR ...] [options]'
    )
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='SOURCE',
        help="a distillation's config and checkpoints of its student, or work folders, one of a distillation at least",
    )
    parser.add_argument('--teacher-ckpt', metavar='FILE', help="the teacher's checkpoint (default: the config's)")
    parser.add_argument('--labels', nargs='+', metavar='NAME', help='names of the students (default: of their folders)')
    parser.add_argument('--classes', metavar='0-4,7', help=f'numbers of the classes to show (default: {classes})')
    default = max_images or 'all'
    parser.add_argument(
        '--max-images', type=int, default=max_images, metavar='N', help=f'draw N images at random (default: {default})'
    )
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: 0)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        type=key_value,
        action=DictAction,
        metavar='KEY=VALUE',
        help='change settings of the configs: test_dataloader.dataset.data_root=data/cifar100 ...',
    )
    parser.add_argument(
        '--out', type=Path, default=Path(out), metavar='FILE', help=f'.png, .svg or .pdf (default: {out})'
    )


def check_out(out: Path) -> None:
    """Check, before the long work, that a figure can be written.

    Raises:
        SettingError: It has another suffix, or its folder cannot be written.
    """
    if out.suffix not in SUFFIXES:
        raise SettingError(f'--out {out}: name a file that ends in {", ".join(SUFFIXES)}.')
    check_writable(out, '--out')


def save_figure(figure: 'Figure', out: Path) -> None:
    """Write a figure as PNG, as SVG, and as what ``out`` names.

    Args:
        figure: The figure.
        out: The file; its folder is created if necessary.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a folder may be called $x$
    out.parent.mkdir(parents=True, exist_ok=True)
    for file in sorted({out, out.with_suffix('.png'), out.with_suffix('.svg')}):
        figure.savefig(file, dpi=150)
        print(f'written: {file}')


def title(name: str) -> str:
    """Wrap a long name for the title of a panel."""
    return textwrap.fill(name, TITLE_WIDTH)


def compare(
    args: argparse.Namespace,
    default_classes: Callable[[int], Sequence[int]] = range,
    check_count: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Run the teacher and the students that a tool's arguments name on the test images.

    The teacher is that of the first distillation, the images are those of the first config's ``test_dataloader``.

    Args:
        args: The arguments of :func:`add_arguments`.
        default_classes: Returns the classes to show, given their number, if ``--classes`` names none.
        check_count: Called with the number of images before the networks run; may refuse it.

    Raises:
        SettingError: An argument is wrong, no config has a teacher, or the networks do not fit each other.
        CheckpointError: A checkpoint is missing or does not fit its network.
        DatasetError: There are no test images of the classes.
    """
    if args.max_images is not None and args.max_images < 2:
        raise SettingError(f'--max-images {args.max_images} must be 2 or more.')
    runs = _runs(args)
    names = ['student'] if len(runs) == 1 and not args.labels else _names([run.source for run in runs], args.labels)
    distillation = _distillation(runs, args.teacher_ckpt)
    init_default_scope(distillation.cfg.get('default_scope') or 'mmpretrain')
    networks = [_teacher(distillation, args.teacher_ckpt)]
    networks += [_load(name, run.cfg, run.checkpoint, 'student_source') for run, name in zip(runs, names, strict=True)]
    num_classes = networks[0].num_classes
    if any(network.num_classes != num_classes for network in networks):
        found = ', '.join(f'{network.name} {network.num_classes}' for network in networks)
        raise SettingError(f'The networks have different numbers of classes: {found}.')
    classes = sorted(set(default_classes(num_classes) if args.classes is None else _parse_classes(args.classes)))
    if classes[-1] >= num_classes:
        raise SettingError(f'--classes {args.classes}: the networks have the classes 0 to {num_classes - 1}.')
    images = _test_images(runs[0].cfg, networks)
    images = images.choose(classes, args.max_images, args.seed)
    if not len(images.chosen):
        raise DatasetError(
            f'--classes {args.classes}: none of the {len(images.labels)} test images is of these classes.'
        )
    check_count(len(images.chosen))
    labels, outputs = images.chosen_labels, network_outputs(networks, images)
    print(f'{len(labels)} test images, accuracy among all {num_classes} classes:')
    for network, output in zip(networks, outputs, strict=True):
        print(f'  {network.name}: {100 * np.mean(output.logits.argmax(1) == labels):.2f} %')
    class_names = [images.class_name(number) for number in classes]
    return Comparison([network.name for network in networks], outputs, labels, classes, class_names, num_classes)


def _runs(args: argparse.Namespace) -> list[Run]:
    first, *checkpoints = args.sources
    if first.endswith('.py'):
        if not checkpoints:
            raise SettingError(f'config {first}: name checkpoints of its student after it, or a work folder instead.')
        runs = [Run(read_config_file(first), Path(checkpoint), Path(checkpoint)) for checkpoint in checkpoints]
    else:
        runs = [Run(stored_config(Path(folder)), _checkpoint(Path(folder)), Path(folder)) for folder in args.sources]
    for run in runs:
        apply_cfg_options(run.cfg, copy.deepcopy(args.cfg_options))
    return runs


def stored_config(folder: Path) -> Config:
    """Read the config of a folder's latest training as data; it is not executed.

    A start that logged nothing, such as a test, counts only if there is no other.

    Raises:
        SettingError: There is no config in the folder.
    """
    dumped = sorted(folder.glob('*/vis_data/config.py'))
    # mmengine always writes this one; the others are those of its visualizer
    at_top = sorted(
        (file for file in folder.glob('*.py') if file.name != 'student.py'), key=lambda file: file.stat().st_mtime
    )
    logged = [file for file in dumped if (file.parent / 'scalars.json').exists()]
    if not dumped and not at_top:
        raise SettingError(f'work folder {folder} has no config of a training. Name a --work-dir of tools/train.py.')
    file = (logged or dumped or at_top)[-1]
    return by_names(read_config_text(file.read_text(encoding='utf-8', errors='replace'), f'config {file}'))


def _checkpoint(folder: Path) -> Path:
    """Return the checkpoint that --resume would take, or else the newest one without an optimizer."""
    checkpoint, problems = latest_valid_checkpoint(folder)
    others = sorted((*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')), key=lambda file: file.stat().st_mtime)
    if not checkpoint and not others:
        reason = '; '.join(problems) or 'it has no epoch_N.pth'
        raise CheckpointError(f'work folder {folder} has no checkpoint: {reason}.')
    return checkpoint or others[-1]


def _names(sources: Sequence[Path], labels: Sequence[str] | None) -> list[str]:
    """Return the labels, or what tells the paths apart: icd and kd of icd/seed_0 and kd/seed_0."""
    paths = [source.resolve().parts for source in sources]
    if labels and len(labels) != len(sources):
        raise SettingError(f'--labels: {len(labels)} names for {len(sources)} students.')
    if len({*(labels or paths)}) < len(sources) or len({*paths}) < len(sources):
        raise SettingError(f'{" ".join(map(str, labels or sources))}: two are the same. Name each student once.')
    if labels:
        return list(labels)
    while len(paths) > 1 and len({path[-1] for path in paths}) == 1:
        paths = [path[:-1] for path in paths]
    length = 1
    while len({path[-length:] for path in paths}) < len(paths):
        length += 1
    return [str(Path(*path[-length:])) for path in paths]


def _distillation(runs: Sequence[Run], teacher_ckpt: str | None) -> Run:
    """Return the first run with a teacher; the others must have the same."""
    found = [run for run in runs if run.cfg.get('model', {}).get('teacher')]
    if not found:
        names = ', '.join(str(run.source) for run in runs)
        raise SettingError(f'None of these has a teacher (model.teacher): {names}. Name at least one distillation.')
    for run in found[1:]:
        for setting in ('teacher', *(() if teacher_ckpt else ('teacher_ckpt',))):
            if run.cfg.model.get(setting) != found[0].cfg.model.get(setting):
                raise SettingError(
                    f'model.{setting} differs between {found[0].source} and {run.source}. Draw them apart.'
                )
    return found[0]


def _teacher(run: Run, checkpoint: str | None) -> Network:
    model = run.cfg.model
    checkpoint = checkpoint or model.get('teacher_ckpt') or published_weights(model.teacher)
    if not checkpoint or not (checkpoint.startswith('https://') or Path(checkpoint).expanduser().is_file()):
        raise CheckpointError(
            f'model.teacher_ckpt={checkpoint!r} of {run.source}: there is no such file. Name the weights with '
            '--teacher-ckpt FILE.'
        )
    # built like the student, in whose place it is put; it gets the student's images
    cfg = copy.deepcopy(run.cfg)
    cfg.model.architecture = model.teacher
    preprocessor = student_of(run.cfg).get('data_preprocessor')
    return _load('teacher', cfg, checkpoint, 'teacher_source', preprocessor)


def _load(name: str, cfg: Config, checkpoint: Path | str, source: str, preprocessor: dict | None = None) -> Network:
    network = student_of(cfg)
    if preprocessor is not None:
        network.data_preprocessor = preprocessor
    layer = (cfg.model.get('distiller') or {}).get(source, 'auto')
    return load_network(name, network, checkpoint, layer, f'model.distiller.{source}')


def _test_images(cfg: Config, networks: Sequence[Network]) -> Images:
    if not cfg.get('test_dataloader'):
        raise SettingError('The config has no test_dataloader; the networks are compared on its images.')
    images, num_classes = Images.from_cfg(cfg.test_dataloader), networks[0].num_classes
    if images.labels.min() < 0 or images.labels.max() >= num_classes:
        raise DatasetError(
            f'test_dataloader.dataset has labels from {images.labels.min()} to {images.labels.max()}, but the networks '
            f'have {num_classes} classes. Name the dataset they were trained on.'
        )
    for network in networks:
        dataset = [('test_dataloader', images.loader_cfg['dataset'])]
        check_class_names(network.source, network.classes, dataset, choice_in(cfg))
    return images


def _parse_classes(text: str) -> list[int]:
    """Return the numbers of ``0-4,7``."""
    classes: list[int] = []
    for part in text.split(','):
        first, _, last = part.strip().partition('-')
        if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
            raise SettingError(f'--classes {text}: {part!r} is neither a number nor a range. Give 0-9 or 0,3,5-7.')
        classes.extend(range(int(first), int(last or first) + 1))
    return classes
