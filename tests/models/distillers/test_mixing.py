"""Mixed losses and distillers: every term trains what it should, alone and together."""

from collections.abc import Callable

import pytest
import torch
from helpers import CONFIGS
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.errors import SettingError

EXAMPLES = {
    'icd-rkd_configurable_wrn40-2_wrn16-2_cifar100': {
        'distill.loss_icd',
        'distill.loss_distance',
        'distill.loss_angle',
    },
    'icd-kd-at_wrn40-2_wrn16-2_cifar100': {
        'distill.loss_icd',
        'distill.loss_kd',
        'distill.loss_at1',
        'distill.loss_at2',
        'distill.loss_at3',
    },
    'icd-ofd_wrn40-2_wrn16-2_cifar100': {
        'distill.icd.loss_icd',
        'distill.ofd.loss_1',
        'distill.ofd.loss_2',
        'distill.ofd.loss_3',
    },
}


def build(cfg: dict, checkpoint: str) -> nn.Module:
    cfg.teacher_ckpt = checkpoint
    return MODELS.build(cfg).double()


def gradients(value: torch.Tensor, parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize('example', EXAMPLES)
def test_example_trains_with_the_gradient_of_every_term(example: str, teacher_file: Callable, batch: Callable) -> None:
    cfg = Config.fromfile(CONFIGS / 'mixed' / f'{example}.py').model
    algorithm = build(cfg, teacher_file('wrn40-2', 100)).train()
    images, samples = batch(8, 100)
    losses = algorithm(images.double(), samples, mode='loss')
    terms = {name for name in losses if 'loss' in name}
    assert terms == {'student.loss'} | EXAMPLES[example]

    names, parameters = zip(*algorithm.named_parameters(), strict=True)
    total, _ = algorithm.parse_losses(losses)
    together = gradients(total, list(parameters))
    summed = [torch.zeros_like(p) for p in parameters]
    for term in sorted(terms):
        of_term = gradients(losses[term], list(parameters))
        reached = {name for name, g in zip(names, of_term, strict=True) if g.abs().max() > 0}
        assert any(name.startswith('architecture.backbone') for name in reached), term
        # what belongs to another distiller or loss stays untouched
        own = 'icd' if term.endswith('loss_icd') else 'ofd' if '.ofd.' in term else 'none'
        others = [name for name in reached if name.startswith('distiller') and own not in name]
        if own == 'icd':
            others = [name for name in others if '.connectors.' not in name]
        assert not others, (term, others)
        assert all(torch.isfinite(g).all() for g in of_term), term
        summed = [a + b for a, b in zip(summed, of_term, strict=True)]
    for name, a, b in zip(names, together, summed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)
    # all that is trained gets a gradient; only ICD's bias gets one of zero
    still = {name for name, g in zip(names, together, strict=True) if g.abs().max() < 1e-14}
    assert all(name.endswith('loss_icd.bias') for name in still), still

    before = [p.detach().clone() for p in parameters]
    OptimWrapper(torch.optim.SGD(parameters, lr=0.1)).update_params(total)
    changed = [name for name, p, old in zip(names, parameters, before, strict=True) if not torch.equal(p, old)]
    assert set(names) - set(changed) <= still


@pytest.mark.slow
def test_mixed_terms_equal_those_of_each_distiller_alone(teacher_file: Callable, batch: Callable) -> None:
    checkpoint, (images, samples) = teacher_file('wrn40-2', 100), batch(8, 100)
    cfg = Config.fromfile(CONFIGS / 'mixed' / 'icd-ofd_wrn40-2_wrn16-2_cifar100.py').model
    mixed = build(cfg, checkpoint)
    weights = mixed.state_dict()
    got = mixed(images.double(), samples, mode='loss')
    for name, distiller in cfg.distiller.distillers.items():
        alone = build(Config({**cfg, 'distiller': distiller}), checkpoint)
        prefix = f'distiller.distillers.{name}.'
        own = {f'distiller.{key[len(prefix) :]}': v for key, v in weights.items() if key.startswith(prefix)}
        student = {key: v for key, v in weights.items() if key.startswith('architecture.')}
        alone.load_state_dict({**student, **own})
        for term, value in alone(images.double(), samples, mode='loss').items():
            mixed_term = term.replace('distill.', f'distill.{name}.')
            assert got[mixed_term].item() == pytest.approx(value.item(), rel=1e-12), term


def test_any_registered_distillers_mix(network: Callable, teacher_file: Callable, batch: Callable) -> None:
    logits = dict(logits=dict(type='ModuleOutputs', source='head.fc'))
    kd = dict(
        type='ConfigurableDistiller',
        student_recorders=logits,
        teacher_recorders=logits,
        distill_losses=dict(loss_kd=dict(type='KLDivergence', tau=4.0)),
        loss_forward_mappings=dict(
            loss_kd=dict(
                preds_S=dict(recorder='logits', from_student=True), preds_T=dict(recorder='logits', from_student=False)
            )
        ),
    )
    algorithm = MODELS.build(
        dict(
            _scope_='mmrazor',
            type='FrozenTeacherDistill',
            architecture=network('res8'),
            teacher=network('res20'),
            teacher_ckpt=teacher_file('res20'),
            distiller=dict(
                type='MixedDistiller', distillers=dict(a=dict(type='ICDDistiller'), b=dict(type='ICDDistiller'), kd=kd)
            ),
        )
    )
    losses = algorithm(*batch(), mode='loss')
    assert {'distill.a.loss_icd', 'distill.b.loss_icd', 'distill.kd.loss_kd'} <= set(losses)
    # their projections are their own
    assert losses['distill.a.loss_icd'] != losses['distill.b.loss_icd']


def test_deliveries_pass_from_the_teacher_to_the_student() -> None:
    delivery = dict(type='MethodOutputs', max_keep_data=1, method_path='mmrazor.models.losses.L2Loss.forward')
    mixed = MODELS.build(
        dict(
            _scope_='mmrazor',
            type='MixedDistiller',
            distillers=dict(
                icd=dict(type='ICDDistiller'),
                delivering=dict(type='ConfigurableDistiller', distill_deliveries=dict(x=delivery)),
            ),
        )
    )
    loss = MODELS.build(dict(_scope_='mmrazor', type='L2Loss'))
    a, b = torch.zeros(2, 3), torch.ones(2, 3)
    mixed.set_deliveries_override(False)
    with mixed.deliveries:
        recorded = loss(a, b)
    mixed.set_deliveries_override(True)
    with mixed.deliveries:
        assert loss(a, a) is recorded


@pytest.mark.parametrize('names', [(), ('my.icd',), ('my_loss',), ('items',)], ids=str)
def test_refuses_names_that_would_mislead(names: tuple[str, ...]) -> None:
    distillers = {name: dict(type='ICDDistiller') for name in names}
    with pytest.raises(SettingError, match='MixedDistiller'):
        MODELS.build(dict(_scope_='mmrazor', type='MixedDistiller', distillers=distillers))
    with pytest.raises(SettingError, match='distillers='):
        MODELS.build(dict(_scope_='mmrazor', type='MixedDistiller', distillers=[dict(type='ICDDistiller')]))
