"""Uses that have to work: no labels or several, odd images, several runners, mmrazor's own parts."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import CHANGED, scalars
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from PIL import Image
from torch import Tensor

from icd_mmrazor.errors import DatasetError

PACK = dict(type='PackInputs')
READ = [dict(type='LoadImageFromFile'), PACK]


def state_of(run: Runner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


@pytest.mark.slow
def test_runners_in_one_process_do_not_touch_each_other(
    demo_config: Callable, runner: Callable, tmp_path: Path
) -> None:
    """As in a notebook: the same config, another temperature, the first again; each tested at its end."""
    states, metrics = [], []
    for i, tau in enumerate((4.0, 1.0, 4.0)):
        options = {'model.distiller.kd.tau': tau, 'work_dir': str(tmp_path / f'{i}')}
        run = runner(demo_config('icd-kd_res20_res8_digits', **options))
        run.train()
        metrics.append((run.val(), run.test()))
        states.append(state_of(run))
    torch.testing.assert_close(states[2], states[0], rtol=0, atol=0)
    assert metrics[2] == metrics[0]
    fc = 'architecture.head.fc.weight'
    assert not torch.equal(states[1][fc], states[0][fc])


@pytest.mark.slow
@pytest.mark.parametrize('algorithm', ['FrozenTeacherDistill', 'SingleTeacherDistill'])
def test_mmrazors_loop_validates_both(algorithm: str, demo_config: Callable, runner: Callable) -> None:
    loop = dict(type='mmrazor.SingleTeacherDistillValLoop')
    cfg = demo_config(val_cfg=loop, **{'model.type': f'mmrazor.{algorithm}'})
    run = runner(cfg)
    run.train()
    metrics = [line for line in scalars(cfg) if 'accuracy/top1' in line]
    dataset, preprocess = run.val_dataloader.dataset, run.model.data_preprocessor
    images = torch.stack([dataset[i]['inputs'] for i in range(len(dataset))]).float()
    run.model.eval()
    for name, network in (('accuracy/top1', run.model.architecture), ('teacher.accuracy/top1', run.model.teacher)):
        with torch.no_grad():
            right = network((images - preprocess.mean) / preprocess.std).argmax(1).numpy() == dataset.get_gt_labels()
        assert metrics[-1][name] == pytest.approx(100 * right.mean(), abs=1e-3)


@pytest.mark.slow
def test_frozen_stages_stay(demo_config: Callable, runner: Callable) -> None:
    cfg = demo_config()
    cfg.model.architecture.backbone.frozen_stages = 1
    run = runner(cfg)
    run.model.init_weights()
    before = state_of(run)
    run.train()
    changed = {name for name, tensor in state_of(run).items() if not torch.equal(tensor, before[name])}
    frozen = ('architecture.backbone.conv1', 'architecture.backbone.bn1', 'architecture.backbone.layer1')
    assert not {name for name in changed if name.startswith(frozen)}
    assert 'architecture.backbone.layer2.0.conv1.weight' in changed


@pytest.fixture
def gray_images() -> dict[str, np.ndarray]:
    """Return smooth images, which JPEG keeps, in two classes with names that are not ASCII."""
    rows, columns = np.mgrid[:16, :16]
    return {
        f'{name}/{i}': (60 + 40 * i // 2 + 4 * (rows if name == '0零' else columns)).astype(np.uint8)
        for name in ('0零', '1一 one')
        for i in range(8)
    }


def write(image: np.ndarray, kind: int, folder: Path) -> None:
    """Write a gray image in one of eight ways."""
    picture = Image.fromarray(image)
    if kind == 0:
        picture.convert('RGBA').save(folder / '0 透明.png')
    elif kind == 1:
        picture.convert('RGB').convert('CMYK').save(folder / '1 cmyk.jpg', quality=95)
    elif kind == 2:
        cv2.imencode('.png', image.astype(np.uint16) * 257)[1].tofile(folder / '2 16bit.png')
    elif kind == 3:
        picture.convert('P').save(folder / '3 palette.png')
    elif kind == 4:
        picture.save(folder / '4 GRAY.JPG', quality=95)
    elif kind == 5:
        picture.save(folder / '5.bmp')
    elif kind == 6:
        picture.convert('LA').save(folder / '6 la.png')
    else:
        picture.save(folder / '7.tif')


@pytest.mark.slow
def test_odd_images_are_what_they_show(
    gray_images: dict[str, np.ndarray], demo_config: Callable, runner: Callable, tmp_path: Path
) -> None:
    root = tmp_path / 'odd images'
    for name, image in gray_images.items():
        folder, _, kind = name.partition('/')
        (root / folder).mkdir(parents=True, exist_ok=True)
        write(image, int(kind), root / folder)
    cfg = dict(type='CustomDataset', data_root=str(root), pipeline=READ)
    dataset = DATASETS.build(cfg)
    assert dataset.metainfo['classes'] == ('0零', '1一 one')
    for i, image in enumerate(gray_images.values()):
        shown = dataset[i]['inputs'].int() - torch.from_numpy(image).int()
        assert shown.abs().max() <= 6, dataset.get_data_info(i)['img_path']
    options = {'model.architecture.head.num_classes': 2, 'model.teacher.head.num_classes': 2}
    run_cfg: Config = demo_config(**options)
    run_cfg.model.update(teacher_ckpt=None, random_teacher=True)
    for split in ('train', 'val', 'test'):
        run_cfg[f'{split}_dataloader'].dataset = dict(cfg)
    run = runner(run_cfg)
    run.train()
    assert run.message_hub.get_info('whole_batches')


@pytest.mark.parametrize('size', [0, 300])
def test_an_image_that_is_not_whole_is_named_on_one_line(
    size: int, gray_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / 'a').mkdir()
    write(gray_images['0零/1'], 1, tmp_path / 'a')
    (file,) = (tmp_path / 'a').iterdir()
    file.write_bytes(file.read_bytes()[:size])
    dataset = DATASETS.build(dict(type='CustomDataset', data_root=str(tmp_path), pipeline=READ))
    with pytest.raises(DatasetError, match=r'\Aimage .*1 cmyk\.jpg cannot be read .* Replace it') as info:
        dataset[0]
    assert '\n' not in str(info.value)


@pytest.mark.slow
def test_several_labels_an_image(demo_config: Callable, runner: Callable, tmp_path: Path) -> None:
    """ICD alone with a head for several labels: each image's class, and whether it is even."""
    generator = np.random.default_rng(0)
    entries = []
    for i in range(24):
        cv2.imwrite(str(tmp_path / f'{i}.png'), generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        entries.append({'img_path': f'{i}.png', 'gt_label': [i % 4, 4 + i % 2]})
    names = [*'0123', 'even', 'odd']
    (tmp_path / 'labels.json').write_text(json.dumps({'metainfo': {'classes': names}, 'data_list': entries}))
    dataset = dict(type='MultiLabelDataset', data_root=str(tmp_path), ann_file='labels.json', pipeline=READ)
    cfg = demo_config()
    cfg.val_evaluator = cfg.test_evaluator = dict(type='AveragePrecision')
    cfg.model.update(teacher_ckpt=None, random_teacher=True)
    for network in ('architecture', 'teacher'):
        cfg.model[network].head = dict(type='MultiLabelLinearClsHead', num_classes=6, in_channels=64)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset = dict(dataset)
    run = runner(cfg)
    run.train()
    got = run.val()['multi-label/mAP']
    model, preprocess, data = run.model.eval(), run.model.data_preprocessor, run.val_dataloader.dataset
    images = torch.stack([data[i]['inputs'] for i in range(24)]).float()
    images = images.flip(1) if preprocess.to_rgb else images
    with torch.no_grad():
        scores = model.architecture((images - preprocess.mean) / preprocess.std).numpy()
    precisions = []
    for label in range(6):
        there = np.array([label in entry['gt_label'] for entry in entries])[np.argsort(-scores[:, label])]
        precisions.append((np.cumsum(there) / np.arange(1, 25))[there].mean())
    assert got == pytest.approx(100 * np.mean(precisions), rel=1e-4)


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
