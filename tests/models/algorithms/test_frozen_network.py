"""The teacher's pass: folded, cast and watched by recorders, against the network as it is."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from mmengine.model import BaseModel
from mmrazor.models.task_modules import RecorderManager
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.frozen_network import FrozenNetwork
from icd_mmrazor.models.algorithms.records import make_plain
from icd_mmrazor.models.networks.features import feature_points


def with_statistics(model: nn.Module) -> nn.Module:
    """Give the batch norms statistics and weights as training would."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def recorded(model: nn.Module, run: Callable, images: Tensor) -> list[Tensor]:
    points = feature_points(model)
    found = {}
    for i, point in enumerate((*points.maps, *points.preactivations, points.pooled, points.logits)):
        found[f'r{i}'] = (point, dict(type=f'mmrazor.{point.type}', source=point.source))
    manager = RecorderManager({name: cfg for name, (_, cfg) in found.items()})
    manager.initialize(model)
    with manager, torch.no_grad():
        run(images)
    make_plain(manager.recorders.values())
    return [
        manager.get_recorder(name).get_record_data(point.record_idx, point.data_idx)
        for name, (point, _) in found.items()
    ]


# of each network: how many of its batch norms are left, since something else looks at what they take or give
@pytest.mark.parametrize(
    ('name', 'left'),
    [('res8', 0), ('wrn16-1', 7), ('vgg8', 0), ('mobilenetv2', 0), ('shufflenetv1', 0), ('shufflenetv2', 0)],
)
def test_features_stay_the_same(name: str, left: int, network: Callable) -> None:
    model = with_statistics(MODELS.build(network(name))).double()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    want = recorded(model, lambda x: model(x, mode='tensor'), images)

    frozen = FrozenNetwork(model)
    frozen.prepare(images)
    got = recorded(model, frozen, images)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    norms = [module for module in frozen._prepared.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == left
    # the network itself is as it was
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_single_precision_is_kept_to_1e_5(network: Callable) -> None:
    model = with_statistics(MODELS.build(network('res20')))
    images = torch.randn(4, 3, 32, 32)
    want = recorded(model, lambda x: model(x, mode='tensor'), images)
    frozen = FrozenNetwork(model)
    frozen.prepare(images)
    for a, b in zip(recorded(model, frozen, images), want, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_bfloat16_is_near_and_comes_out_as_float32(network: Callable) -> None:
    model = with_statistics(MODELS.build(network('wrn16-1')))
    images = torch.randn(4, 3, 32, 32)
    want = recorded(model, lambda x: model(x, mode='tensor'), images)
    frozen = FrozenNetwork(model, precision='bf16')
    frozen.prepare(images)
    got = recorded(model, frozen, images)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        assert not torch.equal(a, b)
        assert (a - b).norm() <= 0.03 * b.norm()
    assert frozen._prepared.head.fc.weight.dtype == torch.bfloat16
    assert model.head.fc.weight.dtype == torch.float32


class Tangled(BaseModel):
    """Convolutions with a batch norm behind them that may not be folded, each for a reason of its own."""

    def __init__(self) -> None:
        super().__init__()

        class Standardised(nn.Conv2d):
            def forward(self, x: Tensor) -> Tensor:
                return nn.functional.conv2d(x, self.weight - self.weight.mean(), padding=1)

        self.convs = nn.ModuleDict({name: nn.Conv2d(4, 4, 3, padding=1) for name in ('used', 'twice', 'plain', 'seen')})
        self.convs['other'] = Standardised(4, 4, 3, padding=1, bias=False)
        self.norms = nn.ModuleDict({name: nn.BatchNorm2d(4) for name in self.convs})

    def forward(self, x: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Tensor:
        used = self.convs['used'](x)
        x = self.norms['used'](used) + used
        x = self.convs['twice'](self.norms['twice'](self.convs['twice'](x)))
        for name in ('plain', 'seen', 'other'):
            x = self.norms[name](self.convs[name](x))
        return x


def test_only_what_nothing_else_looks_at_is_folded() -> None:
    model = with_statistics(Tangled())
    images = torch.randn(2, 4, 8, 8)
    want = model(images)
    manager = RecorderManager(dict(seen=dict(type='mmrazor.ModuleOutputs', source='convs.seen')))
    manager.initialize(model)
    with manager:
        model(images)
        seen = manager.get_recorder('seen').get_record_data()
    frozen = FrozenNetwork(model)
    frozen.prepare(images)
    folded = [name for name, norm in frozen._prepared.norms.items() if isinstance(norm, nn.Identity)]
    assert folded == ['plain']
    outputs = []
    model.register_forward_hook(lambda _, __, output: outputs.append(output))  # a later hook is called too
    with manager:
        frozen(images)
        torch.testing.assert_close(manager.get_recorder('seen').get_record_data(), seen)
    torch.testing.assert_close(outputs, [want])


def test_what_is_looked_at_later_is_not_folded_any_more() -> None:
    """A hook on a convolution would see what its batch norm gives, one on the batch norm would see it twice."""
    model = with_statistics(Tangled())
    images = torch.randn(2, 4, 8, 8)
    frozen = FrozenNetwork(model)
    frozen.prepare(images)
    assert isinstance(frozen._prepared.norms['plain'], nn.Identity)
    seen: list[Tensor] = []
    handle = model.norms['plain'].register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0], output)))
    model(images)
    frozen.prepare(images)
    frozen(images)
    torch.testing.assert_close(seen[:2], seen[2:])
    handle.remove()
    frozen.prepare(images)
    assert isinstance(frozen._prepared.norms['plain'], nn.Identity)


class Unwatchable(BaseModel):
    """A convolution whose output is taken twice, once where it is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Tensor:
        x = self.conv(x)
        return self.norm(x) + torch.from_numpy(x.numpy()).relu()


def test_a_fold_that_changes_the_network_is_undone() -> None:
    model = with_statistics(Unwatchable())
    images = torch.randn(4, 3, 8, 8)
    frozen = FrozenNetwork(model.requires_grad_(False))
    with mock.patch('icd_mmrazor.models.algorithms.frozen_network.print_log') as print_log:
        frozen.prepare(images)
    assert 'so they are not folded' in print_log.call_args.args[0]
    torch.testing.assert_close(frozen._prepared(images), model(images), rtol=0, atol=0)


def test_a_norm_of_two_names_stays() -> None:
    model = Tangled()
    model.alias = model.norms['plain']
    with_statistics(model)
    frozen = FrozenNetwork(model)
    frozen.prepare(torch.randn(2, 4, 8, 8))
    assert isinstance(frozen._prepared.alias, nn.BatchNorm2d)
    assert frozen._prepared.alias is frozen._prepared.norms['plain']


def test_what_is_not_folded_is_shared(network: Callable) -> None:
    model = with_statistics(MODELS.build(network('wrn16-1')))
    frozen = FrozenNetwork(model)
    frozen.prepare(torch.randn(2, 3, 32, 32))
    own = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    new = [name for name, weight in frozen._prepared.named_parameters() if id(weight) not in own]
    # in each of the six blocks the first convolution has its norm behind it
    assert len(new) == 2 * 6
    assert all('.conv1.' in name for name in new)


def test_other_weights_are_taken_over(network: Callable) -> None:
    model = with_statistics(MODELS.build(network('res8')))
    other = with_statistics(MODELS.build(network('res8')))
    images = torch.randn(2, 3, 32, 32)
    frozen = FrozenNetwork(model)
    frozen.prepare(images)
    model.load_state_dict(other.state_dict())
    frozen.prepare(images)
    torch.testing.assert_close(frozen._prepared(images), other(images), rtol=1e-4, atol=1e-4)


def test_a_copy_takes_no_earlier_copies_along(network: Callable) -> None:
    """Of a network that is the teacher of several models one after the other."""
    model = with_statistics(MODELS.build(network('res8')))
    for _ in range(3):
        frozen = FrozenNetwork(model)
        frozen.prepare(torch.randn(2, 3, 32, 32))
    assert len(model._load_state_dict_post_hooks) == 3
    assert not frozen._prepared._load_state_dict_post_hooks


def test_networks_get_their_data_samples() -> None:
    class Wanting(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, inputs: dict, data_samples: list, mode: str = 'tensor') -> Tensor:
            self.seen = inputs['img'], data_samples
            return self.weight

    model = Wanting()
    frozen = FrozenNetwork(model)
    frozen.prepare({'img': 1}, ['a'])
    frozen({'img': 1}, ['a'])
    assert frozen._prepared.seen == (1, ['a'])


def test_precisions_that_do_not_exist_are_refused() -> None:
    with pytest.raises(SettingError, match="teacher_precision='int8' must be one of fp32, bf16, fp16"):
        FrozenNetwork(nn.Identity(), precision='int8')
    frozen = FrozenNetwork(nn.Identity(), precision='fp16')
    with pytest.raises(SettingError, match=r'model\.teacher_precision: float16 .* CPU\. Set it to bfloat16'):
        frozen.prepare(torch.zeros(1, 3, 8, 8))


def by_copy(weight: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(weight * 1.5)


def by_data(weight: Tensor) -> None:
    weight.data.mul_(1.5)


def by_new_data(weight: Tensor) -> None:
    weight.data = weight.data * 1.5


@pytest.mark.parametrize('change', [by_copy, by_data, by_new_data])
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_weights_that_change_count(change: Callable, precision: str, network: Callable) -> None:
    model = with_statistics(MODELS.build(network('res8')))
    images = torch.randn(4, 3, 32, 32)
    frozen = FrozenNetwork(model, precision=precision)
    frozen.prepare(images)
    copied = frozen._prepared
    frozen.look_again()
    frozen.prepare(images)
    assert frozen._prepared is copied
    change(model.backbone.conv1.weight)
    if change is not by_copy:  # which torch counts, so that the next pass sees it
        frozen.look_again()
    frozen.prepare(images)
    (got,), (want,) = (logits_of(model, run, images) for run in (frozen, lambda x: model(x, mode='tensor')))
    assert (got - want).abs().max() <= (1e-5 if precision == 'fp32' else 0.05) * want.abs().max()


def logits_of(model: nn.Module, run: Callable, images: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    with torch.no_grad(), model.head.fc.register_forward_hook(lambda *args: seen.append(args[-1].float())):
        run(images)
    return seen


def test_hooks_and_modules_that_come_later_count(network: Callable) -> None:
    model = with_statistics(MODELS.build(network('res8')))
    images = torch.randn(4, 3, 32, 32)
    frozen = FrozenNetwork(model)
    frozen.prepare(images)
    seen: list[Tensor] = []
    model.backbone.bn1.register_forward_hook(lambda *args: seen.append(args[-1].clone()))
    frozen.prepare(images)
    copied = frozen._prepared
    frozen(images)
    with torch.no_grad():
        model(images, mode='tensor')
    torch.testing.assert_close(*seen, rtol=1e-5, atol=1e-5)
    frozen.prepare(images)
    assert frozen._prepared is copied
    model.head.fc = nn.Linear(64, 10)
    frozen.look_again()
    frozen.prepare(images)
    assert frozen._prepared.head.fc is not copied.head.fc
    torch.testing.assert_close(frozen._prepared.head.fc.weight, model.head.fc.weight)
