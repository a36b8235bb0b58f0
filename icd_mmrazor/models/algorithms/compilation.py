"""Compilation of a distillation into one graph."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.logging import print_log
from torch import Tensor, nn

from icd_mmrazor.compat.layout import keep_layout_when_compiled
from icd_mmrazor.compat.recording import follow_modules
from icd_mmrazor.datasets.samples import accepts_merged_samples, merge_samples
from icd_mmrazor.errors import SettingError
from icd_mmrazor.memory import out_of_memory
from icd_mmrazor.models.algorithms.records import recorders_of


def check_compile_options(options: Any) -> None:
    """Refuse what is neither True, False nor a dictionary of options that ``torch.compile`` has."""
    offered = set(inspect.signature(torch.compile).parameters) - {'model'}
    if not isinstance(options, bool | dict) or (isinstance(options, dict) and options.keys() - offered):
        raise SettingError(
            f'FrozenTeacherDistill: torch_compile={options!r} must be True, False or a dictionary of options of '
            f'torch.compile: {", ".join(sorted(offered))}. For example dict(mode="max-autotune").'
        )


def compiled_on_request(loss: Callable) -> Callable:
    """Decorate the loss of an algorithm so that it is compiled if ``torch_compile`` is set, and can be.

    Its arguments are the images, their data samples, and others: the stored outputs of the teacher, or None.
    """

    @functools.wraps(loss)
    def compiled(self: Any, batch_inputs: Tensor, data_samples: list | None = None, *others: Any) -> dict[str, Tensor]:
        if not self.torch_compile:
            return loss(self, batch_inputs, data_samples, *others)
        # before tracing: a graph contains the hooks that its modules have at that time
        follow_modules(recorders_of(self.distiller))
        if accepts_merged_samples(self):
            data_samples = merge_samples(data_samples)
        graph = self.compiled_loss
        try:
            if graph is None:
                keep_layout_when_compiled(self.architecture)
                for network in (self.architecture, self.teacher):
                    _with_plain_numbers(network)
                options = self.torch_compile if isinstance(self.torch_compile, dict) else {}
                # not dynamic: a smaller last batch gets its own graph, instead of one slower graph for all sizes. Not
                # the bound method, which copies of this model would share
                graph = self.compiled_loss = torch.compile(loss, **{'dynamic': False, **options})
            return graph(self, batch_inputs, data_samples, *others)
        except Exception as error:
            compiles = graph is None and isinstance(error, RuntimeError)
            if out_of_memory(error) or not (compiles or _is_of_compiler(error)):
                raise
            reason = ' '.join(str(error).split('\n')[:2])  # "backend raised:", then what
            print_log(
                f'FrozenTeacherDistill: torch_compile={self.torch_compile} does not work here, so training continues '
                f'without it. {type(error).__name__}: {reason}',
                logger='current',
                level=logging.WARNING,
            )
            self.torch_compile = False
            return loss(self, batch_inputs, data_samples, *others)

    return compiled


def _with_plain_numbers(network: nn.Module) -> None:
    """Let the rates of stochastic depth be plain numbers: numpy's, which mmpretrain's transformers have, are traced."""
    for module in network.modules():
        if isinstance(module, DropPath):
            module.drop_prob = float(module.drop_prob)


def _is_of_compiler(error: Exception) -> bool:
    # by name: the modules are private
    return any(cls.__module__.startswith(('torch._dynamo', 'torch._inductor')) for cls in type(error).__mro__)
