"""The features of backbones other than those of timm."""

from collections.abc import Iterable

from mmcv.cnn import ConvModule
from mmpretrain.models.backbones import (
    VGG,
    BEiTViT,
    ConvNeXt,
    DenseNet,
    EfficientNet,
    EfficientNetV2,
    MobileNetV2,
    MobileNetV3,
    RepVGG,
    ResNet,
    ShuffleNetV1,
    SwinTransformer,
    SwinTransformerV2,
    VisionTransformer,
)
from mmrazor.models.architectures.backbones import WideResNet
from torch import nn

from icd_mmrazor.models.backbones import CIFARConvNet, CIFARPreActResNet, CIFARShuffleNetV2
from icd_mmrazor.models.networks.layouts import Layout
from icd_mmrazor.models.networks.points import Point, evenly_spaced, input_of, output_of, points_of_backbone

LAST_CALL = -1
# of a transformer without stages
GROUPS = 4


@points_of_backbone.register
def _resnet(backbone: ResNet) -> tuple[list[Point], ...]:
    stem = 'stem' if backbone.deep_stem else 'relu'
    # one module for all activations of a block
    last_relus = [f'{name}.{len(getattr(backbone, name)) - 1}.relu' for name in backbone.res_layers]
    maps = [output_of(name) for name in (stem, *backbone.res_layers)]
    return maps, [input_of(name, LAST_CALL) for name in last_relus], _in_stages(backbone, backbone.res_layers)


@points_of_backbone.register
def _wide_resnet(backbone: WideResNet) -> tuple[list[Point], ...]:
    maps = [output_of(name) for name in ('conv1', *backbone.res_layers)]
    next_norms = [f'{name}.0.bn1' for name in backbone.res_layers[1:]]
    # a block ends in a sum, which the next one, or the end of the network, normalises and activates first
    units = [point.source for point in _in_stages(backbone, backbone.res_layers)]
    activations = [*(f'{name}.relu1' for name in units[1:]), 'relu']
    return maps, [output_of(name) for name in (*next_norms, 'bn1')], [output_of(name) for name in activations]


@points_of_backbone.register
def _vgg(backbone: VGG) -> tuple[list[Point], ...]:
    layers = [i for i, module in enumerate(backbone.features) if isinstance(module, ConvModule)]
    last = [max(i for i in layers if start <= i < end) for start, end in backbone.range_sub_modules]
    maps, blocks = ([output_of(f'features.{i}') for i in each] for each in (last, layers))
    return maps, [input_of(f'features.{i}.activate') for i in last[1:]], blocks


@points_of_backbone.register
def _cifar_convnet(backbone: CIFARConvNet) -> tuple[list[Point], ...]:
    stages = [name for name, _ in backbone.named_children() if name.startswith('stage')]
    maps = [output_of(name) for name in ('stage1.relu', *stages)]
    return maps, [input_of(f'{name}.relu') for name in stages], maps[1:]


@points_of_backbone.register
def _cifar_preact_resnet(backbone: CIFARPreActResNet) -> tuple[list[Point], ...]:
    maps = [output_of(name) for name in ('relu', *backbone.res_layers)]
    # a stage ends in a sum, which the next one normalises; nothing follows the last one
    next_norms = [output_of(f'{name}.0.bn1') for name in backbone.res_layers[1:]]
    return maps, [*next_norms, maps[-1]], _in_stages(backbone, backbone.res_layers)


@points_of_backbone.register
def _mobilenet_v2(backbone: MobileNetV2) -> tuple[list[Point], ...]:
    maps = [output_of(name) for name in ('conv1', 'layer2', 'layer3', 'layer5', 'layer7')]
    # the last layer only widens the last map
    return maps, maps[1:], _in_stages(backbone, backbone.layers[:-1])


@points_of_backbone.register(ShuffleNetV1)
@points_of_backbone.register(CIFARShuffleNetV2)
def _shufflenet(backbone: ShuffleNetV1 | CIFARShuffleNetV2) -> tuple[list[Point], ...]:
    stages = {f'layers.{i}': stage for i, stage in enumerate(backbone.layers) if isinstance(stage, nn.Sequential)}
    maps = [output_of(name) for name in ('conv1', *stages)]
    before = [input_of(f'{name}.{len(stage) - 1}.act') for name, stage in stages.items()]
    return maps, before, _in_stages(backbone, stages)


@points_of_backbone.register
def _repvgg(backbone: RepVGG) -> tuple[list[Point], ...]:
    last_acts = [f'{name}.{len(getattr(backbone, name)) - 1}.act' for name in backbone.stages]
    maps = [output_of(name) for name in ('stem', *backbone.stages)]
    return maps, [input_of(name) for name in last_acts], _in_stages(backbone, backbone.stages)


@points_of_backbone.register
def _densenet(backbone: DenseNet) -> tuple[list[Point], ...]:
    last = len(backbone.stages) - 1
    maps, before = _without_activation('stem', [f'transitions.{i}' for i in range(last + 1)])
    # only the last stage ends in an activation, after a norm
    return maps, [*before[:-1], input_of(f'transitions.{last}.1', LAST_CALL)]


@points_of_backbone.register
def _convnext(backbone: ConvNeXt) -> tuple[list[Point], ...]:
    stages = [f'stages.{i}' for i in range(len(backbone.stages))]
    return *_without_activation('downsample_layers.0', stages), _in_stages(backbone, stages)


@points_of_backbone.register(EfficientNet)
@points_of_backbone.register(EfficientNetV2)
def _efficientnet(backbone: EfficientNet | EfficientNetV2) -> tuple[list[Point], ...]:
    layers = {f'layers.{i}': layer for i, layer in enumerate(backbone.layers)}
    stages = [name for name, layer in layers.items() if isinstance(layer, nn.Sequential)]
    return *_by_stride(layers.items()), _in_stages(backbone, stages)


@points_of_backbone.register
def _mobilenet_v3(backbone: MobileNetV3) -> tuple[list[Point], ...]:
    layers = {name: getattr(backbone, name) for name in backbone.layers}
    # the stem and the layer that only widens the last map
    blocks = [output_of(name) for name, layer in layers.items() if not isinstance(layer, ConvModule)]
    return *_by_stride(layers.items()), blocks


@points_of_backbone.register(SwinTransformer)
@points_of_backbone.register(SwinTransformerV2)
def _swin(backbone: SwinTransformer | SwinTransformerV2) -> tuple[list[Point], ...]:
    stages, layout = [f'stages.{i}' for i in range(len(backbone.stages))], Layout()
    blocks = _in_stages(backbone, [f'{name}.blocks' for name in stages], layout)
    return *_without_activation('patch_embed', stages, layout), blocks


@points_of_backbone.register(BEiTViT)
@points_of_backbone.register(VisionTransformer)
def _vision_transformer(backbone: BEiTViT | VisionTransformer) -> tuple[list[Point], ...]:
    number, layout = len(backbone.layers), Layout(extra=backbone.num_extra_tokens)
    blocks = _in_stages(backbone, ['layers'], layout)
    groups = [blocks[i] for i in evenly_spaced(GROUPS, number)]
    if backbone.final_norm:
        groups[-1] = output_of('ln1', layout)
    return [output_of('patch_embed', Layout()), *groups], groups, blocks


def _in_stages(backbone: nn.Module, stages: Iterable[str], layout: Layout | None = None) -> list[Point]:
    """Return the points of the outputs of all blocks in stages, which are sequences of them."""
    numbers = {name: len(backbone.get_submodule(name)) for name in stages}
    return [output_of(f'{name}.{i}', layout) for name, number in numbers.items() for i in range(number)]


def _without_activation(stem: str, stages: Iterable[str], layout: Layout | None = None) -> tuple[list[Point], ...]:
    maps = [output_of(name, layout) for name in (stem, *stages)]
    return maps, maps[1:]


def _by_stride(layers: Iterable[tuple[str, nn.Module]]) -> tuple[list[Point], ...]:
    """Return the last layer before each one with a stride; the layer that only widens the last map is left out."""
    ends: list[str] = []
    for name, layer in layers:
        strided = any(isinstance(module, nn.Conv2d) and max(module.stride) > 1 for module in layer.modules())
        widens = ends and isinstance(layer, ConvModule) and layer.kernel_size == (1, 1)
        if strided or not ends:
            ends.append(name)
        elif not widens:
            ends[-1] = name
    return _without_activation(ends[0], ends[1:])
