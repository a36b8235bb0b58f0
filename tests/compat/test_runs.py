"""How mmengine runs."""

import importlib

import pytest
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement


def test_a_config_is_formatted_once_and_anew_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config(dict(model=dict(type='ICDLoss', alpha=0.5)))
    text = cfg.pretty_text
    assert Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
    with monkeypatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', None)
        assert cfg.pretty_text == Config(cfg.to_dict()).pretty_text == text
    cfg.model.alpha = 0.25
    assert cfg.pretty_text == text.replace('0.5', '0.25')


def test_a_model_may_predict_a_dictionary() -> None:
    loops = importlib.import_module('mmengine.runner.loops')
    assert loops._update_losses({'acc': 1}, {}) == ({'acc': 1}, {})
    loss = BaseDataElement(loss={'loss': torch.tensor(2.0)})
    outputs, losses = loops._update_losses([1, loss], {})
    assert outputs == [1]
    assert losses['loss'].mean() == 2
