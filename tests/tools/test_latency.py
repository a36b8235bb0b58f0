"""latency.py as a user calls it; how long anything takes is not looked at."""

import json
import re
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS, TOOLS, exit_status
from mmengine.config import Config
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.export.formats import export, files_of
from icd_mmrazor.export.latency import latency, machine, multiply_adds
from icd_mmrazor.export.student import plain_student
from icd_mmrazor.export.trained import TrainedStudent
from icd_mmrazor.machine import cores

TOOL = TOOLS / 'analysis' / 'latency.py'


def test_multiply_adds_of_a_network_that_one_can_count_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16, 10))
    assert multiply_adds(network, torch.zeros(1, 3, 8, 8)) == 16 * 8 * 3 * 9 + 8 * 16 * 10


def test_a_latency_is_that_of_many_passes() -> None:
    passes = []
    threads = torch.get_num_threads()
    found = latency(lambda images: passes.append((images, torch.get_num_threads())), torch.zeros(1), 2, seconds=0.01)
    assert torch.get_num_threads() == threads
    assert {number for _, number in passes} == {2}
    assert len(passes) >= found.measurements >= 3
    assert found.median >= 0
    assert found.spread >= 0
    assert f'torch {torch.__version__.partition("+")[0]}' in machine()


@pytest.mark.slow
def test_configs_and_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:

    config = CONFIGS / 'demo' / 'icd_res20_res8_digits.py'
    cfg = plain_student(Config.fromfile(config))
    model = MODELS.build(cfg.model).eval()
    student = TrainedStudent(model, cfg, dict(state_dict=model.state_dict(), meta={}), cfg)
    files = files_of(['torchscript', 'onnx'], tmp_path / 'x')
    export(student, files, (16, 16))
    out = tmp_path / 'latency.json'
    sources = [config, *files.values()]
    assert exit_status(TOOL, *sources, '--seconds', '0.001', '--batch-size', '2', '--out', out) is None
    printed = capsys.readouterr().out
    assert '| 0.08 M | 3.13 M |' in printed
    assert machine() in printed
    found = json.loads(out.read_text())
    assert found['machine'] == machine()
    of_torch, of_onnx = ({f'{library}, {threads}' for threads in (1, cores())} for library in ('torch', 'onnxruntime'))
    expected = [of_torch | of_onnx, of_torch, of_onnx]
    for row, source, columns in zip(found['networks'], sources, expected, strict=True):
        assert row['network'] == str(source)
        assert row['images'] == [2, 3, 16, 16]
        assert {name for name in row if ', ' in name} == columns
        assert all(row[name]['median'] > 0 for name in columns)
    assert found['networks'][0]['parameters'] == 78042


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent.py'], r'absent\.py: there is no such file'),
        (['absent.onnx'], r'absent\.onnx: there is no such file'),
        (['resnet8_of_nobody'], 'resnet8_of_nobody'),
        ([CONFIGS / 'demo' / 'res8_digits.py', '--seconds', '0'], '--seconds 0'),
        ([CONFIGS / 'demo' / 'res8_digits.py', '--out', 'x.txt'], r'--out x\.txt'),
        (['resnet18_8xb16_cifar10'], '--input-size'),
    ],
)
def test_bad_input(arguments: list, message: str, capsys: pytest.CaptureFixture) -> None:
    assert exit_status(TOOL, *arguments) == 1
    assert re.search(message, capsys.readouterr().err)
