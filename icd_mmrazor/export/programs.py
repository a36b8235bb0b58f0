"""Export of a classifier to a torch program: TorchScript, or an archive of torch.export."""

import io
import json

import torch

from icd_mmrazor.export.content import Content, images_note
from icd_mmrazor.export.onnx import exporting
from icd_mmrazor.export.running import ABOUT, verify
from icd_mmrazor.export.trained import TrainedStudent

TOLERANCE = 1e-5  # of the largest logit


def as_torchscript(student: TrainedStudent, size: tuple[int, int]) -> Content:
    """Export a student to TorchScript, and compare its logits with those of the network.

    Torch runs it without the network's code, in C++ too. It takes images, ``B x C x H x W``, normalised, for any
    ``B``, and returns logits. Its extra file ``about.json`` holds :meth:`TrainedStudent.about`, and ``size``.

    TorchScript is deprecated since torch 2.5, but its runtimes are in use; :func:`as_exported_program` succeeds it.

    Args:
        student: The student.
        size: Height and width of the images; a traced ViT takes no others.

    Returns:
        The content of the file.

    Raises:
        UserError: The network cannot be traced, or the traced one gives other logits.
    """
    network, shape, buffer = student.logits(), (student.channels, *size), io.BytesIO()
    with exporting('torchscript', student):
        # compared below, on other batches than the one that is traced
        traced = torch.jit.trace(network, torch.zeros(2, *shape), check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={ABOUT: _about(student, size)})
        buffer.seek(0)
        loaded = torch.jit.load(buffer)
    difference = verify('torchscript', loaded, network, shape, TOLERANCE)
    return Content(buffer.getvalue(), images_note(student.channels, size, difference))


def as_exported_program(student: TrainedStudent, size: tuple[int, int]) -> Content:
    """Export a student by ``torch.export``, and compare its logits with those of the network.

    Torch runs it without the network's code, compiles it ahead of time (AOTInductor), or lowers it to ExecuTorch.
    Otherwise as :func:`as_torchscript`.
    """
    network, shape, buffer = student.logits(), (student.channels, *size), io.BytesIO()
    with exporting('pt2', student):
        # torch.export takes a batch of one for a constant
        images, dynamic = torch.zeros(2, *shape), {'images': {0: torch.export.Dim('batch')}}
        program = torch.export.export(network, (images,), dynamic_shapes=dynamic)
        torch.export.save(program, buffer, extra_files={ABOUT: _about(student, size)})
        buffer.seek(0)
        loaded = torch.export.load(buffer).module()
    difference = verify('pt2', loaded, network, shape, TOLERANCE)
    return Content(buffer.getvalue(), images_note(student.channels, size, difference))


def _about(student: TrainedStudent, size: tuple[int, int]) -> str:
    return json.dumps({**student.about(), 'size': list(size)})
