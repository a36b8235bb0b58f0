"""A second, augmented batch: against loops by hand, and what does not go together with it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import TORCH_VERSION
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from icd_mmrazor.datasets.randomness import seed_all
from icd_mmrazor.datasets.view_numbers import FirstView
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.chosen_losses import why_not_augmented
from icd_mmrazor.models.algorithms.records import recorders_of
from icd_mmrazor.models.losses import FeatureLoss

MIXUP = dict(type='Mixup', alpha=0.4)
KD = dict(type='FeatureDistiller', losses=dict(kd=dict(loss=dict(type='KLDivergence', tau=4.0), features='logits')))
R2KD = dict(
    type='FeatureDistiller',
    losses=dict(r2kd=dict(loss=dict(type='CorrelationDistanceLoss', loss_weight=2.0), features='logits')),
)
DKD = dict(type='FeatureDistiller', losses=dict(dkd=dict(loss=dict(type='DecoupledKDLoss'), features='logits')))


def mixed(**distillers: dict) -> dict:
    return dict(type='MixedDistiller', distillers=copy.deepcopy(distillers))


@pytest.fixture
def build(algorithm: Callable) -> Callable[..., nn.Module]:
    def make(distiller: dict = KD, **settings: Any) -> nn.Module:
        return algorithm(
            **{'type': 'AugmentedDistill', 'augment': MIXUP, 'distiller': copy.deepcopy(distiller), **settings}
        )

    return make


@pytest.fixture
def seen(build: Callable) -> Callable[[nn.Module], list[int]]:
    """Return a list that grows with the number of images of each pass of the teacher."""

    def watch(model: nn.Module) -> list[int]:
        numbers: list[int] = []
        model.teacher.register_forward_pre_hook(lambda _, inputs: numbers.append(len(inputs[0])))
        return numbers

    return watch


def drawn(alpha: float, images: int) -> tuple[float, Tensor]:
    """Draw as mmpretrain's Mixup does."""
    return np.random.beta(alpha, alpha), torch.randperm(images)  # noqa: NPY002


def value_distance(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = (student / 4).softmax(1), (teacher / 4).softmax(1)
    total = 0
    for a, b in ((p, q), (p.T, q.T)):
        cosines = [x @ y / (x.norm() * y.norm() + 1e-8) for x, y in zip(a, b, strict=True)]
        total = total + 1 - torch.stack(cosines).mean()
    return 16 * total


@pytest.mark.parametrize('norm_eval', [True, False])
def test_a_step_of_r2kd_by_hand(norm_eval: bool, build: Callable, batch: Callable) -> None:
    """Two passes of the student, two of each teacher, and the update."""
    images, samples = batch(8)
    images, labels = images.double(), torch.cat([sample.gt_label for sample in samples])
    model = build(R2KD, pruned_teacher=dict(amount=0.1, weight=0.25, norm_eval=norm_eval)).double().train()
    whole, student = copy.deepcopy(model.teacher.members[0]), copy.deepcopy(model.architecture)
    weights = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    pruned = copy.deepcopy(whole)
    for layer in pruned.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            flat = layer.weight.data.flatten()
            flat[flat.abs().argsort()[: round(0.1 * len(flat))]] = 0
            layer.weight.data = flat.view_as(layer.weight)
    pruned.train(not norm_eval)

    seed_all(5)
    lam, order = drawn(0.4, 8)
    augmented = lam * images + (1 - lam) * images[order]
    parts = []
    for each in (images, augmented):
        with torch.no_grad():
            teacher = 0.75 * whole(each, mode='tensor') + 0.25 * pruned(each, mode='tensor')
        logits = student(each, mode='tensor')
        parts.append((logits, 2 * value_distance(logits, teacher)))
    want = {
        'student.loss': F.cross_entropy(parts[0][0], labels),
        'distill.loss_r2kd': parts[0][1],
        'augmented.distill.loss_r2kd': parts[1][1],
    }
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    sum(want.values()).backward()
    optimizer.step()

    seed_all(5)
    losses = model.loss(images, samples)
    total, log = model.parse_losses(losses)
    assert {name for name in log if 'loss' in name} == {*want, 'loss'}
    for name, value in want.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-9), name
    assert {'distill.r2kd_rank', 'augmented.distill.r2kd_rank'} <= {*log}
    assert total.item() == pytest.approx(sum(want.values()).item(), rel=1e-9)
    OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)).update_params(total)
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(model.architecture.state_dict()[name], tensor, rtol=1e-8, atol=1e-10, msg=name)
    for name, tensor in model.teacher.members[0].state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    for name, tensor in model.teacher.members[1].state_dict().items():
        torch.testing.assert_close(tensor, pruned.state_dict()[name], msg=name)
    assert [recorder.data_buffer for recorder in recorders_of(model.distiller)] == [[], []]


def test_mixkd_one_image_at_a_time(build: Callable, batch: Callable) -> None:
    """Of networks without batch statistics, with the student's mixup loss."""
    images, samples = batch(5)
    labels = [sample.gt_label for sample in samples]
    model = build(type='MixupDistill', augment=None, augmented_student_weight=0.5).eval()
    assert model.augment.alpha == 1.0
    seed_all(3)
    lam, order = drawn(1.0, 5)
    seed_all(3)
    with torch.no_grad():
        losses = model.loss(images, samples)
        want = dict.fromkeys(losses, 0.0)
        for i in range(5):
            mixture = lam * images[i] + (1 - lam) * images[order[i]]
            for prefix, image in (('', images[i]), ('augmented.', mixture)):
                student, teacher = (
                    network(image[None], mode='tensor') for network in (model.architecture, model.teacher)
                )
                kl = F.kl_div((student / 4).log_softmax(1), (teacher / 4).softmax(1), reduction='sum')
                want[f'{prefix}distill.loss_kd'] += 16 * kl.item() / 5
            pair = F.cross_entropy(student, labels[i]), F.cross_entropy(student, labels[order[i]])
            want['augmented.student.loss'] += 0.5 * (lam * pair[0] + (1 - lam) * pair[1]).item() / 5
            original = model.architecture(images[i][None], mode='tensor')
            want['student.loss'] += F.cross_entropy(original, labels[i]).item() / 5
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize(
    'changed', [('numpy.random.beta', lambda *_: 1.0), ('torch.randperm', torch.arange)], ids=['lambda', 'pi']
)
def test_a_mixture_of_an_image_with_itself(changed: tuple, build: Callable, batch: Callable) -> None:
    """Plain KD, twice."""
    images, samples = batch()
    model = build(type='MixupDistill', augment=None, augmented_student_weight=1.0).double().train()
    with mock.patch(*changed):
        losses = model.loss(images.double(), samples)
    for name in ('student.loss', 'distill.loss_kd'):
        assert losses[f'augmented.{name}'].item() == pytest.approx(losses[name].item(), rel=1e-9)


@pytest.mark.parametrize(
    ('settings', 'passes', 'names'),
    [
        ({}, [12], {'distill.loss_kd', 'augmented.distill.loss_kd'}),
        (dict(original_losses=[]), [6], {'augmented.distill.loss_kd'}),
        (dict(augmented_losses=[], augmented_student_weight=1.0), [6], {'distill.loss_kd', 'augmented.student.loss'}),
        (dict(pruned_teacher=dict(norm_eval=False)), [6, 6], {'distill.loss_kd', 'augmented.distill.loss_kd'}),
    ],
    ids=['both', 'mixtures alone', 'student alone', 'batch statistics'],
)
def test_the_teacher_runs_as_often_as_needed(
    settings: dict, passes: list, names: set, build: Callable, seen: Callable, batch: Callable
) -> None:
    model = build(**settings)
    numbers = seen(model)
    losses = model.loss(*batch())
    assert numbers == passes
    assert {*losses} == {'student.loss', *names}


def test_the_losses_of_each_batch_are_chosen(build: Callable, batch: Callable) -> None:
    settings = dict(original_losses=['icd.loss_icd', 'kd.loss_kd'], augmented_losses=['kd.loss_kd'])
    model = build(mixed(icd=dict(type='ICDDistiller'), kd=KD), **settings)
    losses = model.loss(*batch())
    terms = {'icd.icd_contrastive', 'icd.icd_invariance', 'icd.icd_tau', 'icd.loss_icd', 'kd.loss_kd'}
    distilled = {f'distill.{name}' for name in terms}
    assert {*losses} == {'student.loss', 'augmented.distill.kd.loss_kd', *distilled}
    # the distillers are as before
    assert all(each.loss_forward_mappings for each in model.distiller.distillers.values())


def test_unlabelled_images(build: Callable, batch: Callable) -> None:
    images, _ = batch()
    model = build(calculate_student_loss=False)
    assert {*model.loss(images, [DataSample() for _ in images])} == {'distill.loss_kd', 'augmented.distill.loss_kd'}
    model = build(calculate_student_loss=False, augmented_student_weight=1.0)
    with pytest.raises(SettingError, match=r'augmented_student_weight reads the labels.*augmented_student_weight=0'):
        model.loss(images, [DataSample() for _ in images])


def test_labels_of_images_that_are_not_mixed(build: Callable, batch: Callable) -> None:
    """A square was cut out: they keep their labels."""
    images, samples = batch()
    model = build(DKD, augment=dict(type='BatchCutout', side=8), augmented_student_weight=2.0).eval()
    seed_all(1)
    row, column = (np.random.randint(32) for _ in range(2))  # noqa: NPY002
    cut = images.clone()
    cut[:, :, max(row - 4, 0) : row + 4, max(column - 4, 0) : column + 4] = 0
    seed_all(1)
    with torch.no_grad():
        losses = model.loss(images, samples)
        want = [model.student(each, samples, mode='loss')['loss'] for each in (images, cut)]
        logits = [network(cut, mode='tensor') for network in (model.student, model.teacher)]
        labels = torch.cat([sample.gt_label for sample in samples])
        dkd = model.distiller.distill_losses['loss_dkd'](*logits, labels)
    assert losses['student.loss'].item() == pytest.approx(want[0].item())
    assert losses['augmented.student.loss'].item() == pytest.approx(2 * want[1].item())
    assert losses['augmented.distill.loss_dkd'].item() == pytest.approx(dkd.item(), rel=1e-4)


def test_losses_that_read_labels_count_on_the_originals(build: Callable, batch: Callable) -> None:
    with mock.patch('icd_mmrazor.models.algorithms.augmented_distill.print_log') as print_log:
        model = build(mixed(dkd=DKD, kd=KD))
    (message,) = (call.args[0] for call in print_log.call_args_list)
    assert 'Mixup makes a second batch for kd.loss_kd.' in message
    assert 'DecoupledKDLoss (dkd.loss_dkd) reads one label' in message
    losses = model.loss(*batch())
    assert {*losses} == {'student.loss', 'distill.dkd.loss_dkd', 'distill.kd.loss_kd', 'augmented.distill.kd.loss_kd'}


MLKD = dict(type='FeatureDistiller', losses=dict(mlkd=dict(loss=dict(type='MultiLevelLogitLoss'), features='logits')))
DELIVERY = dict(it=dict(type='FunctionOutputs', func_path='torch.nn.functional.relu', max_keep_data=9))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(distiller=DKD), r'DecoupledKDLoss \(loss_dkd\) reads one label.*Mixup mixes.*augmented_losses'),
        (dict(distiller=mixed(dkd=DKD, kd=KD), augmented_losses=['dkd.loss_dkd']), r'dkd\.loss_dkd\) reads one label'),
        (dict(distiller=MLKD), r'MultiLevelLogitLoss \(loss_mlkd\) compares two views'),
        (dict(distiller={**KD, 'student_recorders': {}, 'distill_deliveries': DELIVERY}), 'deliveries of Feature'),
        (dict(augment=dict(type='Mixupp', alpha=1.0)), "augment.type='Mixupp'.*Mixup"),
        (dict(augmented_losses=['loss_kdd']), "augmented_losses names 'loss_kdd'.*loss_kd"),
        (dict(original_losses='loss_kd'), "original_losses='loss_kd' must be a list"),
        (dict(augmented_losses=[]), r'augmented_losses=\[\].*FrozenTeacherDistill'),
        (dict(augmented_student_weight=-1), 'augmented_student_weight=-1'),
        (
            dict(data_preprocessor=dict(num_classes=10, batch_augments=dict(augments=MIXUP))),
            r'data_preprocessor\.batch_augments \(Mixup\).*batch_augments=None',
        ),
        (dict(pruned_teacher=dict(amount=1.0)), r'pruned_teacher\.amount=1\.0'),
        (
            dict(pruned_teacher=dict(norm_eval=False), teacher_cache=dict(views='all')),
            r'norm_eval=False.*teacher_cache',
        ),
    ],
    ids=str,
)
def test_refusals(settings: dict, message: str, build: Callable) -> None:
    with pytest.raises(SettingError, match=f'(Augmented|FrozenTeacher)Distill: .*{message}'):
        build(**copy.deepcopy(settings))


class OfPositions(FeatureLoss):
    """Reads where an image is in the training set."""

    def forward(self, s_feature: Tensor, t_feature: Tensor, data_samples: list) -> Tensor:
        raise NotImplementedError


class OfScores(OfPositions):
    reads_scores = True


def test_mixed_images_have_no_position() -> None:
    assert 'position' in why_not_augmented(OfPositions(), mixes=True)
    assert why_not_augmented(OfPositions(), mixes=False) is None
    assert why_not_augmented(OfScores(), mixes=True) is None


def test_hard_labels_of_mixed_images_are_refused(build: Callable, network: Callable) -> None:
    student = network('res8')
    student.head.cal_acc = True
    build(architecture=student)
    with pytest.raises(SettingError, match=r'cal_acc=True.*augmented_student_weight=0'):
        build(architecture=student, augmented_student_weight=1.0)


def test_stored_outputs_of_the_original_batch(build: Callable, seen: Callable, batch: Callable, tmp_path: Path) -> None:
    images, samples = batch(8)
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(view_idx=i))
    model = build(teacher_cache=dict(views='first', path='outputs')).eval()
    model.teacher_cache.open(model, FirstView(), images, dict(number=8), tmp_path)
    plain = build().eval()
    plain.architecture.load_state_dict(model.architecture.state_dict())
    numbers = seen(model)
    for _ in range(2):
        found = []
        for each in (model, plain):
            seed_all(1)
            with torch.no_grad():
                found.append(each.loss(images, samples))
        torch.testing.assert_close(*found)
    # the original batch once, the augmented one in each step
    assert numbers == [8, 8, 8]


def test_a_stopped_distillation_and_an_initial_stage(build: Callable, batch: Callable) -> None:
    ft = dict(
        type='FeatureDistiller',
        initial_epochs=1,
        losses=dict(
            ae=dict(
                loss=dict(type='L2Loss'),
                stage='initial',
                inputs=dict(
                    s_feature=dict(network='teacher', feature='map3', connector='ae'),
                    t_feature=dict(network='teacher', feature='map3'),
                ),
            ),
            kd=dict(loss=dict(type='KLDivergence'), features='logits'),
        ),
        connectors=dict(ae=dict(type='ConvModuleConnector', in_channel=64, out_channel=64)),
    )
    model = build(ft)
    model.distiller.set_stage('initial')
    assert {*model.loss(*batch())} == {'distill.loss_ae', 'augmented.distill.loss_ae'}
    model.distiller.set_stage('main')
    assert {*model.loss(*batch())} == {'student.loss', 'distill.loss_kd', 'augmented.distill.loss_kd'}
    model.distillation_stopped = True
    assert {*model.loss(*batch())} == {'student.loss'}


@pytest.mark.slow
@pytest.mark.skipif(
    TORCH_VERSION < (2, 14), reason='torch 2.10 does not trace recorders into one graph; no torch between was tried'
)
def test_compiled_it_is_the_same(build: Callable, batch: Callable) -> None:
    torch.compiler.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    images, samples = batch()
    settings = dict(distiller=mixed(dkd=DKD, r2kd=R2KD), pruned_teacher={})
    plain = build(**settings).double()
    compiled = build(**settings, torch_compile=dict(backend=backend, fullgraph=True)).double()
    compiled.load_state_dict(plain.state_dict())
    for step in range(3):
        found = []
        for model in (plain, compiled):
            seed_all(step)
            found.append(model.loss(images.double(), samples))
        assert found[0].keys() == found[1].keys()
        torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)
    assert compiled.torch_compile
    # the shares and orders are not a part of it
    assert len(graphs) == 1
