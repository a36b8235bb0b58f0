"""SampleMemoryHook and the losses with memories in real runs on a small problem."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS

from icd_mmrazor.engine.hooks.sample_memory_hook import training_labels
from icd_mmrazor.errors import DatasetError

CRD, RRD = 'distiller.distill_losses.loss_crd', 'distiller.distill_losses.loss_rrd'


def distiller() -> dict:
    """Return both losses in mmrazor's own distiller, as their docstrings show them."""
    features = dict(
        s_feature=dict(recorder='feature', from_student=True, data_idx=0, connector='student'),
        t_feature=dict(recorder='feature', from_student=False, data_idx=0, connector='teacher'),
    )
    return dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            feature=dict(type='ModuleInputs', source='head.fc'), data_samples=dict(type='ModuleInputs', source='')
        ),
        teacher_recorders=dict(feature=dict(type='ModuleInputs', source='head.fc')),
        connectors=dict(
            student=dict(type='LinearProjection', in_features=64),
            teacher=dict(type='LinearProjection', in_features=64),
        ),
        distill_losses=dict(
            loss_crd=dict(type='ContrastiveRepresentationLoss', num_negatives=20, loss_weight=0.8),
            loss_rrd=dict(type='RRDLoss', memory_size=100),
        ),
        loss_forward_mappings=dict(
            loss_crd=dict(data_samples=dict(recorder='data_samples', from_student=True, data_idx=1), **features),
            loss_rrd=features,
        ),
    )


@pytest.fixture
def memory_config(demo_config: Callable) -> Callable[..., Config]:
    def config(**options: object) -> Config:
        cfg = demo_config(**options)
        cfg.model.distiller = distiller()
        cfg.default_hooks.sample_memory = dict(type='SampleMemoryHook')
        cfg.train_dataloader.batch_size = 16
        return cfg

    return config


def last_checkpoint(cfg: Config) -> dict:
    return torch.load(Path(cfg.work_dir, 'epoch_1.pth'), weights_only=True)['state_dict']


@pytest.mark.slow
def test_a_run_fills_the_memories_saves_and_resumes_them(memory_config: Callable, runner: Callable) -> None:
    cfg = memory_config()
    run: Runner = runner(cfg)
    run.train()
    crd, rrd = (run.model.get_submodule(name) for name in (CRD, RRD))
    labels = run.train_dataloader.dataset.get_gt_labels()
    assert crd.labels.tolist() == labels.tolist()
    # every image was seen once
    for memory in (crd.student_memory, crd.teacher_memory):
        assert torch.allclose(memory.norm(dim=1), torch.ones(64))
    assert (crd.normalisers > 0).all()
    assert rrd.oldest.item() == 64

    weights = last_checkpoint(cfg)
    names = [f'{CRD}.{name}' for name in ('student_memory', 'teacher_memory', 'normalisers')]
    names += [f'{RRD}.memory', f'{RRD}.oldest']
    assert all(torch.equal(weights[name], run.model.state_dict()[name]) for name in names)
    assert f'{CRD}.labels' not in weights

    resumed = runner(memory_config(resume=True))
    resumed.train()  # it has no epoch left
    # only to test, no training set is wanted
    cfg = memory_config(load_from=str(Path(cfg.work_dir, 'epoch_1.pth')))
    cfg.train_dataloader.dataset.data_file = 'nowhere.npz'
    tested = runner(cfg)
    assert tested.test()
    for each in (resumed, tested):
        for name in names:
            assert torch.equal(each.model.state_dict()[name], weights[name]), name
    assert resumed.model.get_submodule(CRD).labels.tolist() == labels.tolist()
    log = '\n'.join(file.read_text() for file in Path(cfg.work_dir).glob('*/*.log'))
    assert 'do not match exactly' not in log


@pytest.mark.slow
def test_concatenated_sets_and_averaged_weights(memory_config: Callable, runner: Callable) -> None:
    cfg = memory_config(val_cfg=None, val_dataloader=None, val_evaluator=None, custom_hooks=[dict(type='EMAHook')])
    cfg.train_dataloader.dataset = wrapped(cfg.train_dataloader.dataset, 'ConcatDataset', 'IndexedDataset')
    run = runner(cfg)
    run.train()
    crd = run.model.get_submodule(CRD)
    assert crd.num_samples == 128
    for name in ('student_memory', 'teacher_memory'):
        memory = getattr(crd, name)
        assert torch.allclose(memory.norm(dim=1), torch.ones(128))
        assert torch.equal(last_checkpoint(cfg)[f'{CRD}.{name}'], memory)


def wrapped(dataset: dict, *types: str) -> dict:
    """Wrap the config of a dataset, the innermost wrapper first."""
    for name in types:
        settings = {
            'ConcatDataset': dict(datasets=[dataset, dataset]),
            'RepeatDataset': dict(dataset=dataset, times=2),
            'ClassBalancedDataset': dict(dataset=dataset, oversample_thr=0.5),
            'IndexedDataset': dict(dataset=dataset),
        }[name]
        dataset = dict(type=name, **settings)
    return dataset


@pytest.fixture
def plain(images_file: Path) -> dict:
    """Return the config of 8 images with labels 0 to 7."""
    keys = dict(images_key='train_images', labels_key='train_labels')
    return dict(type='NPZDataset', data_file=str(images_file), indices=8, pipeline=[dict(type='PackInputs')], **keys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('wrappers', 'images'),
    [
        ((), 8),
        (('IndexedDataset',), 8),
        (('RepeatDataset',), 8),
        (('ClassBalancedDataset',), 8),
        (('ConcatDataset', 'IndexedDataset'), 16),
        (('ConcatDataset', 'IndexedDataset', 'RepeatDataset'), 16),
        (('RepeatDataset', 'IndexedDataset'), 16),
        (('ClassBalancedDataset', 'IndexedDataset'), 16),
    ],
    ids=str,
)
def test_labels_are_those_of_the_indices(wrappers: tuple, images: int, plain: dict) -> None:
    dataset = DATASETS.build(wrapped(plain, *wrappers))
    labels = training_labels(dataset, 'CRD')
    samples = [dataset[i]['data_samples'] for i in range(len(dataset))]
    assert {sample.sample_idx for sample in samples} == set(range(images)) == set(range(len(labels)))
    assert all(labels[sample.sample_idx] == sample.gt_label for sample in samples)


@pytest.mark.slow
@pytest.mark.parametrize('wrappers', [('ConcatDataset',), ('IndexedDataset', 'ConcatDataset')], ids=str)
def test_refuses_a_training_set_without_one_numbering(wrappers: tuple, plain: dict) -> None:
    dataset = DATASETS.build(wrapped(plain, *wrappers))
    with pytest.raises(DatasetError, match=r'\(ConcatDataset\) does not number its images.*IndexedDataset'):
        training_labels(dataset, 'CRD')


class Unlabelled:
    def __len__(self) -> int:
        return 2

    def get_gt_labels(self) -> None:
        raise KeyError('gt_label')


def test_refuses_a_training_set_without_labels() -> None:
    with pytest.raises(DatasetError, match=r'CRD needs the class.*\(Unlabelled\) .* label per image'):
        training_labels(Unlabelled(), 'CRD')


class Relabel(Hook):
    """Change the training set before the second epoch, after all other hooks."""

    priority = 'VERY_LOW'

    def __init__(self, images: int) -> None:
        self.images = images

    def before_train_epoch(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        if runner.epoch == 1:
            dataset.data_list = [dict(dataset.get_data_info(i), gt_label=i % 2) for i in range(self.images)]
            dataset.data_bytes, dataset.data_address = dataset._serialize_data()


@pytest.mark.slow
def test_labels_that_change_are_told_again(memory_config: Callable, runner: Callable) -> None:
    cfg = memory_config(**{'train_cfg.max_epochs': 2})
    run = runner(cfg)
    images = len(run.train_dataloader.dataset)
    run.register_hook(Relabel(images))
    run.train()
    labels = run.model.get_submodule(CRD).labels
    assert labels.tolist() == [i % 2 for i in range(images)]
    fewer = runner(memory_config(**{'train_cfg.max_epochs': 2, 'work_dir': f'{cfg.work_dir}_2'}))
    fewer.train_dataloader.sampler.num_samples = 8
    fewer.register_hook(Relabel(images - 1))
    with pytest.raises(DatasetError, match=f'remembers each of {images} training images, .* has {images - 1} now'):
        fewer.train()
