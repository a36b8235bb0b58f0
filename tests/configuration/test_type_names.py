"""One name for a type, however it is written."""

import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import PretrainedInit
from mmpretrain.engine import EMAHook as MMPretrainEMAHook
from mmpretrain.models import ImageClassifier, ResNet
from mmpretrain.registry import MODELS
from mmrazor.models.architectures.backbones import WideResNet
from mmrazor.registry import sub_model
from torch import nn
from torch.optim import SGD

from icd_mmrazor.configuration.files import read_config_file
from icd_mmrazor.configuration.type_names import by_names, import_for, registered, type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models import FrozenTeacherDistill


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('ResNet', 'ResNet'),
        ('mmpretrain.ResNet', 'ResNet'),
        ('mmpretrain.models.ResNet', 'ResNet'),
        ('mmpretrain.models.backbones.resnet.ResNet', 'ResNet'),
        (ResNet, 'ResNet'),
        (SGD, 'SGD'),
        ('torch.optim.SGD', 'SGD'),
        (PretrainedInit, 'Pretrained'),
        ('mmengine.model.PretrainedInit', 'Pretrained'),
        (sub_model, 'sub_model'),
        ('mmrazor.sub_model', 'sub_model'),
        (Path, 'Path'),
        ('nowhere.at.All', 'All'),
        (None, ''),
        (3, ''),
    ],
)
def test_a_name(kind: object, name: str) -> None:
    assert type_name(kind) == name


def test_a_config_by_names_stays_as_it_is() -> None:
    cfg = Config(dict(model=dict(type='mmpretrain.ResNet', x=[dict(type='torch.no.SuchThing')], y=None, z=(1, 2))))
    assert by_names(cfg) is cfg


def test_a_class_gets_a_name_that_is_found_where_it_is_built() -> None:
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type=FrozenTeacherDistill,
                architecture=dict(type=ImageClassifier, backbone=dict(type=WideResNet), norm=dict(type=nn.BatchNorm2d)),
            ),
            hooks=[dict(type=MMPretrainEMAHook), dict(type=EMAHook)],
            unknown=dict(type=Path),
        )
    )
    named = by_names(cfg)
    assert named.model._scope_ == 'mmrazor'
    assert named.model.type == 'FrozenTeacherDistill'
    assert named.model.architecture == dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(_scope_='mmrazor', type='WideResNet'),
        norm=dict(type='BN'),
    )
    # two classes of one name
    assert named.hooks == [dict(type='EMAHook'), dict(type='mmengine.EMAHook')]
    assert named.unknown.type is Path
    assert named.custom_imports == dict(imports=['icd_mmrazor'])
    assert cfg.model.type is FrozenTeacherDistill


def test_modules_of_a_user_are_imported_by_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'my_styles.py').write_text(
        'from mmpretrain.registry import MODELS\nfrom mmpretrain.models import ResNet\n'
        '@MODELS.register_module(name="OurNet", force=True)\nclass MyNet(ResNet):\n    pass\n'
        'def shuffle(x):\n    return x\n'
    )
    (tmp_path / 'cfg.py').write_text(
        'from my_styles import MyNet, shuffle\nimport my_styles\n'
        'model = dict(type=MyNet, again=dict(type=my_styles.MyNet), function=shuffle)\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        cfg = read_config_file(tmp_path / 'cfg.py')
        assert cfg.to_dict() == dict(
            model=dict(_scope_='mmpretrain', type='OurNet', again=dict(type='OurNet'), function='my_styles.shuffle'),
            custom_imports=dict(imports=['my_styles']),
        )
        assert cfg.model.function('x') == 'x'
        assert cfg.filename == str(tmp_path / 'cfg.py')
        (tmp_path / 'bad.py').write_text('from my_styles import Nothing\nmodel = dict(type=Nothing)\n')
        with pytest.raises(SettingError, match=r'bad\.py.*my_styles'):
            read_config_file(tmp_path / 'bad.py')
    finally:
        MODELS.module_dict.pop('OurNet')
        sys.modules.pop('my_styles')


def test_names_are_looked_up_in_a_scope() -> None:
    assert registered('EMAHook', 'mmpretrain') == [MMPretrainEMAHook]
    assert registered('EMAHook', 'mmrazor') == registered('mmengine.EMAHook') == [EMAHook]
    assert registered('ImageClassifier', 'mmrazor') == []
    assert registered('ImageClassifier', 'icd_mmrazor') == [ImageClassifier]
    assert registered('torch.optim.SGD') == [SGD]
    assert registered('os.system') == registered('no_such_module.X') == registered('') == []


def test_what_has_to_be_imported() -> None:
    assert [import_for(each) for each in (ResNet, SGD, WideResNet)] == ['', '', 'icd_mmrazor']
    # transforms of torchvision are registered as partial functions of mmpretrain's
    assert import_for(registered('torchvision/Normalize')[0]) == ''
