"""Cases of the golden numbers of feature methods: inputs, parameters, settings, loss, parts and gradients."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from helpers import DATA
from torch import Tensor, nn


def case_names(file: str, method: str) -> list[str]:
    """Return the names of the cases of a file that have numbers of a method."""
    found = {name.split('/')[0] for name in np.load(DATA / f'{file}.npz').files if name.split('/')[1] == method}
    assert found
    return sorted(found)


class GoldenCase:
    """One case of a file: what goes into a method of the authors' code, and what came out of it."""

    def __init__(self, file: str, case: str, method: str) -> None:
        arrays = np.load(DATA / f'{file}.npz')
        names = {name.removeprefix(f'{case}/'): name for name in arrays.files if name.startswith(f'{case}/')}
        self.arrays = {short: torch.from_numpy(arrays[name]) for short, name in names.items()}
        self.method = method
        self.loss = self.arrays[f'{method}/loss'].item()
        self.settings = {name: value.item() for name, value in self.of('setting').items()}
        # the inputs that have a gradient are leaves
        self.inputs = {name: value for name, value in self.arrays.items() if '/' not in name}
        for name in self.inputs.keys() & self.of('grad').keys():
            self.inputs[name].requires_grad_()

    def of(self, kind: str) -> dict[str, Tensor]:
        """Return the arrays of a kind, ``'param'``, ``'part'``, ``'grad'``, ``'buffer_after'``, ..., by their names."""
        prefix = f'{self.method}/{kind}/'
        return {name.removeprefix(prefix): value for name, value in self.arrays.items() if name.startswith(prefix)}

    def load(self, kind: str, module: nn.Module, names: Mapping[str, str]) -> None:
        """Give parameters or buffers of a module the values of the case, all of them; ``names`` are theirs to ours."""
        values = self.of(kind)
        assert {*values} == {*names}
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        with torch.no_grad():
            for theirs, ours in names.items():
                assert tensors[ours].shape == values[theirs].shape
                tensors[ours].copy_(values[theirs])

    def check(self, loss: Tensor, parameters: Mapping[str, Tensor]) -> None:
        """Compare the loss and all gradients; ``parameters`` are by the authors' names."""
        assert loss.item() == pytest.approx(self.loss, rel=1e-9)
        leaves = {**{name: value for name, value in self.inputs.items() if value.requires_grad}, **parameters}
        expected = self.of('grad')
        assert {*leaves} == {*expected}
        for name, got in zip(leaves, torch.autograd.grad(loss, [*leaves.values()]), strict=True):
            torch.testing.assert_close(got, expected[name], rtol=1e-9, atol=1e-12, msg=name)
