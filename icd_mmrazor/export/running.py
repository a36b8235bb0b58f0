"""Exported files, run without this package."""

import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError, UserError, first_line

# from images, B x C x H x W, to logits, B x num_classes
Network = Callable[[Tensor], Tensor]
ABOUT = 'about.json'  # of a program, what its user must know
RUNNABLE = ('.onnx', '.pt', '.pt2')


def network_in(file: Path, threads: int | None = None) -> Network:
    """Load an exported file as its users do, in onnxruntime (``.onnx``) or torch (``.pt``, ``.pt2``).

    A ``.pt`` or ``.pt2`` file is a program: load only what you trust.

    Args:
        file: The file.
        threads: Number of onnxruntime's threads; by default one for each core.

    Raises:
        SettingError: The file is missing, or of another kind.
    """
    if file.suffix not in RUNNABLE:
        raise SettingError(f'{file}: expected a file that ends in {", ".join(RUNNABLE)}.')
    if not file.is_file():
        raise SettingError(f'{file}: there is no such file.')
    if file.suffix == '.onnx':
        return onnx_network(file, threads)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)  # TorchScript is deprecated
        return torch.jit.load(file) if file.suffix == '.pt' else torch.export.load(file).module()


def image_shape_of(file: Path, size: Sequence[int] | None = None) -> tuple[int, int, int]:
    """Return the shape of the images that an exported file takes, ``(C, H, W)``.

    Args:
        file: The file, ``.onnx``, ``.pt`` or ``.pt2``.
        size: Height and width to use instead of those that the file was exported for.

    Raises:
        SettingError: The file is missing, or was not exported by this package.
    """
    if not file.is_file():
        raise SettingError(f'{file}: there is no such file.')
    if file.suffix == '.onnx':
        import onnxruntime

        shape = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider']).get_inputs()[0].shape[1:]
        found = tuple(shape) if len(shape) == 3 and all(isinstance(each, int) for each in shape) else None
    else:
        found = _shape_of_program(file)
    if found is None:
        raise SettingError(f'{file} does not say which images it takes: it was not exported by this package.')
    return (found[0], *size) if size else found


def _shape_of_program(file: Path) -> tuple[int, ...] | None:
    with zipfile.ZipFile(file) as archive:
        about = [name for name in archive.namelist() if name.endswith(f'/{ABOUT}')]
        says = json.loads(archive.read(about[0])) if about else {}
    return (len(says['mean']), *says['size']) if {'mean', 'size'} <= says.keys() else None


def onnx_network(model: Path | bytes, threads: int | None = None) -> Network:
    """Load an ONNX file, or its content, into onnxruntime on the CPU; its logits are those of a plain session."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=['CPUExecutionProvider'])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(['logits'], {'images': images.numpy()})[0])

    return run


def verify(
    what: str, found: Network, expected: nn.Module, shape: tuple[int, ...], tolerance: float, remedy: str = ''
) -> float:
    """Compare an exported network with the student, on random images in batches of 3 and of 1.

    Args:
        what: The format, for the message: ``'onnx'``.
        found: The exported network.
        expected: The student, from images to logits.
        shape: Of an image, ``(C, H, W)``.
        tolerance: The largest difference, as a part of the largest logit (at least 1).
        remedy: The end of the message: how to export it instead.

    Returns:
        The largest difference of the logits.

    Raises:
        UserError: They differ by more, or have another shape.
    """
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for size in (3, 1):
        images = torch.randn(size, *shape, generator=generator)
        with torch.no_grad():
            logits, wanted = found(images), expected(images)
        difference = float((logits - wanted).abs().max()) if logits.shape == wanted.shape else np.inf
        if not difference <= tolerance * max(1.0, float(wanted.abs().max())):
            raise UserError(
                f'--to {what}: its logits differ by {difference:.2g} from those of the student, so no file was '
                f'written. {remedy}'.strip()
            )
        largest = max(largest, difference)
    return largest


def check_logits(network: nn.Module, shape: tuple[int, ...], kind: str) -> None:
    """Check that a student gives logits for images of a shape, ``(C, H, W)``, before anything is exported.

    Raises:
        SettingError: It fails on such images, or gives something else; ``kind`` is its type, for the message.
    """
    size = ' x '.join(map(str, shape))
    try:
        with torch.no_grad():
            logits: Any = network(torch.zeros(2, *shape))
    except Exception as error:  # of any network
        raise SettingError(
            f'--input-size: this {kind} fails on images of {size}: {first_line(error)}. Give the size that it was '
            'trained on.'
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise SettingError(
            f'the student ({kind}) gives no logits for images of {size}, so only its weights can be exported: '
            '--to mmpretrain safetensors.'
        )
