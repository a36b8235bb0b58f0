"""Training and validation on features computed once, against the same run on images."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner
from transfer_data import probe_config, write_stl10, write_student

from icd_mmrazor.engine.hooks import FrozenFeatureHook


@pytest.fixture
def run(network: Callable, tmp_path: Path, runner: Callable) -> Callable[..., Runner]:
    """Train a probe, and count how many images its backbone sees in each mode."""
    write_student(tmp_path / 'student.pth', network('res8', 7))
    folder = write_stl10(tmp_path / 'stl10_binary')

    def train(name: str, *hooks: Hook, **options: object) -> Runner:
        cfg = probe_config('stl10', folder, tmp_path / 'student.pth', tmp_path / name)
        # nothing random
        pipeline = cfg.train_dataloader.dataset.pipeline
        cfg.train_dataloader.dataset.pipeline = [pipeline[0], pipeline[-1]]
        cfg.train_dataloader.collate_fn = dict(type='default_collate')
        cfg.train_cfg.max_epochs = 3
        # it validates an image of its own
        cfg.default_hooks.sanity_check.skip = ['metrics']
        cfg.merge_from_dict(options)
        trained = runner(cfg)
        for hook in hooks:
            trained.register_hook(hook)
        trained.images = 0

        def count(_: torch.nn.Module, inputs: tuple) -> None:
            trained.images += len(inputs[0])

        trained.model.backbone.register_forward_pre_hook(count)
        trained.train()
        trained.log = '\n'.join(file.read_text() for file in (tmp_path / name).glob('*/*.log'))
        return trained

    return train


def test_the_result_is_that_of_the_images(run: Callable) -> None:
    cached, plain = run('cached'), run('plain', custom_hooks=[])
    # 20 for training, 10 for validation, once and in each of three epochs
    assert (cached.images, plain.images) == (30, 90)
    assert '20 features, 64 wide, lie on cpu (0.0 MB); the training runs on them from now on.' in cached.log
    assert '10 features, 64 wide, lie on cpu (0.0 MB); the validation runs on them from now on.' in cached.log
    assert 'WholeBatchHook' not in cached.log.partition('FrozenFeatureHook: computes')[2]
    weights, wanted = cached.model.state_dict(), plain.model.state_dict()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-4, atol=1e-6)
    assert weights['head.fc.bias'].any()
    scores = [r.message_hub.get_scalar('val/accuracy/top1')._log_history.tolist() for r in (cached, plain)]
    assert scores[0] == scores[1]
    # afterwards the loaders give images again, also where a training was interrupted and begun anew
    hook = next(hook for hook in cached.hooks if isinstance(hook, FrozenFeatureHook))
    for call in (hook.before_train, hook.before_train, hook.after_train):
        call(cached)
    for loader in (cached.train_dataloader, cached.val_dataloader):
        assert next(iter(loader))['inputs'][0].shape == (3, 32, 32)


class Change(Hook):
    """Change something before the third epoch, after all other hooks."""

    priority = 'VERY_LOW'

    def __init__(self, change: Callable[[Runner], None]) -> None:
        self.change = change

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch == 2:
            self.change(runner)


def scale_weights(runner: Runner) -> None:
    for weight in runner.model.backbone.parameters():
        weight.data.mul_(1.1)


def shift_mean(runner: Runner) -> None:
    runner.model.data_preprocessor.mean.add_(40)


def enlarge_images(runner: Runner) -> None:
    for loader in (runner.train_dataloader, runner.val_dataloader):
        loader.dataset.pipeline.transforms[0].scale = (48, 48)


@pytest.mark.parametrize('change', [scale_weights, shift_mean, enlarge_images])
def test_changes_are_noticed(change: Callable, run: Callable) -> None:
    cached, plain = run('cached', Change(change)), run('plain', Change(change), custom_hooks=[])
    # once before the change and once after it
    assert cached.images == 2 * 30
    assert 'have changed; computes the features of 20 training images again.' in cached.log
    wanted = plain.model.state_dict()
    for name, weight in cached.model.state_dict().items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-4, atol=1e-6)


def test_a_pipeline_that_becomes_random_is_run_again(run: Callable) -> None:
    def flip(runner: Runner) -> None:
        transforms = runner.train_dataloader.dataset.pipeline.transforms
        transforms.insert(1, TRANSFORMS.build(dict(type='RandomFlip', prob=0.5, direction='horizontal')))

    trained = run('flip', Change(flip))
    assert trained.images == 30 + 20
    assert 'from now on the features of 20 training images are computed every time: their pipeline has RandomFlip' in (
        trained.log
    )


def test_what_is_random_is_computed_again(run: Callable) -> None:
    mixup = dict(
        type='ProbeDataPreprocessor', num_classes=10, batch_augments=dict(augments=dict(type='Mixup', alpha=1.0))
    )
    trained = run('mixup', data_preprocessor=mixup)
    assert trained.images == 3 * 20 + 10
    assert 'computed again in every epoch: data_preprocessor.batch_augments change the images.' in trained.log


def test_other_models_are_left_alone() -> None:
    runner = mock.Mock(model=torch.nn.Linear(2, 2))
    hook = FrozenFeatureHook()
    hook.before_train(runner)
    hook.after_train(runner)
    (message,) = runner.logger.info.call_args.args
    assert 'the model is a Linear with a NoneType, not a LinearProbe' in message
