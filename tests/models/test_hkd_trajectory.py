"""HKD's training against that of its authors' code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import DATA, shipped
from mmengine.model import BaseDataPreprocessor
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch.utils.data import DataLoader

GOLDEN = np.load(DATA / 'hkd_trajectory_student.npz')
EPOCHS, BATCHES, _ = GOLDEN['losses'].shape


class AsTheyAre(BaseDataPreprocessor):
    """Images that are normalised already, in double precision."""

    def forward(self, data: dict, training: bool = False) -> dict:
        return {**data, 'inputs': data['inputs'].double()}


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.double)
    yield
    torch.set_default_dtype(torch.float)


def weights(network: str) -> dict[str, torch.Tensor]:
    """Return the weights of a network, under our names."""
    found = {}
    for name in GOLDEN.files:
        owner, _, theirs = name.partition('.')
        if owner == network:
            ours = re.sub(r'^conv(\d)_bn', r'backbone.stage\1.bn', theirs)
            ours = re.sub(r'^conv(\d)', r'backbone.stage\1.conv', ours)
            ours = ours.replace('fc1', 'backbone.fc').replace('fc2', 'head.fc')
            found[ours] = torch.from_numpy(GOLDEN[name])
    return found


def collate(images: list[torch.Tensor]) -> dict[str, Any]:
    return dict(inputs=torch.stack(images), data_samples=[DataSample() for _ in images])


@pytest.mark.usefixtures('_double')
def test_trajectory(tmp_path: Path) -> None:
    """Three epochs, each with a new Adam: the maps count 100, 70 and 49 times."""
    cfg = shipped('hkd/hkd_cnn1-a_cnn1_cifar10.py')
    assert cfg.optim_wrapper == {'optimizer': {'type': 'Adam', 'lr': GOLDEN['lr'].item()}}
    torch.save({'state_dict': weights('teacher')}, tmp_path / 'teacher.pth')
    cfg.model.update(teacher_ckpt=str(tmp_path / 'teacher.pth'), teacher_preprocessor='student')
    model = MODELS.build({**cfg.model, 'data_preprocessor': AsTheyAre()})
    model.student.load_state_dict(weights('student_before'))
    losses, train_step = [], model.train_step

    def recorded(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        losses.append(train_step(*args, **kwargs))
        return losses[-1]

    model.train_step = recorded
    images = torch.from_numpy(GOLDEN['x']).flatten(0, 1)
    run = Runner(
        model,
        work_dir=str(tmp_path),
        train_dataloader=DataLoader([*images], batch_size=len(images) // BATCHES, collate_fn=collate),
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
        optim_wrapper=cfg.optim_wrapper,
        default_hooks=dict(logger=None, checkpoint=None),
        custom_hooks=[cfg.default_hooks.loss_schedule],
        default_scope='mmpretrain',
        experiment_name='hkd_trajectory',
    )
    # the weights are those above, and nothing is initialised
    run._init_model_weights = lambda: None
    run.train()

    names = ['loss_last', 'loss_flow3', 'loss_flow2', 'loss_flow1']
    found = np.array([[step[f'distill.{name}'].item() for name in names] for step in losses])
    scale = np.array([[1, *[100 * 0.7**epoch] * 3] for epoch in range(EPOCHS)]).repeat(BATCHES, axis=0)
    np.testing.assert_allclose(found, scale * GOLDEN['losses'].reshape(found.shape), rtol=1e-7)
    expected = weights('student_after')
    for name, value in model.student.state_dict().items():
        torch.testing.assert_close(
            value, expected[name], rtol=0, atol=1e-8, msg=lambda text, name=name: f'{name}: {text}'
        )
