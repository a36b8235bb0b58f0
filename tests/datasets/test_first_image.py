"""The shape of a run's images, where its pipeline does not set one."""

import argparse
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import DATASETS
from mmrazor.registry import MODELS
from PIL import Image

from icd_mmrazor.configuration.image_size import tell_distillers
from icd_mmrazor.datasets.first_image import shape_of_first_image
from icd_mmrazor.launch.run_config import load_config

FILES = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
GRAY = [dict(type='LoadImageFromFile', color_type='grayscale'), dict(type='PackInputs')]
TURNED = [FILES[0], dict(type='RandomFlip', prob=0.5), FILES[1]]
SHORTER_EDGE = [FILES[0], dict(type='ResizeEdge', scale=10), FILES[1]]
RATIO = [FILES[0], dict(type='Resize', scale=(14, 14), keep_ratio=True), FILES[1]]


@pytest.fixture
def images(tmp_path: Path) -> dict:
    """Write images of 28 x 20 pixels; return the config of their dataset."""
    generator = np.random.default_rng(0)
    for i in range(4):
        (tmp_path / 'images' / f'{i % 2}').mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 255, (20, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / 'images' / f'{i % 2}' / f'{i}.png')
    return dict(type='CustomDataset', data_root=str(tmp_path / 'images'), pipeline=FILES)


def run(dataset: dict, **settings: object) -> Config:
    return Config(dict(train_dataloader=dict(dataset=dataset), **settings))


@pytest.mark.parametrize(
    ('pipeline', 'shape'),
    [
        (FILES, (3, 20, 28)),
        (GRAY, (1, 20, 28)),
        (TURNED, (3, 20, 28)),
        (SHORTER_EDGE, (3, 10, 14)),
        (RATIO, (3, 10, 14)),
    ],
    ids=['files', 'gray', 'random', 'edge', 'ratio'],
)
def test_the_first_image_has_the_shape(pipeline: list, shape: tuple, images: dict) -> None:
    random.seed(1)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 transforms draw from it
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    dataset = {**images, 'pipeline': pipeline}
    for each in (dataset, dict(type='RepeatDataset', times=2, dataset=dataset)):
        cfg = run(each)
        assert shape_of_first_image(cfg) == shape
        assert cfg.to_dict() == run(each).to_dict()
    assert random.getstate() == states[0]
    assert torch.get_rng_state().equal(states[1])
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002


def test_images_that_cannot_be_read_are_left_to_the_run(
    images: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = []
    monkeypatch.setattr('mmpretrain.datasets.cifar.download_and_extract_archive', lambda *_, **__: downloads.append(0))
    for dataset in (
        {**images, 'data_root': '/nowhere'},
        {**images, 'pipeline': []},
        dict(type='CIFAR10', data_root=str(tmp_path / 'nowhere'), pipeline=[]),
        dict(type='NoDataset'),
        None,
    ):
        assert shape_of_first_image(run(dataset)) is None
    assert not downloads


def test_nothing_is_read_unless_it_is_needed(images: dict) -> None:
    maps = dict(at=dict(loss=dict(type='AttentionTransferLoss'), features='maps'))
    pooled = dict(rkd=dict(loss=dict(type='RKDLoss'), features='pooled'))
    resized = {**images, 'pipeline': [FILES[0], dict(type='Resize', scale=8), FILES[1]]}
    for dataset, distiller in (
        (images, dict(type='FeatureDistiller', losses=pooled)),
        (images, dict(type='FeatureDistiller', losses=maps, image_shape=(3, 9, 9))),
        (resized, dict(type='FeatureDistiller', losses=maps)),
    ):
        tell_distillers(run(dataset, model=dict(distiller=distiller)), lambda _: pytest.fail('an image is read'))


def test_maps_of_images_of_any_size(images: dict, tmp_path: Path) -> None:
    """A config whose pipeline sets no size is trained, from its file on."""
    network = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='CIFARResNet', depth=8, stem_channels=4, base_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=2, in_channels=16),
    )
    loss = dict(type='L2Loss', normalize=False, div_element=True)
    losses = dict(fitnet=dict(loss=loss, features='map2', student_connector=dict(type='ConvRegressor')))
    model = dict(
        _scope_='mmrazor',
        type='FrozenTeacherDistill',
        architecture=network,
        teacher=network,
        random_teacher=True,
        distiller=dict(type='FeatureDistiller', losses=losses),
    )
    cfg = run(
        images,
        model=model,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_imports=dict(imports=['icd_mmrazor']),
    )
    cfg.train_dataloader.update(batch_size=4, sampler=dict(type='DefaultSampler', shuffle=False))
    cfg.dump(tmp_path / 'run.py')
    arguments = argparse.Namespace(
        config=str(tmp_path / 'run.py'), work_dir=None, cfg_options=None, launcher='none', local_rank=0
    )
    cfg = load_config(arguments)
    assert cfg.model.distiller.image_shape == (3, 20, 28)
    algorithm = MODELS.build(cfg.model)
    dataset = DATASETS.build(images)
    samples = [dataset[i] for i in range(4)]
    batch = torch.stack([sample['inputs'] for sample in samples]).float() / 255
    terms = algorithm.train()(batch, [sample['data_samples'] for sample in samples], mode='loss')
    assert torch.isfinite(terms['distill.loss_fitnet'])
