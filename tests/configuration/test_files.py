"""A mistake in a config file or in --cfg-options is one message."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config

from icd_mmrazor.configuration.files import apply_cfg_options, check_sections, read_config_file
from icd_mmrazor.errors import SettingError


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a = 1\nmodel = dict(', r"c\.py, line 2: SyntaxError: '\(' was never closed"),
        ('def f():\n    return 1 / 0\n\na = f()', r'c\.py, line 2: ZeroDivisionError: division by zero'),
        ("_base_ = ['other.py']", r'other\.py: FileNotFoundError'),
        ("_base_ = ['mmpretrain::nothing.py']", r'c\.py: ValueError'),
        ("_base_ = ['c.py']", '_base_'),
        ("_base_ = ['d.py']", r'd\.py, line 1: NameError'),
        ('_base_ = 7', r'c\.py: TypeError'),
        ("filename = 'x'", 'filename is reserved'),
        ('import sys\nsys.exit(3)', r'c\.py, line 2: SystemExit: 3'),
        ("custom_imports = dict(imports=['no_such_module'])", 'no_such_module'),
        (b'\x89PNG\r\n\x1a\n\x00', r'c\.py: UnicodeDecodeError'),
    ],
)
def test_a_file_that_cannot_be_read(text: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / 'd.py').write_text('a = b')
    file = tmp_path / 'c.py'
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingError, match=message) as raised:
        read_config_file(file)
    assert str(file) in str(raised.value)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('.', 'is a folder'),
        ('nowhere.py', 'there is no such file'),
        ('x' * 300, 'File name too long'),
        ('~no-such-user/c.py', 'home directory'),
        ('a\0b.py', ''),
    ],
)
def test_a_missing_file(name: str, message: str) -> None:
    with pytest.raises(SettingError, match=f'--config .*{message}'):
        read_config_file(name, '--config')


LOADER = dict(batch_size=1, dataset=dict(type='x'), sampler=dict(type='x'))
SOUND = dict(model=dict(type='x'), train_dataloader=LOADER, train_cfg={}, optim_wrapper={}, pipeline=[dict(type='y')])


def test_a_sound_config() -> None:
    check_sections(Config(SOUND), 'c.py')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(model=3), 'model'),
        (dict(train_dataloder=LOADER), 'train_dataloder.*train_dataloader'),
        (dict(optimizer_wrapper={}), 'optim_wrapper'),
        (dict(train_dataloader=None), 'train_cfg, optim_wrapper.*train_dataloader'),
        (dict(val_dataloader=LOADER, val_cfg={}), 'val_dataloader, val_cfg.*val_evaluator'),
        (dict(train_dataloader=dict(batch_size=1)), 'train_dataloader.*dataset.*sampler'),
        (dict(train_dataloader=[3]), r'train_dataloader=\[3\]'),
        (dict(auto_scale_lr=3), 'auto_scale_lr=3'),
        (dict(load_from=3), 'load_from=3'),
    ],
)
def test_a_config_that_is_not_of_a_run(changes: dict, message: str) -> None:
    with pytest.raises(SettingError, match=f'config c.py.*{message}'):
        check_sections(Config({**SOUND, **changes}), 'c.py')


def test_options() -> None:
    cfg = Config(SOUND)
    apply_cfg_options(cfg, {'model.depth': 3, 'pipeline.0.size': 4, 'randomness.seed': 5})
    assert (cfg.model.depth, cfg.pipeline[0].size, cfg.randomness.seed) == (3, 4, 5)
    for key, message in (
        ('modell.depth', 'model'),
        ('pipeline.7.size', 'a.b.0.c'),
        ('pipeline.x.size', 'a.b.0.c'),
    ):
        with pytest.raises(SettingError, match=f'--cfg-options {re.escape(key)}.*{message}'):
            apply_cfg_options(cfg, {key: 1})
