#!/usr/bin/env python3
"""Export the student in a distillation's checkpoint to mmpretrain, ONNX, TorchScript, timm and other formats.

The checkpoint is one of mmrazor or of this package, or of a plain classifier, which loses its optimizer. By default,
OUT.pth gets the weights and OUT.py the config, for mmpretrain. Trainings with this package's configs write both by
themselves. Every file is compared with the network before anything is written.
"""

import argparse
from pathlib import Path

from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.formats import FORMATS, INT8, check_files, export, files_of
from icd_mmrazor.export.int8 import Calibration
from icd_mmrazor.export.trained import read_student
from icd_mmrazor.launch.command_line import add_cfg_options, positive_int, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', metavar='CKPT', help='checkpoint of a distillation, or of a plain classifier')
    parser.add_argument('out', metavar='OUT.pth', help='name of the files; each format has its own suffix')
    to = f'what to write (default: mmpretrain): {", ".join(FORMATS)}'
    parser.add_argument('--to', nargs='+', action='extend', metavar='FORMAT', help=to)
    onnx = 'write ONNX as well, by default to OUT.onnx; --to mmpretrain onnx is the same'
    parser.add_argument('--onnx', nargs='?', const=True, metavar='FILE', help=onnx)
    parser.add_argument('--config', help='of the run (default: the one in the checkpoint, which is read, not run)')
    size = 'of the images that the network takes (default: what the test pipeline makes)'
    parser.add_argument('--input-size', nargs=2, type=positive_int, metavar=('H', 'W'), help=size)
    folder = 'images to calibrate INT8 on (default: the training images in the config)'
    parser.add_argument('--calibration', type=Path, metavar='FOLDER', help=folder)
    number = 'how many of them, drawn by a fixed seed (default: 256)'
    parser.add_argument('--calibration-images', type=positive_int, default=256, metavar='N', help=number)
    bits = 'INT8 weights of 7 bits, for x86 processors without VNNI'
    parser.add_argument('--reduce-range', action='store_true', help=bits)
    measure = "evaluate each file on the config's test images, as INT8 files always are"
    parser.add_argument('--measure', action='store_true', help=measure)
    add_cfg_options(parser, 'change settings of the config: test_dataloader.dataset.data_root=DIR ...')
    parser.add_argument('--force', action='store_true', help='replace files that exist')
    return parser.parse_args()


def outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Return the file of each format, after checking that all can be written."""
    out, formats = Path(args.out), args.to or ['mmpretrain']
    if out.is_dir() or out.suffix not in ('', '.pth') or not out.name:
        raise SettingError(f'OUT {out} must be a file that ends in .pth.')
    files = files_of([*formats, 'onnx'] if args.onnx else formats, out)
    if isinstance(args.onnx, str):
        files['onnx'] = Path(args.onnx)
    if args.input_size and not any(FORMATS[name].takes_images for name in files):
        raise SettingError('--input-size is for formats that are run, such as --to onnx.')
    if INT8 not in files and (args.calibration or args.reduce_range):
        raise SettingError(f'--calibration and --reduce-range are for --to {INT8}.')
    check_files(files, args.force, [Path(source) for source in (args.checkpoint, args.config) if source])
    return files


def main() -> None:
    args = parse_args()
    files = outputs(args)
    student = read_student(args.checkpoint, args.config, args.cfg_options)
    calibration = Calibration(args.calibration, args.calibration_images, args.reduce_range)
    size = tuple(args.input_size) if args.input_size else None
    for exported in export(student, files, size, calibration, args.measure):
        usage = exported.usage.replace('\n', '\n    ')
        print(f'{exported}\n\n    {usage}\n')


if __name__ == '__main__':
    run(main)
