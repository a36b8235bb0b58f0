#!/usr/bin/env python3
"""Distil a teacher into a student on a folder of images, and export the student.

The folder has the layout CLASS/*, or train/CLASS/* and val/CLASS/*; for --task retrieval, any. Repeat the command to
continue an interrupted one.
"""

import argparse

from icd_mmrazor.launch.command_line import add_cfg_options, positive_int, run
from icd_mmrazor.launch.run_config import add_launcher_arguments
from icd_mmrazor.workflow.distill import distill


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = "a name of mmpretrain's model zoo, timm/NAME, hf/NAME, one of our networks, a config file"
    parser.add_argument('--teacher', required=True, help=f'{names}, or a checkpoint with its config inside')
    parser.add_argument(
        '--student',
        required=True,
        help=f'{names}; its classifier is set to the classes of the folder, or for retrieval replaced by a projection',
    )
    parser.add_argument(
        '--data', required=True, metavar='FOLDER', help='the images, in folders of classes; for retrieval, in any'
    )
    parser.add_argument('--task', default='classification', help='or retrieval: search a folder of images by image')
    parser.add_argument('--unlabeled', metavar='FOLDER', help='more images, without classes')
    parser.add_argument('--method', default='icd+kd', help='a method, or several with + (default: icd+kd)')
    recipe = 'fast (10 epochs), standard (100, the default) or patient (300)'
    parser.add_argument('--recipe', default='standard', help=recipe, metavar='NAME')
    size = "height and width of the student's images (default: what suits student and images)"
    parser.add_argument('--image-size', type=positive_int, metavar='N', help=size)
    flip = "mirror images are other images, as of digits or text: leave out the recipe's horizontal flips"
    parser.add_argument('--no-flip', dest='flip', action='store_false', help=flip)
    parser.add_argument('--epochs', type=positive_int, metavar='N', help="in place of the recipe's")
    batch = "images in a batch of each process, in place of the recipe's; the learning rate follows"
    parser.add_argument('--batch-size', type=positive_int, metavar='N', help=batch)
    weights = "the teacher's weights (default: those published for it); random draws them, to try things out"
    parser.add_argument('--teacher-ckpt', metavar='FILE', help=weights)
    parser.add_argument('--baseline', action='store_true', help='train the student without a teacher, too')
    fraction = 'of each class to validate on if there is no val folder; for retrieval, of all images (default: 0.2)'
    parser.add_argument('--val-fraction', type=float, default=0.2, metavar='F', help=fraction)
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of split and trainings (default: 0)')
    parser.add_argument('--skip-unreadable', action='store_true', help='leave out images that cannot be read')
    formats = "formats besides mmpretrain's, with commas: onnx,onnx-int8,torchscript,..."
    parser.add_argument('--export', default='', metavar='FORMATS', help=formats)
    folder = 'default: work_dirs/DATA_TEACHER_STUDENT_METHOD; for retrieval, it ends in _retrieval'
    parser.add_argument('--work-dir', metavar='DIR', help=folder)
    parser.add_argument('--dry-run', action='store_true', help='show the plan alone: nothing is trained or written')
    add_launcher_arguments(parser)
    add_cfg_options(
        parser, 'change settings of the distillation: model.distiller.embed_dims=64 train_dataloader.num_workers=8 ...'
    )
    return parser.parse_args()


def main() -> None:
    args = vars(parse_args())
    args.pop('local_rank')
    distill(**args)


if __name__ == '__main__':
    run(main, 'Repeat the command to continue.')
