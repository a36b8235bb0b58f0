"""Distillation at the teacher's boundary: its terms, its weights over time, and what is refused."""

import copy
from collections.abc import Callable

import pytest
import torch
from helpers import TORCH_VERSION, logged, scalars
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.boundary_sample_loss import base_samples, boundary_attack

Batch = tuple[Tensor, list[DataSample]]


@pytest.fixture
def settings(teacher_file: Callable[..., str]) -> dict:
    cfg = recipes.compose('res20_res8_digits', ['bss'])
    cfg.model.teacher_ckpt = teacher_file('res20')
    return {**cfg.model.to_dict(), 'data_preprocessor': cfg.data_preprocessor.to_dict()}


def built(settings: dict) -> nn.Module:
    torch.manual_seed(0)
    algorithm = MODELS.build(copy.deepcopy(settings))
    algorithm.train()
    algorithm.distiller.set_progress(0, 0)
    return algorithm


def as_the_teacher_says(algorithm: nn.Module, batch: Callable[..., Batch]) -> Batch:
    """Return a batch of whose labels two thirds are the teacher's classes, and let the student say the usual one."""
    images, samples = batch(24)
    classes = algorithm.run_teacher(images).argmax(1)
    for i, (sample, label) in enumerate(zip(samples, classes, strict=True)):
        sample.set_gt_label(label if i < 16 else (label + 1) % 10)
    with torch.no_grad():
        algorithm.student.head.fc.bias[classes.mode().values] += 10
    return images, samples


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    own, whole = student / 3, teacher / 3
    return (whole.softmax(1) * (whole.log_softmax(1) - own.log_softmax(1))).sum() / len(own)


def test_terms_of_a_slow_rewrite(settings: dict, batch: Callable[..., Batch]) -> None:
    algorithm = built(settings)
    images, samples = as_the_teacher_says(algorithm, batch)
    student = copy.deepcopy(algorithm.student)
    torch.manual_seed(7)
    losses = algorithm.loss(images, samples)
    assert {*losses} == {'student.loss', 'distill.loss_kd', 'distill.loss_boundary'}

    labels = torch.cat([sample.gt_label for sample in samples])
    own, whole = student(images, mode='tensor'), algorithm.run_teacher(images)
    torch.testing.assert_close(losses['distill.loss_kd'], (4 - 3 / 80) * divergence(own, whole))
    chosen = base_samples(own, whole, labels, 64)
    assert 0 < len(chosen) < 24
    torch.manual_seed(7)
    others = whole[chosen].scatter(1, whole[chosen].argmax(1, keepdim=True), -torch.inf)
    targets = others.softmax(1).multinomial(1).squeeze(1)
    teacher = copy.deepcopy(algorithm.teacher)
    moved = boundary_attack(lambda x: teacher(x, mode='tensor'), images[chosen], targets)
    assert float((moved - images[chosen]).abs().max()) > 1e-3
    own, whole = student(moved, mode='tensor'), algorithm.run_teacher(moved)
    torch.testing.assert_close(losses['distill.loss_boundary'], (2 - 1 / 30) * divergence(own, whole))
    losses['distill.loss_boundary'].backward()
    assert algorithm.student.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in algorithm.teacher.parameters())


def test_without_weight_nothing_is_attacked(settings: dict, batch: Callable[..., Batch]) -> None:
    algorithm = built(settings)
    images, samples = as_the_teacher_says(algorithm, batch)
    algorithm.distiller.set_progress(60, 0)
    passes = []
    algorithm.teacher.register_forward_hook(lambda *_: passes.append(1))
    losses = algorithm.loss(images, samples)
    assert {*losses} == {'student.loss', 'distill.loss_kd'}
    assert len(passes) == 1


def test_without_base_samples_the_term_is_zero(settings: dict, batch: Callable[..., Batch]) -> None:
    algorithm = built(settings)
    images, samples = as_the_teacher_says(algorithm, batch)
    for sample, theirs in zip(samples, algorithm.run_teacher(images).argmax(1), strict=True):
        sample.set_gt_label((theirs + 1) % 10)
    assert algorithm.loss(images, samples)['distill.loss_boundary'] == 0


def test_together_with_another_method(teacher_file: Callable[..., str], batch: Callable[..., Batch]) -> None:
    cfg = recipes.compose('res20_res8_digits', ['bss', 'icd'])
    algorithm = built({**cfg.model.to_dict(), 'teacher_ckpt': teacher_file('res20')})
    losses = algorithm.loss(*as_the_teacher_says(algorithm, batch))
    assert {'distill.bss.loss_kd', 'distill.bss.loss_boundary', 'distill.icd.loss_icd'} <= {*losses}
    assert losses['distill.bss.loss_boundary'] > 0
    assert 'labels' in recipes.needs_of('bss')


def test_the_distiller_works_alone(settings: dict, batch: Callable[..., Batch]) -> None:
    algorithm = built({**settings, 'type': 'FrozenTeacherDistill'})
    assert {*algorithm.loss(*batch())} == {'student.loss', 'distill.loss_kd'}


@pytest.mark.slow
@pytest.mark.skipif(TORCH_VERSION < (2, 14), reason='torch 2.10 does not trace recorders into one graph')
def test_with_a_compiled_loss(settings: dict, batch: Callable[..., Batch]) -> None:
    torch.compiler.reset()
    plain, compiled = built(settings), built({**settings, 'torch_compile': dict(backend='eager')})
    for seed in range(2):  # the logits are those of each batch
        losses = []
        for algorithm in (plain, compiled):
            images, samples = as_the_teacher_says(algorithm, batch)
            torch.manual_seed(seed)
            losses.append(algorithm.loss(images + 0.1 * torch.randn(images.shape), samples)['distill.loss_boundary'])
        assert losses[0] > 0
        torch.testing.assert_close(*losses)
    assert compiled.torch_compile


def test_training(demo_config: Callable[..., Config], settings: dict, runner: Callable[[Config], Runner]) -> None:
    cfg = demo_config()
    cfg.model = {name: value for name, value in settings.items() if name != 'data_preprocessor'}
    cfg.merge_from_dict({'train_cfg.max_epochs': 2, 'default_hooks.logger.interval': 1})
    runner(cfg).train()
    rows = [row for row in scalars(cfg) if 'loss' in row]
    assert all('distill.loss_boundary' in row for row in rows)
    assert 'distill.loss_boundary: BoundarySampleLoss(tau=3, loss_weight=1, times Linear' in logged(cfg)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'boundary_samples': 0}, 'boundary_samples=0'),
        ({'step_size': -1}, 'step_size=-1'),
        ({'distiller': dict(type='ICDDistiller')}, 'BoundarySampleLoss'),
    ],
)
def test_wrong_settings_are_refused(settings: dict, change: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        built({**settings, **change})


def test_a_teacher_of_other_classes_is_refused(settings: dict, teacher_file: Callable[..., str]) -> None:
    settings['teacher']['head']['num_classes'] = 7
    settings |= {'teacher_ckpt': teacher_file('res20', 7), 'distiller': dict(type='ICDDistiller')}
    with pytest.raises(SettingError, match='attacks the teacher'):
        built(settings)
