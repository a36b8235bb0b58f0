"""tools/benchmarks/step_time.py: its plain loop, its counts and what it refuses; times are not tested."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers import TOOLS
from mmengine.config import Config
from torch import nn

from icd_mmrazor.errors import SettingError


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS / 'benchmarks'))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module('step_time')


@pytest.mark.slow
def test_a_pair_is_measured(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    # a large product in bfloat16 takes minutes on a CPU without instructions for it
    monkeypatch.setattr(tool, 'PRODUCT_SIZES', dict.fromkeys(tool.PRODUCT_SIZES, 32))
    options = '--pairs res20_res8_digits --batch-size 4 --rounds 2 --steps 1 --warm-up 1 --workers 0 --out results.json'
    tool.main([*options.split(), '--contender', 'strided', 'model.channels_last=False'])
    (result,) = json.loads(Path('results.json').read_text())['results']
    contenders = ['plain', 'defaults', 'fast', 'cached', 'cached fast', 'student', 'strided']
    assert list(result['contenders']) == contenders
    # those that look outputs up say what that costs
    lookups = {name: loop['lookup'] for name, loop in result['contenders'].items() if 'lookup' in loop}
    assert [*lookups] == ['cached', 'cached fast']
    assert all(0 < share < 1 for share in lookups.values())
    assert all(len(loop['ms']) == 2 and min(loop['ms']) > 0 for loop in result['contenders'].values())
    assert result['contenders']['plain']['ratio'] == 1
    assert result['gflop'] > 0 < min(result['limit_ms'].values())
    printed = capsys.readouterr().out
    assert 'res20_res8_digits, batch 4:' in printed
    assert 'strided' in printed
    assert printed.count('lookup') == 2


def test_methods_that_compare_maps_have_no_cached_step(tool: ModuleType) -> None:
    for methods, cached in ('kd', True), ('at', False), ('kd+at', False):
        names = [*tool.contenders_of('res20_res8_digits', tool.parse_args(['--methods', methods]))]
        assert names == ['defaults', 'fast', *(['cached', 'cached fast', 'student'] if cached else [])]


@pytest.mark.parametrize('replaced', [False, True])
def test_cached_steps_find_every_output(tool: ModuleType, images_file: Path, replaced: bool) -> None:
    """The teacher is never run; with ``student``, one lookup serves all steps."""
    cfg = tool.contenders_of('res20_res8_digits', tool.parse_args([]))['cached']
    networks = tool.untrained(cfg, 16)
    arrays = np.load(images_file)
    np.savez('step.npz', images=np.tile(arrays['train_images'][..., None], 3), labels=arrays['train_labels'])
    folder = Path('student' if replaced else 'cached')
    steps, lookups = tool.runner_steps(cfg.copy(), Path('step.npz'), networks, 2, folder.absolute())
    cache = lookups.outputs.__self__
    before = cache.computed
    assert cache.store.complete
    for _ in range(40):  # more than a pass
        next(steps)
    assert cache.computed == before
    assert len(lookups.seconds) == (1 if replaced else 40)
    steps.close()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ('--pairs res20_res9_digits', "'res20_res9_digits'. Did you mean res20_res8_digits"),
        ('--methods idc', "'idc'. Did you mean"),
        ('--methods student', '--methods student'),
        ('--methods mlkd', 'steps with two views of each image'),
        ('--methods ab', 'steps with an initial stage'),
        ('--contender fast model.channels_last=False', '--contender fast'),
        ('--contender mine modle.channels_last=False', 'modle'),
    ],
)
def test_bad_input(options: str, message: str, tool: ModuleType) -> None:
    with pytest.raises(SettingError, match=message):
        tool.main(['--pairs', 'res20_res8_digits', *options.split()])


def test_numbers_must_be_positive(tool: ModuleType, capsys: pytest.CaptureFixture) -> None:
    for option in ('--batch-size', '--rounds', '--steps', '--warm-up', '--threads'):
        with pytest.raises(SystemExit):
            tool.main([option, '0'])
        assert f"argument {option}: '0' is not a positive integer" in capsys.readouterr().err


def test_plain_images_are_transformed_as_the_config_says(tool: ModuleType) -> None:
    pipeline = [
        dict(type='RandomCrop', crop_size=8, padding=2),
        dict(type='RandomFlip', prob=1.0),
        dict(type='PackInputs'),
    ]
    mean, std = [10.0, 20.0, 30.0], [1.0, 2.0, 4.0]
    loader = dict(dataset=dict(pipeline=pipeline))
    cfg = Config(dict(train_dataloader=loader, data_preprocessor=dict(mean=mean, std=std)))
    image = np.arange(1, 193, dtype=np.uint8).reshape(8, 8, 3)
    seen, label = tool.PlainImages(image[None], np.array([3]), cfg)[0]
    seen = (seen * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]).permute(1, 2, 0)
    assert label == 3
    padded = np.pad(image[:, ::-1], [(2, 2), (2, 2), (0, 0)])
    windows = [padded[y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    assert sum(np.allclose(seen.numpy(), window, atol=1e-3) for window in windows) == 1


class Network(nn.Module):
    """A convolution with 4 filters of 3 x 3, and a classifier of 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Linear(4, 5)


def test_operations_are_counted(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(network: Network, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature = network.conv(images).mean((2, 3))
        return feature, network.fc(feature)

    monkeypatch.setattr(tool, 'feature_and_logits', run)
    network, batch, pixels = Network(), 6, 10
    conv, linear = 2 * batch * pixels**2 * (3 * 9) * 4, 2 * batch * 4 * 5
    # backward: a weight's gradient costs as much as the forward pass, and so does an input's; images have none
    assert tool.step_flops(network, network, batch, pixels) == (conv + linear) + (2 * conv + 3 * linear)
    assert all(parameter.grad is None and parameter.device.type == 'cpu' for parameter in network.parameters())
