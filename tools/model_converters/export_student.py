#!/usr/bin/env python3
"""Make a plain mmpretrain classifier of the student in a distillation's checkpoint.

The checkpoint is one of mmrazor's or of this package, with or without the teacher inside; of a plain classifier's the
optimizer is left out. OUT.pth gets the weights, OUT.py the config. Training with this package's configs writes both
for its last and its best epoch by itself.
"""

import argparse
from pathlib import Path

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import load_strictly
from icd_mmrazor.checkpoints.writing import write_checkpoint

# isort: split
from mmengine.config import Config
from mmengine.registry import DefaultScope

from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.configuration.files import read_config_file
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.network import build_network
from icd_mmrazor.export.onnx import input_size, require_onnx, write_onnx
from icd_mmrazor.export.student import config_of, plain_student, student_checkpoint
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.models.networks.classifier_layer import number_of_channels

REMEDY = (
    'Give the config that it was trained with: --config CONFIG. Modules of your own are found if its custom_imports '
    'name them.'
)
USAGE = """
  from mmpretrain import ImageClassificationInferencer
  inferencer = ImageClassificationInferencer({config!r}, pretrained={weights!r})
  print(inferencer('IMAGE_FILE')[0]['pred_label'])"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', metavar='CKPT', help='checkpoint of a distillation, or of a plain classifier')
    parser.add_argument('out', metavar='OUT.pth', help='where to write the weights; the config goes beside, OUT.py')
    parser.add_argument(
        '--config', help='config of the run (default: the one in the checkpoint, which is read but never run)'
    )
    parser.add_argument(
        '--onnx', nargs='?', const=True, metavar='FILE', help='write an ONNX file as well (default: OUT.onnx)'
    )
    parser.add_argument(
        '--input-size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='size of the images of the ONNX file (default: what the test pipeline makes)',
    )
    parser.add_argument('--force', action='store_true', help='replace files that exist')
    return parser.parse_args()


def outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Return the files to write, after it was checked that they may be written."""
    out = Path(args.out)
    if out.is_dir() or out.suffix != '.pth':
        raise SettingError(f'OUT {out} is {"a folder" if out.is_dir() else "no .pth file"}. Give a file: STUDENT.pth.')
    files = {'weights': out, 'config': out.with_suffix('.py')}
    if args.onnx:
        files['onnx'] = out.with_suffix('.onnx') if args.onnx is True else Path(args.onnx)
    elif args.input_size:
        raise SettingError('--input-size is that of the ONNX file. Give --onnx with it.')
    if args.input_size and min(args.input_size) < 1:
        raise SettingError(f'--input-size {args.input_size[0]} {args.input_size[1]}: both must be positive.')
    if len({file.resolve() for file in files.values()}) < len(files):
        raise SettingError(f'--onnx {args.onnx} is what the weights or their config go to. Give another file.')
    sources = {Path(source).resolve() for source in (args.checkpoint, args.config) if source}
    for file in files.values():
        check_writable(file, 'OUT')
        if file.resolve() in sources:
            raise SettingError(f'{file} is what is exported. Give another OUT.')
        if file.exists() and not args.force:
            raise SettingError(f'{file} exists and is kept. Give another OUT, or --force to replace it.')
    return files


def read_config(args: argparse.Namespace, checkpoint: dict) -> Config:
    if not args.config:
        return config_of(checkpoint, args.checkpoint)
    return read_config_file(args.config, '--config')


def main() -> None:
    args = parse_args()
    files = outputs(args)
    if args.onnx:
        require_onnx()
    checkpoint = read_checkpoint(args.checkpoint)
    cfg = plain_student(read_config(args, checkpoint))
    student = student_checkpoint(checkpoint, cfg, args.checkpoint)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        source = args.config or f'the config in {args.checkpoint}'
        model = build_network(f'the student of {source}', cfg.model, REMEDY).eval()
    load_strictly(model, student['state_dict'], f'the student in {args.checkpoint}')

    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    notes = {'onnx': ''}
    if args.onnx:
        channels = number_of_channels(model)
        height, width = args.input_size or input_size(cfg, channels)
        classes = (student['meta'].get('dataset_meta') or {}).get('classes')
        classes = classes if isinstance(classes, list | tuple) else None
        difference = write_onnx(model, cfg, files['onnx'], (height, width), classes)
        notes['onnx'] = f'images: B x {channels} x {height} x {width}, differs from torch by {difference:.1e}'
    atomic_write(cfg.pretty_text, files['config'])
    write_checkpoint(student, files['weights'])
    epoch = f', epoch {student["meta"]["epoch"]}' if 'epoch' in student['meta'] else ''
    parameters = sum(p.numel() for p in model.parameters())
    notes['weights'] = f'{type(model.backbone).__name__ if hasattr(model, "backbone") else type(model).__name__}'
    notes['weights'] += f', {parameters:,} parameters{epoch}'
    imports = cfg.get('custom_imports', {}).get('imports')
    notes['config'] = f'needs {", ".join(imports)} beside mmpretrain' if imports else 'needs mmpretrain alone'
    for name, file in files.items():
        print(f'{file}: {notes[name]}')
    print(USAGE.format(config=str(files['config']), weights=str(files['weights'])))


if __name__ == '__main__':
    run(main)
