"""A teacher and its students run on the same test images, for the figures that compare them."""

import argparse
import copy
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.resuming import latest_valid_checkpoint
from icd_mmrazor.checkpoints.weights import load_strictly, weights_of
from icd_mmrazor.checkpoints.writing import check_writable
from icd_mmrazor.configuration.files import apply_cfg_options, read_config_file
from icd_mmrazor.datasets.class_names import check_class_names, choice_in, class_names
from icd_mmrazor.datasets.labels import image_labels
from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError
from icd_mmrazor.export.network import build_network
from icd_mmrazor.launch.command_line import add_cfg_options, positive_int, ranges
from icd_mmrazor.models.networks.classifier_layer import find_classifier, linear_layer
from icd_mmrazor.models.networks.resolve import published_weights
from icd_mmrazor.models.networks.student import student_of
from icd_mmrazor.report.run_folder import by_age, stored_config

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import track_iter_progress
from torch import nn

FONT_SIZE = 9
TITLE_WIDTH = 26  # characters
SUFFIXES = ('.png', '.svg', '.pdf')


class Outputs(NamedTuple):
    """What a network computes from N images: the input of its last layer, ``N x D``, and its logits, ``N x C``."""

    features: np.ndarray
    logits: np.ndarray


@dataclass
class Comparison:
    """The outputs of networks, the teacher first, for the same images of the chosen classes, in ascending order."""

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


class Run(NamedTuple):
    """A training: its config, the checkpoint to look at, and what the user named."""

    cfg: Config
    checkpoint: Path
    source: Path


class Network(NamedTuple):
    """A trained classifier in eval mode, its classifying layer, and the names of the classes in its checkpoint."""

    name: str
    model: nn.Module
    layer: nn.Linear
    checkpoint: str
    classes: Sequence[str] | None


def add_arguments(parser: argparse.ArgumentParser, max_images: int | None, classes: str, out: str) -> None:
    """Add the arguments that both figures have, with the defaults of one of them."""
    parser.usage = (
        '%(prog)s CONFIG CHECKPOINT [CHECKPOINT ...] [options]\n       %(prog)s WORK_DIR [WORK_DIR ...] [options]'
    )
    sources = "a distillation's config and checkpoints of its student, or work folders, one of a distillation at least"
    parser.add_argument('sources', nargs='+', metavar='SOURCE', help=sources)
    parser.add_argument('--teacher-ckpt', metavar='FILE', help="the teacher's checkpoint (default: the config's)")
    parser.add_argument('--labels', nargs='+', metavar='NAME', help='names of the students (default: of their folders)')
    numbers = f'numbers of the classes to show (default: {classes})'
    parser.add_argument('--classes', type=ranges, metavar='0-4,7', help=numbers)
    number = f'draw N images at random (default: {max_images or "all"})'
    parser.add_argument('--max-images', type=positive_int, default=max_images, metavar='N', help=number)
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: 0)')
    add_cfg_options(parser, 'change settings of the configs: test_dataloader.dataset.data_root=data/cifar100 ...')
    parser.add_argument('--out', type=Path, default=out, metavar='FILE', help=f'.png, .svg or .pdf (default: {out})')


def save_figure(figure: Figure, out: Path) -> None:
    """Write a figure as PNG, as SVG, and as what ``out`` names."""
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
    ``default_classes`` returns the classes to show, given their number; ``check_count`` may refuse a number of images.
    """
    check_writable(args.out, '--out', SUFFIXES)
    if args.max_images == 1:
        raise SettingError('--max-images 1 must be 2 or more.')
    runs = runs_of(args)
    names = ['student'] if len(runs) == 1 and not args.labels else names_of([run.source for run in runs], args.labels)
    distillation = distillation_of(runs, args.teacher_ckpt)
    init_default_scope(distillation.cfg.get('default_scope') or 'mmpretrain')
    networks = [load_teacher(distillation, args.teacher_ckpt)]
    for run, name in zip(runs, names, strict=True):
        networks.append(load_network(name, run.cfg, run.checkpoint, 'student_source'))
    num_classes = networks[0].layer.out_features
    if any(network.layer.out_features != num_classes for network in networks):
        found = ', '.join(f'{network.name} {network.layer.out_features}' for network in networks)
        raise SettingError(f'The networks have different numbers of classes: {found}.')
    classes = sorted(set(default_classes(num_classes) if args.classes is None else args.classes))
    if classes[-1] >= num_classes:
        raise SettingError(f'--classes {classes[-1]}: the networks have the classes 0 to {num_classes - 1}.')
    loader, all_labels = images_of(runs[0].cfg, networks)
    chosen = chosen_images(all_labels, classes, args.max_images, args.seed)
    if not len(chosen):
        raise DatasetError(f'--classes: none of the {len(all_labels)} test images is of these classes.')
    check_count(len(chosen))
    labels, outputs = all_labels[chosen], network_outputs(networks, loader, chosen)
    print(f'{len(labels)} test images, accuracy among all {num_classes} classes:')
    for network, output in zip(networks, outputs, strict=True):
        print(f'  {network.name}: {100 * np.mean(output.logits.argmax(1) == labels):.2f} %')
    known = class_names(getattr(loader['dataset'], 'metainfo', None)) or ()
    shown = [known[number] if number < len(known) else str(number) for number in classes]
    return Comparison([network.name for network in networks], outputs, labels, classes, shown, num_classes)


def runs_of(args: argparse.Namespace) -> list[Run]:
    first, *checkpoints = args.sources
    if first.endswith('.py'):
        if not checkpoints:
            raise SettingError(f'config {first}: name checkpoints of its student after it, or a work folder instead.')
        runs = [Run(read_config_file(first), Path(checkpoint), Path(checkpoint)) for checkpoint in checkpoints]
    else:
        runs = [Run(stored_config(folder), checkpoint_in(folder), folder) for folder in map(Path, args.sources)]
    for run in runs:
        apply_cfg_options(run.cfg, copy.deepcopy(args.cfg_options))
    return runs


def checkpoint_in(folder: Path) -> Path:
    """Return the checkpoint that --resume would take, or else the newest one without an optimizer."""
    checkpoint, problems = latest_valid_checkpoint(folder)
    others = by_age([*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')])
    if not checkpoint and not others:
        reason = '; '.join(problems) or 'it has no epoch_N.pth'
        raise CheckpointError(f'work folder {folder} has no checkpoint: {reason}.')
    return checkpoint or others[-1]


def names_of(sources: Sequence[Path], labels: Sequence[str] | None) -> list[str]:
    """Return the labels, or what tells the paths apart: icd and kd of icd/seed_0 and kd/seed_0."""
    paths = [source.resolve() for source in sources]
    if labels and len(labels) != len(sources):
        raise SettingError(f'--labels: {len(labels)} names for {len(sources)} students.')
    if len({*(labels or paths)}) < len(sources) or len({*paths}) < len(sources):
        raise SettingError(f'{" ".join(map(str, labels or sources))}: two are the same. Name each student once.')
    if labels:
        return list(labels)
    while len({path.name for path in paths}) == 1:
        paths = [path.parent for path in paths]
    common = os.path.commonpath([path.parent for path in paths])
    return [str(path.relative_to(common)) for path in paths]


def distillation_of(runs: Sequence[Run], teacher_ckpt: str | None) -> Run:
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


def load_teacher(run: Run, checkpoint: str | None) -> Network:
    model = run.cfg.model
    where = f'--teacher-ckpt {checkpoint}' if checkpoint else f'model.teacher_ckpt of {run.source}'
    checkpoint = checkpoint or model.get('teacher_ckpt') or published_weights(model.teacher)
    if not checkpoint or not (checkpoint.startswith('https://') or Path(checkpoint).expanduser().is_file()):
        raise CheckpointError(f'{where}: there is no file {checkpoint}. Name the weights with --teacher-ckpt FILE.')
    # built like the student, in whose place it is put; it gets the student's images
    cfg = copy.deepcopy(run.cfg)
    # whatever a distiller changes, it is not the teacher
    cfg.model.architecture = model.teacher
    cfg.model.distiller = {'teacher_source': (model.get('distiller') or {}).get('teacher_source', 'auto')}
    return load_network('teacher', cfg, checkpoint, 'teacher_source', student_of(run.cfg).get('data_preprocessor'))


def load_network(
    name: str, cfg: Config, checkpoint: Path | str, source: str, preprocessor: dict | None = None
) -> Network:
    """Build the student of a config and load its weights strictly; ``source`` is the setting of its last layer."""
    network = student_of(cfg)
    if preprocessor is not None:
        network.data_preprocessor = preprocessor
    content, what = read_checkpoint(checkpoint), f'{name}: checkpoint {checkpoint}'
    weights = weights_of(content, checkpoint)
    model = build_network(name, network)
    load_strictly(model, weights, what)
    setting, layer = f'model.distiller.{source}', (cfg.model.get('distiller') or {}).get(source, 'auto')
    layer = find_classifier(model, setting) if layer == 'auto' else layer
    model = model.to(get_device()).eval()
    return Network(name, model, linear_layer(model, layer, setting), what, class_names(content.get('meta')))


def images_of(cfg: Config, networks: Sequence[Network]) -> tuple[dict, np.ndarray]:
    """Return the config of the test images' loader, with the built dataset, and the label of each image."""
    if not cfg.get('test_dataloader'):
        raise SettingError('The config has no test_dataloader; the networks are compared on its images.')
    dataset, num_classes = DATASETS.build(cfg.test_dataloader.dataset), networks[0].layer.out_features
    labels = image_labels(dataset)
    if labels is None or labels.min() < 0 or labels.max() >= num_classes:
        found = 'no label, or several,' if labels is None else f'labels from {labels.min()} to {labels.max()}'
        raise DatasetError(
            f'test_dataloader.dataset ({type(dataset).__name__}, {len(dataset)} images) has {found} for its images, '
            f'and the networks have {num_classes} classes. Name labelled images of these classes.'
        )
    for network in networks:
        check_class_names(network.checkpoint, network.classes, [('test_dataloader', dataset)], choice_in(cfg))
    return {**cfg.test_dataloader, 'dataset': dataset}, labels


def chosen_images(labels: np.ndarray, classes: Sequence[int], at_most: int | None, seed: int) -> np.ndarray:
    """Return the places of the images of some classes, ascending; if there are too many, a random choice."""
    chosen = np.flatnonzero(np.isin(labels, classes))
    if at_most is not None and len(chosen) > at_most:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, at_most, replace=False))
    return chosen


def network_outputs(networks: Sequence[Network], loader_cfg: dict, chosen: np.ndarray) -> list[Outputs]:
    """Run networks on the chosen images, each read once, as in an evaluation: eval mode, no gradients, no autocast."""
    # mmengine passes a sampler that is not a config to torch, which takes any sequence of indices
    once = dict(sampler=chosen.tolist(), drop_last=False, persistent_workers=False, pin_memory=False)
    loader = Runner.build_dataloader({**loader_cfg, **once})
    recorded: list[list[Outputs]] = [[] for _ in networks]
    for network, parts in zip(networks, recorded, strict=True):
        network.layer.register_forward_hook(
            lambda _, inputs, logits, parts=parts: parts.append(Outputs(inputs[0].float().cpu(), logits.float().cpu()))
        )
    with torch.no_grad():
        for batch in track_iter_progress((loader, len(loader))):
            for network in networks:
                network.model.test_step(batch)
    print()  # after mmengine's progress bar
    outputs = [Outputs(*(torch.cat(tensors).numpy() for tensors in zip(*parts, strict=True))) for parts in recorded]
    for network, output in zip(networks, outputs, strict=True):
        if not np.isfinite(output.logits).all():
            raise CheckpointError(
                f'{network.name}: its logits are not finite. Give the checkpoint of a training that did not diverge.'
            )
    return outputs
