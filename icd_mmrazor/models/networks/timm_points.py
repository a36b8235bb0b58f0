"""The features of timm's networks, by their ``feature_info``."""

from dataclasses import replace

from mmpretrain.models import TIMMBackbone
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.layouts import Layout
from icd_mmrazor.models.networks.points import Point, evenly_spaced, output_of, points_of_backbone, within

STEMS = ('stem', 'patch_embed')
# the stem and four stages
MAPS = 5


def is_of_timm(network: nn.Module) -> bool:
    """Return whether a network is one of timm, which say where their features are."""
    return hasattr(network, 'feature_info') and type(network).__module__.startswith('timm.')


def points_of_timm(network: nn.Module) -> tuple[list[Point], list[Point]]:
    """Return the points of the maps of a network of timm, starting with the stem, and of its pre-activations.

    A transformer of equal blocks has four groups of them. timm does not say where activations come: the
    pre-activations are known for transformers, which have none between their blocks.

    Raises:
        SettingError: The network does not say where its features are.
    """
    modules = dict(network.named_modules())
    places = [str(each.get('module')) for each in network.feature_info]
    if not places or not {*places} <= modules.keys():
        raise SettingError(
            f"timm's {type(network).__name__} does not say where its feature maps are. Use another network, or compare "
            'pooled features or logits.'
        )
    # a transformer without stages: all maps have one size
    of_blocks = len({each.get('reduction') for each in network.feature_info}) == 1
    layout = Layout(
        extra=getattr(network, 'num_prefix_tokens', 0), channels_last=getattr(network, 'output_fmt', None) == 'NHWC'
    )
    if of_blocks:
        places = [places[i] for i in evenly_spaced(MAPS - 1, len(places))]
    if len(places) < MAPS:
        places = [*(name for name in STEMS if name in modules and name not in places), *places]
    maps = [output_of(place, layout if i else replace(layout, extra=0)) for i, place in enumerate(places[-MAPS:])]
    if of_blocks and isinstance(getattr(network, 'norm', None), nn.Module):
        maps[-1] = output_of('norm', layout)
    return maps, maps[1:] if of_blocks else []


@points_of_backbone.register
def _timm_backbone(backbone: TIMMBackbone) -> tuple[list[Point], list[Point]]:
    network = backbone.timm_model
    if is_of_timm(network) and hasattr(network, 'forward_features'):
        return within('timm_model.', points_of_timm(network))
    # with features_only it returns a list of maps
    number = len(network.feature_info.channels())
    return [Point('ModuleOutputs', 'timm_model', data_idx=i) for i in range(number)], []
