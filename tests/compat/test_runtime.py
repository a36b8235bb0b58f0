"""How runs behave: memory layouts that torch gets wrong, errors about images, stored configs."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import ROOT, run_python
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmpretrain.registry import DATASETS
from torch import nn

from icd_mmrazor.compat import layout
from icd_mmrazor.errors import DatasetError


def test_convolutions_that_torch_computes_wrongly_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    for convolution, sound in (
        (nn.Conv2d(4, 8, 1, stride=2), False),
        (nn.Conv2d(8, 8, 1, stride=2), False),
        (nn.Conv2d(15, 8, 1, stride=(1, 2)), False),
        (nn.Conv2d(16, 8, 1, stride=2), True),
        (nn.Conv2d(4, 8, 1), True),
        (nn.Conv2d(4, 8, 3, stride=2), True),
    ):
        monkeypatch.setattr(layout, 'get_device', lambda: 'cpu')
        assert layout.channels_last_is_sound(nn.ReLU(), nn.Sequential(convolution)) is sound
        monkeypatch.setattr(layout, 'get_device', lambda: 'cuda')
        assert layout.channels_last_is_sound(convolution)


@pytest.mark.slow
def test_narrow_strided_convolutions_are_trained_rightly_on_this_cpu() -> None:
    """In a process that would die of it, in the layout that is taken for them; threads as they come."""
    threads = {'OMP_NUM_THREADS': '2'}
    process = run_python(ROOT / 'tests' / 'support' / 'narrow_convolutions.py', PYTHONPATH=str(ROOT), **threads)
    assert process.returncode == 0, f'{process.returncode} {process.stdout} {process.stderr}'
    assert process.stdout.split() == ['4', '8', '12', '15', '16', '24']


@pytest.mark.skipif(torch.cuda.is_available(), reason='a graph for a GPU is laid out soundly')
def test_a_compiled_graph_keeps_the_layout(
    monkeypatch: pytest.MonkeyPatch, demo_config: Callable, runner: Callable
) -> None:
    """Inductor lays convolutions channels last on a CPU."""
    config = importlib.import_module('torch._inductor.config')
    monkeypatch.setattr(torch, 'compile', lambda function, **_: function)
    for stride, changed in ((2, True), (1, False)):
        config.layout_optimization = True
        try:
            layout.keep_layout_when_compiled(nn.Conv2d(8, 8, 1, stride=stride))
            assert config.layout_optimization is not changed
        finally:
            config.layout_optimization = True
    monkeypatch.setattr(layout, 'channels_last_is_sound', lambda _: False)
    run = runner(demo_config(compile=True))
    try:
        run._maybe_compile('train_step')
        assert config.layout_optimization is False
    finally:
        config.layout_optimization = True


@pytest.mark.parametrize(
    ('files', 'settings', 'message'),
    [
        ([], {}, 'Found: there is no such folder. Expected: a folder for each class with its images: .*/CLASS/IMAGE'),
        (['1.png', '2.png'], {}, 'Found: it holds 1.png, 2.png. Expected: a folder for each class'),
        (['cat/readme.txt'], {}, 'Found: it holds cat/. Expected: a folder for each class'),
        (['cat/1.png'], {'ann_file': 'labels.txt'}, 'labels.txt.*Expected: lines "IMAGE LABEL" in .*labels.txt'),
        (['cat/1.png'], {'classes': ['cat', 'dog']}, "doesn't match the number of specified classes"),
    ],
    ids=['absent', 'flat', 'no images', 'no annotations', 'classes'],
)
def test_a_folder_of_images_of_another_layout_is_explained(
    files: list[str], settings: dict, message: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'images' / name).touch()
    with pytest.raises(DatasetError, match=message):
        DATASETS.build(dict(type='CustomDataset', data_root=str(tmp_path / 'images'), pipeline=[], **settings))


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(os, 'scandir', deny)
    monkeypatch.setattr(Path, 'iterdir', deny)
    with pytest.raises(DatasetError, match=r'Found: it cannot be read \(Permission denied\)') as raised:
        DATASETS.build(dict(type='CustomDataset', data_root=str(tmp_path), pipeline=[]))
    assert isinstance(raised.value, PermissionError)


def test_an_image_is_named_by_an_error_of_the_original_class(tmp_path: Path) -> None:
    for content, kind in ((None, FileNotFoundError), (b'no image', AssertionError)):
        if content:
            (tmp_path / 'image.png').write_bytes(content)
        with pytest.raises(DatasetError, match=r'image\.png') as raised:
            LoadImageFromFile().transform({'img_path': str(tmp_path / 'image.png')})
        assert isinstance(raised.value, kind)


def test_a_config_is_formatted_once_and_again_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config(dict(model=dict(type='ICDLoss', alpha=0.5)))
    text = cfg.pretty_text
    assert Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
    with monkeypatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', None)
        assert cfg.pretty_text == Config(cfg.to_dict()).pretty_text == text
    cfg.model.alpha = 0.25
    assert cfg.pretty_text == text.replace('0.5', '0.25')
