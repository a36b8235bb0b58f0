"""The plain student of a run's config and checkpoint, and its use in plain mmpretrain."""

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
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmrazor.registry import MODELS

from icd_mmrazor.configuration.stored import config_of, read_config_text
from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.export.student import plain_student, student_checkpoint
from icd_mmrazor.models.networks.student import student_of


def test_the_plain_student_is_the_vanilla_network_and_how_it_is_tested() -> None:
    distillation = Config.fromfile(CONFIGS / 'icd' / 'icd_res32x4_res8x4_cifar100.py')
    vanilla = Config.fromfile(CONFIGS / 'vanilla' / 'res8x4_cifar100.py')
    before = distillation.to_dict()
    plain = plain_student(distillation)
    assert distillation.to_dict() == before
    assert '_scope_' not in plain.model
    assert {'_scope_': 'mmpretrain', **plain.model} == {**vanilla.model, 'data_preprocessor': vanilla.data_preprocessor}
    assert plain.to_dict() == plain_student(vanilla).to_dict()
    assert plain.to_dict() == plain_student(plain).to_dict()
    assert plain.custom_imports == dict(imports=['icd_mmrazor'])
    # 32 x 32, as the training images are cropped
    assert plain.test_dataloader.dataset.pipeline == [dict(type='ImageAsInDataset', size=32), dict(type='PackInputs')]
    assert not {'train_cfg', 'optim_wrapper', 'load_from', 'work_dir', '_base_'} & plain.keys()


def test_a_student_of_mmpretrains_own_parts_needs_mmpretrain_alone() -> None:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=256), dict(type='PackInputs')]
    backbone = dict(
        type='ResNet',
        depth=18,
        pretrained='x.pth',
        checkpoint_path='y.pth',
        init_cfg=[dict(type='Kaiming'), dict(type='Pretrained')],
    )
    plain = plain_student(
        Config(
            dict(
                custom_imports=dict(imports=['icd_mmrazor']),
                data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True),
                model=dict(
                    type='FrozenTeacherDistill',
                    distiller=dict(type='ICDDistiller'),
                    architecture=dict(type='ImageClassifier', pretrained=True, backbone=backbone),
                ),
                val_dataloader=dict(dataset=dict(type='CustomDataset', pipeline=pipeline)),
                val_evaluator=dict(type='Accuracy'),
            )
        )
    )
    assert 'custom_imports' not in plain
    assert plain.model == dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18),
        data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True),
    )
    # a validation set serves where there is no test set; image files are read as they were
    assert plain.test_dataloader.dataset.pipeline == pipeline
    assert plain.test_evaluator == dict(type='Accuracy')


def test_a_student_that_a_file_describes() -> None:
    file = CONFIGS / 'vanilla' / 'res8x4_cifar100.py'
    cfg = Config(dict(model=dict(type='FrozenTeacherDistill', architecture=str(file))))
    assert plain_student(cfg).model == plain_student(Config.fromfile(file)).model


def test_the_student_of_mmrazors_style_is_found() -> None:
    architecture = dict(cfg_path='mmpretrain::resnet/resnet18_8xb16_cifar10.py', pretrained=False)
    student = student_of(Config(dict(model=dict(type='SingleTeacherDistill', architecture=architecture))))
    model = MODELS.build(student)
    assert model.backbone.depth == 18
    # what mmpretrain's config says of the images comes along
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx([125.307, 122.961, 113.8575])


def test_a_checkpoint_with_the_teacher_inside(network: Callable) -> None:
    """mmrazor's own algorithm: its student, in plain form, is the network itself."""
    cfg = Config(
        dict(
            model=dict(
                _scope_='mmrazor',
                type='SingleTeacherDistill',
                architecture={'_scope_': 'mmpretrain', **network('res8')},
                teacher={'_scope_': 'mmpretrain', **network('res14')},
                distiller=dict(type='ConfigurableDistiller'),
            )
        )
    )
    algorithm = MODELS.build(cfg.model)
    meta = dict(cfg=cfg.pretty_text, epoch=3, dataset_meta=dict(classes=list('abcdefghij')), seed=1)
    checkpoint = dict(meta=meta, state_dict=algorithm.half().state_dict(), optimizer={})
    plain = plain_student(config_of(checkpoint, 'x.pth'))
    student = student_checkpoint(checkpoint, plain, 'x.pth')
    assert student.keys() == {'meta', 'state_dict'}
    assert student['meta'] == dict(cfg=plain.pretty_text, epoch=3, dataset_meta=dict(classes=list('abcdefghij')))
    model = MODELS.build(plain.model)
    model.load_state_dict(student['state_dict'], strict=True)
    for name, weight in algorithm.student.state_dict().items():
        kept = student['state_dict'][name]
        assert kept.is_contiguous()
        assert kept.dtype == (torch.float32 if weight.is_floating_point() else weight.dtype)
        assert torch.equal(kept, weight.to(kept.dtype))


def test_bad_input() -> None:
    with pytest.raises(SettingError, match='model'):
        plain_student(Config(dict(a=1, b=2)))
    with pytest.raises(SettingError, match=r"x\.pth .*meta\['cfg'\]"):
        config_of({'state_dict': {}}, 'x.pth')
    odd = dict(meta=dict(epoch='1', dataset_meta='abc'), state_dict={'a': torch.zeros(1)})
    assert student_checkpoint(odd, Config(), 'x.pth')['meta'].keys() == {'cfg'}
    with pytest.raises(CheckpointError, match=r'x\.pth'):
        student_checkpoint({'meta': {}}, Config(), 'x.pth')


def test_infinity_is_written_as_python_reads_it(tmp_path: Path) -> None:
    backbone = dict(type='ResNet', depth=18, note="inf, -inf = 'inf'", inf=[-float('inf'), float('inf'), dict(inf=1)])
    cfg = Config(dict(model=dict(type='ImageClassifier', backbone=backbone)))
    plain = plain_student(cfg)
    (tmp_path / 'student.py').write_text(plain.pretty_text)
    assert Config.fromfile(tmp_path / 'student.py').model.backbone == backbone
    assert read_config_text(plain.pretty_text, 'the text').model.backbone == backbone
    cfg.model.backbone.eps = float('nan')
    with pytest.raises(SettingError, match='is nan'):
        plain_student(cfg)


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
    'cnn1': 'CIFARConvNet',
    'preact18': 'CIFARPreActResNet',
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


@pytest.mark.stack
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
            model = MMPRETRAIN_MODELS.build(cfg.model).eval()
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
