"""The features of timm's networks, by their ``feature_info``."""

from dataclasses import replace

from mmpretrain.models import TIMMBackbone
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.layouts import Layout
from icd_mmrazor.models.networks.points import Point, evenly_spaced, output_of, points_of_backbone, within

STEMS = ('stem', 'patch_embed', 'embeds')
# the stem and four stages
MAPS = 5


def is_of_timm(network: nn.Module) -> bool:
    """Return whether a network is one of timm, which say where their features are."""
    return hasattr(network, 'feature_info') and type(network).__module__.startswith('timm.')


def points_of_timm(network: nn.Module) -> tuple[list[Point], ...]:
    """Return the points of the maps of a network of timm, starting with the stem, of its pre-activations and blocks.

    A transformer of equal blocks has four groups of them. timm does not say where activations come: the
    pre-activations are known for transformers, which have none between their blocks. Blocks are known if there are only
    blocks, or if every stage is a sequence of them.

    Raises:
        SettingError: The network does not say where its features are.
    """
    modules = dict(network.named_modules())
    # some leave out the place of the first one
    known = [each for each in network.feature_info if each.get('module') != '']
    places = [str(each.get('module')) for each in known]
    # tokens of Hiera do not lie row by row; it sorts them on the way out
    if not places or not {*places} <= modules.keys() or hasattr(network, 'reroll'):
        raise SettingError(
            f"timm's {type(network).__name__} does not say where its feature maps are. Use another network, or compare "
            'pooled features or logits.'
        )
    # a transformer without stages: all maps have one size
    of_blocks = len({each.get('reduction') for each in network.feature_info}) == 1
    layout = Layout(
        extra=getattr(network, 'num_prefix_tokens', 0),
        channels_last=getattr(network, 'output_fmt', None) == 'NHWC',
        has_class_token=getattr(network, 'cls_token', None) is not None,
    )
    channels = [each.get('num_chs') for each in known]
    if of_blocks:
        blocks = [output_of(place, layout) for place in places]
    else:
        blocks = _blocks_of_stages(modules, dict(zip(places, channels, strict=True)), len(places), layout)
    if of_blocks:
        chosen = evenly_spaced(MAPS - 1, len(places))
        places, channels = [places[i] for i in chosen], [channels[i] for i in chosen]
    if len(places) < MAPS:
        stems = [name for name in STEMS if name in modules and name not in places]
        # as many as the first stage has, where they are last
        places, channels = [*stems, *places], [channels[0]] * len(stems) + channels
    maps = [output_of(place, replace(layout, channels=each)) for place, each in zip(places, channels, strict=True)]
    maps = maps[-MAPS:]
    if maps[0].source in ('stem', 'patch_embed'):  # the class token comes later
        maps[0] = replace(maps[0], layout=replace(maps[0].layout, extra=0))
    if of_blocks and isinstance(getattr(network, 'norm', None), nn.Module):
        maps[-1] = output_of('norm', layout)
    return maps, maps[1:] if of_blocks else [], blocks


def _blocks_of_stages(
    modules: dict[str, nn.Module], channels: dict[str, int | None], number: int, layout: Layout
) -> list[Point]:
    """Return the points of all blocks of the stages among the places of maps, and of the stages between them.

    The first place may be the stem and the last one a layer at the end. If any other is not a stage, there are none.
    """
    places = [*channels]
    found = {place: blocks for place in places if (blocks := _blocks_in(modules, place))}
    # a place that is named twice has two outputs
    if not found or len(places) < number or {*places} - {*found, places[0], places[-1]}:
        return []
    points = []
    for name in _with_those_between(modules, [*found], to_the_end=places[-1] not in found):
        of_stage = replace(layout, channels=channels[name]) if name in found else layout
        points += [output_of(block, of_stage) for block in _blocks_in(modules, name)]
    return points


def _blocks_in(modules: dict[str, nn.Module], name: str) -> list[str]:
    """Return the names of the blocks of a stage, if it is one: a sequence of modules that have parts."""
    stage = modules[name]
    if isinstance(blocks := getattr(stage, 'blocks', None), nn.Sequential | nn.ModuleList):
        stage, name = blocks, f'{name}.blocks'
    is_sequence = isinstance(stage, nn.Sequential | nn.ModuleList) or type(stage).__name__ == 'RegStage'
    children = stage.named_children() if is_sequence else ()
    return [f'{name}.{child}' for child, module in children if any(True for _ in module.children())]


def _with_those_between(modules: dict[str, nn.Module], stages: list[str], to_the_end: bool) -> list[str]:
    """Add the stages without a place: ``blocks.3`` between ``blocks.2`` and ``blocks.4``, those after the last one."""
    names: list[str] = []
    for stage in stages:
        parent, _, number = stage.rpartition('.')
        siblings = [f'{parent}.{i}' for i in range(int(number))] if number.isdecimal() else []
        names += [name for name in siblings if name not in names] + [stage]
    parent, _, number = stages[-1].rpartition('.')
    if to_the_end and number.isdecimal():
        names += [f'{parent}.{i}' for i in range(int(number) + 1, len(modules[parent]))]
    return names


@points_of_backbone.register
def _timm_backbone(backbone: TIMMBackbone) -> tuple[list[Point], ...]:
    network = backbone.timm_model
    if is_of_timm(network) and hasattr(network, 'forward_features'):
        return within('timm_model.', points_of_timm(network))
    # with features_only it returns a list of maps
    number = len(network.feature_info.channels())
    return [Point('ModuleOutputs', 'timm_model', data_idx=i) for i in range(number)], []
