"""Networks, feature points and converter together: equal to the published networks, written out below.

The rewrite takes the published tensors by their names and uses nothing of ours, mmpretrain's or mmrazor's.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from mmrazor.models.task_modules import RecorderManager
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor.models.networks.features import feature_points
from icd_mmrazor.models.networks.repdistiller import convert

Weights = dict[str, Tensor]


class Features(NamedTuple):
    maps: list[Tensor]
    preactivations: list[Tensor]
    blocks: list[Tensor]
    pooled: Tensor
    logits: Tensor


def conv(w: Weights, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    weight = w[f'{name}.weight']
    return F.conv2d(x, weight, w.get(f'{name}.bias'), stride, padding=weight.shape[-1] // 2, groups=groups)


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (
        w[f'{name}.{part}'].reshape(1, -1, 1, 1) for part in ('running_mean', 'running_var', 'weight', 'bias')
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def shuffle(x: Tensor, groups: int) -> Tensor:
    size = x.shape[1] // groups
    return x[:, [group * size + i for i in range(size) for group in range(groups)]]


def units(w: Weights, stage: str) -> range:
    """Return the numbers of the units of a stage."""
    prefix = f'{stage}.'
    return range(len({name.removeprefix(prefix).split('.')[0] for name in w if name.startswith(prefix)}))


def classified(w: Weights, maps: list, preactivations: list, blocks: list, last: Tensor, classifier: str) -> Features:
    pooled = last.mean((2, 3))
    logits = pooled @ w[f'{classifier}.weight'].T + w[f'{classifier}.bias']
    return Features(maps, preactivations, blocks, pooled, logits)


def resnet(w: Weights, x: Tensor, shortcut: str = 'downsample', classifier: str = 'fc') -> Features:
    x = norm(w, 'bn1', conv(w, 'conv1', x)).relu()
    maps, preactivations, blocks = [x], [], []
    for stage in (f'layer{i}' for i in range(1, 5) if f'layer{i}.0.conv1.weight' in w):
        for unit in units(w, stage):
            name, stride = f'{stage}.{unit}', 2 if unit == 0 and stage != 'layer1' else 1
            if f'{name}.conv3.weight' in w:
                out = norm(w, f'{name}.bn1', conv(w, f'{name}.conv1', x)).relu()
                out = norm(w, f'{name}.bn2', conv(w, f'{name}.conv2', out, stride)).relu()
                out = norm(w, f'{name}.bn3', conv(w, f'{name}.conv3', out))
            else:
                out = norm(w, f'{name}.bn1', conv(w, f'{name}.conv1', x, stride)).relu()
                out = norm(w, f'{name}.bn2', conv(w, f'{name}.conv2', out))
            if f'{name}.{shortcut}.0.weight' in w:
                x = norm(w, f'{name}.{shortcut}.1', conv(w, f'{name}.{shortcut}.0', x, stride))
            before = out + x
            x = before.relu()
            blocks.append(x)
        maps.append(x)
        preactivations.append(before)
    return classified(w, maps, preactivations, blocks, x, classifier)


def resnet50(w: Weights, x: Tensor) -> Features:
    return resnet(w, x, 'shortcut', 'linear')


def wide_resnet(w: Weights, x: Tensor) -> Features:
    x = conv(w, 'conv1', x)
    maps, blocks = [x], []
    for stage in ('block1.layer', 'block2.layer', 'block3.layer'):
        for unit in units(w, stage):
            name, stride = f'{stage}.{unit}', 2 if unit == 0 and stage != 'block1.layer' else 1
            active = norm(w, f'{name}.bn1', x).relu()
            blocks.append(active)
            out = norm(w, f'{name}.bn2', conv(w, f'{name}.conv1', active, stride)).relu()
            out = conv(w, f'{name}.conv2', out)
            if f'{name}.convShortcut.weight' in w:
                x = conv(w, f'{name}.convShortcut', active, stride)
            x = x + out
        maps.append(x)
    norms = ('block2.layer.0.bn1', 'block3.layer.0.bn1', 'bn1')
    preactivations = [norm(w, name, stage) for name, stage in zip(norms, maps[1:], strict=True)]
    last = preactivations[-1].relu()
    # the first is the stem's
    return classified(w, maps, preactivations, [*blocks[1:], last], last, 'fc')


def vgg(w: Weights, x: Tensor) -> Features:
    maps, preactivations, blocks = [], [], []
    for block in range(5):
        for layer in (3 * i for i in range(4) if f'block{block}.{3 * i}.weight' in w):
            before = norm(w, f'block{block}.{layer + 1}', conv(w, f'block{block}.{layer}', x))
            x = before.relu()
            blocks.append(x)
        maps.append(x)
        preactivations.append(before)
        if block < 3:
            x = F.max_pool2d(x, 2)
    return classified(w, maps, preactivations[1:], blocks, x, 'classifier')


def mobilenet_v2(w: Weights, x: Tensor) -> Features:
    x = norm(w, 'conv1.1', conv(w, 'conv1.0', x, 2)).relu()
    outputs, blocks = [x], []
    for stage, stage_stride in enumerate((1, 1, 2, 2, 1, 2, 1)):
        for unit in units(w, f'blocks.{stage}'):
            name, stride = f'blocks.{stage}.{unit}.conv', stage_stride if unit == 0 else 1
            out = norm(w, f'{name}.1', conv(w, f'{name}.0', x)).relu()
            out = norm(w, f'{name}.4', conv(w, f'{name}.3', out, stride, groups=out.shape[1])).relu()
            out = norm(w, f'{name}.7', conv(w, f'{name}.6', out))
            x = x + out if stride == 1 and x.shape == out.shape else out
            blocks.append(x)
        outputs.append(x)
    maps = [outputs[i] for i in (0, 2, 3, 5, 7)]
    x = norm(w, 'conv2.1', conv(w, 'conv2.0', x)).relu()
    return classified(w, maps, maps[1:], blocks, x, 'classifier.0')


def shufflenet_v1(w: Weights, x: Tensor) -> Features:
    x = norm(w, 'bn1', conv(w, 'conv1', x)).relu()
    maps, preactivations, blocks = [x], [], []
    for stage in ('layer1', 'layer2', 'layer3'):
        for unit in units(w, stage):
            name, stride, groups = f'{stage}.{unit}', 2 if unit == 0 else 1, 1 if x.shape[1] == 24 else 3
            out = shuffle(norm(w, f'{name}.bn1', conv(w, f'{name}.conv1', x, groups=groups)).relu(), groups)
            out = norm(w, f'{name}.bn2', conv(w, f'{name}.conv2', out, stride, groups=out.shape[1])).relu()
            out = norm(w, f'{name}.bn3', conv(w, f'{name}.conv3', out, groups=3))
            pooled = F.avg_pool2d(x, 3, stride=2, padding=1)
            before = torch.cat((out, pooled), dim=1) if stride == 2 else out + x
            x = before.relu()
            blocks.append(x)
        maps.append(x)
        preactivations.append(before)
    return classified(w, maps, preactivations, blocks, x, 'linear')


def shufflenet_v2(w: Weights, x: Tensor) -> Features:
    def layer(number: int, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        return norm(w, f'{name}.bn{number}', conv(w, f'{name}.conv{number}', x, stride, groups))

    x = norm(w, 'bn1', conv(w, 'conv1', x)).relu()
    maps, preactivations, blocks = [x], [], []
    for stage in ('layer1', 'layer2', 'layer3'):
        for unit in units(w, stage):
            name, channels = f'{stage}.{unit}', x.shape[1]
            if unit == 0:
                left = layer(2, layer(1, x, stride=2, groups=channels)).relu()
                out = layer(3, x).relu()
                out = layer(5, layer(4, out, stride=2, groups=out.shape[1]))
            else:
                left, right = x[:, : channels // 2], x[:, channels // 2 :]
                out = layer(3, layer(2, layer(1, right).relu(), groups=channels // 2))
            before = torch.cat((left, out), dim=1)
            x = shuffle(torch.cat((left, out.relu()), dim=1), 2)
            blocks.append(x)
        maps.append(x)
        preactivations.append(before)
    x = norm(w, 'bn2', conv(w, 'conv2', x)).relu()
    return classified(w, maps, preactivations, blocks, x, 'linear')


def random_weights(shapes: dict[str, list[int]]) -> Weights:
    """Return seeded tensors of these shapes, with statistics that are not those of a new network."""
    generator = torch.Generator().manual_seed(0)

    def tensor(name: str, shape: list[int]) -> Tensor:
        if name.endswith('num_batches_tracked'):
            return torch.tensor(7)
        if name.endswith('running_var') or (name.endswith('weight') and len(shape) == 1):
            return 0.5 + torch.rand(shape, generator=generator)
        scale = math.sqrt(2 / math.prod(shape[1:])) if name.endswith('weight') else 0.3
        return scale * torch.randn(shape, generator=generator)

    return {name: tensor(name, shape) for name, shape in shapes.items()}


def assert_close(got: Tensor, want: Tensor) -> None:
    assert got.shape == want.shape
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()


@pytest.mark.parametrize(
    ('published', 'ours', 'rewrite'),
    [
        ('resnet20', 'res20', resnet),
        ('resnet8x4', 'res8x4', resnet),
        ('wrn_16_2', 'wrn16-2', wide_resnet),
        *((f'vgg{depth}', f'vgg{depth}', vgg) for depth in (8, 11, 13, 16, 19)),
        ('ResNet50', 'res50', resnet50),
        ('MobileNetV2', 'mobilenetv2', mobilenet_v2),
        ('ShuffleV1', 'shufflenetv1', shufflenet_v1),
        ('ShuffleV2', 'shufflenetv2', shufflenet_v2),
    ],
)
def test_every_feature_is_the_published(
    published: str, ours: str, rewrite: Callable, network: Callable, architectures: dict
) -> None:
    weights = random_weights(architectures[published]['state_dict'])
    images = torch.randn(2, 3, 32, 32, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = rewrite({name: tensor.double() for name, tensor in weights.items()}, images)

    model = MODELS.build(network(ours, 100)).eval()
    converted = convert({'model': weights}, 'file')
    assert converted['meta']['architecture'] == published
    model.load_state_dict(converted['state_dict'], strict=True)
    model.double()
    points = feature_points(model)
    places = {
        **{f'map{i}': point for i, point in enumerate(points.maps)},
        **{f'preactivation{i}': point for i, point in enumerate(points.preactivations)},
        **{f'block{i}': point for i, point in enumerate(points.blocks)},
        'pooled': points.pooled,
        'logits': points.logits,
    }
    recorders = RecorderManager({name: dict(type=f'mmrazor.{p.type}', source=p.source) for name, p in places.items()})
    recorders.initialize(model)
    with recorders, torch.no_grad():
        model(images, mode='tensor')
    got = {name: recorders.get_recorder(name).get_record_data(p.record_idx, p.data_idx) for name, p in places.items()}

    for i, tensor in enumerate(want.maps):
        assert_close(got.pop(f'map{i}'), tensor)
    for i, tensor in enumerate(want.preactivations):
        assert (tensor < 0).any()
        assert_close(got.pop(f'preactivation{i}'), tensor)
    for i, tensor in enumerate(want.blocks):
        assert_close(got.pop(f'block{i}'), tensor)
    assert_close(got.pop('pooled'), want.pooled)
    assert_close(got.pop('logits'), want.logits)
    assert not got
