"""Configs as text."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config

from icd_mmrazor.workflow.config_text import WIDTH, Expression, as_code, config_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(st.sampled_from(['type', 'a', 'for', 'b-c', '0.weight', 'long_name' * 3]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(value=VALUES, used=st.integers(0, 60), indent=st.integers(0, 8))
@settings(max_examples=200, deadline=None)
def test_code_is_the_value(value: Any, used: int, indent: int) -> None:
    code = as_code(value, used, indent)
    assert eval(code) == value
    assert type(eval(code)) is type(value)


def test_a_config_is_readable_and_loads(tmp_path: Path) -> None:
    (tmp_path / 'base.py').write_text('model = dict(type="A")\nsize = 3\n')
    loader = dict(batch_size=4, dataset=dict(data_root='/Käse und "Brot"/it\'s', type='CustomDataset', n=(1,)))
    own = dict(
        model=dict(inner=Expression("_base_.pop('model')"), type='B'),
        train_dataloader=loader,
        val_dataloader=Expression('train_dataloader'),
    )
    text = config_text('What it is', ['./base.py'], own, ['del _base_.size'])
    assert text.startswith("# What it is\n_base_ = ['./base.py']\ndel _base_.size\nmodel = dict(type='B', inner=")
    assert max(map(len, text.splitlines())) <= WIDTH
    (tmp_path / 'config.py').write_text(text, encoding='utf-8')
    cfg = Config.fromfile(tmp_path / 'config.py')
    assert cfg.to_dict() == dict(
        model=dict(inner=dict(type='A'), type='B'), train_dataloader=loader, val_dataloader=loader
    )


@pytest.mark.parametrize('long', ['x' * 200, ['x' * 30] * 5])
def test_what_is_long_is_broken_into_lines(long: Any) -> None:
    code = as_code(dict(type='A', long=long, short=1))
    assert code.splitlines()[0] == 'dict('
    assert code.splitlines()[1] == "    type='A',"
