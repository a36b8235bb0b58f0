"""The network inside its wrappers."""

from collections.abc import Iterator

from torch import nn

# where mmpretrain's wrappers and ours keep what they wrap
PARTS = ('backbone', 'timm_model', 'model')


def unwrapped(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield a network, then what it wraps, from the outside in, each with the prefix of its names in the network.

    A classifier of mmpretrain with a backbone of timm gives ``''``, ``'backbone.'`` and ``'backbone.timm_model.'``.
    """
    prefix, module = '', network
    while module is not None:
        yield prefix, module
        parts = {name: part for name in PARTS if isinstance(part := getattr(module, name, None), nn.Module)}
        name, module = next(iter(parts.items()), ('', None))
        prefix = f'{prefix}{name}.'
