"""Random configs build and train a step, or are refused with a message."""

import contextlib
import logging
from collections.abc import Iterator

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from strategies import JUNK, changed, distillations, misspelt, places, settings_of
from torch import nn

from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.errors import UserError

pytestmark = pytest.mark.stack


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """Do without a line for each weight that is initialised."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def step(cfg: dict, size: int = 4) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Build a distillation and compute its losses on a batch."""
    with explained_settings():
        model = MODELS.build(cfg).train()
        model.init_weights()
    classes = cfg['architecture']['head']['num_classes'] if isinstance(cfg.get('architecture'), dict) else 2
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    samples = [DataSample().set_gt_label(i % min(classes, 2)) for i in range(size)]
    for i, sample in enumerate(samples):
        sample.set_field(i, 'sample_idx', field_type='metainfo')
    return model, model.loss(images, samples)


@pytest.mark.slow
@settings(max_examples=12)
@given(distillations(), st.integers(2, 6))
def test_valid_configs_train_a_step(cfg: dict, size: int) -> None:
    torch.manual_seed(0)
    model, losses = step(cfg, size)
    loss = sum(value.sum() for name, value in losses.items() if 'loss' in name)
    assert torch.isfinite(loss)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    loss.backward()
    torch.optim.SGD(trained.values(), lr=0.1).step()
    unmoved = [name for name, p in trained.items() if torch.equal(p, before[name])]
    assert not any(name.startswith('architecture.') for name in unmoved), unmoved
    # the bias of a softmax, a temperature at its limit, and what no gradient reaches by design
    assert all('bias' in name or 'log_tau' in name for name in unmoved), unmoved
    assert all(torch.isfinite(p).all() for p in trained.values())


@given(distillations(), st.data())
def test_a_misspelt_name_is_refused_with_the_name(cfg: dict, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(settings_of(cfg)))
    # without it, the error is that a teacher needs weights
    assume(path != ('random_teacher',))
    with pytest.raises(UserError, match=path[-1]):
        step(misspelt(cfg, path))


@given(distillations(), st.data(), JUNK)
def test_any_value_anywhere_is_accepted_or_refused(cfg: dict, data: st.DataObject, junk: object) -> None:
    path = data.draw(st.sampled_from(list(places(cfg))))
    # only our own errors pass
    with contextlib.suppress(UserError):
        _, losses = step(changed(cfg, path, junk))
        assert all(isinstance(value, torch.Tensor) for value in losses.values())
