"""When the one command trains a classifier on the teacher."""

from types import SimpleNamespace

import pytest

from icd_mmrazor import recipes
from icd_mmrazor.workflow.networks import Network
from icd_mmrazor.workflow.preparation import _reason_for_probe

FOLDER = SimpleNamespace(classes=('cat', 'dog'))


@pytest.mark.parametrize(
    ('needs', 'classes', 'reason'),
    [
        ({'logits'}, 2, ''),
        ({'logits'}, 5, 'mine compares logits, and this teacher has a classifier of 5 classes'),
        ({'logits'}, None, 'mine compares logits, and this teacher has no classifier'),
        ({'pooled'}, None, ''),
        ({'pooled', 'classifier'}, None, "mine needs the teacher's classifier, and this teacher has none"),
        # of any classes: it is only a map from features
        ({'pooled', 'classifier'}, 5, ''),
    ],
)
def test_reason_for_a_probe(needs: set[str], classes: int | None, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, 'needs_of', lambda _: needs)
    teacher = Network('teacher', {}, 1, classes, None)
    assert _reason_for_probe(SimpleNamespace(methods=['mine']), teacher, FOLDER) == reason
