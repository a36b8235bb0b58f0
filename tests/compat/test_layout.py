"""Memory layouts that torch gets wrong."""

import importlib
from collections.abc import Callable

import pytest
import torch
from helpers import ROOT, run_python
from torch import nn

from icd_mmrazor.compat import layout


def test_convolutions_that_torch_computes_wrongly_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    for convolution, sound in (
        (nn.Conv2d(4, 8, 1, stride=2), False),
        (nn.Conv2d(8, 8, 1, stride=2), False),
        (nn.Conv2d(15, 8, 1, stride=(1, 2)), False),
        (nn.Conv2d(16, 8, 1, stride=2), True),
        (nn.Conv2d(4, 8, 1), True),
        (nn.Conv2d(4, 8, 3, stride=2), True),
    ):
        monkeypatch.setattr(layout, 'get_device', lambda: 'cpu')
        assert layout.channels_last_is_sound(nn.ReLU(), nn.Sequential(convolution)) is sound
        monkeypatch.setattr(layout, 'get_device', lambda: 'cuda')
        assert layout.channels_last_is_sound(convolution)


@pytest.mark.slow
def test_narrow_strided_convolutions_are_trained_rightly_on_this_cpu() -> None:
    """In a process that would die of it, in the layout that is taken for them; threads as they come."""
    threads = {'OMP_NUM_THREADS': '2'}
    process = run_python(ROOT / 'tests' / 'support' / 'narrow_convolutions.py', PYTHONPATH=str(ROOT), **threads)
    assert process.returncode == 0, f'{process.returncode} {process.stdout} {process.stderr}'
    assert process.stdout.split() == ['4', '8', '12', '15', '16', '24']


@pytest.mark.skipif(torch.cuda.is_available(), reason='a graph for a GPU is laid out soundly')
def test_a_compiled_graph_keeps_the_layout(
    monkeypatch: pytest.MonkeyPatch, demo_config: Callable, runner: Callable
) -> None:
    """Inductor lays convolutions channels last on a CPU."""
    config = importlib.import_module('torch._inductor.config')
    monkeypatch.setattr(torch, 'compile', lambda function, **_: function)
    for stride, changed in ((2, True), (1, False)):
        config.layout_optimization = True
        try:
            layout.keep_layout_when_compiled(nn.Conv2d(8, 8, 1, stride=stride))
            assert config.layout_optimization is not changed
        finally:
            config.layout_optimization = True
    monkeypatch.setattr(layout, 'channels_last_is_sound', lambda _: False)
    run = runner(demo_config(compile=True))
    try:
        run._maybe_compile('train_step')
        assert config.layout_optimization is False
    finally:
        config.layout_optimization = True
