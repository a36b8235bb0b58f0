"""Distillation on images without labels, in real runs on a small folder."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import CHANGED
from mmengine.config import Config
from mmengine.runner import Runner

from icd_mmrazor.errors import DatasetError


@pytest.fixture
def folder_config(demo_config: Callable, tmp_path: Path) -> Callable[..., Config]:
    """Return the config of a distillation without the student's own loss: 24 image files, batches of 8."""
    generator = np.random.default_rng(0)
    for i in range(24):
        folder = tmp_path / 'images' / 'abcdefghij'[i % 10]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{i:02}.png'), generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))

    def config(with_label: bool = False, **options: object) -> Config:
        cfg = demo_config(
            'icd-kd_res20_res8_digits',
            **{'model.calculate_student_loss': False, 'train_dataloader.batch_size': 8, 'train_cfg.max_epochs': 2},
        )
        cfg.train_dataloader.dataset = dict(
            type='CustomDataset',
            data_root=str(tmp_path / 'images'),
            with_label=with_label,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='RandomCrop', crop_size=16, padding=2),
                dict(type='PackInputs'),
            ],
        )
        cfg.merge_from_dict(options)
        return cfg

    return config


def weights(run: Runner) -> dict[str, torch.Tensor]:
    return run.model.state_dict()


@pytest.mark.slow
def test_the_labels_of_the_images_make_no_difference(folder_config: Callable, runner: Callable, tmp_path: Path) -> None:
    runs = []
    for name, options in (
        ('labelled', dict(with_label=True)),
        ('unlabelled', {}),
        # a list of files in place of folders
        ('listed', {'train_dataloader.dataset.ann_file': str(tmp_path / 'images.txt')}),
    ):
        cfg = folder_config(**options, work_dir=str(tmp_path / name), **{'train_cfg.max_epochs': 1})
        runs.append(runner(cfg))
        if name == 'unlabelled':
            files = [entry['img_path'] for entry in map(runs[-1].train_dataloader.dataset.get_data_info, range(24))]
            (tmp_path / 'images.txt').write_text('\n'.join(file.split('/images/')[1] for file in files))
        runs[-1].train()
        assert runs[-1].message_hub.get_info('whole_batches')
    for run in runs[1:]:
        torch.testing.assert_close(weights(run), weights(runs[0]), rtol=0, atol=0)
    before = runner(folder_config(work_dir=str(tmp_path / 'new')))
    fc = 'architecture.head.fc.weight'
    assert not torch.equal(weights(before)[fc], weights(runs[0])[fc]), 'KD trains the classifier'


@pytest.mark.slow
def test_one_by_one_and_resumed(folder_config: Callable, runner: Callable, tmp_path: Path) -> None:
    """Images that are prepared one by one, with everything else that our runtime does."""
    options = {'default_hooks.whole_batches.max_memory': 0, 'train_cfg.max_epochs': 2}
    whole = runner(folder_config(**options, work_dir=str(tmp_path / 'whole')))
    whole.train()
    assert whole.message_hub.get_info('whole_batches') is False
    first = runner(folder_config(**{**options, 'train_cfg.max_epochs': 1}, work_dir=str(tmp_path / 'parts')))
    first.train()
    second = runner(folder_config(**options, **CHANGED, work_dir=str(tmp_path / 'parts'), resume=True))
    second.train()
    torch.testing.assert_close(weights(second), weights(whole), rtol=0, atol=0)


@pytest.mark.slow
def test_a_memory_that_needs_classes_says_so(folder_config: Callable, runner: Callable) -> None:
    projection = dict(type='LinearProjection')
    cfg = folder_config()
    cfg.model.distiller = dict(
        type='FeatureDistiller',
        losses=dict(
            crd=dict(
                loss=dict(type='ContrastiveRepresentationLoss', num_negatives=4),
                features='pooled',
                student_connector=projection,
                teacher_connector=projection,
            )
        ),
    )
    cfg.default_hooks.sample_memory = dict(type='SampleMemoryHook')
    message = r'ContrastiveRepresentationLoss needs the class of every training image, but .*CustomDataset'
    with pytest.raises(DatasetError, match=message):
        runner(cfg).train()
