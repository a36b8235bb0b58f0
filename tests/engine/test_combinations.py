"""What people combine with a distillation: it works, or it is refused by name."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import TOOLS, exit_status, logged, scalars, whole_network
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from icd_mmrazor.errors import SettingError

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackInputs')
NETWORK = {'_scope_': 'mmpretrain', **whole_network()}
NETWORK['head'] = dict(NETWORK['head'], num_classes=3)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    """Return the config of ICD+KD on 12 image files in three classes, of which one is rare."""
    generator = np.random.default_rng(0)
    for i, name in enumerate('aaaaabbbbbcc'):
        folder = tmp_path / 'images' / name
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{i:02}.png'), generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))

    def make(**options: object) -> Config:
        images = dict(type='CustomDataset', data_root=str(tmp_path / 'images'), pipeline=[LOAD, PACK])
        loader = dict(
            batch_size=4,
            num_workers=0,
            dataset=images,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        )
        cfg = Config(
            dict(
                model=dict(
                    _scope_='mmrazor',
                    type='FrozenTeacherDistill',
                    architecture=NETWORK,
                    teacher=NETWORK,
                    random_teacher=True,
                    distiller=dict(type='ICDDistiller', kd=dict(tau=4.0)),
                ),
                data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3),
                train_dataloader=loader,
                val_dataloader=copy.deepcopy(loader),
                val_evaluator=dict(type='Accuracy'),
                val_cfg=dict(),
                train_cfg=dict(by_epoch=True, max_epochs=1),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05)),
            )
        )
        base = Config.fromfile(TOOLS.parent / 'configs' / '_base_' / 'runtimes' / 'default.py')
        base.merge_from_dict(cfg.to_dict())
        base.merge_from_dict({'work_dir': str(tmp_path / 'work'), 'randomness.seed': 0, **options})
        base.default_hooks.logger.interval = 1
        return base

    return make


WRAPPERS = {
    # how the training set is wrapped, how many images an epoch has then
    'RepeatDataset': (lambda images: dict(type='RepeatDataset', times=2, dataset=images), 24),
    'ConcatDataset': (lambda images: dict(type='ConcatDataset', datasets=[images, dict(images)]), 24),
    # sqrt(0.3 / (2 / 12)) = 1.34 times: at least twice
    'ClassBalancedDataset': (lambda images: dict(type='ClassBalancedDataset', oversample_thr=0.3, dataset=images), 14),
    'KFoldDataset': (lambda images: dict(type='KFoldDataset', fold=0, num_splits=3, dataset=images), 8),
}


@pytest.mark.slow
@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_wrapped_datasets_under_mixing(wrapper: str, config: Callable, runner: Callable) -> None:
    wrap, size = WRAPPERS[wrapper]
    cfg = config()
    cfg.data_preprocessor.batch_augments = dict(
        augments=[dict(type='Mixup', alpha=1.0), dict(type='CutMix', alpha=1.0)]
    )
    cfg.train_dataloader.dataset = wrap(cfg.train_dataloader.dataset.to_dict())
    if wrapper == 'KFoldDataset':
        cfg.val_dataloader.dataset = dict(wrap(cfg.val_dataloader.dataset.to_dict()), test_mode=True)
    run = runner(cfg)
    run.train()
    assert len(run.train_dataloader.dataset) == size
    assert run.iter == -(-size // 4)
    if wrapper == 'KFoldDataset':
        files = [
            {loader.dataset.get_data_info(i)['img_path'] for i in range(len(loader.dataset))}
            for loader in (run.train_dataloader, run.val_dataloader)
        ]
        assert [len(each) for each in files] == [8, 4]
        assert not files[0] & files[1]


class Gradients(Hook):
    """Note weights before and losses after each iteration."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []
        self.losses: list[float] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.weights.append(runner.model.architecture.head.fc.weight.detach().clone())

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.losses.append(outputs['loss'].item())


@pytest.mark.slow
def test_gradients_are_accumulated(config: Callable, runner: Callable) -> None:
    """Three batches: two make an update, then the last one. The log has the losses of each batch."""
    run, watch = runner(config(**{'optim_wrapper.accumulative_counts': 2})), Gradients()
    run.register_hook(watch)
    run.model.init_weights()
    model = copy.deepcopy(run.model)
    batches, step = [], run.model.loss

    def loss(images: torch.Tensor, samples: list) -> dict[str, torch.Tensor]:
        batches.append((images.clone(), [sample.clone() for sample in samples]))
        return step(images, samples)

    run.model.loss = loss
    run.train()
    # by hand
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    for i, ((images, samples), count) in enumerate(zip(batches, (2, 2, 1), strict=True)):
        torch.testing.assert_close(watch.weights[i], model.architecture.head.fc.weight.detach())
        loss, _ = model.parse_losses(model.loss(images, samples))
        assert watch.losses[i] == pytest.approx(loss.item(), rel=1e-4)
        (loss / count).backward()
        if i > 0:
            with torch.no_grad():
                for p in parameters:
                    p -= 0.05 * p.grad
                    p.grad = None
    torch.testing.assert_close(run.model.architecture.head.fc.weight, model.architecture.head.fc.weight)
    logs = [line['loss'] for line in scalars(run) if 'loss' in line]
    assert logs[0] == pytest.approx(watch.losses[0], abs=1e-3)


@pytest.mark.slow
def test_a_training_by_iterations(config: Callable) -> None:
    """Its checkpoints and its log count iterations, and it resumes from one of them."""
    cfg = config(train_cfg=dict(_delete_=True))
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=5, val_interval=2)
    cfg.param_scheduler = dict(type='WarmupCosineLR', by_epoch=False)
    cfg.dump('iterations.py')
    assert exit_status(TOOLS / 'train.py', 'iterations.py', '--work-dir', 'work') is None
    names = {file.name for file in Path('work').glob('*.pth')}
    assert {'iter_4.pth', 'iter_5.pth', 'student_last.pth', 'student_best.pth'} <= names
    assert any(name.startswith('best_accuracy_top1_iter_') for name in names)
    log = logged(cfg)
    assert 'Iter(train) [4/5]' in log
    assert 'does not follow the training' not in log
    whole = torch.load('work/iter_5.pth', weights_only=True)['state_dict']
    arguments = ('iterations.py', '--work-dir', 'again', '--resume', 'work/iter_4.pth')
    assert exit_status(TOOLS / 'train.py', *arguments) is None
    again = torch.load('again/iter_5.pth', weights_only=True)['state_dict']
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.slow
def test_a_schedule_of_epochs_in_a_training_by_iterations(config: Callable, runner: Callable) -> None:
    cfg = config()
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=1)
    cfg.param_scheduler = [dict(type='MultiStepLR', milestones=[1]), dict(type='LinearLR', by_epoch=False)]
    run = runner(cfg)
    run.train()
    warnings = [line for line in logged(run).splitlines() if 'does not follow the training' in line]
    assert len(warnings) == 1
    assert 'MultiStepLR' in warnings[0]


def test_an_average_that_is_not_validated_is_refused(config: Callable, runner: Callable) -> None:
    cfg = config(custom_hooks=[dict(type='EMAHook', evaluate_on_ema=False, evaluate_on_origin=True)])
    with pytest.raises(SettingError, match=r'EMAHook: evaluate_on_ema=False.*evaluate_on_ema=True'):
        runner(cfg).train()


@pytest.mark.slow
def test_an_average_next_to_the_weights_of_the_optimizer(config: Callable, runner: Callable) -> None:
    hook = dict(type='EMAHook', evaluate_on_ema=True, evaluate_on_origin=True)
    run = runner(config(custom_hooks=[hook]))
    run.train()
    assert run.message_hub.get_scalar('val/accuracy/top1_origin').current() >= 0


@pytest.mark.slow
def test_several_labels_mixed(config: Callable, runner: Callable) -> None:
    """ICD and binary KD on heads for several labels, with mixed images and an averaged student."""
    head = dict(type='MultiLabelLinearClsHead', num_classes=3, in_channels=64)
    cfg = config(val_evaluator=dict(type='MultiLabelMetric'))
    cfg.data_preprocessor.batch_augments = dict(augments=dict(type='Mixup', alpha=1.0))
    cfg.model.distiller.kd = dict(type='BinaryKDLoss')
    for network in ('architecture', 'teacher'):
        cfg.model[network].head = head
    cfg.custom_hooks = [dict(type='mmengine.EMAHook', ema_type='MomentumAnnealingEMA')]
    run = runner(cfg)
    run.train()
    (line, *_) = [line for line in scalars(run) if 'distill.loss_kd' in line]
    assert line['distill.loss_kd'] > 0
    assert np.isfinite(line['loss'])
