"""What configs and checkpoints say of how images are prepared."""

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from icd_mmrazor.models.networks.preparation import (
    Preparation,
    preparation_by,
    preparation_in,
    preparation_of_checkpoint,
    source_of_images,
)

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackInputs')


def config(*pipeline: dict, dataset: str = 'CustomDataset', split: str = 'train', **settings: object) -> dict:
    loader = dict(dataset=dict(type=dataset, pipeline=list(pipeline)))
    return {f'{split}_dataloader': loader, 'model': dict(type='ImageClassifier'), **settings}


@pytest.mark.parametrize(
    ('cfg', 'source'),
    [
        (config(LOAD, PACK), 'BGR'),
        (config(dict(type='mmcv.LoadImageFromFile'), PACK, split='test'), 'BGR'),
        (config(dict(LOAD, color_type='grayscale'), PACK), 'gray'),
        (config(PACK, dataset='mmpretrain.CIFAR10'), 'RGB'),
        (config(PACK, dataset='NPZDataset'), 'NPZDataset'),
        (config(dict(type='LoadFromLMDB'), PACK), 'LoadFromLMDB'),
        (config(LOAD, dict(type='NumpyToPIL', to_rgb=True), dict(type='PILToNumpy', to_bgr=True), PACK), 'BGR'),
        (config(LOAD, dict(type='NumpyToPIL', to_rgb=True), dict(type='PILToNumpy'), PACK), 'RGB'),
        # of mmcls, which normalised there
        (config(LOAD, dict(type='Normalize', to_rgb=True), PACK), None),
        (dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', **config(LOAD)['train_dataloader']))), 'BGR'),
        (dict(data=dict(train=dict(pipeline=[LOAD]))), None),
        (dict(train_dataloader=None), None),
    ],
    ids=str,
)
def test_the_order_in_a_dataset(cfg: dict, source: str | None) -> None:
    assert source_of_images(cfg) == source


@pytest.mark.parametrize('name', ['to_rgb', 'bgr_to_rgb', 'rgb_to_bgr'])
@pytest.mark.parametrize('kind', ['ClsDataPreprocessor', 'SelfSupDataPreprocessor', 'ImgDataPreprocessor'])
def test_a_preprocessor_and_its_config_say_the_same(kind: str, name: str) -> None:
    cfg = dict(type=kind, mean=[123.675] * 3, std=[2.5] * 3, pad_size_divisor=4, pad_value=7)
    if kind == 'ClsDataPreprocessor':
        name = 'to_rgb'
    elif kind == 'ImgDataPreprocessor' and name == 'to_rgb':
        name = 'bgr_to_rgb'
    for settings in (cfg, {**cfg, name: True}):
        found = preparation_by(settings)
        assert found == preparation_by(MODELS.build(dict(settings)))
        mean = torch.tensor(123.675).item()
        assert found == Preparation(kind, name in settings, (mean,) * 3, (2.5,) * 3, (4, 7))
    assert found.normalisation == 'mean [123.68, 123.68, 123.68], std [2.5, 2.5, 2.5], padding to multiples of 4 with 7'


def test_where_a_run_says_it() -> None:
    inner, outer = dict(to_rgb=True), dict(mean=[1.0] * 3, std=[1.0] * 3)
    model = dict(type='FrozenTeacherDistill', architecture=dict(data_preprocessor=inner))
    assert preparation_in(config(LOAD, model=model)).order == 'RGB'
    assert preparation_in(config(LOAD, model=model, data_preprocessor=outer)).order == 'BGR'
    assert (
        preparation_in(config(LOAD, model={**model, 'data_preprocessor': inner}, data_preprocessor=outer)).order
        == 'RGB'
    )
    # mmpretrain's default
    assert preparation_in(config(LOAD)) == Preparation('ClsDataPreprocessor', False, source='BGR')


def test_what_a_checkpoint_says() -> None:
    text = Config(config(LOAD, data_preprocessor=dict(to_rgb=True))).pretty_text
    assert preparation_of_checkpoint({'meta': {'cfg': text}}).order == 'RGB'
    files = 'train_dataloader = dict(dataset=dict(pipeline=[dict(type="LoadImageFromFile")]))'
    hostile = ['import os', 'a = 1', '', 'train_dataloader = dict(dataset=3)']
    hostile.append(f'{files}\nmodel = dict(data_preprocessor=dict(mean="x"))')
    for cfg in (*hostile, None, 3, {}):
        assert preparation_of_checkpoint({'meta': {'cfg': cfg}}) is None
    for meta in (None, [], torch.zeros(2)):
        assert preparation_of_checkpoint({'meta': meta}) is None
    assert preparation_of_checkpoint({}) is None


def test_orders_are_compared() -> None:
    def of(source: str | None, turned: bool, channels: int = 3) -> Preparation:
        return Preparation('ClsDataPreprocessor', turned, (1.0,) * channels, (1.0,) * channels, source=source)

    assert of('BGR', True).has_order_of(of('RGB', False))
    assert of('BGR', True).has_order_of(of('RGB', True)) is False
    assert of(None, True).has_order_of(of('RGB', False)) is False
    assert of('NPZDataset', True).has_order_of(of('NPZDataset', True))
    assert of('NPZDataset', True).has_order_of(of('BGR', True)) is None
    assert of('BGR', True, channels=1).has_order_of(of('BGR', False))
