"""Export of a classifier to ONNX, verified in onnxruntime."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from icd_mmrazor.compat.exporting import keep_batch_sizes_open
from icd_mmrazor.errors import UserError, first_line
from icd_mmrazor.export.content import Content, images_note
from icd_mmrazor.export.network import quiet
from icd_mmrazor.export.running import onnx_network, verify
from icd_mmrazor.export.trained import TrainedStudent

TOLERANCE = 1e-4  # of the largest logit


def as_onnx(student: TrainedStudent, size: tuple[int, int]) -> Content:
    """Export a student to ONNX, and compare its logits in onnxruntime with those in torch.

    The input ``images`` is ``B x C x H x W``, float32, normalised, for any ``B``; the output ``logits`` is
    ``B x num_classes``. The metadata holds :meth:`TrainedStudent.about`, each value as JSON.

    Args:
        student: The student.
        size: Height and width of the images.

    Returns:
        The content of the file.

    Raises:
        UserError: The network cannot be exported, or its logits differ.
    """
    network, shape = student.logits(), (student.channels, *size)
    # torch.export takes a batch of one for a constant
    images = torch.zeros(2, *shape)
    with exporting('onnx', student):
        program = torch.onnx.export(
            network,
            (images,),
            input_names=['images'],
            output_names=['logits'],
            dynamic_shapes={'images': {0: torch.export.Dim('batch')}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    data = with_metadata(program.model_proto, student.about())
    difference = verify('onnx', onnx_network(data), network, shape, TOLERANCE)
    return Content(data, images_note(student.channels, size, difference))


def with_metadata(model: Any, about: Mapping[str, Any]) -> bytes:
    """Serialise an ONNX model (``onnx.ModelProto``) with its metadata, each value as JSON."""
    import onnx

    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    return model.SerializeToString()


@contextlib.contextmanager
def exporting(what: str, student: TrainedStudent) -> Iterator[None]:
    """Let torch export a student, for batches of any size and without its progress.

    Raises:
        UserError: It cannot; ``what`` is the format, for the message.
    """
    try:
        with without_progress(), keep_batch_sizes_open(), torch.no_grad():
            yield
    except Exception as error:  # of any operation
        raise UserError(f'--to {what}: torch cannot export this {student.kind}: {first_line(error)}') from error


@contextlib.contextmanager
def without_progress() -> Iterator[None]:
    """Silence exporters, which print progress, and warnings that are not for their user."""
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        for name in ('', 'torch.onnx', 'torch.export'):
            stack.enter_context(quiet(logging.getLogger(name), logging.ERROR))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        warnings.simplefilter('ignore')
        yield
