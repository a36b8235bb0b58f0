"""Several teachers as one network, and weights that wait on the CPU."""

import math
from collections.abc import Callable

import pytest
import torch
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.combinations import Combination, select
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble, build_combination
from icd_mmrazor.models.networks.offload import Offload, blocks_of
from icd_mmrazor.models.precision import store_weights_in


@MODELS.register_module(force=True)
class LowestCrossEntropy(Combination):
    """The rule that the docstring of Combination shows."""

    def combine(self, logits: list[Tensor], data_samples: list | None) -> Tensor:
        labels = torch.cat([sample.gt_label for sample in data_samples])
        losses = [nn.functional.cross_entropy(each, labels, reduction='none') for each in logits]
        return select(logits, torch.stack(losses).argmin(0))


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def slow(rule: str, logits: list[list[list[float]]], weights: list[float], labels: list[int]) -> list[list[float]]:
    """Combine the logits of each image in plain Python."""
    shares = [weight / sum(weights) for weight in weights]
    rows = []
    for i, label in enumerate(labels):
        each = [of_teacher[i] for of_teacher in logits]
        if rule == 'mean':
            rows.append([sum(w * z[c] for w, z in zip(shares, each, strict=True)) for c in range(len(each[0]))])
        elif rule == 'probabilities':
            p = [softmax(z) for z in each]
            rows.append([math.log(sum(w * q[c] for w, q in zip(shares, p, strict=True))) for c in range(len(each[0]))])
        elif rule == 'confident':
            best = max(range(len(each)), key=lambda k: max(softmax(each[k])) * shares[k])
            rows.append(each[best])
        else:
            rows.append(max(each, key=lambda z: softmax(z)[label]))
    return rows


@pytest.mark.parametrize('rule', ['mean', 'probabilities', 'confident', 'LowestCrossEntropy'])
@pytest.mark.parametrize('weights', [[1.0, 1.0, 1.0], [2.0, 0.5, 0.0]])
def test_combined_logits_are_those_of_a_slow_rewrite(rule: str, weights: list[float]) -> None:
    logits = [3 * torch.randn(7, 5, dtype=torch.float64) for _ in range(3)]
    labels = [0, 1, 2, 3, 4, 0, 1]
    samples = [DataSample().set_gt_label(label) for label in labels]
    combination = build_combination(rule if rule.islower() else dict(type=rule), weights)
    want = slow(rule, [each.tolist() for each in logits], weights, labels)
    got = combination(logits, samples)
    assert torch.allclose(got, torch.tensor(want, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_half_precision_is_combined_in_float32() -> None:
    logits = [torch.randn(4, 3).bfloat16() for _ in range(2)]
    got = build_combination('mean', [1, 1])(logits)
    assert got.dtype == torch.float32
    assert torch.equal(got, (logits[0].float() + logits[1].float()) / 2)


@pytest.mark.parametrize('combination', ['best', dict(type='LinearProjection'), dict(type='Unknown'), None, 3])
def test_an_unknown_combination_is_refused(combination: object) -> None:
    with pytest.raises(SettingError, match='teacher_combination'):
        build_combination(combination, [1, 1])


@pytest.mark.parametrize('weights', [[1.0, -1.0], [0.0, 0.0], [1.0, math.nan], [1.0, '2']])
def test_weights_out_of_range_are_refused(weights: list) -> None:
    with pytest.raises(SettingError, match='weight'):
        build_combination('mean', weights)


def frozen(cfg: dict) -> nn.Module:
    built = MODELS.build(cfg).requires_grad_(False)
    built.eval()  # some networks of mmpretrain return None
    return built


def networks(network: Callable, *names: str) -> list[nn.Module]:
    return [frozen(network(name)) for name in names]


def test_an_ensemble_returns_and_predicts_what_its_members_do(network: Callable, batch: Callable) -> None:
    images, samples = batch()
    members = networks(network, 'res8', 'res14')
    ensemble = TeacherEnsemble(members, 'mean', [1.0, 3.0]).eval()
    with torch.no_grad():
        want = (members[0](images) + 3 * members[1](images)) / 4
    got = ensemble(images, samples)
    assert torch.allclose(got, want, atol=1e-6)
    scores = torch.stack([sample.pred_score for sample in ensemble(images, samples, mode='predict')])
    assert torch.allclose(scores, want.softmax(1), atol=1e-6)
    assert ensemble.head.num_classes == 10


def test_members_without_common_classes_have_no_combined_logits(network: Callable, batch: Callable) -> None:
    (first,) = networks(network, 'res8')
    second = frozen(network('res14', 7))
    ensemble = TeacherEnsemble([first, second])
    assert ensemble.head is None
    assert '10, 7' in ensemble.why_not_combined
    assert [len(each[0]) for each in ensemble(batch()[0])] == [10, 7]
    with pytest.raises(SettingError, match='10, 7'):
        ensemble(batch()[0], mode='predict')


VIT = dict(
    type='mmpretrain.VisionTransformer',
    arch=dict(embed_dims=16, num_layers=5, num_heads=2, feedforward_channels=32),
    img_size=32,
    patch_size=8,
)


SWIN = dict(
    type='mmpretrain.SwinTransformer',
    arch=dict(embed_dims=8, depths=[2, 2, 6, 2], num_heads=[1, 2, 4, 8]),
    img_size=64,
    window_size=2,
)


@pytest.mark.parametrize(
    ('cfg', 'number', 'kind'),
    [
        (VIT, 5, 'TransformerEncoderLayer'),
        (dict(type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8), 8, 'BasicBlock'),
        (dict(type='mmpretrain.ConvNeXt', arch=dict(depths=[2, 2, 3, 2], channels=[8] * 4)), 9, 'ConvNeXtBlock'),
        (SWIN, 8, 'SwinBlock'),  # two stages of two blocks stay whole, with their downsampling
        (dict(type='mmpretrain.LeNet5'), 0, None),
    ],
)
def test_repeated_blocks_are_found(cfg: dict, number: int, kind: str) -> None:
    network = frozen(cfg)
    blocks = blocks_of(network)
    assert [type(block).__name__ for block in blocks].count(kind) == number
    called = []
    for block in blocks:
        block.register_forward_hook(lambda module, *_: called.append(module))
    network(torch.zeros(1, 1 if not blocks else 3, 64 if cfg is SWIN else 32, 64 if cfg is SWIN else 32))
    assert {*called} == {*blocks}
    inside = [id(module) for block in blocks for module in block.modules()]
    assert len({*inside}) == len(inside)  # none contains another


class _Log:
    """Which parts are on the device, whenever one of them is called."""

    def __init__(self, offload: Offload) -> None:
        self.offload, self.devices, self.order = offload, [], []
        for i, part in enumerate(offload.parts):
            # a hook of ours comes after those of Offload
            part.register_forward_pre_hook(lambda module, _, i=i: self._note(module, i))

    def _note(self, part: nn.Module, i: int) -> None:
        self.order.append(i)
        resident = [number for number, each in enumerate(self.offload.parts) if each in self.offload.resident]
        self.devices.append((resident, {tensor.device.type for tensor in part.parameters()}))


def test_one_block_at_a_time_is_on_the_device() -> None:
    """The device is torch's ``meta``, which computes shapes only: a copy to it, and none back, can be seen anywhere."""
    network = frozen(VIT)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    offload = Offload(network, blocks_of(network))
    offload._apply(lambda tensor: tensor.to('meta'))
    log = _Log(offload)
    inside = {id(p) for part in offload.parts for p in part.parameters()}
    assert {p.device.type for p in network.parameters() if id(p) in inside} == {'cpu'}
    assert {p.device.type for p in network.parameters() if id(p) not in inside} == {'meta'}
    (output,) = network(torch.zeros(2, 3, 32, 32, device='meta'))
    assert output.shape == (2, 16)
    assert output.device.type == 'meta'
    assert log.order == [0, 1, 2, 3, 4]
    assert log.devices == [([i], {'meta'}) for i in range(5)]
    assert offload.resident == []
    for name, tensor in network.state_dict().items():
        if name.startswith('layers.'):
            assert torch.equal(tensor, weights[name]), name


def test_blocks_return_to_the_cpu_after_an_error() -> None:
    network = frozen(VIT)
    offload = Offload(network, blocks_of(network))
    offload._apply(lambda tensor: tensor.to('meta'))
    network.layers[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        network(torch.zeros(2, 3, 32, 32, device='meta'))
    assert {p.device.type for p in network.layers.parameters()} == {'cpu'}


def test_offloaded_blocks_are_cast_where_they_are() -> None:
    network = frozen(VIT)
    offload = Offload(network, blocks_of(network))
    offload._apply(lambda tensor: tensor.double())
    assert {p.dtype for p in network.parameters()} == {torch.float64}
    assert network(torch.zeros(2, 3, 32, 32).double())[0].dtype == torch.float64


@pytest.mark.gpu
@pytest.mark.parametrize('parts', ['blocks', 'network'])
def test_offloaded_weights_use_less_memory_of_a_gpu(parts: str) -> None:
    cfg = dict(VIT, arch=dict(embed_dims=512, num_layers=12, num_heads=8, feedforward_channels=2048))
    network = frozen(cfg)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        (want,) = network(images)
        offload = Offload(network, blocks_of(network) if parts == 'blocks' else [network])
        offload._apply(lambda tensor: tensor.cuda())
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        (got,) = network(images.cuda())
        peak = torch.cuda.max_memory_allocated() - before
    assert torch.allclose(got.cpu(), want, atol=1e-3)
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    assert peak < (0.5 if parts == 'blocks' else 1.5) * size
    assert torch.cuda.memory_allocated() - before < 0.1 * size


def bytes_of(network: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters())


@pytest.mark.parametrize('name', ['res20', 'vit'])
def test_weights_in_half_precision_take_half_the_memory(name: str, network: Callable, batch: Callable) -> None:
    cfg = VIT if name == 'vit' else network(name)['backbone']
    teacher = frozen(cfg)
    images, _ = batch()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        before, (mixed,) = bytes_of(teacher), teacher(images)
        store_weights_in(teacher, torch.bfloat16)
        (got,) = teacher(images)
    assert bytes_of(teacher) < 0.55 * before
    # autocast rounds the same weights to the same precision
    assert torch.allclose(got.float(), mixed.float(), atol=0.02, rtol=0.05)
    assert {p.dtype for p in teacher.parameters() if p.ndim == 1} == {torch.float32}
