"""Copies of a distillation that share the weights of its teacher."""

import copy
from typing import Any

from torch import Tensor, nn


class SharesTeacherWeights:
    """The part of an algorithm that makes its copies share the frozen teacher's weights instead of copying them.

    ``EMAHook`` averages in a copy of the whole model, which would need the memory for a second teacher. Everything else
    is copied, the modules of the teacher too, so that a copy can be trained like the original.
    """

    teacher: nn.Module

    def __deepcopy__(self, memo: dict[int, Any]) -> 'SharesTeacherWeights':
        """Copy the algorithm, except for the teacher's parameters and buffers."""
        memo.update((id(tensor), tensor) for module in self.teacher.modules() for tensor in _tensors(module))
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        vars(copied)['_weights_are_shared'] = True
        return copied

    def own_teacher_weights(self) -> None:
        """Give a copy its own weights, before they are moved or cast."""
        if not vars(self).pop('_weights_are_shared', False):
            return
        memo: dict[int, Any] = {}
        for module in self.teacher.modules():
            for tensors in (module._parameters, module._buffers):
                tensors.update(copy.deepcopy(tensors, memo))


def _tensors(module: nn.Module) -> list[Tensor]:
    return [each for each in (*module._parameters.values(), *module._buffers.values()) if each is not None]
