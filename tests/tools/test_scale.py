"""tools/benchmarks/scale.py: its model of a step, its counts, and its page; times are not tested."""

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import ROOT, TOOLS
from torch import nn

from icd_mmrazor.errors import SettingError, UserError

PAGE, MEASURED = ROOT / 'docs' / 'scale.md', ROOT / 'docs' / 'scale.json'


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS / 'benchmarks'))
    return importlib.import_module('scale')


@pytest.fixture
def parts() -> dict[str, Any]:
    return json.loads(MEASURED.read_text())


def ideal(tool: ModuleType) -> Any:
    """Return a machine on which only the GPU takes time."""
    return replace(tool.H100, links=math.inf, network=math.inf, latency=(0, 0), launch=0, cores=math.inf)


def test_a_step_by_hand(tool: ModuleType) -> None:
    """The teacher takes 2 ms, the student 4 ms, and the rest is as little as it can be."""
    on = replace(ideal(tool), half=1e12, memory=1e12, single=math.inf, of_flops=0.5, of_memory=1.0)
    names = next(iter(tool.PAIRS.values()))
    networks = {
        # 1e8 operations of 10 images take 2 ms; 1e8 bytes in float32 are half in bf16, and take 0.5 ms
        names[0]: dict(parameters=0, forward=dict(operators=[[10**8, 10**8, 1]])),
        # 2e8 bytes take 1 ms, of each of four operators
        names[1]: dict(parameters=0, training=dict(operators=[[10**6, 2 * 10**8, 4]])),
    }
    parts = dict(networks=networks, images=dict(seconds=0.12, received=0.0), cache=dict(seconds=0.0))
    pair = next(iter(tool.PAIRS))
    found = tool.step(parts, pair, 8, 10, on)
    assert found['teacher'] == pytest.approx(2e-3)
    assert found['student'] == pytest.approx(4e-3)
    assert found['step'] == pytest.approx(6e-3, rel=0.01)
    assert tool.step(parts, pair, 8, 10, on, cached=True)['step'] == pytest.approx(4e-3, rel=0.01)
    # 10 images of 0.12 s on 100 cores
    assert tool.step(parts, pair, 8, 10, replace(on, cores=100))['step'] == pytest.approx(12e-3)
    # 16015 steps of 80 images, 100 times
    assert tool.hours(6e-3, 8, 10) == pytest.approx(100 * 16015 * 6e-3 / 3600)


def test_exchanges_by_hand(tool: ModuleType) -> None:
    on = replace(tool.H100, links=8e9, network=2e9, latency=(1e-3, 2e-3))
    assert on.all_reduce(8e9, 1) == 0
    assert on.exchange(8e9, 8) == pytest.approx(1e-3 + 7 / 8)
    assert on.all_reduce(8e9, 8) == pytest.approx(1e-3 + 7 / 4)
    assert on.all_reduce(8e9, 16) == pytest.approx(2e-3 + 2 * 15 / 16 * 4)


@pytest.mark.parametrize('cached', [False, True])
def test_more_gpus_are_never_slower_on_an_ideal_network(tool: ModuleType, parts: dict[str, Any], cached: bool) -> None:
    for pair in tool.PAIRS:
        times = [tool.hours(tool.step(parts, pair, n, 256, ideal(tool), cached)['step'], n, 256) for n in (1, 2, 8, 64)]
        assert times == sorted(times, reverse=True)


def test_the_cache_removes_the_time_of_the_teacher(tool: ModuleType, parts: dict[str, Any]) -> None:
    for pair in tool.PAIRS:
        whole, cached = (tool.step(parts, pair, 8, 256, ideal(tool), cached) for cached in (False, True))
        assert cached['teacher'] == 0 < whole['teacher']
        assert whole['step'] - cached['step'] == pytest.approx(whole['teacher'])


def test_gathered_negatives_cost_what_their_number_says(tool: ModuleType, parts: dict[str, Any]) -> None:
    pair = next(iter(tool.PAIRS))
    few, many = (tool.step(parts, pair, gpus, 256, tool.H100, gather=True) for gpus in (16, 64))
    assert 3.5 < many['loss'] / few['loss'] < 4.1
    assert many['gather'] > few['gather'] > 0
    assert tool.step(parts, pair, 64, 256, tool.H100)['gather'] == 0


def test_operations_are_counted_with_groups(tool: ModuleType) -> None:
    """torch's counter takes the gradient of a grouped convolution for that of a full one."""
    net, image = nn.Conv2d(8, 8, 3, groups=8, padding=1, bias=False), torch.randn(1, 8, 5, 5, requires_grad=True)
    counted = tool.scale_parts.operators(lambda: net(image).sum().backward())
    # forward, and the gradients of image and weight
    assert sum(flops * calls for flops, _, calls in counted) == 3 * 2 * 8 * 25 * 9


def test_the_loss_needs_four_products_more_with_negatives(tool: ModuleType) -> None:
    for own, every, products in (8, 8, 3), (8, 32, 6):
        flops = sum(flops * calls for flops, _, calls in tool.loss_operators(own, every))
        assert flops == products * 2 * own * every * tool.scale_parts.WIDTH


def test_the_page_is_up_to_date(tool: ModuleType, tmp_path: Path) -> None:
    tool.main(['predict', str(MEASURED), '--page', str(PAGE), '--check'])
    stale = tmp_path / 'scale.md'
    stale.write_text('<!-- scale: costs -->\nold\n<!-- end -->\n')
    with pytest.raises(UserError, match=r'differs from .*without --check'):
        tool.main(['predict', str(MEASURED), '--page', str(stale), '--check'])
    assert 'old' in stale.read_text()
    tool.main(['predict', str(MEASURED), '--page', str(stale)])
    assert 'GPU-hours' in stale.read_text()
    tool.main(['predict', str(MEASURED), '--page', str(stale), '--check'])


def test_a_file_that_was_not_measured(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r'missing\.json.*that "measure" wrote'):
        tool.main(['predict', str(tmp_path / 'missing.json')])
