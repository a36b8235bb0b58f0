"""A run with several teachers: its report, the names of their classes, what is stored and exported."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import logged
from mmengine.config import Config

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.configuration.stored import read_settings
from icd_mmrazor.errors import UserError
from icd_mmrazor.models.networks.resolve import name_networks_in_full

KD = dict(type='FeatureDistiller', losses=dict(kd=dict(loss=dict(type='KLDivergence'), features='logits')))


@pytest.fixture
def config(demo_config: Callable, network: Callable, teacher_file: Callable) -> Callable[..., Config]:
    def make(*changes: dict, **options: object) -> Config:
        cfg = demo_config(**options)
        del cfg.model.teacher, cfg.model.teacher_ckpt
        own = dict(type='ClsDataPreprocessor', mean=[30.0] * 3, std=[40.0] * 3)
        cfg.model.teachers = [
            {**dict(teacher=network('res8'), teacher_ckpt=teacher_file('res8'), weight=2.0), **changes[0]},
            {
                **dict(teacher=dict(network('res14'), data_preprocessor=own), teacher_ckpt=teacher_file('res14')),
                **changes[1],
            },
        ]
        cfg.model.distiller = KD
        return cfg

    return make


def named(file: str, names: list[str], tmp_path: Path) -> str:
    """Write a copy of a checkpoint that names its classes."""
    checkpoint = {**read_checkpoint(file), 'meta': {'dataset_meta': {'classes': names}}}
    torch.save(checkpoint, tmp_path / 'named.pth')
    return str(tmp_path / 'named.pth')


@pytest.mark.slow
def test_the_report_evaluates_each_teacher_and_all_together(config: Callable, runner: Callable) -> None:
    cfg = config({}, {})
    name_networks_in_full(cfg.model)
    run = runner(cfg)
    run.train()
    log, hub = logged(run), run.message_hub.runtime_info
    metrics = [hub[name]['accuracy/top1'] for name in ('teacher_0_metrics', 'teacher_1_metrics', 'teacher_metrics')]
    # the same again, from the logits of the networks
    model, dataloader = run.model.eval(), run.val_dataloader
    right, number = torch.zeros(3), 0
    for batch in dataloader:
        data = model.data_preprocessor(batch, False)
        labels = torch.cat([sample.gt_label for sample in data['data_samples']])
        images = data['inputs']
        other = (images * 81 + 78 - 30) / 40
        with torch.no_grad():
            logits = [model.teacher.members[0](images), model.teacher.members[1](other)]
        logits.append((2 * logits[0] + logits[1]) / 3)
        right += torch.tensor([(each.argmax(1) == labels).sum() for each in logits])
        number += len(labels)
    assert metrics == pytest.approx((100 * right / number).tolist())
    for i, (kind, value) in enumerate(zip(('depth=8', 'depth=14'), metrics[:2], strict=True)):
        assert re.search(rf'teacher {i}  CIFARResNet\({kind}\).* {value:.2f}\n', log)
        assert re.search(rf'weights .*{cfg.model.teachers[i].teacher_ckpt}\n', log)
    assert re.search(rf'teacher  MeanLogits\(weights=0.666667, 0.333333\) of 0, 1.* {metrics[2]:.2f}\n', log)
    assert 'mean (30' in log or '30.' in log
    # what is stored names both networks in full
    stored = read_settings(read_checkpoint(hub['last_ckpt'])['meta']['cfg'], 'the checkpoint')
    assert [each['teacher']['backbone']['depth'] for each in stored['model']['teachers']] == [8, 14]
    assert Path(cfg.work_dir, 'student_last.pth').is_file()


@pytest.mark.parametrize('which', [0, 1])
def test_names_of_classes_are_compared_for_each(
    which: int, config: Callable, runner: Callable, teacher_file: Callable, tmp_path: Path
) -> None:
    names = [f'animal {i}' for i in range(10)]
    changes = [{}, {}]
    changes[which] = dict(teacher_ckpt=named(teacher_file(('res8', 'res14')[which]), names, tmp_path))
    cfg = config(*changes)
    cfg.train_dataloader.dataset.metainfo = cfg.val_dataloader.dataset.metainfo = dict(
        classes=[f'digit {i}' for i in range(10)]
    )
    with pytest.raises(UserError, match=rf'teachers\[{which}\].*animal'):
        runner(cfg).train()
