"""The loss of ONE against the authors' numbers."""

import numpy as np
import pytest
import torch
from helpers import DATA
from torch import Tensor

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.online_ensemble_loss import OnlineEnsembleLoss


@pytest.fixture(scope='module')
def golden() -> dict[str, Tensor]:
    with np.load(DATA / 'one_kl.npz') as arrays:
        return {name: torch.tensor(arrays[name]) for name in arrays.files}


def test_loss_of_the_authors(golden: dict[str, Tensor]) -> None:
    student, ensemble = (golden[name].clone().requires_grad_() for name in ('student', 'ensemble'))
    loss = OnlineEnsembleLoss(tau=3.0)(student, ensemble)
    torch.testing.assert_close(loss, golden['loss'], atol=1e-12, rtol=0)
    loss.backward()
    torch.testing.assert_close(student.grad, golden['grad_student'], atol=1e-12, rtol=0)
    assert ensemble.grad is None


def test_weights_of_the_authors(golden: dict[str, Tensor]) -> None:
    loss = OnlineEnsembleLoss(loss_weight=2.0, weight_schedule=dict(type='RampUp', end=81))
    whole = OnlineEnsembleLoss()(golden['student'], golden['ensemble'])
    for epoch, weight in enumerate(golden['rampup80'].tolist()):
        loss.set_progress(epoch, 0)
        assert loss(golden['student'], golden['ensemble']).item() == pytest.approx(2 * weight * whole.item(), rel=1e-6)
        # the buffer has float32
        assert loss.scheduled_weight.schedule.factor(epoch) == pytest.approx(weight, abs=1e-12)


@pytest.mark.parametrize('settings', [{'tau': 0}, {'loss_weight': -1}, {'weight_schedule': dict(type='RampUp')}])
def test_wrong_settings_are_refused(settings: dict) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        OnlineEnsembleLoss(**settings)
