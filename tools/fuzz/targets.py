"""What is fuzzed: functions that take any bytes and may raise the package's own errors alone."""

import contextlib
import pprint
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import icd_mmrazor  # noqa: F401 (first: it says what to install where the stack is missing)

# isort: split
import torch
from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'model_converters'))
from repdistiller_to_mmpretrain import convert

from icd_mmrazor.configuration.files import apply_cfg_options, check_sections
from icd_mmrazor.configuration.stored import read_config_text
from icd_mmrazor.errors import UserError
from icd_mmrazor.models.networks.resolve import network_config
from icd_mmrazor.utils.training_logs import (
    read_cfg_options,
    read_log,
    read_settings,
    read_teacher_metrics,
    read_training,
)

MAX_ELEMENTS = 10_000
MAX_TENSORS = 100


@contextlib.contextmanager
def _file(name: str, data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix='fuzz_') as folder:
        file = Path(folder, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        yield file


def config_text(data: bytes) -> None:
    """Read the text of a config; what is read is written and read again alike, and imports nothing of others."""
    before = {name.partition('.')[0] for name in sys.modules}
    cfg = read_config_text(data.decode(errors='replace'), 'the config')
    cfg._format_python_code = False
    again = read_config_text(cfg.pretty_text, 'its own text')
    # as text: nan differs from itself
    assert pprint.pformat(again.to_dict()) == pprint.pformat(cfg.to_dict())
    imported = {name.partition('.')[0] for name in sys.modules} - before
    assert not imported & {'antigravity', 'this', 'turtle', 'webbrowser'}, imported


def network(data: bytes) -> None:
    """Name a network, or say what it is in the text of a config."""
    text = data.decode(errors='replace')
    network_config(text if '=' not in text else read_config_text(text, 'the config').to_dict(), 'model.teacher')


def config_options(data: bytes) -> None:
    """Check a config (the text before the first empty line), changed by options (a line each, ``KEY=VALUE``)."""
    text, _, options = data.decode(errors='replace').partition('\n\n')
    cfg = read_config_text(text, 'the config')
    apply_cfg_options(cfg, dict(line.split('=', 1) for line in options.splitlines() if '=' in line))
    check_sections(Config(cfg.to_dict()), 'it')


def converter(data: bytes) -> None:
    """Convert a published checkpoint: a line each names a tensor and its shape, ``fc.weight 100 64``."""
    weights = {}
    for line in data.decode(errors='replace').splitlines()[:MAX_TENSORS]:
        name, *sizes = line.split(' ')
        shape = [int(size) for size in sizes if size.isdecimal() and len(size) < 6]
        if torch.Size(shape).numel() <= MAX_ELEMENTS:
            weights[name] = torch.zeros(shape)
    convert({'model': weights}, 'the checkpoint')


def training_logs(data: bytes) -> None:
    """Read what a training left in its work folder."""
    with _file('20260101_000000/vis_data/scalars.json', data) as file:
        folder = file.parents[2]
        (file.parent / 'config.py').write_bytes(data)
        (file.parents[1] / 'run.log').write_bytes(data)
        (folder / 'trial.json').write_bytes(data)
        read_settings(folder, 'model', 'initial_epochs')
        read_teacher_metrics(folder)
        read_cfg_options(folder)
        log = read_log(folder)
        assert all(0 <= accuracy <= 100 for accuracy in log.accuracies.values())
        read_training(folder)


def seeds() -> dict[str, list[bytes]]:
    """Return for each target what to begin with."""
    root = Path(__file__).resolve().parents[2] / 'configs'
    text = Config.fromfile(root / 'demo' / 'icd_res20_res8_digits.py').pretty_text
    model = Config.fromfile(root / '_base_' / 'models' / 'res8.py').res8
    published = 'conv1.weight 16 3 3 3\nlayer2.0.downsample.0.weight 32 16 1 1\nfc.weight 100 64\nfc.bias 100'
    line = '{"loss": 1.5, "lr": 0.05, "epoch": 1, "iter": 10, "step": 10}\n'
    validation = '{"accuracy/top1": 50.0, "data_time": 0.1, "time": 0.2, "step": 1}\n'
    odd = b"a = [1, -2.5, 1e-3, inf, None, True, (1,), {'x y': ()}, 'b' 'c']\nmodel = dict(type='ResNet', depth=18)"
    return {
        'config_text': [text.encode(), odd],
        'network': [
            b'resnet18_8xb32_in1k',
            b'mmpretrain::resnet/resnet18_8xb32_in1k.py',
            b"cfg_path = 'icd_mmrazor::vanilla/res8_cifar100.py'\nhead = dict(num_classes=7)",
            Config(dict(model)).pretty_text.encode(),
        ],
        'config_options': [
            text.encode() + b'\n\nmodel.distiller.embed_dims=64\ntrain_dataloader.batch_size=4',
            b"model = dict(type='x')\na = [dict(b=1)]\n\na.0.b=3",
        ],
        'converter': [published.encode(), b'block0.0.weight 64 3 3 3\nclassifier.weight 100 512'],
        'training_logs': [
            (line + validation).encode(),
            b'model = dict(\n    initial_epochs=30)',
            b'{"cfg_options": []}',
        ],
    }


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (config_text, network, config_options, converter, training_logs)
}


def attempt(target: Callable[[bytes], None], data: bytes) -> None:
    """Give bytes to a target; the package's own errors are what bad input is to end in.

    Args:
        target: One of :data:`TARGETS`.
        data: The bytes.
    """
    with contextlib.suppress(UserError):
        target(data)
