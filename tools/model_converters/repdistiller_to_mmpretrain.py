#!/usr/bin/env python3
"""Convert a published checkpoint of the CIFAR-100 distillation benchmark (RepDistiller) to mmpretrain's form.

The result is for model.teacher_ckpt of tools/train.py, or a checkpoint for tools/test.py.
"""

import argparse
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import check_fit, weights_of
from icd_mmrazor.checkpoints.writing import check_writable, write_checkpoint
from icd_mmrazor.errors import CheckpointError, SettingError, printable
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.models.networks.resolve import network_config

import torch
from mmpretrain.registry import MODELS
from torch import Tensor

HEAD = 'head.fc.'
# in one sequence in the published networks, in one ConvModule in mmcv's
PARTS = ('conv', 'bn', 'act')
VGG_LAYER = r'^block(\d)\.(\d+)\.'
SHUFFLENET_STEM = (r'^(conv|bn)1\.', r'conv1.\1.')
SHUFFLENET_LAYER = r'^layer(\d)\.(\d)\.(conv|bn)(\d)\.'
# True: the first unit of a stage, which has convolutions in both branches
SHUFFLENET_V2_BRANCHES = {
    True: {'1': 'branch1.0', '2': 'branch1.1', '3': 'branch2.0', '4': 'branch2.1', '5': 'branch2.2'},
    False: {'1': 'branch2.0', '2': 'branch2.1', '3': 'branch2.2'},
}


class Family(NamedTuple):
    """Networks whose published files have the same names of tensors."""

    networks: dict[str, str]  # published name -> name of our config
    marker: str  # a tensor that all of them have
    classifier: str
    rename: Callable[[list[str]], dict[str, str]]  # published names in the backbone -> mmpretrain's


def by_rules(*rules: tuple[str, str | Callable[[re.Match], str]]) -> Callable[[list[str]], dict[str, str]]:
    """Make a function that renames tensors by patterns, one after the other."""

    def rename(names: list[str]) -> dict[str, str]:
        return {name: functools.reduce(lambda renamed, rule: re.sub(*rule, renamed), rules, name) for name in names}

    return rename


def rename_vgg(names: list[str]) -> dict[str, str]:
    """Rename the tensors of a VGG, which is one sequence of convolutions and pools in mmpretrain."""
    matches = [match for name in names if (match := re.match(VGG_LAYER, name))]
    convolutions = sorted({(int(match[1]), int(match[2]) // 3) for match in matches})
    places = {(block, number): i + block for i, (block, number) in enumerate(convolutions)}

    def layer(match: re.Match) -> str:
        block, index = int(match[1]), int(match[2])
        return f'features.{places[block, index // 3]}.{PARTS[index % 3]}.'

    return by_rules((VGG_LAYER, layer))(names)


def mobilenet_layer(match: re.Match) -> str:
    stage, block, index = map(int, match.groups())
    return f'layer{stage + 1}.{block}.conv.{index // 3}.{PARTS[index % 3]}.'


def shufflenet_v1_layer(match: re.Match) -> str:
    stage, unit, part, number = match.groups()
    return f'layers.{int(stage) - 1}.{unit}.conv{number}.{part}.'


def shufflenet_v2_layer(match: re.Match) -> str:
    stage, unit, part, number = match.groups()
    branch = SHUFFLENET_V2_BRANCHES[unit == '0'].get(number, f'conv{number}')
    return f'layers.{int(stage) - 1}.{unit}.{branch}.{part}.'


FAMILIES = (
    Family(
        {f'resnet{depth}': f'res{depth}' for depth in (8, 14, 20, 32, 44, 56, 110, '8x4', '32x4')},
        'layer2.0.downsample.0.weight',
        'fc',
        by_rules(),
    ),
    Family(
        {f'wrn_{depth}_{width}': f'wrn{depth}-{width}' for depth in (16, 40) for width in (1, 2)},
        'block2.layer.0.convShortcut.weight',
        'fc',
        by_rules((r'^block(\d)\.layer\.', r'layer\1.'), (r'\.convShortcut\.', '.downsample.')),
    ),
    Family(
        {f'vgg{depth}': f'vgg{depth}' for depth in (8, 11, 13, 16, 19)}, 'block0.0.weight', 'classifier', rename_vgg
    ),
    Family({'ResNet50': 'res50'}, 'layer1.0.shortcut.0.weight', 'linear', by_rules((r'\.shortcut\.', '.downsample.'))),
    Family(
        {'MobileNetV2': 'mobilenetv2'},
        'blocks.0.0.conv.0.weight',
        'classifier.0',
        by_rules(
            (r'^blocks\.(\d)\.(\d)\.conv\.(\d)\.', mobilenet_layer),
            (r'^conv([12])\.0\.', r'conv\1.conv.'),
            (r'^conv([12])\.1\.', r'conv\1.bn.'),
        ),
    ),
    Family(
        {'ShuffleV1': 'shufflenetv1'},
        'layer1.0.bn3.weight',
        'linear',
        by_rules(SHUFFLENET_STEM, (SHUFFLENET_LAYER, shufflenet_v1_layer)),
    ),
    Family(
        {'ShuffleV2': 'shufflenetv2'},
        'layer1.0.bn5.weight',
        'linear',
        by_rules(SHUFFLENET_STEM, (SHUFFLENET_LAYER, shufflenet_v2_layer), (r'^(conv|bn)2\.', r'layers.3.\1.')),
    ),
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


def renamed(published: dict[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Return the tensors of a published file under mmpretrain's names."""
    published_head = f'{family.classifier}.'
    backbone = family.rename([name for name in published if not name.startswith(published_head)])
    return {
        f'backbone.{backbone[name]}' if name in backbone else f'{HEAD}{name.removeprefix(published_head)}': tensor
        for name, tensor in published.items()
    }


@functools.cache
def state_dict_of(architecture: str) -> dict[str, Tensor]:
    """Return the tensors of a network with one class."""
    cfg = network_config(f'icd_mmrazor::vanilla/{ARCHITECTURES[architecture]}_cifar100.py', '--arch')
    cfg.head.num_classes = 1
    return MODELS.build(cfg).state_dict()


def state_dict_for(weights: dict[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """Return a network's tensors, with as many classes as a file has, which take no memory."""
    own, num_classes = state_dict_of(architecture), max([1, *weights[f'{HEAD}weight'].shape[:1]])
    return {name: w.expand(num_classes, *w.shape[1:]) if name.startswith(HEAD) else w for name, w in own.items()}


def recognised(published: dict[str, Tensor]) -> str | None:
    """Return the architecture that has tensors of these names and shapes."""
    for family in FAMILIES:
        if family.marker in published and f'{family.classifier}.weight' in published:
            weights = renamed(published, family)
            for architecture in family.networks:
                if shapes(weights) == shapes(state_dict_for(weights, architecture)):
                    return architecture
    return None


def shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    # the first versions of torch did not write these counters
    return {name: w.shape for name, w in weights.items() if not name.endswith('num_batches_tracked')}


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
    weights = renamed(published, family)
    if f'{HEAD}weight' not in weights:
        raise CheckpointError(
            f'{src} has no {family.classifier}.weight, the classifier of {architecture}; '
            f'its first tensors: {printable(list(published)[:4])}.'
        )
    own = state_dict_for(weights, architecture)
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
