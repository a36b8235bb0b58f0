"""ONNX files of networks that take other images than those of three channels."""

import json
from pathlib import Path

import pytest
import torch
from helpers import whole_network
from mmengine.config import Config
from mmrazor.registry import MODELS

from icd_mmrazor.export.onnx import as_onnx
from icd_mmrazor.export.student import plain_student
from icd_mmrazor.export.trained import TrainedStudent
from icd_mmrazor.models.networks.features import feature_points, feature_shapes


def student(channels: int, loading: list[dict]) -> Config:
    mean = [float(i) for i in range(1, channels + 1)]
    pipeline = [*loading, dict(type='RandomCrop', crop_size=(12, 16)), dict(type='PackInputs')]
    dataset = dict(type='CustomDataset', data_root='nowhere', pipeline=pipeline)
    return plain_student(
        Config(
            dict(
                default_scope='mmpretrain',
                model=whole_network(in_channels=channels),
                data_preprocessor=dict(mean=mean, std=[2.0] * channels),
                test_dataloader=dict(dataset=dataset),
                test_evaluator=dict(type='Accuracy'),
            )
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ('channels', 'loading'),
    [
        (1, [dict(type='LoadImageFromFile', color_type='grayscale')]),
        (1, []),
        (4, [dict(type='LoadImageFromFile', color_type='unchanged')]),
        (4, []),
    ],
    ids=['gray', 'gray array', 'four', 'array of four'],
)
def test_as_many_channels_as_the_network_takes(channels: int, loading: list[dict], tmp_path: Path) -> None:
    cfg = student(channels, loading)
    kinds = [transform.type for transform in cfg.test_dataloader.dataset.pipeline]
    # no image file has four
    assert ('ImageAsInDataset' in kinds) == (channels == 1)
    model = MODELS.build(cfg.model).eval()
    trained = TrainedStudent(model, cfg, dict(state_dict=model.state_dict(), meta={}), cfg)
    assert trained.image_size() == (12, 16)
    assert trained.channels == channels
    assert feature_shapes(model, [feature_points(model).pooled]) == [(64,)]
    if loading:
        return
    for package in ('onnx', 'onnxruntime', 'onnxscript'):
        pytest.importorskip(package)
    import onnx
    from onnxruntime import InferenceSession

    (tmp_path / 'x.onnx').write_bytes(as_onnx(trained, (12, 16)).data)
    images = torch.randn(2, channels, 12, 16)
    session = InferenceSession(tmp_path / 'x.onnx', providers=['CPUExecutionProvider'])
    with torch.no_grad():
        expected = model(images, mode='tensor')
    found = torch.from_numpy(session.run(['logits'], {'images': images.numpy()})[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    about = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / 'x.onnx').metadata_props}
    assert about == {'mean': [float(i) for i in range(1, channels + 1)], 'std': [2.0] * channels}
