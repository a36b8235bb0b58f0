"""Distillation at the teacher's boundary: its terms, its weights over time, and what is refused."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import TORCH_VERSION, logged, scalars
from launches import in_processes
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import recipes
from icd_mmrazor.engine.description import loss_terms
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.boundary_sample_loss import base_samples, boundary_attack, target_classes

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


def test_passes_of_the_teacher(settings: dict, batch: Callable[..., Batch]) -> None:
    """One on the batch, as for KD, and those of the images that are attacked."""
    algorithm = built({**settings, 'boundary_samples': 5})
    images, samples = as_the_teacher_says(algorithm, batch)
    numbers = []
    algorithm.teacher.register_forward_pre_hook(lambda _, inputs: numbers.append(len(inputs[0])))
    algorithm.loss(images, samples)
    assert numbers[0] == 24
    assert {*numbers[1:]} == {5}
    assert 3 <= len(numbers) <= 12


@pytest.mark.parametrize('other', ['icd', 'kd'])
def test_together_with_another_method(
    other: str, teacher_file: Callable[..., str], batch: Callable[..., Batch]
) -> None:
    cfg = recipes.compose('res20_res8_digits', ['bss', other])
    algorithm = built({**cfg.model.to_dict(), 'teacher_ckpt': teacher_file('res20')})
    losses = algorithm.loss(*as_the_teacher_says(algorithm, batch))
    # KD once, if it is asked for
    terms = {name for name in losses if 'loss' in name}
    assert terms == {'student.loss', 'distill.bss.loss_boundary', f'distill.{other}.loss_{other}'}
    assert losses['distill.bss.loss_boundary'] > 0
    assert 'labels' in recipes.needs_of('bss', alone=False)


def test_the_term_alone(settings: dict, batch: Callable[..., Batch]) -> None:
    """Nothing else runs the teacher on the batch."""
    found = []
    mixed = recipes.compose('res20_res8_digits', ['bss', 'kd']).model.distiller.to_dict()
    for distiller in (settings['distiller'], mixed['distillers']['bss']):
        algorithm = built({**settings, 'distiller': distiller})
        torch.manual_seed(7)
        found.append(algorithm.loss(*as_the_teacher_says(algorithm, batch)))
    assert {*found[1]} == {'student.loss', 'distill.loss_boundary'}
    torch.testing.assert_close(found[1]['distill.loss_boundary'], found[0]['distill.loss_boundary'])


def test_the_distiller_works_alone(
    settings: dict, batch: Callable[..., Batch], caplog: pytest.LogCaptureFixture
) -> None:
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        algorithm = built({**settings, 'type': 'FrozenTeacherDistill'})
        assert "loss_boundary is not computed, which takes model.type='BoundarySampleDistill'" in caplog.text
        caplog.clear()
        assert any('loss_boundary' in term for term in loss_terms(built(settings)))
        assert 'not computed' not in caplog.text
    finally:
        logger.removeHandler(caplog.handler)
    assert {*algorithm.loss(*batch())} == {'student.loss', 'distill.loss_kd'}
    assert [term.partition(':')[0] for term in loss_terms(algorithm)] == ['student.loss', 'distill.loss_kd']


def test_a_weight_that_nothing_sets_is_refused(settings: dict, batch: Callable[..., Batch]) -> None:
    settings['distiller']['losses']['kd']['weight_schedule'] = None
    algorithm = MODELS.build(copy.deepcopy(settings)).train()
    with pytest.raises(SettingError, match=r'weight_schedule depends on the epoch.*LossScheduleHook'):
        algorithm.loss(*batch())


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_under_autocast(precision: str, settings: dict, batch: Callable[..., Batch]) -> None:
    algorithm = built({**settings, 'teacher_precision': precision})
    images, samples = as_the_teacher_says(algorithm, batch)
    torch.manual_seed(7)
    expected = algorithm.loss(images, samples)['distill.loss_boundary']
    torch.manual_seed(7)
    with torch.autocast('cpu', torch.bfloat16):
        found = algorithm.loss(images, samples)['distill.loss_boundary']
    assert found.dtype is torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.1, abs=0.02)
    found.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in algorithm.parameters())


def test_a_pruned_copy_of_the_teacher(settings: dict, batch: Callable[..., Batch]) -> None:
    """The attack is one on both together."""
    algorithm = built({**settings, 'pruned_teacher': dict(amount=0.3, weight=0.3)})
    images, samples = as_the_teacher_says(algorithm, batch)
    torch.manual_seed(7)
    found = algorithm.loss(images, samples)['distill.loss_boundary']
    assert found > 0
    whole = algorithm.run_teacher(images)
    first, pruned = (member(images, mode='tensor') for member in algorithm.teacher.members)
    torch.testing.assert_close(whole, 0.7 * first + 0.3 * pruned)
    labels = torch.cat([sample.gt_label for sample in samples])
    chosen = base_samples(algorithm.student(images, mode='tensor').detach(), whole, labels, 64)
    torch.manual_seed(7)
    targets = target_classes(whole[chosen])
    moved = boundary_attack(lambda x: algorithm.teacher(x, mode='tensor'), images[chosen], targets)
    expected = divergence(algorithm.student(moved, mode='tensor'), algorithm.run_teacher(moved))
    torch.testing.assert_close(found, (2 - 1 / 30) * expected, rtol=1e-3, atol=1e-4)


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


def test_training(
    demo_config: Callable[..., Config], settings: dict, runner: Callable[[Config], Runner], tmp_path: Path
) -> None:
    cfg = demo_config()
    cfg.model = {name: value for name, value in settings.items() if name != 'data_preprocessor'}
    cfg.merge_from_dict({'train_cfg.max_epochs': 2, 'default_hooks.logger.interval': 1})
    # both networks call everything a 3, so that there are images to attack
    teacher, student = torch.load(settings['teacher_ckpt']), MODELS.build(settings['architecture']).state_dict()
    for state in (teacher['state_dict'], student):
        state['head.fc.bias'][3] += 5
    torch.save(teacher, settings['teacher_ckpt'])
    cfg.load_from = str(tmp_path / 'student.pth')
    torch.save({'state_dict': {f'architecture.{name}': value for name, value in student.items()}}, cfg.load_from)
    whole = runner(cfg)
    whole.train()
    assert whole.model.boundary_loss.weight == pytest.approx(2 - 2 / 30)
    rows = [row for row in scalars(cfg) if 'loss' in row]
    assert all('distill.loss_boundary' in row for row in rows)
    assert any(row['distill.loss_boundary'] > 0 for row in rows)
    log = logged(cfg)
    assert 'distill.loss_boundary: BoundarySampleLoss(tau=3, loss_weight=1, times Linear' in log
    for name, epochs in (('loss_kd', 80), ('loss_boundary', 60)):
        assert f'the weight of {name} changes over {epochs} epochs, but the training ends after 2' in log

    resumed = runner(Config({**cfg.to_dict(), 'resume': True, 'load_from': f'{cfg.work_dir}/epoch_1.pth'}))
    resumed.train()
    for name, weight in resumed.model.state_dict().items():
        torch.testing.assert_close(weight, whole.model.state_dict()[name], rtol=0, atol=0, msg=name)


def test_a_training_that_counts_iterations(
    demo_config: Callable[..., Config], settings: dict, runner: Callable[[Config], Runner]
) -> None:
    cfg = demo_config()
    cfg.model = {name: value for name, value in settings.items() if name != 'data_preprocessor'}
    cfg.model['distiller']['losses']['kd']['weight_schedule'] = None
    cfg.merge_from_dict({'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None, 'param_scheduler': None})
    cfg.train_cfg = dict(by_epoch=False, max_iters=2)
    with pytest.raises(SettingError, match=r'weight_schedule of loss_boundary counts epochs.*by_epoch=False'):
        runner(cfg).train()
    schedule = dict(type='Linear', end=4, start_factor=1.0, end_factor=0.4, by_epoch=False)
    for given, weight in ((None, 1.0), (schedule, 0.8)):
        cfg.model['distiller']['distill_losses']['loss_boundary']['weight_schedule'] = given
        run = runner(cfg)
        run.train()
        assert run.model.boundary_loss.weight == pytest.approx(weight)


def step(rank: int, teacher_file: str, synchronised: bool) -> dict:
    """Train a step in which only the first process finds images to attack; return weights, or what is refused."""
    cfg = recipes.compose('res20_res8_digits', ['bss']).model
    algorithm = built({**cfg.to_dict(), 'teacher_ckpt': teacher_file})
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(rank))
    classes = algorithm.run_teacher(images).argmax(1)
    samples = [DataSample().set_gt_label((label + rank) % 10) for label in classes]
    with torch.no_grad():
        algorithm.student.head.fc.bias[classes.mode().values] += 10
    if synchronised:
        algorithm.architecture = nn.SyncBatchNorm.convert_sync_batchnorm(algorithm.architecture)
        with pytest.raises(SettingError) as refused:  # before DDP, which wants a GPU for them
            algorithm(images, samples, mode='loss')
        return {'refused': str(refused.value)}
    model = MMDistributedDataParallel(algorithm)
    losses = model(images, samples, mode='loss')
    algorithm.parse_losses(losses)[0].backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    weights = {name: p.detach().clone() for name, p in algorithm.student.named_parameters()}
    return {'boundary': losses['distill.loss_boundary'].item(), 'weights': weights}


@pytest.mark.slow
def test_a_process_without_images_to_attack(teacher_file: Callable[..., str], tmp_path: Path) -> None:
    one, two = in_processes(step, 2, tmp_path, teacher_file('res20'), False)
    assert one['boundary'] > 0
    assert two['boundary'] == 0
    assert all(torch.equal(weight, two['weights'][name]) for name, weight in one['weights'].items())


@pytest.mark.slow
def test_synchronised_batch_norms_are_refused(teacher_file: Callable[..., str], tmp_path: Path) -> None:
    for found in in_processes(step, 2, tmp_path, teacher_file('res20'), True):
        assert 'is a SyncBatchNorm' in found['refused']


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
    with pytest.raises(SettingError, match='attacks the teacher, which has 7 classes, and the student 10'):
        built(settings)


def test_stored_outputs_of_a_teacher_are_refused(
    demo_config: Callable[..., Config], settings: dict, runner: Callable[[Config], Runner], tmp_path: Path
) -> None:
    cfg = demo_config()
    cache = dict(views='first', path=str(tmp_path / 'outputs'))
    kd = dict(type='FeatureDistiller', losses=dict(kd=dict(loss=dict(type='KLDivergence'), features='logits')))
    cfg.model = {name: value for name, value in settings.items() if name != 'data_preprocessor'}
    cfg.model |= dict(type='FrozenTeacherDistill', distiller=kd, teacher_cache=cache)
    runner(cfg).train()
    stored = {**cfg.model.to_dict(), 'teacher_ckpt': None}
    for kind, message in (
        ({'type': 'BoundarySampleDistill', 'distiller': settings['distiller']}, 'only its outputs are stored'),
        ({'type': 'MixupDistill'}, 'its outputs for augmented images are stored nowhere'),
    ):
        with pytest.raises(SettingError, match=message):
            MODELS.build(copy.deepcopy({**stored, **kind}))
