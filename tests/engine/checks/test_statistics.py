"""The check of BatchNorm's statistics, in short runs on a small problem."""

from collections.abc import Callable

import pytest
from helpers import logged

WARNING = r'averages over about 100 iterations (momentum=0.01), and this training has 1:'


@pytest.mark.slow
@pytest.mark.parametrize(('momentum', 'warned'), [(0.01, True), (0.1, False)])
def test_statistics_that_cannot_settle(momentum: float, warned: bool, demo_config: Callable, runner: Callable) -> None:
    cfg = demo_config(**{'model.architecture.backbone.norm_cfg': dict(type='BN', momentum=momentum)})
    runner(cfg).train()
    assert (WARNING in logged(cfg)) == warned
    if warned:  # weights that were trained bring their statistics
        cfg.load_from = f'{cfg.work_dir}/epoch_{cfg.train_cfg.max_epochs}.pth'
        cfg.work_dir += '_again'
        runner(cfg).train()
        assert WARNING not in logged(cfg)
