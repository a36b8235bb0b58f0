"""The plain student of a run's config and checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS
from mmengine.config import Config
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
