"""Composition of any method with any pair, and of several methods."""

import inspect
import itertools
import shutil
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS, methods_of_views, two_views
from mmengine.config import Config
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError

METHODS = [method for method in recipes.method_names() if method != recipes.STUDENT_ALONE]
# the others need two in a batch, and train by themselves
OF_ONE_VIEW, OF_TWO_VIEWS = methods_of_views(1), methods_of_views(2)
PAIRS = [pair for pair in recipes.pair_names() if pair.endswith('cifar100')]
EQUAL_WIDTHS = {
    'wrn40-2_wrn16-2_cifar100',
    'res56_res20_cifar100',
    'res110_res20_cifar100',
    'res110_res32_cifar100',
    'res32x4_res8x4_cifar100',
    'vgg13_vgg8_cifar100',
}
# the pairs that a method fits, if not all, and why not the others
LIMITED = {
    'fsp': (EQUAL_WIDTHS, 'channels'),
    'kdsvd': (EQUAL_WIDTHS, 'channels'),
    'vitkd': (set(), 'plain vision transformers'),
}
ON_DIGITS = [method for method in OF_ONE_VIEW if method != 'vitkd']
NUM_IMAGES = 40


def test_the_benchmark_is_complete() -> None:
    assert sorted(file.stem for file in (CONFIGS / '_base_' / 'methods').glob('*.py')) == METHODS
    assert len(METHODS) >= 15
    assert len(PAIRS) == 13


@pytest.mark.parametrize(
    ('given', 'own'), [('dcd', 'icd'), ('kd+dcd', 'kd+icd'), ('icd', 'icd'), ('crd', 'crd'), ('dcdx', 'dcdx'), ('', '')]
)
def test_canonical_names(given: str, own: str) -> None:
    assert recipes.canonical_name(given) == own


def test_dcd_is_composed_as_icd() -> None:
    for given, own in ((['dcd'], ['icd']), (['dcd', 'kd'], ['icd', 'kd'])):
        assert recipes.compose('res20_res8_digits', given).to_dict() == (
            recipes.compose('res20_res8_digits', own).to_dict()
        )
    with pytest.raises(SettingError, match=r'icd\+icd'):
        recipes.compose('res20_res8_digits', ['icd', 'dcd'])


def built(cfg: Config, **networks: torch.nn.Module) -> torch.nn.Module:
    """Build a composed config on networks that are there, the teacher untrained, and prepare its memories."""
    torch.manual_seed(0)
    algorithm = MODELS.build({**cfg.model, **networks, 'teacher_ckpt': None, 'random_teacher': True})
    for module in algorithm.modules():
        if hasattr(module, 'set_dataset'):
            module.set_dataset(torch.arange(NUM_IMAGES) % 10)
    return algorithm.train()


def batch(size: int, pixels: int, views: int = 1) -> tuple[torch.Tensor, list[DataSample]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(views * size, 3, pixels, pixels, generator=generator)
    samples = [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i % 10) for i in range(size)]
    return images, samples if views == 1 else two_views(samples)


def steps(algorithm: torch.nn.Module, images: torch.Tensor, samples: list[DataSample]) -> None:
    """Train a step in each stage; every loss must be finite and every trained part get its gradient."""
    distiller = algorithm.distiller
    optimizer = torch.optim.SGD(algorithm.parameters(), lr=0.01, momentum=0.9)
    got_gradient: set[str] = set()
    for stage in ['initial', 'main'] if getattr(distiller, 'initial_epochs', 0) else ['main']:
        if stage == 'initial' or hasattr(distiller, 'set_stage'):
            distiller.set_stage(stage)
        if hasattr(distiller, 'set_progress'):
            distiller.set_progress(epoch=1, iteration=1)
        optimizer.zero_grad()
        losses = algorithm.loss(images, samples)
        total, _ = algorithm.parse_losses(losses)
        assert torch.isfinite(total), losses
        assert ('student.loss' in losses) == (stage == 'main')
        total.backward()
        for name, parameter in algorithm.named_parameters():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all(), name
                got_gradient.add(name)
        optimizer.step()
    left_out = {name for name, p in algorithm.named_parameters() if p.requires_grad} - got_gradient
    assert not left_out


@pytest.mark.slow
@pytest.mark.parametrize('pair', PAIRS)
def test_every_method_trains_on_every_pair(pair: str) -> None:
    """All together, each with its own losses: one pass of the networks, of which some are slow, serves them all."""
    unfit = {method: reason for method, (pairs, reason) in LIMITED.items() if pair not in pairs}
    # they fit, but have so many weights for wide maps that they take half a minute
    too_large = {'ft', 'semckd'} if pair.startswith('res50_') else set()
    if pair == 'res50_mobilenetv2_cifar100':  # and these are with ResNet-50 in the other pair
        too_large |= {'ickd', 'reviewkd', 'vkd'}
    fitting = [method for method in OF_ONE_VIEW if method not in {*unfit, *too_large}]
    for method, reason in unfit.items():
        with pytest.raises(SettingError, match=f'{method} does not fit {pair}.*({reason})'):
            recipes.compose(pair, [method])
    cfg = recipes.compose(pair, fitting)
    assert sorted(cfg.model.distiller.distillers) == fitting
    steps(built(cfg), *batch(2, 32))


@pytest.mark.slow
@pytest.mark.parametrize('pair', PAIRS)
@pytest.mark.parametrize('method', OF_TWO_VIEWS)
def test_every_method_of_two_views_trains_on_every_pair(method: str, pair: str) -> None:
    cfg = recipes.compose(pair, [method])
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == 'TwoViewDataset'
    assert dataset.dataset == recipes.compose(pair, ['student']).train_dataloader.dataset
    steps(built(cfg), *batch(2, 32, views=2))


@pytest.mark.parametrize('method', OF_TWO_VIEWS)
def test_methods_of_one_and_of_two_views_do_not_mix(method: str) -> None:
    for methods in ([method, 'icd'], ['icd', 'kd', method]):
        names = r'\+'.join(methods)
        with pytest.raises(SettingError, match=f'{names}: {method} takes two views of each image.* and icd would'):
            recipes.compose('res20_res8_digits', methods)


@pytest.mark.slow
@pytest.mark.parametrize('methods', list(itertools.pairwise([*ON_DIGITS, ON_DIGITS[0]])), ids='+'.join)
def test_two_methods_train_together(methods: tuple[str, str]) -> None:
    cfg = recipes.compose('res20_res8_digits', methods)
    assert cfg.model.distiller.type == 'MixedDistiller'
    steps(built(cfg), *batch(4, 16))


def test_three_methods_and_each_term_counts() -> None:
    cfg = recipes.compose('res20_res8_digits', ['icd', 'kd', 'at'])
    losses = built(cfg).loss(*batch(4, 16))
    assert {name for name in losses if 'loss' in name} == {
        'student.loss',
        'distill.icd.loss_icd',
        'distill.kd.loss_kd',
        'distill.at.loss_at1',
        'distill.at.loss_at2',
        'distill.at.loss_at3',
    }


def test_kd_has_the_published_weights_alone_and_combined() -> None:
    images, samples = batch(4, 16)
    alone = built(recipes.compose('res20_res8_digits', ['kd'])).loss(images, samples)
    combined = built(recipes.compose('res20_res8_digits', ['kd', 'pkt'])).loss(images, samples)
    torch.testing.assert_close(alone['student.loss'], 0.1 * combined['student.loss'])
    torch.testing.assert_close(alone['distill.loss_kd'], 0.9 * combined['distill.kd.loss_kd'])


@pytest.mark.parametrize(
    ('pair', 'methods', 'message'),
    [
        ('res56_res21_cifar100', ['kd'], r"no pair 'res56_res21_cifar100'\. Did you mean res56_res20_cifar100"),
        ('res56_res20_cifar100', ['fitnets'], r"no method 'fitnets'\. Did you mean fitnet"),
        ('res56_res20_cifar100', ['ICD'], r"no method 'ICD'\. Did you mean icd"),
        ('res56_res20_cifar100', ['kd', 'kd'], r"methods='kd\+kd'"),
        ('res56_res20_cifar100', ['student', 'kd'], 'student'),
        ('res56_res20_cifar100', [], "methods=''"),
    ],
)
def test_bad_names(pair: str, methods: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        recipes.compose(pair, methods)


def test_the_initial_stage_comes_before_the_schedule() -> None:
    cfg = recipes.compose('res56_res20_cifar100', ['ab'])
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler.begin, cfg.param_scheduler.milestones[0]) == (270, 30, 150)


def add_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    """Add a pair, mine, to a copy of the base configs."""
    shutil.copytree(CONFIGS, tmp_path / 'configs')
    base = tmp_path / 'configs' / '_base_'
    (base / 'pairs' / 'mine.py').write_text(f"_base_ = ['./res56_res20_cifar100.py']\n{lines}")
    monkeypatch.setattr(recipes, 'BASE', base)
    recipes._untrained.cache_clear()


def test_custom_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedules = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=5),
        dict(type='CosineAnnealingLR', by_epoch=True, begin=5, end=100),
    ]
    add_pair(tmp_path, monkeypatch, f"_base_.pop('param_scheduler')\nparam_scheduler = {schedules}\n")
    assert [(s.get('begin'), s.end) for s in recipes.compose('mine', ['kd']).param_scheduler] == [(None, 5), (5, 100)]
    assert [(s.begin, s.end) for s in recipes.compose('mine', ['fsp']).param_scheduler] == [(30, 35), (35, 130)]
    (tmp_path / 'configs/_base_/methods/half.py').write_text('other = dict()\n')
    with pytest.raises(SettingError, match='half'):
        recipes.compose('mine', ['half'])
    recipes._parsed.cache_clear()
    (tmp_path / 'configs/_base_/methods/half.py').write_text("half = dict(_scope_='mmrazor', type='Nothing')\n")
    with pytest.raises(SettingError, match=r'half does not fit mine.*Nothing'):
        recipes.compose('mine', ['half'])


def test_a_schedule_that_counts_iterations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_pair(tmp_path, monkeypatch, 'param_scheduler = dict(by_epoch=False)\n')
    with pytest.raises(SettingError, match='by_epoch'):
        recipes.compose('mine', ['ft'])


def test_a_method_may_change_other_settings_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_pair(tmp_path, monkeypatch, '')
    kd = "dict(_scope_='mmrazor', type='FeatureDistiller', losses=dict(kd=dict(loss=dict(type='KLDivergence'), "
    for name, settings in (('slow', 'teacher_precision="bf16"'), ('exact', 'teacher_precision="fp32"')):
        (tmp_path / f'configs/_base_/methods/{name}.py').write_text(
            f"{name} = {kd}features='logits')))\n"
            f'{name}_settings = dict(model=dict({settings}), find_unused_parameters=True)\n'
            f"{name}_pairs = {{'res56_res20': {{'model.channels_last': False, 'student_loss_weight': 0.5}}}}\n"
        )
    cfg = recipes.compose('res56_res20_cifar100', ['slow'])
    assert (cfg.model.teacher_precision, cfg.model.channels_last, cfg.find_unused_parameters) == ('bf16', False, True)
    assert cfg.model.distiller.student_loss_weight == 0.5
    assert cfg.model.teacher_ckpt == recipes.compose('res56_res20_cifar100', ['kd']).model.teacher_ckpt
    # another pair has none of its own, and a method beside it changes nothing
    cfg = recipes.compose('mine', ['icd', 'exact'])
    assert (cfg.model.teacher_precision, 'channels_last' in cfg.model) == ('fp32', False)
    with pytest.raises(SettingError, match=r"slow needs model.teacher_precision='bf16', and exact .*='fp32'. Train"):
        recipes.compose('mine', ['slow', 'exact'])


def test_the_student_alone() -> None:
    assert recipes.compose('res56_res20_cifar100', ['student']).model.type == 'ImageClassifier'


@pytest.mark.parametrize(
    ('method', 'needs'),
    [
        ('kd', {'logits'}),
        ('dcd', {'pooled'}),
        ('at', {'maps'}),
        ('ft', {'maps'}),
        ('ab', {'preactivations'}),
        ('crd', {'pooled', 'labels', 'positions'}),
        ('mlkd', {'logits', 'views'}),
        ('ceskd', {'logits', 'labels', 'scores', 'positions'}),
    ],
)
def test_what_a_method_needs(method: str, needs: set[str]) -> None:
    assert recipes.needs_of(method) == needs


def test_settings_for_pairs_name_pairs_and_settings_that_exist() -> None:
    """A misspelt pair would be ignored, and a misspelt path of a setting added."""
    known = {part for pair in recipes.pair_names() for part in pair.rpartition('_')[::2]}
    for method in METHODS:
        cfg = Config.fromfile(CONFIGS / '_base_' / 'methods' / f'{method}.py')
        for name, settings in cfg.get(f'{method}_pairs', {}).items():
            assert name in known, method
            for distiller in (cfg[method], cfg.get(f'{method}_beside', cfg[method])):
                for path in (path for path in settings if not path.startswith('model.')):
                    *parents, setting = path.split('.')
                    part = distiller
                    for parent in parents:
                        part = part[parent]
                    loss = MODELS.get(part['type']) if 'type' in part else None
                    assert setting in part or setting in inspect.signature(loss).parameters, (method, path)


@pytest.mark.parametrize('pair', [pair for pair in recipes.pair_names() if pair.endswith('_in1k')])
def test_pairs_of_imagenet_have_its_settings(pair: str) -> None:
    """Not those of CIFAR-100, where the authors of a method have others."""
    loss = {
        m: recipes.compose_distiller([m], pair=pair)['losses'][m] for m in ('dist', 'dkd', 'nkd', 'ofa', 'wsld', 'wttm')
    }
    assert [loss[method].loss.tau for method in ('dist', 'dkd', 'nkd', 'wsld')] == [1.0, 1.0, 1.0, 2.0]
    assert loss['dkd'].weight_schedule is None
    assert loss['ofa'].loss.eps == 1.5
    assert loss['wttm'].loss.gamma > 0.5
    assert loss['nkd'].loss.gamma == (1.0 if 'deit' in pair else 1.5)
    assert recipes.compose_distiller(['kd_ls'], pair=pair)['student_loss_weight'] == 1.0


class ReadsTheClassifier(nn.Module):
    """A loss of lists of features that uses the teacher's classifier and compares two views."""

    reads_views = True

    def __init__(self, teacher_shapes: tuple, teacher_classifier: nn.Linear | None) -> None:
        super().__init__()

    def forward(self, student: list, teacher: list) -> torch.Tensor:
        return teacher[0].sum() + student[0].sum()


@pytest.mark.parametrize(
    ('features', 'needs'),
    [
        (['maps', 'pooled'], {'maps', 'pooled'}),
        (['blocks'], {'blocks'}),
        (['tokens', 'logits'], {'tokens', 'logits'}),
        (['map1', 'preactivations'], {'maps', 'preactivations'}),
    ],
)
def test_needs_of_lists_of_features(features: list[str], needs: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {network: dict(network=network, feature=features) for network in ('student', 'teacher')}
    entry = dict(loss=dict(type=ReadsTheClassifier), inputs=inputs)
    distiller = dict(type='FeatureDistiller', losses=dict(listed=entry))
    monkeypatch.setattr(recipes, '_distiller', lambda *_: distiller)
    monkeypatch.setattr(recipes, '_config', lambda _: {})
    assert recipes.needs_of('listed') == needs | {'classifier', 'views'}
