"""CTKD against golden numbers of the published code, slow rewrites, and how its temperature is trained."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DATA
from logit_cases import TOLERANCES, Golden, cases, kl, logits, softmax
from mmengine.config import Config
from mmengine.runner import Runner
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.ctkd_loss import CTKDDKDLoss, CTKDLoss

CLASSES = {'CTKD': CTKDLoss, 'CTKD_DKD': CTKDDKDLoss}
SETTINGS = dict(t_start='t_start', t_end='t_end')


def told(loss: CTKDLoss, epoch: int = 10, theta: float = 1.0) -> CTKDLoss:
    """Return a loss in an epoch, counted from 1, with a value of theta."""
    loss.set_progress(epoch - 1, 0)
    loss.theta.data.fill_(theta)
    return loss


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize(('method', 'case'), [(method, case) for method in CLASSES for case in cases('ctkd', method)])
def test_golden_numbers(method: str, case: str, dtype: torch.dtype) -> None:
    golden = Golden('ctkd', case, method, dtype)
    settings = golden.settings(**SETTINGS, **(dict(alpha='alpha', beta='beta') if method == 'CTKD_DKD' else {}))
    epochs = golden.settings(epoch='epoch', ramp='decay_loops', factor='factor')
    loss = CLASSES[method](**settings, ramp_epochs=int(epochs['ramp'])).to(dtype)
    told(loss, int(epochs['epoch']), golden.input('theta').item())
    assert loss.factor.item() == pytest.approx(epochs['factor'], rel=1e-12 if dtype == torch.float64 else 1e-6)
    labels = (golden.labels,) if method == 'CTKD_DKD' else ()
    value = loss(golden.student, golden.teacher, *labels)
    golden.check(value, {'theta': loss.theta}, atol=None if dtype == torch.float64 else 1e-6)
    tau = golden.settings(tau='temperature')['tau']
    assert loss.terms['tau'].item() == pytest.approx(tau, rel=1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize('ramp', [10, 5])
def test_the_strength_over_the_epochs_is_that_of_the_release(ramp: int) -> None:
    arrays = np.load(DATA / 'ctkd_loss_vectors.npz')
    loss = CTKDLoss(ramp_epochs=ramp).double()
    for epoch, factor in zip(arrays['schedule/epoch'], arrays[f'schedule/factor_{ramp}'], strict=True):
        loss.set_progress(int(epoch) - 1, iteration=12345)
        assert loss.factor.item() == pytest.approx(float(factor), rel=1e-12), epoch


def slow(student: Tensor, teacher: Tensor, labels: list[int] | None, theta: float) -> float:
    """Return the loss, on DKD with weights 1 and 2 if there are labels, number by number."""
    tau, total = 1 + 20 / (1 + math.exp(-theta)), 0.0
    for i, rows in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        s, t = ([x / tau for x in row] for row in rows)
        if labels is None:
            total += kl(softmax(t), softmax(s))
            continue
        k = labels[i]
        two = [[p[k], math.fsum(p[:k] + p[k + 1 :])] for p in map(softmax, (t, s))]
        others = [softmax(row[:k] + row[k + 1 :]) for row in (t, s)]
        total += kl(*two) + 2 * kl(*others)
    return tau**2 * total / len(student)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('theta', [-3.0, 1.0, 6.0])
@pytest.mark.parametrize('on_dkd', [False, True])
def test_equals_a_slow_rewrite(on_dkd: bool, theta: float, dtype: torch.dtype) -> None:
    for images, classes in ((1, 3), (5, 7), (3, 100)):
        student, teacher, labels = logits(dtype, images, classes)
        loss = told((CTKDDKDLoss if on_dkd else CTKDLoss)(loss_weight=3.0), theta=theta)
        if dtype == torch.float64:
            loss.double()
        got = loss(student, teacher, *([torch.tensor(labels)] if on_dkd else [])).item()
        want = 3 * slow(student, teacher, labels if on_dkd else None, theta)
        assert got == pytest.approx(want, rel=1e-10 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize('epoch', [1, 5, 10, 200])
def test_the_gradient_of_theta_is_that_of_the_slow_rewrite_times_the_factor(epoch: int) -> None:
    student, teacher, labels = logits(torch.float64)
    student.requires_grad_()
    step, factor = 1e-5, (math.cos(math.pi * min(epoch, 10) / 10) - 1) / 2
    for loss, given in ((CTKDLoss(), None), (CTKDDKDLoss(), labels)):
        told(loss.double(), epoch, theta=-1.0)
        loss(student, teacher, *([torch.tensor(labels)] if given else [])).backward()
        slope = (slow(student, teacher, given, -1 + step) - slow(student, teacher, given, -1 - step)) / (2 * step)
        assert loss.theta.grad.item() == pytest.approx(factor * slope, rel=1e-6)


def test_descent_raises_the_loss_by_theta_alone() -> None:
    """In plain gradient descent, whichever way the temperature has to go."""
    student, teacher, _ = logits(torch.float64)
    for theta in (-2.0, 1.0):
        loss = told(CTKDLoss().double(), theta=theta)
        before = loss(student, teacher)
        before.backward()
        loss.theta.data -= 0.1 * loss.theta.grad
        assert loss(student, teacher) > before


def test_float32_loses_nothing_where_the_derivative_cancels() -> None:
    """At a high temperature: computed in float32, the derivative would be off by a part of itself."""
    student, teacher, labels = logits(torch.float64, 64, 100)
    for cls, given in ((CTKDLoss, ()), (CTKDDKDLoss, (torch.tensor(labels),))):
        gradients = []
        for dtype in (torch.float64, torch.float32):
            loss = told(cls().to(dtype), theta=5.0)
            loss(student.float().to(dtype), teacher.float().to(dtype), *given).backward()
            gradients.append(loss.theta.grad.item())
        assert gradients[1] == pytest.approx(gradients[0], rel=1e-6)


def distillation(network: Callable, loss: dict, **settings: object) -> nn.Module:
    cfg = dict(_scope_='mmrazor', type='FrozenTeacherDistill', random_teacher=True, **settings)
    cfg |= dict(architecture=network('res8'), teacher=network('res14'))
    losses = dict(ctkd=dict(loss=loss, features='logits'))
    return MODELS.build(cfg | dict(distiller=dict(type='FeatureDistiller', losses=losses))).train()


@pytest.mark.parametrize('kind', ['CTKDLoss', 'CTKDDKDLoss'])
def test_one_graph_for_all_epochs(kind: str) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    loss = told(MODELS.build(dict(_scope_='mmrazor', type=kind)))
    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    student, teacher, labels = logits(torch.float32)
    given = (student.requires_grad_(), teacher, *([torch.tensor(labels)] if kind == 'CTKDDKDLoss' else []))
    for epoch in (1, 3, 10):
        loss.set_progress(epoch - 1, 0)
        gradients = []
        for each in (compiled, loss):
            gradients.append(torch.autograd.grad(each(*given), [student, loss.theta]))
        for got, want in zip(*gradients, strict=True):
            torch.testing.assert_close(got, want)
    assert len(graphs) == 1


def test_the_distiller_tells_it_the_epoch_and_logs_the_temperature(network: Callable, batch: Callable) -> None:
    model = distillation(network, dict(type='CTKDLoss', loss_weight=0.9))
    with pytest.raises(SettingError, match=r'CTKDLoss: .*epoch.*LossScheduleHook'):
        model.loss(*batch(3))
    model.distiller.set_progress(epoch=4, iteration=100)
    losses = model.loss(*batch(3))
    assert model.distiller.distill_losses['loss_ctkd'].factor == -0.5
    assert losses['distill.ctkd_tau'].item() == pytest.approx(15.62, abs=0.01)
    assert not losses['distill.ctkd_tau'].requires_grad
    total, log = model.parse_losses(losses)
    assert total.item() == pytest.approx((losses['student.loss'] + losses['distill.loss_ctkd']).item())
    assert 'distill.ctkd_tau' in log


def test_theta_is_in_checkpoints_and_its_factor_is_not(tmp_path: Path) -> None:
    loss = told(CTKDLoss(), theta=-0.7)
    torch.save(loss.state_dict(), tmp_path / 'loss.pth')
    stored = torch.load(tmp_path / 'loss.pth', weights_only=True)
    assert {*stored} == {'theta'}
    resumed = CTKDLoss()
    resumed.load_state_dict(stored)
    assert resumed.theta.item() == pytest.approx(-0.7)
    assert CTKDLoss().theta.item() == 1.0


def demo(demo_config: Callable, **options: object) -> Config:
    cfg = demo_config(**options)
    cfg.model.distiller = recipes.compose_distiller(['ctkd'])
    return cfg


@pytest.mark.slow
@pytest.mark.stack
def test_a_run_trains_theta_at_the_strength_of_each_epoch(demo_config: Callable, runner: Callable) -> None:
    cfg = demo(demo_config, **{'train_cfg.max_epochs': 3, 'train_cfg.val_interval': 3})
    run: Runner = runner(cfg)
    loss, factors = run.model.distiller.distill_losses['loss_ctkd'], []
    loss.register_forward_hook(lambda module, *_: factors.append(module.factor.item()))
    run.train()
    want = [(math.cos(math.pi * epoch / 10) - 1) / 2 for epoch in (1, 2, 3)]
    assert factors == pytest.approx(np.repeat(want, len(run.train_dataloader)), rel=1e-6)
    assert loss.theta.item() != 1.0
    group = next(g for g in run.optim_wrapper.param_groups if any(p is loss.theta for p in g['params']))
    # as released
    assert group['weight_decay'] == cfg.optim_wrapper.optimizer.weight_decay > 0


@pytest.mark.slow
@pytest.mark.stack
def test_a_training_that_counts_iterations_is_refused(demo_config: Callable, runner: Callable) -> None:
    cfg = demo(demo_config)
    cfg.train_cfg, cfg.param_scheduler = dict(by_epoch=False, max_iters=2), None
    with pytest.raises(SettingError, match=r'loss_ctkd \(CTKDLoss\).*by_epoch=True'):
        runner(cfg).train()


@pytest.mark.parametrize(
    'setting',
    [
        dict(ramp_epochs=0),
        dict(ramp_epochs=2.5),
        dict(t_start=0),
        dict(t_end=-1),
        dict(t_end=math.inf),
        dict(loss_weight=''),
    ],
    ids=str,
)
def test_bad_settings_are_refused(setting: dict) -> None:
    ((name, value),) = setting.items()
    for cls in CLASSES.values():
        with pytest.raises(SettingError, match=f'{cls.__name__}: {name}={value!r}'):
            cls(**setting)


@pytest.mark.parametrize('setting', [dict(alpha=-1), dict(beta=math.nan)], ids=str)
def test_bad_weights_of_dkd_are_refused(setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(SettingError, match=f'CTKDDKDLoss: {name}={value!r}'):
        CTKDDKDLoss(**setting)


def test_the_published_weights_alone_and_combined() -> None:
    alone, combined = recipes.compose_distiller(['ctkd']), recipes.compose_distiller(['ctkd', 'at'])
    assert (alone['student_loss_weight'], alone['losses'].ctkd.loss.loss_weight) == (0.1, 0.9)
    assert combined['distillers']['ctkd']['losses'].ctkd.loss.loss_weight == 1.0
    of_imagenet = recipes.compose_distiller(['ctkd'], pair='resnet34_resnet18_in1k')
    loss = of_imagenet['losses'].ctkd.loss
    assert (of_imagenet['student_loss_weight'], loss.loss_weight, loss.ramp_epochs) == (1.0, 1.0, 5)
    assert recipes.needs_of('ctkd') == {'logits'}
