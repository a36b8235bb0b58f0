"""The text of a config is read as mmengine wrote it, and nothing in it runs."""

import sys
from pathlib import Path

import pytest
from helpers import CONFIGS
from mmengine.config import Config

from icd_mmrazor.configuration.stored import MAX_LENGTH, config_of, read_config_text, with_infinity_as_number
from icd_mmrazor.configuration.type_names import registered
from icd_mmrazor.errors import SettingError

# everything that a config can hold, also values that mmengine writes in its own form
ODD = dict(
    none=None,
    numbers=[1, -2, 3.5, -1e-30, float('inf'), -float('inf'), 0x10],
    texts=['', "it's", 'a"b', 'a\nb', 'ä', '#', 'x' * 200],
    nested=((), (1,), [[]], ((1, 2), [3])),
    keys={'not-a-name': dict(a=1), '7': 2, 'b': [{'x y': 3}]},
    by_number={1: 'one', 2: dict(three=3)},
    empty={},
)


@pytest.mark.parametrize('formatted', [True, False], ids=['yapf', 'plain'])
def test_what_mmengine_writes_is_read_back(formatted: bool) -> None:
    cfg = Config(ODD)
    cfg._format_python_code = formatted
    assert read_config_text(cfg.pretty_text, 'it').to_dict() == cfg.to_dict()


def test_a_config_of_ours_is_read_back_without_its_bases() -> None:
    cfg = Config.fromfile(CONFIGS / 'icd' / 'icd-kd_res32x4_res8x4_cifar100.py')
    assert read_config_text(cfg.pretty_text, 'it').to_dict() == cfg.to_dict()


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('import os', "line 1.*'import os'"),
        ("a = 1\nb = open('{file}', 'w')", 'line 2.*open'),
        ("a = __import__('os')", 'line 1'),
        ("a = f'{{open(1)}}'", 'line 1'),
        ('a = 1 + 1', 'line 1'),
        ('a = (1).real', 'line 1'),
        ('a = x', 'line 1'),
        ('a = b"x"', 'line 1'),
        ('a = 1j', 'line 1'),
        ('a = -None', 'line 1'),
        ('a = [x for x in (1, 2)]', 'line 1'),
        ('a = [*(1, 2)]', 'line 1'),
        ('a = b = 1', 'line 1'),
        ('a.b = 1', 'line 1'),
        ('a: int = 1', 'line 1'),
        ('a = dict(**b)', 'line 1'),
        ('a = dict([(1, 2)])', 'line 1'),
        ('a = {{**b}}', 'line 1'),
        ('a = {{[1]: 2}}', 'line 1'),
        # mmengine's writer does not escape keys
        ('a = {{"x\': print(1), \'y": 2}}', "a setting's name"),
        ("a = {{'x\\ny': 2}}", "a setting's name"),
        ('model = dict(trust_remote_code=True)', 'trust_remote_code=True'),
        ('a = [1, 2', 'SyntaxError'),
        ('a = ' + '[' * 60 + ']' * 60, 'nested'),
        ('a = ' + '-' * 100_000 + '1', 'the config'),
        ('a = 1' + '+1' * 100_000, 'the config'),
        ('a = x' + '.y' * 100_000, 'the config'),
        ('a = ' + '[' * 100_000, 'the config'),
        ('a = x' + '()' * 100_000, 'the config'),
        ('filename = 1', 'line 1'),
        ('a = 1' + ' ' * MAX_LENGTH, '1,000,005'),
        ('a = "\0"', 'the config'),
        ("model = dict(type='os.system', command='touch {file}')", "type='os.system'"),
        ("a = [dict(type='mmengine.load', file='x')]", "type='mmengine.load'"),
        ("a = dict(type='mmengine.runner.runner.os.system')", 'os.system'),
        ("model = dict(architecture='{file}.py')", 'architecture='),
        ("model = dict(type='ImageClassifier', deploy_cfg='{file}.py')", 'deploy_cfg='),
        ("a = dict(type='mmrazor.CustomTracer', skipped_methods=['{file}.C.f'])", 'type='),
        ("a = dict(type='MMArchitectureQuant')", 'type='),
        ("model = dict(teacher=dict(cfg_path='mmpretrain::../../{file}.py'))", 'cfg_path='),
        ("model = dict(cfg_path='mmpretrain::../../{file}')", 'cfg_path='),
        # a module is imported by its bare name, too
        ("model = dict(type='antigravity')", "type='antigravity'"),
        ("model = dict(type='ImageClassifier', _scope_='antigravity')", "_scope_='antigravity'"),
        ("optim_wrapper = dict(constructor='os.system')", "constructor='os.system'"),
        ("a = dict(type='TIMMBackbone', norm_layer='antigravity')", "norm_layer='antigravity'"),
        ("a = dict(b=dict(type='FunctionOutputs', source='antigravity.geohash'))", "source='antigravity.geohash'"),
        ("a = dict(type='mmrazor.MethodOutputsRecorder', source='os.x.y')", "source='os.x.y'"),
        ("a = dict(type='FunctionOutputs', func_path='os.getcwd')", "func_path='os.getcwd'"),
        ("default_scope = 'antigravity'", "default_scope='antigravity'"),
        ("data = dict(type='BaseDataset', ann_file='https://x/y.pkl')", 'ann_file='),
        ("data = dict(type='mmpretrain.RefCOCO', split_file='{file}')", 'RefCOCO'),
        ("a = dict(type='torchvision/ConvertImageDtype', dtype='int8 if open(1) else 0')", 'dtype='),
    ],
)
def test_anything_else_is_refused_and_does_not_run(text: str, found: str, tmp_path: Path) -> None:
    file = tmp_path / 'written'
    with pytest.raises(SettingError, match=found) as raised:
        read_config_text(text.format(file=file), 'the config in x.pth')
    assert 'the config in x.pth' in str(raised.value)
    assert 'not run' in str(raised.value)
    assert not file.exists()


def test_classes_are_read_as_their_paths() -> None:
    """mmengine writes those of its pure Python style with quotes, any other without."""
    text = "a = dict(type=torch.optim.sgd.SGD)\nb = [mmengine.hooks.EMAHook]\nc = dict(type='torch.optim.SGD')"
    assert read_config_text(text, 'it').to_dict() == dict(
        a=dict(type='torch.optim.sgd.SGD'), b=['mmengine.hooks.EMAHook'], c=dict(type='torch.optim.SGD')
    )
    for text, found in (
        ('a = dict(type=os.system)', "type='os.system'"),
        ('a = dict(type=torch.load)', "type='torch.load'"),
        ('a = torch.load(1)', 'line 1'),
        ('a = torch', 'line 1'),
    ):
        with pytest.raises(SettingError, match=found):
            read_config_text(text, 'it')
    assert read_config_text("a = dict(dtype='torch.float16')", 'it').a.dtype == 'torch.float16'


def test_registered_types_may_be_named_in_full() -> None:
    of_mmcv = "\nd = dict(type='FunctionOutputs', source='mmcv.cnn.x')\ne = dict(type='ModuleOutputs', source='os.x')"
    assert len(read_config_text(f'a = 1{of_mmcv}', 'it')) == 3
    of_mmrazor = "val_cfg = dict(_scope_='mmrazor', type='SingleTeacherDistillValLoop')"
    assert read_config_text(of_mmrazor, 'it').val_cfg.type == 'SingleTeacherDistillValLoop'
    whole = 'mmpretrain.models.classifiers.image.ImageClassifier'
    text = f"a = dict(type='{whole}')\nb = dict(type='mmpretrain.ResNet')\nc = dict(cfg_path='mmpretrain::resnet/x.py')"
    assert read_config_text(text, 'it').a.type == whole
    assert [cls.__name__ for cls in registered(whole)] == ['ImageClassifier']
    assert registered('mmpretrain.NoSuchNetwork') == registered('NoSuchNetwork') == []


def test_nesting_is_bounded_by_python() -> None:
    assert sys.getrecursionlimit() < 10_000  # mmrazor would lift it to a million


def test_infinity_becomes_a_number() -> None:
    cfg = Config(dict(a=float('inf'), inf=[-float('inf'), 'inf ä'], info='x', b=dict(inf=float('inf'))))
    namespace: dict = {}
    exec(with_infinity_as_number(cfg.pretty_text), namespace)
    assert {key: namespace[key] for key in cfg} == cfg.to_dict()
    assert with_infinity_as_number('a = 1\n') == 'a = 1\n'


def test_a_checkpoint_without_a_config() -> None:
    for checkpoint in ({}, {'meta': {}}, {'meta': 3}, {'meta': {'cfg': ''}}):
        with pytest.raises(SettingError, match=r'x\.pth'):
            config_of(checkpoint, 'x.pth')
