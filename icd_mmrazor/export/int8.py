"""Export of a classifier to ONNX in INT8, by static quantisation in onnxruntime."""

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmpretrain.datasets import CustomDataset
from torch.utils.data import DataLoader

from icd_mmrazor.configuration.type_names import dicts, type_name
from icd_mmrazor.errors import SettingError, UserError, first_line
from icd_mmrazor.export.content import Content
from icd_mmrazor.export.evaluation import build_loader_of_some, evaluate, prepared
from icd_mmrazor.export.onnx import with_metadata, without_progress
from icd_mmrazor.export.running import onnx_network
from icd_mmrazor.export.trained import TrainedStudent

BATCH_SIZE = 32
# of ONNX, with weights
LAYERS = ('Conv', 'Gemm', 'MatMul')


class Calibration(NamedTuple):
    """The images that the ranges of activations are measured on.

    Args:
        folder: A folder of images, in subfolders or not; by default, the images of the run's ``train_dataloader``.
        number: How many of them, drawn by a fixed seed.
        reduce_range: Whether weights get 7 bits instead of 8, so that no sum overflows on x86 processors without VNNI.
    """

    folder: Path | None = None
    number: int = 256
    reduce_range: bool = False


def calibration_images(student: TrainedStudent, calibration: Calibration) -> DataLoader:
    """Build the loader of the images for a calibration, prepared as test images are.

    Raises:
        SettingError: The folder is missing or has no images, or the config has no training set or no test pipeline.
    """
    pipeline = student.pipeline
    if not pipeline:
        raise SettingError(
            '--to onnx-int8: the config has no test pipeline that prepares images (test_dataloader.dataset.pipeline). '
            'Give the config of the training, --config CONFIG.'
        )
    dataset = _folder(calibration.folder, pipeline) if calibration.folder else _training_set(student, pipeline)
    settings = dict(dataset=dataset, batch_size=BATCH_SIZE, num_workers=0)
    return build_loader_of_some(student, settings, calibration.number)


def as_int8(
    student: TrainedStudent,
    size: tuple[int, int],
    float_model: bytes,
    images: DataLoader,
    reduce_range: bool = False,
    tests: DataLoader | None = None,
) -> Content:
    """Quantise a student's ONNX file by onnxruntime's static quantisation, and measure what it costs.

    Convolutions and matrix products get weights of 8 bits (signed, one scale for each output channel) and activations
    of 8 bits (unsigned, by their least and greatest value in the calibration), as pairs of QuantizeLinear and
    DequantizeLinear. The logits are not rounded to 8 bits, so that no classes tie. Input, output and metadata are those
    of the float file. If test images are given, the metadata also has ``metrics`` and ``metrics_float``: of this file
    and of the float file.

    Args:
        student: The student.
        size: Height and width of the images.
        float_model: The content of its ONNX file, from :func:`icd_mmrazor.export.onnx.as_onnx`.
        images: The images for the calibration, from :func:`calibration_images`.
        reduce_range: Whether weights get 7 bits, see :class:`Calibration`.
        tests: The test images, from :func:`icd_mmrazor.export.evaluation.test_images`.

    Returns:
        The content of the file.

    Raises:
        UserError: The file cannot be quantised, or its logits are not finite.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = [batch.numpy() for batch, _ in prepared(student, images)]
    wrong = next((batch.shape for batch in batches if batch.shape[1:] != (student.channels, *size)), None)
    if wrong:
        raise SettingError(
            f'--input-size {size[0]} {size[1]}: the test pipeline makes calibration images of {wrong[2]} x {wrong[3]}. '
            'Leave --input-size out, or change the pipeline.'
        )
    with tempfile.TemporaryDirectory() as folder, without_progress():
        source, target = Path(folder, 'float.onnx'), Path(folder, 'int8.onnx')
        try:
            # batch norms into convolutions, shapes of all tensors
            quant_pre_process(onnx.load_from_string(float_model), source)
            # Of few different logits, the largest is often that of two classes, and argmax takes another one of them
            # than topk: an accuracy would depend on who computes it.
            layers, after = _that_make_logits(onnx.load(source))
            quantize_static(
                source,
                target,
                _Reader(batches),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=after,
                extra_options=dict(OpTypesToExcludeOutputQuantization=layers),
            )
        except Exception as error:  # of any operation
            raise UserError(
                f'--to onnx-int8: onnxruntime cannot quantise this {student.kind}: {first_line(error)}'
            ) from error
        model = onnx.load(target)
    agreement = _agreement(model.SerializeToString(), float_model, batches)
    number = sum(len(batch) for batch in batches)
    note = f'calibrated on {number} images, of which {100 * agreement:.1f} % get the same class as in float'
    about: dict[str, Any] = {**student.about(), 'calibration_images': number}
    if tests is None:
        return Content(with_metadata(model, about), note)
    metrics, metrics_float = (evaluate(student, each, tests) for each in (model.SerializeToString(), float_model))
    data = with_metadata(model, {**about, 'metrics': metrics, 'metrics_float': metrics_float})
    before = ', '.join(f'{name} {value:.2f}' for name, value in metrics_float.items())
    return Content(data, f'in float {before}, {note}', metrics)


def _that_make_logits(model: Any) -> tuple[list[str], list[str]]:
    """Return the kinds of the last layers of an ONNX model, and the names of the nodes between them and the logits."""
    makers = {output: node for node in model.graph.node for output in node.output}
    kinds: set[str] = set()
    after: set[str] = set()
    waiting = ['logits']
    while waiting:  # back to the layers, through a bias or the mean of several classifiers
        node = makers.get(waiting.pop())
        if node is None:
            continue
        if node.op_type in LAYERS:
            kinds.add(node.op_type)
        elif node.name not in after:
            after.add(node.name)
            waiting += node.input
    return sorted(kinds), sorted(after)


def _agreement(quantised: bytes, float_model: bytes, batches: list[np.ndarray]) -> float:
    """Return how often the greatest logit is that of the same class."""
    one, other = onnx_network(quantised), onnx_network(float_model)
    same = []
    for batch in map(torch.from_numpy, batches):
        logits = one(batch)
        if not logits.isfinite().all():
            raise UserError('--to onnx-int8: the quantised logits are not finite, so no file was written.')
        same.append(logits.argmax(1) == other(batch).argmax(1))
    return float(torch.cat(same).float().mean())


class _Reader:
    """A ``CalibrationDataReader`` of onnxruntime."""

    def __init__(self, batches: list[np.ndarray]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next inputs of the network."""
        batch = next(self.batches, None)
        return None if batch is None else {'images': batch}


def _folder(folder: Path, pipeline: list[dict]) -> dict:
    if not folder.is_dir():
        raise SettingError(f'--calibration {folder}: there is no such folder.')
    if not any(_images_in(folder)):
        raise SettingError(f'--calibration {folder} has no images. Give a folder of a few hundred images as in use.')
    loads = any(type_name(transform.get('type')) == 'LoadImageFromFile' for transform in pipeline)
    pipeline = pipeline if loads else [dict(type='LoadImageFromFile'), *pipeline]
    return dict(type='CustomDataset', data_root=str(folder), with_label=False, pipeline=pipeline)


def _images_in(folder: Path) -> Iterator[Path]:
    suffixes = CustomDataset(data_root=str(folder), lazy_init=True).extensions
    return (file for file in folder.rglob('*') if file.suffix.lower() in suffixes)


def _training_set(student: TrainedStudent, pipeline: list[dict]) -> dict:
    """Return the config of the run's training images, prepared as test images are."""
    loader = student.run_cfg.get('train_dataloader')
    if not loader or not loader.get('dataset'):
        raise SettingError(
            '--calibration: the config has no training images to calibrate on. Give a folder of images, or the config '
            'of the training, --config CONFIG.'
        )
    dataset = copy.deepcopy(loader['dataset'])
    for part in dicts(dataset):
        if 'pipeline' in part:
            part['pipeline'] = pipeline
    return dataset
