"""How mmengine runs."""

import pytest
from mmengine.config import Config


def test_a_config_is_formatted_once_and_again_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config(dict(model=dict(type='ICDLoss', alpha=0.5)))
    text = cfg.pretty_text
    assert Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
    with monkeypatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', None)
        assert cfg.pretty_text == Config(cfg.to_dict()).pretty_text == text
    cfg.model.alpha = 0.25
    assert cfg.pretty_text == text.replace('0.5', '0.25')
