"""RRD against golden numbers of the published implementation, a slow rewrite, and properties of its memory."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DATA
from mmengine.runner.checkpoint import load_state_dict
from mmrazor.registry import MODELS

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses import RRDLoss


def test_golden_numbers() -> None:
    arrays = np.load(DATA / 'comparator_loss_vectors.npz')
    golden = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith(('rrd/', 'vec_'))}
    student = golden['vec_student'].requires_grad_()
    s, t = (
        F.linear(feature, golden[f'rrd/embed_{name}.weight'], golden[f'rrd/embed_{name}.bias'])
        for name, feature in (('s', student), ('t', golden['vec_teacher']))
    )
    loss = RRDLoss(memory_size=32, embed_dims=8).double()
    loss.memory.copy_(golden['rrd/queue_before'])
    value = loss(s, t)
    value.backward()
    assert value.item() == pytest.approx(golden['rrd/loss'].item(), rel=1e-8)
    for got, name in ((student.grad, 'rrd/grad_vec_student'), (loss.memory, 'rrd/queue_after')):
        assert (got - golden[name]).abs().max() <= 1e-8 * golden[name].abs().max(), name


FORMS = {'rrd_2024': 'after', 'rrd_2025': 'before'}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('case', ['default', 'small'])
def test_golden_numbers_of_both_published_forms(case: str, form: str) -> None:
    """Several batches, so that the memory is seen before and after it is full."""
    arrays = np.load(DATA / 'contrastive_memories.npz')
    golden = {name.removeprefix(f'{case}/'): torch.from_numpy(arrays[name]) for name in arrays.files if case in name}
    temperatures = {
        f'{role}_temperature': golden[f'{form}/setting/{role}_temperature'].item() for role in ('student', 'teacher')
    }
    size, width = golden['queue'].shape
    loss = RRDLoss(memory_size=size, embed_dims=width, enqueue=FORMS[form], **temperatures).double()
    loss.memory.copy_(golden['queue'])
    steps = 0
    while f'step{steps}/student' in golden:
        leaves = {'student': golden[f'step{steps}/student'].clone()}
        leaves |= {f'embed_s.{name}': golden[f'embed_s.{name}'].clone() for name in ('weight', 'bias')}
        for leaf in leaves.values():
            leaf.requires_grad_()
        s = F.linear(leaves['student'], leaves['embed_s.weight'], leaves['embed_s.bias'])
        t = F.linear(golden[f'step{steps}/teacher'], golden['embed_t.weight'], golden['embed_t.bias'])
        value = loss(s, t)
        value.backward()
        expected = f'{form}/step{steps}'
        assert value.item() == pytest.approx(golden[f'{expected}/loss'].item(), rel=1e-10)
        for name, leaf in leaves.items():
            torch.testing.assert_close(leaf.grad, golden[f'{expected}/grad/{name}'], rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(loss.memory, golden[f'{expected}/buffer_after/queue'], rtol=1e-12, atol=1e-12)
        assert loss.oldest.item() == golden[f'{expected}/buffer_after/queue_ptr'].item()
        steps += 1
    assert steps * len(s) > size


def test_the_benchmark_has_the_form_of_the_published_tables() -> None:
    """And the defaults are the other one, as which a stored config of version 0.1 says neither."""
    arrays = np.load(DATA / 'contrastive_memories.npz')
    preset = recipes.compose('res20_res8_digits', ['rrd']).model.distiller
    made = {'rrd_2024': MODELS.build({'_scope_': 'mmrazor', **preset.losses.rrd.loss}), 'rrd_2025': RRDLoss()}
    for form, loss in made.items():
        settings = [arrays[f'default/{form}/setting/{role}_temperature'].item() for role in ('student', 'teacher')]
        assert [loss.student_temperature, loss.teacher_temperature, loss.enqueue] == [*settings, FORMS[form]]


def slow_rrd(s: list, t: list, memory: list) -> float:
    """Return the loss at the default temperatures, number by number."""
    total = 0.0
    for u, v in zip(s, t, strict=True):
        to_student = [sum(a * b for a, b in zip(u, row, strict=True)) / math.hypot(*u) / 0.1 for row in memory]
        to_teacher = [sum(a * b for a, b in zip(v, row, strict=True)) / math.hypot(*v) / 0.02 for row in memory]
        p, q = (sum(math.exp(z) for z in logits) for logits in (to_student, to_teacher))
        total -= sum(math.exp(y) / q * (x - math.log(p)) for x, y in zip(to_student, to_teacher, strict=True))
    return total / len(s)


@pytest.mark.parametrize('enqueue', ['before', 'after'])
@pytest.mark.parametrize('sizes', [(4, 4, 4), (3, 5, 1, 2, 4), (9, 17, 2)], ids=str)
def test_equals_a_slow_rewrite_over_batches_of_any_size(sizes: tuple[int, ...], enqueue: str) -> None:
    loss = RRDLoss(memory_size=7, embed_dims=5, loss_weight=0.5, enqueue=enqueue).double()
    memory, oldest = loss.memory.tolist(), 0
    for size in sizes:
        s, t = torch.randn(2, size, 5).double()
        compared = memory if enqueue == 'before' else list(memory)
        for row in t.tolist():
            memory[oldest] = [x / math.hypot(*row) for x in row]
            oldest = (oldest + 1) % 7
        assert loss(s, t).item() == pytest.approx(0.5 * slow_rrd(s.tolist(), t.tolist(), compared), rel=1e-10)
        assert torch.allclose(loss.memory, torch.tensor(memory).double(), atol=1e-6)
        assert loss.oldest.item() == oldest


def test_the_memory_starts_with_columns_of_length_one() -> None:
    assert torch.allclose(RRDLoss(memory_size=100, embed_dims=4).memory.square().sum(dim=0), torch.ones(4))


def test_only_the_student_learns() -> None:
    s, t = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
    loss = RRDLoss(memory_size=8, embed_dims=8)
    loss(s, t).backward()
    assert s.grad.abs().sum() > 0
    assert t.grad is None
    assert not loss.memory.requires_grad


@pytest.mark.parametrize('enqueue', ['before', 'after'])
def test_two_batches_before_one_backward_pass(enqueue: str) -> None:
    """As with accumulated gradients."""
    loss = RRDLoss(memory_size=8, embed_dims=8, enqueue=enqueue)
    s, t = torch.randn(2, 4, 8, requires_grad=True), torch.randn(2, 4, 8)
    (loss(s[0], t[0]) + loss(s[1], t[1])).backward()
    assert torch.isfinite(s.grad).all()


def test_a_resumed_loss_continues(tmp_path: Path) -> None:
    loss, resumed = (RRDLoss(memory_size=7, embed_dims=8) for _ in range(2))
    batches = torch.randn(4, 2, 3, 8)
    for batch in batches[:3]:
        loss(*batch)
    torch.save(loss.state_dict(), tmp_path / 'loss.pth')
    load_state_dict(resumed, torch.load(tmp_path / 'loss.pth', weights_only=True), strict=True)
    assert resumed(*batches[3]).item() == loss(*batches[3]).item()
    for name, tensor in loss.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    'setting',
    [
        {'memory_size': 0},
        {'memory_size': 2.5},
        {'student_temperature': 0},
        {'teacher_temperature': -0.02},
        {'teacher_temperature': math.inf},
        {'embed_dims': True},
        {'enqueue': 'first'},
        {'enqueue': True},
        {'loss_weight': math.nan},
    ],
)
def test_refuses_settings_out_of_range(setting: dict) -> None:
    (name, value), *_ = setting.items()
    with pytest.raises(SettingError, match=f'{name}={value!r}'):
        MODELS.build({'_scope_': 'mmrazor', 'type': 'RRDLoss', **setting})
