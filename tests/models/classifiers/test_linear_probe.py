"""LinearProbe: the new classifier alone learns, from features that are computed once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CONFIGS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.registry import MODELS
from transfer_data import WNIDS, probe_config, write_stl10, write_student, write_tiny_imagenet

from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.export.student import plain_student
from icd_mmrazor.models.classifiers import name_student_in_full
from icd_mmrazor.models.networks.output_cache import OutputCache


def probe(**settings: object) -> torch.nn.Module:
    return MODELS.build(dict(type='LinearProbe', num_classes=10, **settings))


@pytest.fixture
def student(network: Callable, tmp_path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    file = tmp_path / 'student.pth'
    return str(file), write_student(file, network('res8', 7))


def test_only_the_new_classifier_learns(student: tuple, batch: Callable) -> None:
    file, weights = student
    model = probe(student_ckpt=file)
    model.init_weights()  # as mmengine does before training
    assert model.head.fc.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not model.head.fc.bias.any()
    for mode in (True, False):
        model.train(mode)
        assert (model.training, model.head.training, model.backbone.training) == (mode, mode, False)
    model.train()
    images, samples = batch()
    sum(model(images, samples, mode='loss').values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ['head.fc.weight', 'head.fc.bias']
    for name, weight in model.state_dict().items():
        assert name.startswith('head.') or torch.equal(weight, weights[name]), name


@pytest.mark.filterwarnings('ignore:`torch.jit.trace:FutureWarning')
def test_it_computes_what_the_student_and_a_linear_layer_do(student: tuple, network: Callable, batch: Callable) -> None:
    file, weights = student
    plain = MODELS.build(network('res8', 7)).eval()
    plain.load_state_dict(weights)
    model, (images, _) = probe(student_ckpt=file), batch()
    feature = plain.extract_feat(images)[-1]
    assert torch.equal(model.extract_feat(images, stage='pre_logits'), feature)
    want = torch.nn.functional.linear(feature, model.head.fc.weight, model.head.fc.bias)
    for _ in range(2):  # the second time from features that were computed before
        assert torch.equal(model(images), want)
        assert torch.equal(model.extract_feat(images)[-1], feature)
    traced = torch.jit.trace(model, images)
    assert torch.equal(traced(-images), model(-images)), 'it holds the network, not what is stored of these images'
    assert torch.equal(model.extract_feat(images, stage='backbone')[-1], plain.extract_feat(images, 'backbone')[-1])


def test_its_checkpoint_is_that_of_a_plain_classifier(student: tuple, network: Callable, batch: Callable) -> None:
    images, _ = batch()
    model = probe(student_ckpt=student[0])
    cfg = Config(dict(model=dict(type='LinearProbe', num_classes=10, student_ckpt=student[0])))
    name_student_in_full(cfg.model)
    Path(student[0]).unlink()
    # the config that a run stores has it, without the student's file
    exported = plain_student(cfg).model
    assert exported.type == 'ImageClassifier'
    for plain in (MODELS.build(network('res8', 10)), MODELS.build(exported)):
        plain.eval().load_state_dict(model.state_dict())
        assert torch.equal(plain(images), model(images))


def test_features_of_other_weights_are_computed_again(student: tuple, batch: Callable) -> None:
    model, (images, _) = probe(student_ckpt=student[0]).eval(), batch()
    before = model.extract_feat(images)[-1]
    weights = model.state_dict()
    weights['backbone.conv1.weight'] = 1.5 * weights['backbone.conv1.weight']
    other = probe(student_ckpt=student[0]).eval()
    for load in (model.load_state_dict, lambda state: load_state_dict(other, state, strict=True)):
        other.extract_feat(images)
        load(weights)
    for each in (model, other):
        assert not torch.equal(each.extract_feat(images)[-1], before)


def test_a_checkpoint_without_a_config_needs_a_network(student: tuple, tmp_path: Path) -> None:
    file = tmp_path / 'weights.pth'
    torch.save({'state_dict': student[1]}, file)
    with pytest.raises(SettingError, match=r"student_ckpt=.*meta\['cfg'\](?s:.*)model\.student="):
        probe(student_ckpt=str(file))
    model = probe(student_ckpt=str(file), student=str(CONFIGS / 'vanilla' / 'res8_cifar100.py'))
    assert torch.equal(model.backbone.conv1.weight, student[1]['backbone.conv1.weight'])


def test_only_a_network_of_its_type_is_a_probe(network: Callable, tmp_path: Path) -> None:
    cfg = network('res8', 7)
    cfg.backbone.init_cfg = dict(type='Kaiming', layer=['Conv2d', 'LinearProbe'])
    write_student(tmp_path / 'student.pth', cfg)
    assert probe(student_ckpt=str(tmp_path / 'student.pth')).head.in_channels == 64


def test_bad_students_are_refused(student: tuple, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r'student_ckpt=None.*model\.student_ckpt=work_dirs'):
        probe()
    with pytest.raises(CheckpointError, match=r'does not fit the model(?s:.*)not in the file: backbone\.layer1\.1'):
        probe(student_ckpt=student[0], student=str(CONFIGS / 'vanilla' / 'res20_cifar100.py'))
    with pytest.raises(SettingError, match='LinearProbe: the student is a ImageClassifier with a ClsHead'):
        probe(
            student_ckpt=student[0],
            student=dict(type='ImageClassifier', backbone=dict(type='CIFARResNet', depth=8), head=dict(type='ClsHead')),
        )
    trace = tmp_path / 'trace'
    file = tmp_path / 'hostile.pth'
    # reads itself
    itself = f"model = dict(type='LinearProbe', num_classes=10, student_ckpt={str(file)!r})"
    torch.save({'meta': {'cfg': itself}, 'state_dict': student[1]}, file)
    with pytest.raises(SettingError, match=r'hostile.*is a LinearProbe(?s:.*)model\.student='):
        probe(student_ckpt=str(file))
    torch.save({'meta': {'cfg': f'open({str(trace)!r}, "w")'}, 'state_dict': student[1]}, file)
    with pytest.raises(SettingError, match=r'student_ckpt=.*hostile'):
        probe(student_ckpt=str(file))
    assert not trace.exists()


def test_the_protocol() -> None:
    for name, means, deviations, classes in (
        ('stl10', (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2712), 10),
        ('tiny_imagenet', (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821), 200),
    ):
        cfg = Config.fromfile(CONFIGS / 'transfer' / f'{name}.py')
        optimizer = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
        assert cfg.optim_wrapper.optimizer == optimizer
        assert (cfg.param_scheduler.milestones, cfg.param_scheduler.gamma) == ([30, 60, 90], 0.1)
        assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size, cfg.model.num_classes) == (120, 64, classes)
        assert cfg.data_preprocessor.mean == pytest.approx(255 * np.array(means))
        assert cfg.data_preprocessor.std == pytest.approx(255 * np.array(deviations))


@pytest.mark.parametrize('name', ['stl10', 'tiny_imagenet'])
def test_the_configs_run(name: str, student: tuple, runner: Callable, tmp_path: Path) -> None:
    root = {'stl10': write_stl10, 'tiny_imagenet': write_tiny_imagenet}[name](tmp_path / 'data')
    cfg = probe_config(name, root, Path(student[0]), tmp_path / 'work')
    if name == 'tiny_imagenet':
        cfg.model.num_classes = len(WNIDS)
        cfg.val_evaluator.topk = 1
    runner(cfg).train()
    saved = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=True)['state_dict']
    for part, weight in saved.items():
        assert part.startswith('head.') or torch.equal(weight, student[1][part]), part
    assert saved['head.fc.bias'].any()
    log = '\n'.join(file.read_text() for file in (tmp_path / 'work').glob('*/*.log'))
    assert 'training images are on cpu' in log


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
