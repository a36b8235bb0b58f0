"""How strongly each term pulls at the student, against gradients taken one by one."""

from collections.abc import Callable

import pytest
import torch
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.models.algorithms.gradient_norms import GradientNorms, measured


@pytest.fixture
def algorithm(network: Callable) -> Callable[..., nn.Module]:
    def build(**distiller: object) -> nn.Module:
        torch.manual_seed(0)
        return MODELS.build(
            dict(
                _scope_='mmrazor',
                type='FrozenTeacherDistill',
                architecture=network('res8'),
                teacher=network('res8'),
                random_teacher=True,
                distiller=distiller,
            )
        ).train()

    return build


def test_norms_at_the_pooled_feature(algorithm: Callable, batch: Callable) -> None:
    icd = algorithm(type='ICDDistiller', kd=dict(tau=4.0))
    images, samples = batch(6)
    losses, norms = measured(icd, lambda: icd.loss(images, samples))
    assert norms.place == "student's pooled feature"
    assert [*norms.norms] == ['student.loss', 'distill.loss_icd', 'distill.loss_kd']

    # each term alone, from a leaf in place of the feature
    feature = icd.architecture.extract_feat(images)[-1].detach().requires_grad_()
    with torch.no_grad():
        t_feature = icd.teacher.extract_feat(images)[-1]
        t_logits = icd.teacher.head.fc(t_feature)
    logits, labels = icd.architecture.head.fc(feature), torch.cat([sample.gt_label for sample in samples])
    connectors, of = icd.distiller.connectors, icd.distiller.distill_losses
    alone = {
        'student.loss': nn.functional.cross_entropy(logits, labels),
        'distill.loss_icd': of['loss_icd'](connectors['icd_student'](feature), connectors['icd_teacher'](t_feature)),
        'distill.loss_kd': of['loss_kd'](logits, t_logits),
    }
    for name, value in alone.items():
        (gradient,) = torch.autograd.grad(value, feature, retain_graph=True)
        assert norms.norms[name] == pytest.approx(gradient.norm().item(), rel=1e-4), name
    # the graph is still there for the step
    icd.parse_losses(losses)[0].backward()


def test_norms_at_the_weights_for_losses_that_do_not_reach_the_feature(algorithm: Callable, batch: Callable) -> None:
    loss = dict(type='AttentionTransferLoss', loss_weight=1000.0)
    at = algorithm(type='FeatureDistiller', losses=dict(at=dict(loss=loss, features='map1')))
    images, samples = batch(6)
    losses, norms = measured(at, lambda: at.loss(images, samples))
    assert norms.place == "student's weights"
    for name in ('student.loss', 'distill.loss_at'):
        at.zero_grad()
        losses[name].backward(retain_graph=True)
        gradients = [p.grad.flatten() for p in at.architecture.parameters() if p.grad is not None]
        assert norms.norms[name] == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-4)


def test_measuring_changes_nothing(algorithm: Callable, batch: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr('icd_mmrazor.models.algorithms.first_batch.print_log', lambda text, **_: logged.append(text))
    images, samples = batch(6)
    states = []
    for reports in (False, True):
        icd = algorithm(type='ICDDistiller')
        icd.reports_gradients = reports
        optimizer = torch.optim.SGD(icd.parameters(), lr=0.1)
        torch.manual_seed(1)
        for _ in range(2):
            optimizer.zero_grad()
            icd.parse_losses(icd(images, samples, mode='loss'))[0].backward()
            optimizer.step()
        states.append([*icd.state_dict().values(), torch.get_rng_state()])
        assert len(logged) == reports
    assert 'in the first batch' in logged[0]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_later_batches_return_the_norms_for_the_log(algorithm: Callable, batch: Callable) -> None:
    icd = algorithm(type='ICDDistiller', kd=dict(tau=4.0))
    images, samples = batch(6)
    icd.reports_gradients = True
    first = icd(images, samples, mode='loss')
    later = icd(images, samples, mode='loss')
    added = {name: value.item() for name, value in later.items() if name not in first}
    norms = measured(icd, lambda: icd._loss(images, samples, None))[1].norms
    task = norms['student.loss']
    assert added == {
        'gradient.icd': pytest.approx(norms['distill.loss_icd'] / task, rel=1e-4),
        'gradient.kd': pytest.approx(norms['distill.loss_kd'] / task, rel=1e-4),
    }
    # mmengine adds up what has "loss" in its name
    total, _ = icd.parse_losses(later)
    assert total.item() == pytest.approx(sum(value.item() for name, value in first.items() if 'loss' in name), rel=1e-4)


def test_in_words() -> None:
    norms = GradientNorms("student's weights", {'student.loss': 0.05, 'distill.loss_kd': 0.1})
    assert str(norms).endswith('student.loss 0.05, distill.loss_kd 2 x')
    assert 'loss_kd 0.1' in str(norms._replace(norms={'student.loss': 0.0, 'distill.loss_kd': 0.1}))
