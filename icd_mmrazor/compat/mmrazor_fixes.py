"""Corrections that mmrazor 1.0.0 needs, of which there is no later release."""

import ast
import importlib
from collections import OrderedDict
from typing import Any

from mmpretrain.models import HuggingFaceClassifier, TimmClassifier
from mmpretrain.models.losses.cross_entropy_loss import soft_cross_entropy
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmrazor.models.algorithms import BaseAlgorithm
from mmrazor.models.architectures.dynamic_ops import DynamicSequential
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


def switch_all_inplace_off() -> None:
    """Let no module of an architecture work in place, as mmrazor's ``module_inplace=False`` says.

    Where: mmrazor 1.0.0, ``BaseAlgorithm.set_module_inplace_false``: with torch >= 2.5, where modules of a module are
    a plain dict, it finds none; before, it stops at mmcv's ``ConvModule``.
    """

    def set_module_inplace_false(self: BaseAlgorithm, architecture: Any, varstr: str = '') -> None:  # noqa: ARG001
        for module in architecture.modules():
            if getattr(module, 'inplace', False):
                module.inplace = False

    BaseAlgorithm.set_module_inplace_false = set_module_inplace_false


def make_sequences_dynamic() -> None:
    """Let mmrazor make a sequence of modules dynamic.

    Where: mmrazor 1.0.0, ``DynamicSequential.convert_from``, with torch >= 2.5: it passes on the modules of a sequence,
    a plain dict now, which ``Sequential`` takes for a module.
    """
    DynamicSequential.convert_from = classmethod(lambda cls, module: cls(OrderedDict(module._modules)))


def find_soft_cross_entropy() -> None:
    """Give mmrazor's ``KDSoftCELoss`` the function that it needs.

    Where: mmrazor 1.0.0, ``kd_soft_ce_loss.py``: it imports it from mmcls, mmpretrain's earlier name, and takes a
    placeholder where there is no mmcls.
    """
    importlib.import_module('mmrazor.models.losses.kd_soft_ce_loss').soft_cross_entropy = soft_cross_entropy


def read_candidates_as_literals() -> None:
    """Read the subnets of a search's candidates as literals.

    Where: mmrazor 1.0.0, ``Candidates.subnets``: it runs ``eval`` on texts that may come from a file
    (``resume_from``, ``init_candidates``). They are dictionaries of names and choices.
    """
    importlib.import_module('mmrazor.structures.subnet.candidate').eval = ast.literal_eval


def validate_whatever_is_predicted() -> None:
    """Let a model predict something other than a sequence while it is validated.

    Where: mmengine 0.10, both families, ``ValLoop``, from which mmrazor's ``SingleTeacherDistillValLoop`` and
    ``SelfDistillValLoop`` inherit: ``_update_losses`` takes the last of the predictions, of a dictionary too.
    """
    loops = importlib.import_module('mmengine.runner.loops')
    update_losses = loops._update_losses

    def update_losses_of_a_sequence(outputs: Any, losses: dict) -> tuple[Any, dict]:
        return update_losses(outputs, losses) if isinstance(outputs, list | tuple) else (outputs, losses)

    loops._update_losses = update_losses_of_a_sequence
