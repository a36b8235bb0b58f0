"""Teachers of all kinds with a cache of their outputs, and runs of all kinds: the same weights bit for bit."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from cached_trainings import ALL, counts, other_than_counts, short_training, trained
from launches import in_processes
from mmengine.config import Config
from mmengine.runner import Runner

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.teacher_cache.store import OutputStore

KD = dict(type='FeatureDistiller', losses=dict(kd=dict(loss=dict(type='KLDivergence', tau=4.0), features='logits')))


@pytest.fixture
def config(demo_config: Callable, tmp_path: Path) -> Callable[..., Config]:
    """Return the config of a short training, see :func:`short_training`."""
    return partial(short_training, demo_config, tmp_path)


def two_teachers(cfg: Config, network: Callable, file: Callable) -> None:
    """Their combined logits, and the feature of the first."""
    del cfg.model.teacher, cfg.model.teacher_ckpt
    own = dict(type='ClsDataPreprocessor', mean=[30.0] * 3, std=[40.0] * 3)
    cfg.model.teachers = [
        dict(teacher=network('res8'), teacher_ckpt=file('res8'), weight=2.0),
        dict(teacher=dict(network('res14'), data_preprocessor=own), teacher_ckpt=file('res14')),
    ]
    cfg.model.distiller = KD


def with_pruned_copy(cfg: Config, network: Callable, file: Callable) -> None:
    cfg.model.pruned_teacher = dict(amount=0.1, weight=0.3)
    cfg.model.distiller = KD


def without_classifier(cfg: Config, network: Callable, file: Callable) -> None:
    cfg.model.teacher = dict(network('res20')['backbone'], _scope_='mmpretrain')
    cfg.model.teacher_ckpt = None
    cfg.model.random_teacher = True


def of_timm(cfg: Config, network: Callable, file: Callable) -> None:
    pytest.importorskip('timm')
    cfg.model.teacher = dict(
        type='mmpretrain.TimmClassifier', model_name='resnet10t', num_classes=10, loss=dict(type='CrossEntropyLoss')
    )
    cfg.model.teacher_ckpt = None
    cfg.model.random_teacher = True
    cfg.model.distiller = KD


def with_distillation_token(cfg: Config, network: Callable, file: Callable) -> None:
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    cfg.model.teacher = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='DistilledVisionTransformer', arch=arch, img_size=16, patch_size=4),
        head=dict(type='DeiTClsHead', num_classes=10, in_channels=16),
    )
    cfg.model.teacher_ckpt = None
    cfg.model.random_teacher = True
    cfg.model.distiller = KD


@pytest.mark.parametrize(
    'change', [two_teachers, with_pruned_copy, without_classifier, of_timm, with_distillation_token]
)
def test_a_cached_run_is_the_same_bit_for_bit(change, config, runner, network, teacher_file):
    def make(cache: dict | None, work_dir: str) -> Config:
        cfg = config('icd', cache, work_dir)
        change(cfg, network, teacher_file)
        return cfg

    plain = trained(make(None, 'plain'), runner)
    for work_dir in ('first', 'second'):
        cfg = make(ALL, work_dir)
        assert other_than_counts(plain, trained(cfg, runner)) == []
    assert counts(cfg) == (128, 0)
    stored = OutputStore.about(Path(cfg.model.teacher_cache.path))['facts']['outputs']['fields']
    together = ['0.pooled', '0.logits', '1.pooled', '1.logits', 'logits']
    expected = {
        two_teachers: together,
        with_pruned_copy: together,
        without_classifier: ['pooled'],
    }
    assert [*stored] == expected.get(change, ['pooled', 'logits'])


@pytest.mark.parametrize(
    ('teachers', 'setting', 'message'),
    [
        (two_teachers, dict(teacher_combination='probabilities'), r'MeanLogits\(.* there, .*MeanProbabilities\('),
        (with_pruned_copy, dict(pruned_teacher=dict(weight=0.6)), r'weights=0\.7, 0\.3.* there, .*weights=0\.4, 0\.6'),
        (with_pruned_copy, dict(pruned_teacher=dict(amount=0.5)), r'teacher\.weights is .* there, '),
    ],
)
def test_logits_combined_otherwise_are_refused(teachers, setting, message, config, runner, network, teacher_file):
    """What is stored knows the weights of both networks, and how their logits are combined."""
    cfg = config(cache=ALL, **{'train_cfg.max_epochs': 1})
    teachers(cfg, network, teacher_file)
    trained(cfg, runner)
    cfg.merge_from_dict({'model': setting})
    with pytest.raises(SettingError, match=message) as error:
        trained(cfg, runner)
    assert 'model.teacher_cache.path' in str(error.value)


def trained_here(rank: int, configs: dict) -> dict[str, torch.Tensor]:
    results = {}
    for name, cfg in configs.items():
        cfg.experiment_name = name
        run = Runner.from_cfg(cfg)
        run.train()
        results |= {f'{name}.{key}': weight for key, weight in run.model.module.state_dict().items()}
        cache = run.model.module.teacher_cache
        results[f'{name} calls'] = torch.tensor(-1 if cache is None else cache.computed)
    return results


@pytest.mark.slow
def test_two_processes_share_a_cache(config, tmp_path):
    configs = {name: config('icd', None if name == 'plain' else ALL, name) for name in ('plain', 'first', 'second')}
    for cfg in configs.values():
        cfg.launcher = 'pytorch'
        cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
        # at least 16 images in each batch: 32 images for each process
        cfg.train_dataloader.batch_size = 16
    for found in in_processes(trained_here, 2, tmp_path, configs):
        weights = {name: weight for name, weight in found.items() if name.startswith('plain.')}
        assert weights
        for name, weight in weights.items():
            for other in ('first', 'second'):
                assert torch.equal(weight, found[name.replace('plain', other, 1)])
        assert found['first calls'] > 0
        assert found['second calls'] == 0
