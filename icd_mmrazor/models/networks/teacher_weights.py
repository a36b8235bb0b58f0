"""Weights of a teacher, from whichever file has them."""

from collections.abc import Iterator, Mapping

from mmengine.logging import print_log
from torch import Tensor, nn

from icd_mmrazor.checkpoints.weights import load_strictly
from icd_mmrazor.errors import printable
from icd_mmrazor.models.networks.classifier_layer import is_headless
from icd_mmrazor.models.networks.wrappers import unwrapped

# what a network without a classifier has no use for, by the first part of its name
OF_OTHERS = ('classifier', 'decoder', 'fc', 'head', 'head_dist', 'heads', 'lm_head', 'mask_token', 'neck')
TOWERS = ('logit_scale', 'logit_bias', 'text_model', 'text_projection', 'visual_projection')


def load_teacher(network: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load the weights of a file into a teacher; all of them must fit.

    The file may name them as the network does, or as the network that it wraps: a state dict of timm, of Hugging Face
    or of a backbone alone. For a network without a classifier it may also hold what stands around the network: a
    classifier, the decoder of an autoencoder, a text tower; the log says so.

    Args:
        network: The teacher.
        weights: The state dict in the file.
        what: What is loaded from where, for the message.

    Raises:
        CheckpointError: Names or shapes differ, see :func:`load_strictly`.
    """
    own = network.state_dict()
    headless, idle = is_headless(network), _untrained(network)
    for named in _renamed(network, own, weights):
        rest = [name for name in named if name not in own]
        named |= {name: own[name] for name in idle if name not in named}
        complete = all(_counts(name) or (name in named and named[name].shape == own[name].shape) for name in own)
        if not complete or (rest and not (headless and all(map(_is_of_others, rest)))):
            continue
        load_strictly(network, {name: value for name, value in named.items() if name in own}, what)
        if rest:
            print_log(f'{what}: the teacher has no classifier, and leaves out {printable(rest[:8])}.', logger='current')
        return
    load_strictly(network, weights, what)  # says what does not fit


def _renamed(
    network: nn.Module, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Yield the weights as the file names them, then renamed as wrappers would, those that share names alone."""
    yield dict(weights)
    firsts = dict.fromkeys(name.partition('.')[0] for name in weights)
    outer = ['', *(f'{first}.' for first in firsts), *(f'{first}.vision_model.' for first in firsts), 'vision_model.']
    for place, _ in unwrapped(network):
        inner = {name.removeprefix(place) for name in own if name.startswith(place)}
        for prefix in outer:
            if not (place or prefix) or not any(f'{prefix}{name}' in weights for name in inner):
                continue
            # what the network does not have keeps its name, by which it is judged
            names = {name: place + name.removeprefix(prefix) for name in weights if name.startswith(prefix)}
            yield {(names[name] if names.get(name) in own else name): value for name, value in weights.items()}


def _untrained(network: nn.Module) -> list[str]:
    """Return the names of weights that are not used, and that a classifier of Hugging Face does not have."""
    places = [f'{place}model.pooler.' for place, part in unwrapped(network) if getattr(part, 'untrained_pooler', False)]
    return [name for name in network.state_dict() if name.startswith(tuple(places))]


def _counts(name: str) -> bool:
    return name.endswith('num_batches_tracked')


def _is_of_others(name: str) -> bool:
    parts = name.split('.')
    return any(part in OF_OTHERS or part.startswith(('decoder', 'head', 'pooler', *TOWERS)) for part in parts[:2])
