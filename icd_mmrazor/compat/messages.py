"""Readable messages of a run."""

import logging
import warnings
from pathlib import Path

from mmcv.transforms import LoadImageFromFile
from mmpretrain.datasets import CustomDataset

from icd_mmrazor.compat.imports import MAX_PIXELS
from icd_mmrazor.errors import DatasetError, raised_as

SHOWN_NAMES = 8
NOISE = ('Exp name: ', 'paramwise_options -- ', '"FileClient" will be', '"HardDiskBackend" is the alias')


def explain_image_folders() -> None:
    """Say what is wrong with a folder of images, and what is expected.

    Where: mmpretrain, both families, ``CustomDataset`` (and ``ImageNet``, which is one): the stack trace says neither
    where a folder was looked for nor what was found in it.
    """
    load = CustomDataset.load_data_list

    def load_data_list(self: CustomDataset) -> list[dict]:
        try:
            return load(self)
        except (OSError, RuntimeError, AssertionError, ValueError) as error:
            folder = Path(self.img_prefix)
            expected = f'a folder for each class with its images: {folder}/CLASS/IMAGE{min(self.extensions)}'
            if self.ann_file:
                expected = f'lines "IMAGE LABEL" in {self.ann_file}'
            message = (
                f'{type(self).__name__}: {folder} (working folder: {Path.cwd()}): {error}. Found: {_found(folder)}. '
                f'Expected: {expected}. Set data_root and data_prefix of the dataset to where the images are.'
            )
            raise raised_as(DatasetError, message, error) from error

    CustomDataset.load_data_list = load_data_list


def _found(folder: Path) -> str:
    try:
        names = sorted(f'{file.name}{"/" if file.is_dir() else ""}' for file in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return 'there is no such folder'
    except OSError as error:
        return f'it cannot be read ({error.strerror})'
    more = f' and {len(names) - SHOWN_NAMES} more' if len(names) > SHOWN_NAMES else ''
    return f'it holds {", ".join(names[:SHOWN_NAMES]) or "nothing"}{more}'


def explain_images() -> None:
    """Name the image file that cannot be read.

    Where: mmcv, both families, ``LoadImageFromFile``: an assertion, or an error of the decoder, without the name.
    """
    load = LoadImageFromFile.transform

    def transform(self: LoadImageFromFile, results: dict) -> dict | None:
        try:
            return load(self, results)
        except Exception as error:  # decoders given any bytes raise anything
            text = ' '.join(str(error).split())  # OpenCV's have several lines
            message = (
                f'image {results.get("img_path")} cannot be read ({type(error).__name__}: {text}). It must be an image '
                f'file of at most {MAX_PIXELS:,} pixels. Replace it, or remove it from the dataset.'
            )
            raise raised_as(DatasetError, message, error) from error

    LoadImageFromFile.transform = transform


def drop_warning_of_hsigmoid() -> None:
    """Leave out a warning about networks that no user has written.

    Where: mmcv, both families, ``HSigmoid``: every MobileNetV3 warns that a default of 2021 was another one.
    """
    warnings.filterwarnings('ignore', 'In MMCV v1.4.4, we modified the default value of args', UserWarning)


def drop_log_noise(logger: logging.Logger) -> None:
    """Keep lines out of a run's log that tell its reader nothing.

    Where: mmengine, both families. ``LoggerHook`` repeats the experiment's name after every epoch, and
    ``CheckpointHook`` warns at every start about mmengine's own old interface, which no user has chosen.
    ``DefaultOptimWrapperConstructor`` writes a line for every parameter and setting of ``paramwise_cfg``.
    """
    logger.addFilter(_is_informative)


def _is_informative(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOISE)
