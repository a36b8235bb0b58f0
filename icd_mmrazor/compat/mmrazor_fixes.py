"""Corrections of mmrazor 1.0.0, of which there is no later release."""

import ast
import importlib
from collections import OrderedDict
from typing import Any

from mmpretrain.models.losses.cross_entropy_loss import soft_cross_entropy
from mmrazor.models.algorithms import BaseAlgorithm
from mmrazor.models.architectures.dynamic_ops import DynamicSequential


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
