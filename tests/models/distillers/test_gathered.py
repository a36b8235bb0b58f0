"""Losses of the images of all processes, against one process with the whole batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import shipped
from launches import in_processes
from mmengine.model import MMDistributedDataParallel
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError

SIZES = (5, 3)
PROJECTED = dict(student_connector=dict(type='LinearProjection', out_features=8))
PROJECTED['teacher_connector'] = PROJECTED['student_connector']
LOSSES = {
    'rkd': dict(loss=dict(type='RKDLoss'), features='pooled'),
    'cc': dict(loss=dict(type='CCLoss'), features='pooled', **PROJECTED),
    'itrd': dict(loss=dict(type='ITRDLoss'), features='pooled'),
    'dist': dict(loss=dict(type='PearsonCorrelationLoss'), features='logits'),
    'dkd': dict(loss=dict(type='DecoupledKDLoss'), features='logits'),
    'afd': dict(
        loss=dict(type='AFDLoss', attention_dims=4),
        inputs={f'{n[0]}_features': dict(network=n, feature=['maps']) for n in ('student', 'teacher')},
    ),
}


def built(gathered: bool) -> nn.Module:
    torch.manual_seed(0)
    network = {**shipped('_base_/models/res8.py').res8, 'type': 'mmpretrain.ImageClassifier'}
    network['head'] = {**network['head'], 'num_classes': 4}
    losses = {name: {**entry, 'gather_distributed': gathered} for name, entry in LOSSES.items()}
    model = MODELS.build(
        dict(
            _scope_='mmrazor',
            type='FrozenTeacherDistill',
            architecture=network,
            teacher=network,
            random_teacher=True,
            calculate_student_loss=False,
            distiller=dict(type='FeatureDistiller', losses=losses),
        )
    ).double()
    for parameter in model.teacher.parameters():
        parameter.mul_(1.5)
    model.train()
    # the statistics of its batch norms are those of a process
    model.architecture.eval()
    return model


def gradients(rows: slice, parallel: bool) -> dict[str, Tensor]:
    model = built(gathered=parallel)
    wrapped = MMDistributedDataParallel(model) if parallel else model
    images = torch.randn(sum(SIZES), 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    samples = [DataSample().set_gt_label(i % 4) for i in range(sum(SIZES))]
    losses = wrapped(images[rows], samples[rows], mode='loss')
    model.parse_losses(losses)[0].backward()
    found = {f'loss {name}': value.detach() for name, value in losses.items() if 'loss' in name}
    return found | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def of_rank(rank: int) -> dict[str, Tensor]:
    return gradients(slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1])), parallel=True)


def test_values_and_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    whole = gradients(slice(None), parallel=False)
    assert len([name for name in whole if name.startswith('loss ')]) == len(LOSSES)
    for found in in_processes(of_rank, len(SIZES), tmp_path):
        assert found.keys() == whole.keys()
        for name, want in whole.items():
            torch.testing.assert_close(found[name], want, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        (dict(loss=dict(type='RKDLoss'), features='pooled', gather_distributed=2), 'gather_distributed=2'),
        (
            dict(loss=dict(type='ComparativeLoss'), features='logits', gather_distributed=True),
            r'loss_it \(ComparativeLoss\) reads the data samples',
        ),
        (
            dict(loss=dict(type='RRDLoss', embed_dims=8), features='pooled', gather_distributed=True, **PROJECTED),
            'gathers by itself',
        ),
    ],
)
def test_what_is_refused(entry: dict[str, Any], message: str) -> None:
    network = shipped('_base_/models/res8.py').res8
    cfg = dict(_scope_='mmrazor', type='FrozenTeacherDistill', architecture=network, teacher=network)
    with pytest.raises(SettingError, match=message):
        MODELS.build({**cfg, 'random_teacher': True, 'distiller': dict(type='FeatureDistiller', losses=dict(it=entry))})
