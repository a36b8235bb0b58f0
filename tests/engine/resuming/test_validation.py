from types import SimpleNamespace
from unittest import mock

from icd_mmrazor.engine.resuming import DueValidation


def test_a_loop_of_another_kind_validates_when_it_likes() -> None:
    """It need not have what mmengine's loops have; test_exact_resume.py has those."""
    run = mock.Mock(epoch=1, train_loop=SimpleNamespace())
    DueValidation().before_train(run)
    assert not run.val_loop.run.called
