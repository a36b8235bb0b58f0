"""mmengine's AmpOptimWrapper with the fused optimizers of our tools, on a CPU, where torch's scaler works, too."""

import copy
import functools
from unittest import mock

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from torch import Tensor, nn

WRAPPER = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
CLIPPED = dict(max_norm=0.5)


def built(model: nn.Module, kind: str, optimizer: dict, clip_grad: dict | None) -> OptimWrapper:
    scaler = functools.partial(torch.amp.GradScaler, device='cpu')
    settings = dict(loss_scale=dict(init_scale=2.0**16, growth_interval=2)) if kind == 'AmpOptimWrapper' else {}
    with mock.patch(f'{WRAPPER}.is_cuda_available', return_value=True), mock.patch(f'{WRAPPER}.GradScaler', scaler):
        cfg = dict(type=kind, optimizer=dict(**optimizer, fused=True), clip_grad=clip_grad, **settings)
        return build_optim_wrapper(model, cfg)


def network() -> nn.Module:
    """Return a network with weights channels last in memory, as those of a distillation are."""
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 3)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def loss_of(model: nn.Module, images: Tensor, factor: float = 1.0) -> Tensor:
    return factor * model(images).square().mean()


@pytest.mark.parametrize('clip_grad', [None, CLIPPED], ids=['not clipped', 'clipped'])
@pytest.mark.parametrize('optimizer', [dict(type='SGD', lr=0.1, momentum=0.9), dict(type='AdamW', lr=0.01)], ids=str)
def test_scaled_steps_are_those_without_a_scale(optimizer: dict, clip_grad: dict | None) -> None:
    """The scale is a power of two, so that all but the clipped norm is exact."""
    models = [network() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    plain, scaled = (
        built(model, kind, optimizer, clip_grad)
        for model, kind in zip(models, ('OptimWrapper', 'AmpOptimWrapper'), strict=True)
    )
    assert isinstance(scaled, AmpOptimWrapper)
    for _ in range(6):
        images = torch.randn(8, 2, 5, 5)
        for model, wrapper in zip(models, (plain, scaled), strict=True):
            wrapper.update_params(loss_of(model, images))
    assert scaled.loss_scaler.get_scale() > 2**16
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('clip_grad', [None, CLIPPED], ids=['not clipped', 'clipped'])
def test_a_step_with_infinite_gradients_is_left_out(clip_grad: dict | None) -> None:
    model = nn.Linear(6, 3)
    wrapper = built(model, 'AmpOptimWrapper', dict(type='SGD', lr=0.1, momentum=0.9), clip_grad)
    before, images = [each.detach().clone() for each in model.parameters()], torch.randn(8, 6)
    wrapper.update_params(loss_of(model, images, 1e36))
    assert all(map(torch.equal, before, model.parameters()))
    assert wrapper.loss_scaler.get_scale() == 2**15
    wrapper.update_params(loss_of(model, images))
    assert not any(map(torch.equal, before, model.parameters()))


def test_a_resumed_scaler_has_its_scale() -> None:
    settings = 'AmpOptimWrapper', dict(type='SGD', lr=0.1, momentum=0.9), None
    models = [nn.Linear(6, 3) for _ in range(2)]
    first, second = (built(model, *settings) for model in models)
    for _ in range(3):
        first.update_params(loss_of(models[0], torch.randn(8, 6)))
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    images = torch.randn(8, 6)
    for model, wrapper in zip(models, (first, second), strict=True):
        wrapper.update_params(loss_of(model, images))
    assert second.loss_scaler.get_scale() == first.loss_scaler.get_scale()
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))
