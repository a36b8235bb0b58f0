"""mmpretrain's networks inside an algorithm of mmrazor."""

from typing import Any

from mmpretrain.models import HuggingFaceClassifier, TimmClassifier
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmrazor.registry import MODELS


def name_weights_of_wrapped_networks_alike() -> None:
    """Let mmpretrain's wrappers of networks of timm and Hugging Face be a student.

    Where: mmpretrain, both families, ``TimmClassifier`` and ``HuggingFaceClassifier``: they leave ``model.`` out of the
    names in their state dict, in a copy, which torch uses for the outermost model only, and expect names without it.
    """

    def without_model(_: Any, state_dict: dict, prefix: str, local_metadata: dict) -> None:  # noqa: ARG001
        for name in [name for name in state_dict if name.startswith(f'{prefix}model.')]:
            state_dict[prefix + name.removeprefix(f'{prefix}model.')] = state_dict.pop(name)

    for wrapper in (TimmClassifier, HuggingFaceClassifier):
        wrapper._remove_state_dict_prefix = staticmethod(without_model)


def in_mmpretrain_scope(network: Any) -> Any:
    """Look up a network's config in mmpretrain's scope if it names none, as mmpretrain does.

    Where: mmrazor 1.0.0 builds teacher and student in its own scope, where ``ImageClassifier`` and all its parts are
    unknown unless every one of them names its scope.

    Returns:
        The config with ``_scope_='mmpretrain'`` if it names no scope and its type is not one of mmrazor's; else the
        same object, which may be a built model.
    """
    if not isinstance(network, dict) or 'type' not in network or '_scope_' in network:
        return network
    kind = network['type']
    if isinstance(kind, str):
        known = not kind.startswith('mmpretrain.') and MODELS.get(kind) is not None
    else:
        known = kind not in MMPRETRAIN_MODELS.module_dict.values()
    return network if known else {'_scope_': 'mmpretrain', **network}
