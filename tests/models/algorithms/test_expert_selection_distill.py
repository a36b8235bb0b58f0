"""A distillation from one of several teachers for each image."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import recipes
from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError
from icd_mmrazor.models.algorithms.expert_selection_distill import ExpertSelectionDistill, strata

EXPERTS = ('res8', 'res14', 'res20')
IMAGES = 12
KD = recipes.compose_distiller(['ceskd'])
PLAIN_KD = recipes.compose_distiller(['kd'])


def slow_strata(difficulty: np.ndarray, number: int) -> np.ndarray:
    rank = np.empty(len(difficulty), int)
    rank[np.argsort(difficulty, kind='stable')] = np.arange(len(difficulty))
    return rank * number // len(difficulty)


def slow_loss(zs: np.ndarray, of_experts: np.ndarray, labels: list[int], chosen: list[int]) -> float:
    """Compute the loss of a batch, image by image."""

    def softmax(v: np.ndarray, t: float = 1.0) -> np.ndarray:
        powers = np.exp((v - v.max()) / t)
        return powers / powers.sum()

    total = 0.0
    for i, label in enumerate(labels):
        p, q = softmax(of_experts[chosen[i]][i], 4.0), softmax(zs[i], 4.0)
        total += 0.1 * -np.log(softmax(zs[i])[label]) + 0.9 * 16 * (p * np.log(p / q)).sum()
    return total / len(labels)


@pytest.fixture
def build(network: Callable, teacher_file: Callable) -> Callable[..., ExpertSelectionDistill]:
    def make(*names: str, **settings: Any) -> ExpertSelectionDistill:
        experts = [dict(teacher=network(name), teacher_ckpt=teacher_file(name)) for name in names or EXPERTS]
        cfg = dict(architecture=network('res8'), teachers=experts, distiller=copy.deepcopy(KD))
        return MODELS.build({'_scope_': 'mmrazor', 'type': 'ExpertSelectionDistill', **cfg, **settings})

    return make


def scored(model: ExpertSelectionDistill, difficulty: Tensor, epoch: int = 0) -> ExpertSelectionDistill:
    """Give a model the difficulties of its training images, as ``DifficultyHook`` does."""
    model.set_images(len(difficulty))
    model.set_difficulty(difficulty)
    model.set_epoch(epoch)
    return model.train()


def difficulties(number: int = IMAGES) -> Tensor:
    return torch.rand(number, generator=torch.Generator().manual_seed(3)).double()


def positioned(batch: Callable, positions: list[int]) -> tuple[Tensor, list[DataSample]]:
    images, samples = batch(len(positions))
    for sample, position in zip(samples, positions, strict=True):
        sample.set_metainfo(dict(sample_idx=position))
    return images, samples


def total(losses: dict[str, Tensor]) -> float:
    return sum(value for name, value in losses.items() if 'loss' in name).item()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_equals_a_slow_rewrite(dtype: torch.dtype, build: Callable, batch: Callable) -> None:
    positions = [7, 0, 11, 3, 5, 8, 2]
    images, samples = positioned(batch, positions)
    model = scored(build(), difficulties()).to(dtype)
    images = images.to(dtype)
    student = copy.deepcopy(model.architecture)
    loss = total(model.loss(images, samples))
    with torch.no_grad():
        zs = student(images).double().numpy()
        of_experts = np.stack([member(images).double().numpy() for member in model.teacher.members])
    chosen = slow_strata(difficulties().numpy(), 3)[positions]
    assert len({*chosen.tolist()}) == 3
    want = slow_loss(zs, of_experts, [sample.gt_label.item() for sample in samples], chosen.tolist())
    assert loss == pytest.approx(want, rel=1e-10 if dtype == torch.float64 else 1e-5)


def test_each_expert_runs_on_its_images_alone(build: Callable, batch: Callable) -> None:
    positions = [4, 9, 1, 6, 4, 10]
    images, samples = positioned(batch, positions)
    model = scored(build(), difficulties())
    seen: dict[int, Tensor] = {}
    for i, member in enumerate(model.teacher.members):
        member.backbone.conv1.register_forward_pre_hook(lambda _, inputs, i=i: seen.update({i: inputs[0]}))
    logits = model.run_teacher(images, samples)
    experts = strata(difficulties(), 3)[positions]
    assert {*seen} == {*experts.tolist()}
    for i, rows in seen.items():
        assert torch.equal(rows, images[experts == i])
        with torch.no_grad():
            assert torch.allclose(logits[experts == i], model.teacher.members[i](images[experts == i]), atol=1e-6)


def test_an_expert_without_images_does_not_run(build: Callable, batch: Callable) -> None:
    easiest = difficulties().argsort()[:4].tolist()
    model = scored(build(), difficulties())
    for member in model.teacher.members[1:]:
        member.register_forward_pre_hook(lambda *_: pytest.fail('it has no images'))
    assert model.run_teacher(*positioned(batch, easiest)).shape == (4, 10)


@pytest.mark.parametrize('which', [0, 2])
def test_images_of_one_expert_learn_as_by_kd(
    which: int, build: Callable, network: Callable, teacher_file: Callable, batch: Callable
) -> None:
    """So does every image if there is only one part."""
    assert strata(difficulties(), 1).unique().tolist() == [0]
    images, samples = positioned(batch, difficulties().argsort()[4 * which : 4 * which + 4].tolist())
    name = EXPERTS[which]
    kd = dict(teacher=network(name), teacher_ckpt=teacher_file(name), distiller=copy.deepcopy(PLAIN_KD))
    plain = MODELS.build(dict(_scope_='mmrazor', type='FrozenTeacherDistill', architecture=network('res8'), **kd))
    model = scored(build(), difficulties())
    model.architecture.load_state_dict(plain.architecture.state_dict())
    assert total(model.loss(images, samples)) == pytest.approx(total(plain.train().loss(images, samples)), rel=1e-5)


def test_with_equal_experts_the_difficulty_makes_no_difference(build: Callable, batch: Callable) -> None:
    images, samples = positioned(batch, list(range(IMAGES)))
    model = build('res14', 'res14', 'res14')
    other = copy.deepcopy(model)
    a, b = (
        total(scored(each, scores).loss(images, samples))
        for each, scores in ((model, difficulties()), (other, -difficulties()))
    )
    assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize('number', [2, 3, 5])
@pytest.mark.parametrize('images', [5, 12, 100, 101])
def test_strata_are_monotone_and_of_equal_size(number: int, images: int) -> None:
    scores = difficulties(images)
    found = strata(scores, number)
    assert found.tolist() == slow_strata(scores.numpy(), number).tolist()
    counts = torch.bincount(found, minlength=number)
    assert counts.max() - counts.min() <= 1
    assert (found[scores.argsort()].diff() >= 0).all()
    # images of equal difficulty are divided in their order
    assert (strata(torch.zeros(images), number).diff() >= 0).all()


def test_an_image_has_the_same_expert_in_every_epoch_and_after_a_resume(build: Callable, batch: Callable) -> None:
    model = scored(build(), difficulties())
    images, samples = positioned(batch, list(range(IMAGES)))
    outputs = []
    for epoch in (0, 1, 100):
        model.set_epoch(epoch)
        outputs.append(model.run_teacher(images, samples))
    state = copy.deepcopy(model.state_dict())
    # whose training set is known, and whose is not
    for resumed in (build(), build()):
        if len(outputs) == 3:
            resumed.set_images(IMAGES)
        assert not resumed.knows_difficulty
        resumed.load_state_dict(state)
        assert resumed.knows_difficulty
        resumed.set_epoch(7)
        outputs.append(resumed.run_teacher(images, samples))
    assert all(torch.equal(first, second) for first, second in itertools.pairwise(outputs))
    assert torch.equal(state['difficulty'], difficulties())
    assert state['experts'].tolist() == slow_strata(difficulties().numpy(), 3).tolist()


def test_the_ramp_admits_larger_experts_one_after_the_other(build: Callable) -> None:
    model, whole = scored(build(ramp_epochs=7), difficulties()), strata(difficulties(), 3)
    for epoch in range(10):
        model.set_epoch(epoch)
        want = [min(k, epoch * 3 // 7) for k in whole.tolist()]
        assert model._experts_of(positioned_samples(IMAGES)).tolist() == want, epoch
    assert torch.equal(model.experts, whole)


def positioned_samples(number: int) -> list[DataSample]:
    return [DataSample(metainfo=dict(sample_idx=i)) for i in range(number)]


def test_gradients_reach_the_student_alone(build: Callable, batch: Callable) -> None:
    model = scored(build(), difficulties())
    loss, _ = model.parse_losses(model.loss(*positioned(batch, [0, 3, 6, 9])))
    loss.backward()
    assert all(p.grad is not None for p in model.architecture.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())
    assert not [name for name in model.state_dict() if name.startswith('teacher')]


def test_the_last_expert_predicts_other_images(build: Callable, batch: Callable) -> None:
    images, samples = batch()
    model = build(predict_also=['teacher']).eval()
    for member in model.teacher.members[:2]:
        member.register_forward_pre_hook(lambda *_: pytest.fail('the last one predicts'))
    got = torch.stack([sample.teacher_score for sample in model(images, samples, mode='predict')])
    with torch.no_grad():
        assert torch.allclose(got, model.teacher.members[2](images).softmax(1), atol=1e-6)
    assert 'easy images to the first' in model.teacher.description


def test_other_losses_of_logits_are_computed_from_the_experts(build: Callable, batch: Callable) -> None:
    images, samples = positioned(batch, list(range(IMAGES)))
    distiller = recipes.compose_distiller(['ceskd', 'dist', 'ttm'], pair='res20_res8_digits')
    model = scored(build(distiller=distiller), difficulties())
    target = model.run_teacher(images, samples)
    student = copy.deepcopy(model.architecture)
    losses = model.loss(images, samples)
    assert {'distill.ceskd.loss_ceskd', 'distill.dist.loss_dist', 'distill.ttm.loss_ttm'} <= {*losses}
    want = F.kl_div((student(images) / 4).log_softmax(1), (target / 4).softmax(1), reduction='batchmean') * 16
    assert losses['distill.ceskd.loss_ceskd'].item() == pytest.approx(want.item(), rel=1e-4)


def test_a_wrong_order_is_noticed(build: Callable, caplog: pytest.LogCaptureFixture) -> None:
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    build('res8', 'res14')
    assert 'rising capacity' not in caplog.text
    build('res14', 'res8')
    assert 'rising capacity' in caplog.text
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(teachers=None), 'teachers=None must be a list of two or more'),
        (dict(teachers=[dict(teacher='resnet18_8xb32_in1k')]), 'two or more'),
        (dict(teachers='resnet18_8xb32_in1k'), 'two or more'),
        (dict(teachers=[dict(teacher='x'), dict(teacher='y', weight=2.0)]), r'teachers\[1\].weight=2.0'),
        (dict(teacher='resnet18_8xb32_in1k'), 'teacher and teachers'),
        (dict(scorer=3), 'scorer=3 .*one of 3 teachers'),
        (dict(scorer=-4), 'scorer=-4'),
        (dict(scorer='last'), "scorer='last'"),
        (dict(scorer=True), 'scorer=True'),
        (dict(score='margin'), "score='margin'"),
        (dict(ramp_epochs=0), 'ramp_epochs=0'),
        (dict(ramp_epochs=2.5), 'ramp_epochs=2.5'),
        (dict(torch_compile=True), 'torch_compile is set, but .*depends on the data'),
        (dict(teacher_cache=dict(views='all')), 'teacher_cache is set, but it stores'),
        (dict(teacher_combination='confident'), 'teacher_combination is set'),
        (dict(distiller=dict(type='ICDDistiller')), 'pooled of the teachers .*only their logits.*such as kd'),
        (dict(distiller=dict(type='ICDDistiller', teacher_member=1)), "1.head.fc of the teachers.*Compare 'logits'"),
        (
            dict(distiller=recipes.compose_distiller(['kd', 'at'], pair='res20_res8_digits')),
            'of the teachers are compared, but each image goes through one',
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, named: str, build: Callable) -> None:
    with pytest.raises(SettingError, match=named):
        build(**settings)


def test_what_the_training_lacks_is_refused(build: Callable, batch: Callable) -> None:
    images, samples = batch()
    with pytest.raises(SettingError, match=r"nothing has measured .*type='DifficultyHook'"):
        build().train().loss(images, samples)
    with pytest.raises(DatasetError, match=r'no positions .*IndexedDataset'):
        scored(build(), difficulties()).loss(images, samples)
    with pytest.raises(DatasetError, match='no positions'):
        scored(build(), difficulties()).loss(*positioned(batch, [0, IMAGES]))
    with pytest.raises(DatasetError, match='3 teachers share 2 training images'):
        build().set_images(2)
    bad = difficulties()
    bad[[2, 5]] = torch.nan
    with pytest.raises(SettingError, match=r'teachers\[1\] has no finite score for 2 of 12 .*model.scorer'):
        scored(build(scorer=1), bad)
    with pytest.raises(CheckpointError, match=r'of 12 images.* has 13'):
        scored(build(), difficulties(13)).load_state_dict(scored(build(), difficulties()).state_dict())


def test_the_method_of_pairs_with_known_assistants() -> None:
    long, short, other = (
        recipes.compose(pair, ['ceskd']).model
        for pair in ('res110_res20_cifar100', 'res56_res20_cifar100', 'res56_res20_cifar10')
    )
    depths = [each.teacher.backbone.depth for each in long.teachers]
    assert (long.type, depths, long.teacher) == ('ExpertSelectionDistill', [32, 44, 56, 110], None)
    files = [each.teacher_ckpt for each in long.teachers]
    assert files[-1] == recipes.compose('res110_res20_cifar100', ['kd']).model.teacher_ckpt
    # an assistant of another chain is another network, and so is one of other classes
    assert len({*files, *(each.teacher_ckpt for model in (short, other) for each in model.teachers)}) == 10
    assert {each.teacher.head.num_classes for each in short.teachers} == {100}
    assert {each.teacher.head.num_classes for each in other.teachers} == {10}
    with pytest.raises(SettingError, match=r'ceskd does not fit wrn40-2_wrn16-2_cifar100.*model\.teachers'):
        recipes.compose('wrn40-2_wrn16-2_cifar100', ['ceskd'])
    with pytest.raises(SettingError, match='ceskd does not fit these networks'):
        recipes.settings_of(['ceskd'])


def test_the_distiller_alone_is_kd(algorithm: Callable[..., nn.Module], batch: Callable) -> None:
    own, kd = algorithm(distiller=copy.deepcopy(KD)), algorithm(distiller=copy.deepcopy(PLAIN_KD))
    own.architecture.load_state_dict(kd.architecture.state_dict())
    assert total(own.loss(*batch())) == total(kd.loss(*batch()))
