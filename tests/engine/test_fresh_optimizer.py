"""Epochs that start with a fresh optimizer, against a plain loop that makes a new one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from icd_mmrazor.engine.hooks import LossScheduleHook
from icd_mmrazor.errors import SettingError

EPOCHS, BATCHES, SIZE = 4, 3, 8


class Regression(BaseModel):
    """A linear layer that learns the sum of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def forward(self, x: Tensor, mode: str = 'tensor') -> dict[str, Tensor]:
        return {'loss': (self.layer(x).squeeze(1) - x.sum(1)).square().mean()}


@pytest.fixture
def train(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Runner]:
    def run(fresh_optimizer: Any, accumulated: int = 1, train_cfg: dict | None = None) -> Runner:
        runner = Runner(
            Regression(),
            work_dir=str(tmp_path),
            train_dataloader=DataLoader([{'x': x} for batch in batches() for x in batch], batch_size=SIZE),
            train_cfg=train_cfg or dict(by_epoch=True, max_epochs=EPOCHS),
            optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.1), accumulative_counts=accumulated),
            param_scheduler=dict(type='MultiStepLR', milestones=[2], gamma=0.1),
            default_hooks=dict(logger=None, checkpoint=None),
            custom_hooks=[LossScheduleHook(fresh_optimizer)],
            experiment_name=request.node.name,
        )
        runner.train()
        return runner

    return run


def batches() -> list[Tensor]:
    return [*torch.randn(BATCHES, SIZE, 4, generator=torch.Generator().manual_seed(1))]


def by_hand(fresh: set[int], accumulated: int = 1) -> dict[str, Tensor]:
    model, steps = Regression(), 0
    for epoch in range(EPOCHS):
        rate = 0.1 if epoch < 2 else 0.01
        if epoch == 0 or epoch in fresh:
            optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        optimizer.param_groups[0]['lr'] = rate
        for x in batches():
            # what the last batches have left, fewer than are accumulated, counts in the next epoch
            (model(x)['loss'] / accumulated).backward()
            steps += 1
            if steps % accumulated == 0 or steps == EPOCHS * BATCHES:
                optimizer.step()
                optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize('accumulated', [1, 2])
@pytest.mark.parametrize(
    ('setting', 'fresh'), [(False, set()), (True, {1, 2, 3}), ([2], {2}), ((1, 3), {1, 3}), ([], set())]
)
def test_against_a_plain_loop(setting: Any, fresh: set[int], accumulated: int, train: Callable) -> None:
    run = train(setting, accumulated)
    for name, weight in by_hand(fresh, accumulated).items():
        torch.testing.assert_close(run.model.state_dict()[name], weight, rtol=1e-6, atol=1e-7, msg=name)


def test_the_setting_matters() -> None:
    found = [by_hand(fresh)['layer.weight'] for fresh in (set(), {1, 2, 3}, {2}, {1, 3})]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize('setting', [1, 'all', [-1], [0.5], [True], None])
def test_settings_out_of_range(setting: Any) -> None:
    with pytest.raises(SettingError, match='LossScheduleHook: fresh_optimizer='):
        LossScheduleHook(setting)


def test_a_training_that_counts_iterations(train: Callable) -> None:
    with pytest.raises(SettingError, match=r'fresh_optimizer counts epochs.*by_epoch=True'):
        train(True, train_cfg=dict(by_epoch=False, max_iters=3))


def test_epochs_after_the_last_one(train: Callable) -> None:
    run = train([1, 4, 50])
    log = '\n'.join(file.read_text() for file in Path(run.work_dir).glob('*/*.log'))
    assert f'fresh_optimizer has 4, 50, but the training ends after {EPOCHS} epochs' in log
