"""A probe that computes the feature of an image once, against one that computes it every time."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner
from transfer_data import probe_config, write_stl10, write_student

from icd_mmrazor.models.networks.output_cache import OutputCache


@pytest.fixture
def run(network: Callable, tmp_path: Path, runner: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Runner]:
    """Train a probe, and count how many images its backbone sees."""
    write_student(tmp_path / 'student.pth', network('res8', 7))
    folder = write_stl10(tmp_path / 'stl10_binary')

    def train(name: str, *hooks: Hook, cached: bool = True, **options: object) -> Runner:
        cfg = probe_config('stl10', folder, tmp_path / 'student.pth', tmp_path / name)
        # nothing random
        pipeline = cfg.train_dataloader.dataset.pipeline
        cfg.train_dataloader.dataset.pipeline = [pipeline[0], pipeline[-1]]
        cfg.train_dataloader.collate_fn = dict(type='default_collate')
        cfg.train_cfg.max_epochs = 3
        # the check of watched metrics validates an image itself
        cfg.default_hooks.sanity_check = dict(type='SanityCheckHook', skip=['metrics'])
        cfg.merge_from_dict(options)
        trained = runner(cfg)
        for hook in hooks:
            trained.register_hook(hook)
        trained.images = 0

        def count(_: torch.nn.Module, inputs: tuple) -> None:
            trained.images += len(inputs[0])

        trained.model.backbone.register_forward_pre_hook(count)
        with monkeypatch.context() as patched:
            if not cached:
                patched.setattr(OutputCache, '__call__', lambda _, keys, compute: compute([*range(len(keys))]))
            trained.train()
        return trained

    return train


def assert_same(one: Runner, other: Runner) -> None:
    expected = other.model.state_dict()
    for name, weight in one.model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)
    assert expected['head.fc.bias'].any()
    scores = [r.message_hub.get_scalar('val/accuracy/top1')._log_history.tolist() for r in (one, other)]
    assert scores[0] == scores[1]


# a hook of 0.1, which stored configs have
@pytest.mark.parametrize('hooks', [[], [dict(type='FrozenFeatureHook')]], ids=str)
def test_the_result_is_the_same(hooks: list, run: Callable) -> None:
    cached, plain = run('cached', custom_hooks=hooks), run('plain', cached=False)
    # 20 for training, 10 for validation, once and in each of three epochs
    assert (cached.images, plain.images) == (30, 90)
    assert_same(cached, plain)


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
    cached, plain = run('cached', Change(change)), run('plain', Change(change), cached=False)
    # once before the change and once after it
    assert cached.images == 2 * 30
    assert_same(cached, plain)


def test_random_images_are_new(run: Callable) -> None:
    def flip(runner: Runner) -> None:
        transforms = runner.train_dataloader.dataset.pipeline.transforms
        transforms.insert(1, TRANSFORMS.build(dict(type='RandomFlip', prob=0.5, direction='horizontal')))

    cached, plain = run('cached', Change(flip)), run('plain', Change(flip), cached=False)
    # those that are not flipped are known
    assert 30 < cached.images < 30 + 20
    assert_same(cached, plain)
    mixup = dict(batch_augments=dict(augments=dict(type='Mixup', alpha=1.0)), num_classes=10)
    # the name of the preprocessor in 0.1
    assert run('mixup', data_preprocessor=dict(type='ProbeDataPreprocessor', **mixup)).images == 3 * 20 + 10
