#!/usr/bin/env python3
"""Convert a published checkpoint of the CIFAR-100 distillation benchmark to mmpretrain's form.

The published files ({'model': weights, ...}) are those of the benchmark that RepDistiller began and ICD's authors use.
The result is what tools/train.py takes as model.teacher_ckpt and tools/test.py as a checkpoint.
"""

import argparse
import re
from pathlib import Path

from icd_mmrazor.utils.checkpoints import load_strictly, read_checkpoint, weights_of, write_checkpoint

# isort: split
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import Tensor

from icd_mmrazor.utils.command_line import run
from icd_mmrazor.utils.errors import CheckpointError, SettingError

MODEL_CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'models'

# published name -> name of our config
ARCHITECTURES = {
    **{f'resnet{depth}': f'res{depth}' for depth in (8, 14, 20, 32, 44, 56, 110, '8x4', '32x4')},
    **{f'wrn_{depth}_{width}': f'wrn{depth}-{width}' for depth in (16, 40) for width in (1, 2)},
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', help='published checkpoint')
    parser.add_argument('dst', metavar='DST', help='where to write the converted one')
    parser.add_argument(
        '--arch',
        metavar='NAME',
        help=f'its architecture, recognised from the tensors if not given: {", ".join(ARCHITECTURES)}',
    )
    parser.add_argument('--force', action='store_true', help='replace DST if it exists')
    return parser.parse_args()


def rename(name: str) -> str:
    """Return mmpretrain's name of a published tensor."""
    if name.startswith('fc.'):
        return f'head.{name}'
    name = re.sub(r'^block(\d)\.layer\.', r'layer\1.', name).replace('.convShortcut.', '.downsample.')
    return f'backbone.{name}'


def model_config(architecture: str, num_classes: int) -> dict:
    cfg = Config.fromfile(MODEL_CONFIGS / f'{ARCHITECTURES[architecture]}.py')
    model = cfg[ARCHITECTURES[architecture].replace('-', '_')]
    model.head.num_classes = num_classes
    return model


def fits(architecture: str, weights: dict[str, Tensor]) -> bool:
    """Return whether the weights are those of an architecture: same names, same shapes."""
    own = MODELS.build(model_config(architecture, len(weights['head.fc.weight']))).state_dict()
    return shapes(own) == shapes(weights)


def shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    # counters that the first torch versions did not write
    return {name: w.shape for name, w in weights.items() if not name.endswith('num_batches_tracked')}


def convert(checkpoint: dict, src: str, architecture: str | None = None) -> dict:
    """Convert a published checkpoint.

    Args:
        checkpoint: What was read from the file.
        src: The file, for messages.
        architecture: A name of ``ARCHITECTURES``; ``None`` recognises it.

    Returns:
        The checkpoint in mmpretrain's form: ``meta`` and ``state_dict``.

    Raises:
        CheckpointError: It has not the published form, fits no architecture, or not the named one.
    """
    if 'model' not in checkpoint:
        raise CheckpointError(
            f'{src} has not the published form {{"model": weights, ...}}; its keys: '
            f'{", ".join(map(str, list(checkpoint)[:8]))}. '
            "A checkpoint with 'state_dict' is mmpretrain's already."
        )
    published = weights_of({'state_dict': checkpoint['model']}, src)
    weights = {rename(name): tensor for name, tensor in published.items()}
    if 'head.fc.weight' not in weights:
        raise CheckpointError(
            f'{src} has no classifier fc.weight; its first tensors: {", ".join(list(published)[:4])}.'
        )
    architecture = architecture or next((name for name in ARCHITECTURES if fits(name, weights)), None)
    if architecture is None:
        raise CheckpointError(
            f'{src} fits none of {", ".join(ARCHITECTURES)}. Name one with --arch to see what differs.'
        )
    model = MODELS.build(model_config(architecture, len(weights['head.fc.weight'])))
    load_strictly(model, weights, f'{src} as {architecture}')
    meta = {'architecture': architecture, 'converted_from': Path(src).name}
    accuracy = checkpoint.get('accuracy', checkpoint.get('best_acc'))
    if isinstance(accuracy, int | float | Tensor):
        meta['accuracy'] = float(accuracy)
    return {'meta': meta, 'state_dict': model.state_dict()}


def main() -> None:
    args = parse_args()
    names = {**{name: name for name in ARCHITECTURES}, **{ours: name for name, ours in ARCHITECTURES.items()}}
    if args.arch is not None and args.arch not in names:
        raise SettingError(f'--arch {args.arch}: there is no such architecture. There are: {", ".join(ARCHITECTURES)}.')
    if Path(args.dst).is_dir():
        raise SettingError(f'DST {args.dst} is a folder. Give a file.')
    if Path(args.dst).exists() and not args.force:
        raise SettingError(f'DST {args.dst} exists and is kept. Give another path, or --force to replace it.')
    # final checkpoints of the published scripts hold their command line as a Namespace
    checkpoint = read_checkpoint(args.src, also_allowed=[argparse.Namespace])
    converted = convert(checkpoint, args.src, names.get(args.arch))
    write_checkpoint(converted, args.dst)
    meta, weights = converted['meta'], converted['state_dict']
    accuracy = f', published accuracy {meta["accuracy"]:.2f} %' if 'accuracy' in meta else ''
    classes = len(weights['head.fc.weight'])
    print(f'{args.dst}: {meta["architecture"]}, {len(weights)} tensors, {classes} classes{accuracy}')


if __name__ == '__main__':
    run(main)
