"""Exported students run in plain mmpretrain, in a process that does not import this package."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import CONFIGS, SUBNET, run_python, whole_network
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from icd_mmrazor.export.student import plain_student

pytestmark = pytest.mark.stack
PROGRAM = Path(__file__).parents[1] / 'support' / 'exported_students.py'
# one of each family in configs/_base_/models, and the type of its backbone
SHIPPED = {
    'res8': 'CIFARResNet',
    'res8x4': 'CIFARResNet',
    'vgg8': 'CIFARVGG',
    'mobilenetv2': 'CIFARMobileNetV2',
    'shufflenetv1': 'CIFARShuffleNetV1',
    'shufflenetv2': 'CIFARShuffleNetV2',
    'wrn16-1': 'mmrazor.WideResNet',
    'res50': 'ResNet_CIFAR',
}
PREPROCESSOR = dict(num_classes=10, mean=[110.0, 100.0, 90.0], std=[50.0, 60.0, 70.0], to_rgb=True)
GRAY = dict(num_classes=10, mean=[100.0], std=[60.0])
# those of mmpretrain's own parts
ALONE = ['res50', 'timm', 'zoo']


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return an empty folder, and one with a coloured image in each of two classes."""
    images = tmp_path_factory.mktemp('images')
    generator = np.random.default_rng(0)
    for name in ('a', 'b'):
        (images / name).mkdir()
        cv2.imwrite(str(images / name / f'{name}.png'), generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    return tmp_path_factory.mktemp('students'), images


def students(network: Callable[..., dict]) -> dict[str, tuple[dict, dict, dict]]:
    """Return the model, the preprocessor and the settings of the loading transform of each student."""
    pruned = dict(type='sub_model', cfg=whole_network(), fix_subnet=SUBNET, mode='mutator')
    timm = dict(type='TimmClassifier', model_name='resnet10t', num_classes=10)
    narrow = dict(backbone=dict(base_channels=8, stem_channels=8), head=dict(in_channels=64))
    zoo = dict(cfg_path='resnet18_8xb16_cifar10', **narrow)
    return {
        **{name: (network(name), PREPROCESSOR, {}) for name in SHIPPED},
        'timm': (timm, PREPROCESSOR, {}),
        'zoo': (zoo, PREPROCESSOR, {}),
        'pruned': (pruned, PREPROCESSOR, {}),
        'gray': (whole_network(in_channels=1), GRAY, dict(color_type='grayscale')),
    }


def exported(architecture: dict, preprocessor: dict, loading: dict, images: Path) -> Config:
    pipeline = [dict(type='LoadImageFromFile', **loading), dict(type='PackInputs')]
    dataset = dict(type='CustomDataset', data_root=str(images), pipeline=pipeline)
    sampler = dict(type='DefaultSampler', shuffle=False)
    return plain_student(
        Config(
            dict(
                default_scope='mmpretrain',
                model=dict(_scope_='mmrazor', type='FrozenTeacherDistill', architecture=architecture),
                data_preprocessor=preprocessor,
                test_dataloader=dict(batch_size=2, num_workers=0, dataset=dataset, sampler=sampler),
                test_evaluator=dict(type='Accuracy'),
                test_cfg={},
            )
        )
    )


def expected(model: torch.nn.Module, preprocessor: dict, image: Path) -> np.ndarray:
    """Return the scores of an image, read, normalised and run without any of mmpretrain's transforms."""
    pixels = cv2.imread(str(image), cv2.IMREAD_GRAYSCALE if preprocessor is GRAY else cv2.IMREAD_COLOR)
    pixels = np.atleast_3d(pixels)[..., ::-1].astype(np.float32)
    pixels = (pixels - preprocessor['mean']) / preprocessor['std']
    with torch.no_grad():
        logits = model(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None], mode='tensor')
    return logits.softmax(1)[0].numpy()


@pytest.mark.slow
def test_every_family_runs_where_it_is_said_to(network: Callable[..., dict], folders: tuple[Path, Path]) -> None:
    folder, images = folders
    shipped = [Config.fromfile(file).popitem()[1] for file in (CONFIGS / '_base_' / 'models').glob('*.py')]
    assert {each.backbone.type for each in shipped} == set(SHIPPED.values())
    image, wanted = images / 'b' / 'b.png', {}
    for name, (architecture, preprocessor, loading) in students(network).items():
        cfg = exported(architecture, preprocessor, loading, images)
        assert cfg.get('custom_imports') == (None if name in ALONE else dict(imports=['icd_mmrazor'])), name
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(cfg.model).eval()
        content = dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=list('abcdefghij'))))
        torch.save(content, folder / f'{name}.pth')
        (folder / f'{name}.py').write_text(cfg.pretty_text)
        wanted[name] = expected(model, preprocessor, image)
    ended = run_python(PROGRAM, folder, image, *ALONE)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads((folder / 'found.json').read_text())
    assert found.keys() == wanted.keys()
    for name, scores in wanted.items():
        np.testing.assert_allclose(found[name]['scores'], scores, rtol=1e-3, atol=1e-5, err_msg=name)
        assert found[name]['accuracy'] in (0, 50, 100)
