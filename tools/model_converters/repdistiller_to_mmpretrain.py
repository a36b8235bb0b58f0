#!/usr/bin/env python3
"""Convert a published checkpoint of the CIFAR-100 distillation benchmark (RepDistiller) to mmpretrain's form.

The result is for model.teacher_ckpt of tools/train.py, or a checkpoint for tools/test.py.
"""

import argparse
import functools
from pathlib import Path
from typing import NamedTuple

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import check_fit, weights_of
from icd_mmrazor.checkpoints.writing import check_writable, write_checkpoint
from icd_mmrazor.errors import CheckpointError, SettingError, printable
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.models.networks.resolve import network_config

from mmpretrain.registry import MODELS
from torch import Tensor

HEAD = 'head.fc.'
COUNTER = 'num_batches_tracked'  # the first versions of torch did not write it


class Family(NamedTuple):
    """Networks whose published files have the same names of tensors."""

    networks: dict[str, str]  # published name -> name of our config
    marker: str  # a tensor that all of them have
    classifier: str


FAMILIES = (
    Family(
        {f'resnet{depth}': f'res{depth}' for depth in (8, 14, 20, 32, 44, 56, 110, '8x4', '32x4')},
        'layer2.0.downsample.0.weight',
        'fc',
    ),
    Family(
        {f'wrn_{depth}_{width}': f'wrn{depth}-{width}' for depth in (16, 40) for width in (1, 2)},
        'block2.layer.0.convShortcut.weight',
        'fc',
    ),
    Family({f'vgg{depth}': f'vgg{depth}' for depth in (8, 11, 13, 16, 19)}, 'block0.0.weight', 'classifier'),
    Family({'ResNet50': 'res50'}, 'layer1.0.shortcut.0.weight', 'linear'),
    Family({'MobileNetV2': 'mobilenetv2'}, 'blocks.0.0.conv.0.weight', 'classifier.0'),
    Family({'ShuffleV1': 'shufflenetv1'}, 'layer1.0.bn3.weight', 'linear'),
    Family({'ShuffleV2': 'shufflenetv2'}, 'layer1.0.bn5.weight', 'linear'),
)
ARCHITECTURES = {published: ours for family in FAMILIES for published, ours in family.networks.items()}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', help='published checkpoint')
    parser.add_argument('dst', metavar='DST', help='where to write the converted one')
    names = f'its architecture (default: recognised from the tensors): {", ".join(ARCHITECTURES)}'
    parser.add_argument('--arch', metavar='NAME', help=names)
    parser.add_argument('--force', action='store_true', help='replace DST if it exists')
    return parser.parse_args()


@functools.cache
def state_dict_of(architecture: str) -> dict[str, Tensor]:
    """Return the tensors of a network with one class."""
    cfg = network_config(f'icd_mmrazor::vanilla/{ARCHITECTURES[architecture]}_cifar100.py', '--arch')
    cfg.head.num_classes = 1
    return MODELS.build(cfg).state_dict()


def state_dict_for(classifier: Tensor, architecture: str) -> dict[str, Tensor]:
    """Return a network's tensors, with as many classes as a file's classifier has, which take no memory."""
    own, num_classes = state_dict_of(architecture), max([1, *classifier.shape[:1]])
    return {name: w.expand(num_classes, *w.shape[1:]) if name.startswith(HEAD) else w for name, w in own.items()}


def renamed(published: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a published file under the names of ours, up to the first that differs.

    Their networks and mmpretrain's have the same layers in the same order, by other names.
    """
    modules: dict[str, str] = {}
    both = [[name for name in names if not name.endswith(COUNTER)] for names in (published, own)]
    for theirs, ours in zip(*both, strict=False):
        (module, _, kind), (own_module, _, own_kind) = theirs.rpartition('.'), ours.rpartition('.')
        known = modules.get(module) == own_module if module in modules else own_module not in modules.values()
        if not known or kind != own_kind or published[theirs].shape != own[ours].shape:
            break
        modules[module] = own_module
    parts = {name: name.rpartition('.') for name in published}
    return {f'{modules.get(module, module)}.{kind}': published[name] for name, (module, _, kind) in parts.items()}


def recognised(published: dict[str, Tensor]) -> str | None:
    """Return the architecture that has tensors of these shapes in this order."""
    for family in FAMILIES:
        classifier = published.get(f'{family.classifier}.weight')
        if family.marker in published and classifier is not None:
            for architecture in family.networks:
                own = state_dict_for(classifier, architecture)
                if {*renamed(published, own)} | {name for name in own if name.endswith(COUNTER)} == {*own}:
                    return architecture
    return None


def convert(checkpoint: dict, src: str, architecture: str | None = None) -> dict:
    """Convert the content of a published file to mmpretrain's form; without an architecture, recognise it."""
    if 'model' not in checkpoint:
        raise CheckpointError(
            f'{src} does not have the published form {{"model": weights, ...}}; its keys: '
            f"{printable(list(checkpoint)[:8])}. A checkpoint with 'state_dict' needs no conversion."
        )
    published = weights_of({'state_dict': checkpoint['model']}, src)
    architecture = architecture or recognised(published)
    if architecture is None:
        raise CheckpointError(
            f'{src} does not fit any of {", ".join(ARCHITECTURES)}; its first tensors: '
            f'{printable(list(published)[:4])}. Give --arch to see what differs.'
        )
    family = next(family for family in FAMILIES if architecture in family.networks)
    classifier = published.get(f'{family.classifier}.weight')
    if classifier is None:
        raise CheckpointError(
            f'{src} has no {family.classifier}.weight, the classifier of {architecture}; '
            f'its first tensors: {printable(list(published)[:4])}.'
        )
    own = state_dict_for(classifier, architecture)
    weights = renamed(published, own)
    check_fit(own, weights, f'{src} as {architecture}')
    converted = {name: weights.get(name, like).to(like.dtype) for name, like in own.items()}
    meta = {'architecture': architecture, 'converted_from': Path(src).name}
    accuracy = checkpoint.get('accuracy', checkpoint.get('best_acc'))
    if isinstance(accuracy, int | float) or (isinstance(accuracy, Tensor) and accuracy.numel() == 1):
        meta['accuracy'] = float(accuracy)
    return {'meta': meta, 'state_dict': {name: w.contiguous() for name, w in converted.items()}}


def main() -> None:
    args = parse_args()
    architecture = {ours: name for name, ours in ARCHITECTURES.items()}.get(args.arch, args.arch)
    if architecture not in (None, *ARCHITECTURES):
        raise SettingError(f'--arch {args.arch} is not one of {", ".join(ARCHITECTURES)}.')
    check_writable(Path(args.dst), 'DST')
    if Path(args.dst).exists() and not args.force:
        raise SettingError(f'DST {args.dst} exists. Give another path, or --force to replace it.')
    # some published checkpoints hold the command line of the training
    checkpoint = read_checkpoint(args.src, also_allowed=[argparse.Namespace])
    converted = convert(checkpoint, args.src, architecture)
    write_checkpoint(converted, args.dst)
    meta, weights = converted['meta'], converted['state_dict']
    accuracy = f', published accuracy {meta["accuracy"]:.2f} %' if 'accuracy' in meta else ''
    classes = len(weights['head.fc.weight'])
    print(f'{args.dst}: {meta["architecture"]}, {len(weights)} tensors, {classes} classes{accuracy}')


if __name__ == '__main__':
    run(main)
