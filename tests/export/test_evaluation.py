"""Metrics of an exported file, against those of mmengine's own test."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import whole_network
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from icd_mmrazor.export.evaluation import evaluate
from icd_mmrazor.export.formats import export, files_of
from icd_mmrazor.export.student import plain_student
from icd_mmrazor.export.trained import TrainedStudent

pytestmark = pytest.mark.stack


@pytest.mark.slow
def test_several_labels_per_image(tmp_path: Path) -> None:
    """Scores come from the head of the student: here by a sigmoid for each class."""
    generator, labels = np.random.default_rng(0), []
    for number in range(7):
        cv2.imwrite(str(tmp_path / f'{number}.png'), generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        labels.append(dict(img_path=f'{number}.png', gt_label=generator.permutation(10)[: 1 + number % 3].tolist()))
    metainfo = dict(classes=list('abcdefghij'))
    (tmp_path / 'labels.json').write_text(json.dumps(dict(metainfo=metainfo, data_list=labels)))
    pipeline = [dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=8), dict(type='PackInputs')]
    dataset = dict(type='MultiLabelDataset', data_root=str(tmp_path), ann_file='labels.json', pipeline=pipeline)
    network = whole_network()
    network['head'] = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64)
    loader = dict(batch_size=3, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False))
    cfg = plain_student(
        Config(
            dict(
                model=network,
                data_preprocessor=dict(mean=[127.0] * 3, std=[64.0] * 3, to_rgb=True, num_classes=10),
                test_dataloader=loader,
                test_evaluator=[dict(type='AveragePrecision'), dict(type='MultiLabelMetric', topk=2)],
                test_cfg={},
            )
        )
    )
    model = MODELS.build(cfg.model).eval()
    checkpoint = dict(state_dict=model.state_dict(), meta={})
    torch.save(checkpoint, tmp_path / 'student.pth')
    student = TrainedStudent(model, cfg, checkpoint, cfg)
    (program,) = export(student, files_of(['torchscript'], tmp_path / 'x'), (8, 8), measure=True)
    run = Config({**cfg.to_dict(), 'load_from': str(tmp_path / 'student.pth'), 'work_dir': str(tmp_path / 'work')})
    run.experiment_name = 'several_labels'
    expected = {name: float(value) for name, value in Runner.from_cfg(run).test().items()}
    assert len(expected) > 1
    assert evaluate(student) == pytest.approx(expected)
    assert program.metrics == pytest.approx(expected)
