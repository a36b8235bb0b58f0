"""ICDLoss against golden numbers of the published code, a slow rewrite of its formula, and its properties."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import DATA
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models import ICDLoss, LinearProjection
from icd_mmrazor.models.losses.functional import icd, kd, unit_vectors

CASES = ('default', 'rect', 'tiny', 'single', 'clamped', 'alpha0', 'alpha1')


def golden(case: str) -> dict[str, np.ndarray]:
    arrays = np.load(DATA / 'icd_loss_vectors.npz')
    return {key.partition('/')[2]: arrays[key] for key in arrays.files if key.startswith(f'{case}/')}


def projection(weight: np.ndarray, bias: np.ndarray, dtype: torch.dtype) -> nn.Module:
    module = LinearProjection(weight.shape[1], weight.shape[0]).to(dtype)
    module.linear.weight.data.copy_(torch.from_numpy(weight))
    module.linear.bias.data.copy_(torch.from_numpy(bias))
    return module


def slow_icd(s: Tensor, t: Tensor, tau: float, bias: float) -> tuple[float, float]:
    """Return the contrastive and the invariance term, written as in the paper, number by number."""
    u = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in s.tolist()]
    v = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in t.tolist()]
    size = len(u)
    z = [[tau * sum(a * b for a, b in zip(u[i], v[j], strict=True)) + bias for j in range(size)] for i in range(size)]
    contrastive = invariance = 0.0
    for i in range(size):
        p = [math.exp(z[i][j]) / sum(math.exp(z[i][k]) for k in range(size)) for j in range(size)]
        q = [math.exp(z[j][i]) / sum(math.exp(z[k][i]) for k in range(size)) for j in range(size)]
        contrastive -= math.log(p[i]) / size
        invariance += sum(q[j] * math.log(q[j] / p[j]) for j in range(size)) / size
    return contrastive, invariance


@pytest.mark.parametrize(('dtype', 'bar'), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize('case', CASES)
def test_golden_numbers(case: str, dtype: torch.dtype, bar: float) -> None:
    g = golden(case)
    loss = ICDLoss(float(g['alpha']), float(g['max_tau']), float(g['log_tau']), float(g['bias'])).to(dtype)
    loss.log_tau.data.fill_(float(g['log_tau']))
    loss.bias.data.fill_(float(g['bias']))
    student, teacher = (torch.from_numpy(g[name]).to(dtype).requires_grad_() for name in ('student', 'teacher'))
    to_s, to_t = projection(g['w_s'], g['b_s'], dtype), projection(g['w_t'], g['b_t'], dtype)

    value = loss(to_s(student), to_t(teacher))
    value.backward()

    got = {'loss': value.detach(), 'contrastive': loss.terms['contrastive']}
    if float(g['alpha']):
        got['invariance'] = loss.terms['invariance']
    else:
        assert 'invariance' not in loss.terms
    modules = {'w_s': to_s.linear.weight, 'b_s': to_s.linear.bias, 'w_t': to_t.linear.weight, 'b_t': to_t.linear.bias}
    leaves = {'student': student, 'teacher': teacher, **modules, 'log_tau': loss.log_tau}
    got |= {f'grad_{name}': leaf.grad for name, leaf in leaves.items()}
    for name, tensor in got.items():
        want = g[name]
        scale = np.abs(want).max() or 1.0
        assert np.abs(tensor.double().numpy() - want).max() <= bar * scale, name
    # exactly zero in theory
    assert abs(loss.bias.grad.item()) <= max(bar, 1e-10)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(('size', 'width', 'tau'), [(2, 3, 1.0), (5, 8, 2.0), (9, 4, 10.0)])
def test_equals_a_slow_rewrite(size: int, width: int, tau: float, dtype: torch.dtype) -> None:
    s, t = torch.randn(size, width).to(dtype), torch.randn(size, width).to(dtype)
    loss = ICDLoss(alpha=0.7, init_log_tau=0.0, init_bias=0.3, loss_weight=2.0)
    loss = loss.double() if dtype == torch.float64 else loss
    loss.log_tau.data.fill_(math.log(tau))
    contrastive, invariance = slow_icd(s.double(), t.double(), tau, 0.3)
    # half precision is computed in float32
    bar = dict(rel=1e-9, abs=1e-12) if dtype == torch.float64 else dict(rel=1e-4, abs=1e-5)
    assert loss(s, t).item() == pytest.approx(2.0 * (contrastive + 0.7 * invariance), **bar)
    assert loss.terms['contrastive'].item() == pytest.approx(contrastive, **bar)
    assert loss.terms['invariance'].item() == pytest.approx(invariance, **bar)
    assert loss.terms['tau'].item() == pytest.approx(tau, **bar)


def test_the_formula_needs_no_module() -> None:
    s, t = unit_vectors(torch.randn(5, 4).double()), unit_vectors(torch.randn(5, 4).double())
    got = torch.stack(icd(s, t, tau=2.0, bias=0.3)) / 5
    assert got.tolist() == pytest.approx(slow_icd(s, t, 2.0, 0.3), rel=1e-9)


def kd_of_distiller(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    distiller = MODELS.build(dict(_scope_='mmrazor', type='ICDDistiller', kd=dict(tau=temperature)))
    return distiller.distill_losses['loss_kd'](student, teacher)


@pytest.mark.parametrize('function', [kd, kd_of_distiller])
@pytest.mark.parametrize('case', ['t1', 't4', 't20'])
def test_golden_numbers_of_kd(case: str, function: Callable) -> None:
    g = {key: torch.from_numpy(array) for key, array in np.load(DATA / 'kd_loss_vectors.npz').items()}
    student = g[f'{case}/student'].requires_grad_()
    value = function(student, g[f'{case}/teacher'], float(g[f'{case}/T']))
    value.backward()
    assert value.item() == pytest.approx(g[f'{case}/loss'].item(), rel=1e-10)
    torch.testing.assert_close(student.grad, g[f'{case}/grad_student'], rtol=1e-9, atol=1e-12)


def test_either_term_alone() -> None:
    s, t = torch.randn(5, 4).double(), torch.randn(5, 4).double()
    contrastive, invariance = slow_icd(s, t, math.e, 0.0)
    assert ICDLoss(alpha=0).double()(s, t).item() == pytest.approx(contrastive, rel=1e-12)
    alone = ICDLoss(alpha=0.3, contrastive_weight=0).double()
    assert alone(s, t).item() == pytest.approx(0.3 * invariance, rel=1e-9)
    assert alone.terms['contrastive'].item() == pytest.approx(contrastive, rel=1e-12)


def test_a_fixed_tau_is_not_learned() -> None:
    loss = ICDLoss(init_log_tau=math.log(7), learn_tau=False).double()
    loss(torch.randn(4, 3).double().requires_grad_(), torch.randn(4, 3).double()).backward()
    assert loss.terms['tau'].item() == pytest.approx(7)
    assert loss.log_tau.grad is None
    # a checkpoint of one is one of the other
    assert loss.state_dict().keys() == ICDLoss().state_dict().keys()


def test_order_of_the_images_and_length_of_the_features_do_not_matter() -> None:
    s, t, order = torch.randn(8, 6).double(), torch.randn(8, 6).double(), torch.randperm(8)
    loss = ICDLoss().double()
    assert loss(3.0 * s[order], 0.1 * t[order]).item() == pytest.approx(loss(s, t).item(), rel=1e-12)


def test_views_that_agree_have_no_invariance_term() -> None:
    features = torch.randn(6, 4).double()
    loss = ICDLoss().double()
    loss(features, features)
    assert loss.terms['invariance'].item() == pytest.approx(0.0, abs=1e-15)


def test_tau_is_limited() -> None:
    loss = ICDLoss(max_tau=4.0, init_log_tau=5.0).double()
    loss(torch.randn(4, 3).double(), torch.randn(4, 3).double()).backward()
    assert loss.terms['tau'].item() == 4.0
    assert loss.log_tau.grad.item() == 0.0


def test_batch_of_one_is_zero() -> None:
    s = torch.randn(1, 4, requires_grad=True)
    loss = ICDLoss()
    value = loss(s, torch.randn(1, 4))
    value.backward()
    assert value.item() == 0.0
    for gradient in (s.grad, loss.log_tau.grad, loss.bias.grad):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_gpu_equals_cpu(dtype: torch.dtype) -> None:
    s, t = torch.randn(32, 16).to(dtype), torch.randn(32, 16).to(dtype)
    loss = ICDLoss().to(dtype if dtype == torch.float64 else torch.float32)
    want = loss(s, t).item()
    with torch.autocast('cuda', dtype=torch.float16, enabled=dtype.itemsize == 2):
        got = loss.cuda()(s.cuda(), t.cuda())
    assert got.item() == pytest.approx(want, rel=1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize(
    'setting',
    [
        {'alpha': -0.1},
        {'alpha': math.nan},
        {'max_tau': 0.0},
        {'max_tau': -1.0},
        {'init_log_tau': math.inf},
        {'alpha': None},
        {'loss_weight': 'a'},
        {'contrastive_weight': -1.0},
        {'contrastive_weight': 0, 'alpha': 0},
        {'learn_tau': 0},
        {'gather_distributed': 1},
        {'init_bias': math.inf},
    ],
)
def test_refuses_settings_out_of_range(setting: dict[str, float]) -> None:
    (name, value), *_ = setting.items()
    with pytest.raises(SettingError, match=f'{name}={value!r}'):
        MODELS.build({'_scope_': 'mmrazor', 'type': 'ICDLoss', **setting})


@pytest.mark.parametrize(
    ('s_shape', 't_shape', 'named'),
    [
        ((4, 8), (5, 8), 'batch sizes'),
        ((4, 8), (4, 9), 'widths'),
        ((4, 8, 2, 2), (4, 8, 2, 2), 'matrices'),
        ((0, 8), (0, 8), 'matrices'),
    ],
)
def test_refuses_features_that_do_not_match(s_shape: tuple, t_shape: tuple, named: str) -> None:
    with pytest.raises(SettingError, match=f'ICDLoss .*{named}'):
        ICDLoss()(torch.randn(s_shape), torch.randn(t_shape))


def test_settings_are_printed() -> None:
    assert repr(ICDLoss(0.25)) == 'ICDLoss(alpha=0.25, max_tau=10.0, loss_weight=1.0)'
    assert 'learn_tau=False' in repr(ICDLoss(learn_tau=False))
