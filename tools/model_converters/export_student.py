#!/usr/bin/env python3
"""Export the student in a distillation's checkpoint as a plain mmpretrain classifier.

The checkpoint is one of mmrazor or of this package, or of a plain classifier, which loses its optimizer. OUT.pth gets
the weights, OUT.py the config. Trainings with this package's configs write both by themselves.
"""

import argparse
from pathlib import Path

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import load_strictly
from icd_mmrazor.checkpoints.writing import atomic_write, check_writable, write_checkpoint
from icd_mmrazor.configuration.files import read_config_file
from icd_mmrazor.configuration.stored import config_of
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.network import build_network
from icd_mmrazor.export.onnx import input_size, require_onnx, write_onnx
from icd_mmrazor.export.student import plain_student, student_checkpoint
from icd_mmrazor.launch.command_line import positive_int, run
from icd_mmrazor.models.networks.classifier_layer import number_of_channels

from mmengine.registry import DefaultScope

REMEDY = 'Give the config of the training, --config CONFIG; its custom_imports must name your own modules.'
USAGE = """
  from mmpretrain import ImageClassificationInferencer
  inferencer = ImageClassificationInferencer({config!r}, pretrained={weights!r})
  print(inferencer('IMAGE_FILE')[0]['pred_label'])"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', metavar='CKPT', help='checkpoint of a distillation, or of a plain classifier')
    parser.add_argument('out', metavar='OUT.pth', help='where to write the weights; the config goes to OUT.py')
    parser.add_argument('--config', help='of the run (default: the one in the checkpoint, which is read, not run)')
    parser.add_argument('--onnx', nargs='?', const=True, metavar='FILE', help='write ONNX as well (default: OUT.onnx)')
    size = 'of the images of the ONNX file (default: what the test pipeline makes)'
    parser.add_argument('--input-size', nargs=2, type=positive_int, metavar=('H', 'W'), help=size)
    parser.add_argument('--force', action='store_true', help='replace files that exist')
    return parser.parse_args()


def outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Return the files to write, after checking that they can be written."""
    out = Path(args.out)
    if out.is_dir() or out.suffix != '.pth':
        raise SettingError(f'OUT {out} must be a file that ends in .pth.')
    files = {'weights': out, 'config': out.with_suffix('.py')}
    if args.onnx:
        files['onnx'] = out.with_suffix('.onnx') if args.onnx is True else Path(args.onnx)
    elif args.input_size:
        raise SettingError('--input-size is for the ONNX file: give --onnx as well.')
    if len({file.resolve() for file in files.values()}) < len(files):
        raise SettingError(f'--onnx {args.onnx} is the file of the weights or the config. Give another one.')
    sources = {Path(source).resolve() for source in (args.checkpoint, args.config) if source}
    for kind, file in files.items():
        setting = '--onnx' if kind == 'onnx' else 'OUT'
        check_writable(file, setting)
        if file.resolve() in sources:
            raise SettingError(f'{setting} {file} is a source of the export. Give another file.')
        if file.exists() and not args.force:
            raise SettingError(f'{setting} {file} exists. Give another file, or --force to replace it.')
    return files


def main() -> None:
    args = parse_args()
    files = outputs(args)
    if args.onnx:
        require_onnx()
    checkpoint = read_checkpoint(args.checkpoint)
    whole = read_config_file(args.config, '--config') if args.config else config_of(checkpoint, args.checkpoint)
    cfg = plain_student(whole)
    student = student_checkpoint(checkpoint, cfg, args.checkpoint)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        source = args.config or f'the config in {args.checkpoint}'
        model = build_network(f'the student of {source}', cfg.model, REMEDY).eval()
    load_strictly(model, student['state_dict'], f'the student in {args.checkpoint}')

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
    notes['weights'] = f'{type(getattr(model, "backbone", model)).__name__}, {parameters:,} parameters{epoch}'
    imports = cfg.get('custom_imports', {}).get('imports')
    notes['config'] = f'needs {", ".join(imports)} in addition to mmpretrain' if imports else 'needs only mmpretrain'
    for name, file in files.items():
        print(f'{file}: {notes[name]}')
    print(USAGE.format(config=str(files['config']), weights=str(files['weights'])))


if __name__ == '__main__':
    run(main)
