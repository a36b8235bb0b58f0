"""Files that mmengine, mmpretrain and mmrazor write load; no code in files runs."""

import collections
import importlib.metadata
import inspect
import pickle
import runpy
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import dump, load
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmpretrain.models import TIMMBackbone, TimmClassifier
from mmrazor.structures import Candidates

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.compat.loading import refuse_pickles_of_timm
from icd_mmrazor.errors import CheckpointError, DatasetError


def test_mmengine_loads_no_pickle(tmp_path: Path) -> None:
    trace, file = tmp_path / 'trace', tmp_path / 'hostile.pth'

    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (trace,)

    torch.save({'state_dict': Hostile()}, file)
    for source in (str(file), 'http://localhost/file.pth'):
        with pytest.raises(CheckpointError):
            CheckpointLoader.load_checkpoint(source)
    assert not trace.exists()


def test_an_older_timm_unpickles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrappers = (TIMMBackbone, TimmClassifier)
    arguments = [inspect.signature(wrapper) for wrapper in wrappers]
    for wrapper in wrappers:
        monkeypatch.setattr(wrapper, '__init__', wrapper.__init__)
    monkeypatch.setattr(importlib.metadata, 'version', lambda _: '1.0.20')
    refuse_pickles_of_timm()
    torch.save({'state_dict': tmp_path}, tmp_path / 'pickle.pth')
    for wrapper in wrappers:
        with pytest.raises(CheckpointError, match=r'pickle\.pth'):
            wrapper(model_name='resnet10t', checkpoint_path=str(tmp_path / 'pickle.pth'))
    # which messages about a misspelt one list
    assert [inspect.signature(wrapper) for wrapper in wrappers] == arguments


def test_a_plain_load_reads_checkpoints_of_mmengine(tmp_path: Path) -> None:
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save({'message_hub': {'log_scalars': {'loss': history}, 'best': np.float64(0.5)}}, tmp_path / 'epoch_1.pth')
    # what our own reading allows for a time is not forgotten with it
    read_checkpoint(tmp_path / 'epoch_1.pth')
    hub = torch.load(tmp_path / 'epoch_1.pth')['message_hub']
    assert hub['log_scalars']['loss'].data[0].tolist() == [1, 2]
    assert hub['best'] == 0.5


VALUES = {
    'set': {1, 'a'},
    'frozenset': frozenset([1.5]),
    'ordered': collections.OrderedDict(a=(1, [2])),
    'complex': 1j,
    'bytes': b'\x00\xff',
    'array': np.arange(6, dtype='f4').reshape(2, 3).T,
    'names': np.array(['cat', 'dog']),
    'float': np.float32(0.5),
    'flag': np.bool_(True),
    'empty': np.zeros((0, 3)),
    'tensor': torch.arange(6.0).reshape(2, 3).T,
    'bfloat16': torch.ones(2, dtype=torch.bfloat16),
    'labels': torch.tensor([[1], [2]]),
    'no tensor': torch.zeros(0, 2),
    'parameter': torch.nn.Parameter(torch.ones(2)),
    'size': torch.Size([1, 2]),
    'dtype': torch.float16,
    'device': torch.device('cpu'),
}


@pytest.mark.parametrize('protocol', [0, 2, 4])
@pytest.mark.parametrize('name', VALUES)
def test_values_in_pickles(name: str, protocol: int, tmp_path: Path) -> None:
    value = VALUES[name]
    dump({name: [value]}, tmp_path / 'values.pkl', protocol=protocol)
    (found,) = load(tmp_path / 'values.pkl')[name]
    assert type(found) is type(value)
    if isinstance(value, torch.Tensor):
        torch.testing.assert_close(found, value, rtol=0, atol=0)
        assert found.requires_grad is value.requires_grad
    elif isinstance(value, np.ndarray):
        np.testing.assert_array_equal(found, value)
        assert found.dtype == value.dtype
    else:
        assert found == value


class Calls:
    """Pickles as a call."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


class State:
    """Pickles as an object whose state is set."""

    def __init__(self, value: object, state: object) -> None:
        self.value, self.state = value, state

    def __reduce__(self) -> tuple:
        return _same, (self.value,), self.state


def _same(value: object) -> object:
    return value


def hostile_pickles(trace: Path) -> dict[str, bytes]:
    code = pickle.dumps(Calls(Path.touch, trace))
    module = Candidates.__module__.encode()
    return {
        'code': code,
        'storage': pickle.dumps(Calls(torch.storage._load_from_bytes, code)),
        'eval': pickle.dumps(Calls(eval, '1')),
        # {'__defaults__': ()} for a function, {'subnets': 1} for a class
        'function': b'ctorch.storage\n_load_from_bytes\n}(V__defaults__\n)ub.',
        'class': b'c' + module + b'\nCandidates\nN}(Vsubnets\nI1\nu\x86b.',
        'large tensor': pickle.dumps(
            Calls(torch._utils._rebuild_tensor_v2, torch.ones(1).storage(), 0, (10**9,), (1,), False, {})
        ),
        'large bytes': pickle.dumps(Calls(bytes, 10**12)),
        'objects': pickle.dumps(np.array([None, 1])),
        'getattr': pickle.dumps(Calls(getattr, {}, 'keys')),
        'damaged': code[:-9],
    }


@pytest.mark.filterwarnings('ignore:TypedStorage is deprecated')
@pytest.mark.parametrize('kind', hostile_pickles(Path()))
def test_no_pickle_is_run(kind: str, tmp_path: Path) -> None:
    trace, file = tmp_path / 'trace', tmp_path / 'file.pkl'
    file.write_bytes(hostile_pickles(trace)[kind])
    with pytest.raises(DatasetError, match='pickle'):
        load(file)
    assert not trace.exists()


def test_a_config_in_a_pickle(tmp_path: Path) -> None:
    cfg = Config(dict(a=dict(b=(1,)), c=[dict(d={1})]))
    dump(cfg, tmp_path / 'config.pkl')
    found = load(tmp_path / 'config.pkl')
    assert (found.to_dict(), found.a.b) == (cfg.to_dict(), (1,))


def test_values_in_yaml(tmp_path: Path) -> None:
    cfg = Config(dict(a=(1, 2), b={(1, 2): 3}, c=[(1, [2, (3,)])], d={1, 2}))
    cfg.dump(tmp_path / 'config.yaml')
    found = Config.fromfile(tmp_path / 'config.yaml')
    assert found.to_dict() == cfg.to_dict()
    assert type(found.a) is tuple
    ordered = collections.OrderedDict(b=(1,), a=2)
    dump(ordered, tmp_path / 'ordered.yaml')
    assert load(tmp_path / 'ordered.yaml') == ordered


@pytest.mark.parametrize(
    'text',
    [
        '!!python/object/apply:os.mkdir [trace]',
        '!!python/object/apply:collections.OrderedDict [!!python/object/apply:os.mkdir [trace]]',
        '!!python/tuple [!!python/object/new:os.mkdir [trace]]',
        '!!python/object/apply:collections.OrderedDict [1, 2, 3]',
        '!!python/name:os.system ""',
        '[' * 100_000,
        '{[]: 1',
    ],
    ids=['code', 'code in a dict', 'code in a tuple', 'odd', 'name', 'deep', 'damaged'],
)
def test_no_yaml_is_run(text: str, tmp_path: Path) -> None:
    (tmp_path / 'file.yaml').write_text(text)
    with pytest.raises(DatasetError, match='YAML'):
        load(tmp_path / 'file.yaml')
    assert not Path('trace').exists()


def test_mmpretrains_tool_reads_the_results_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """What ``DumpResults`` writes: a list of dictionaries of tensors."""
    import mmpretrain

    results = [
        dict(gt_label=torch.tensor([n % 2]), pred_label=torch.tensor([0]), pred_score=torch.tensor([0.9, 0.1]))
        for n in range(3)
    ]
    results[0] |= {'num_classes': 2, 'ori_shape': (16, 16)}
    dump(results, tmp_path / 'results.pkl')
    (tmp_path / 'config.py').write_text("custom_imports = dict(imports=['icd_mmrazor'])\n")
    tool = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'analysis_tools' / 'confusion_matrix.py'
    arguments = [
        str(tool),
        str(tmp_path / 'config.py'),
        str(tmp_path / 'results.pkl'),
        '--out',
        str(tmp_path / 'm.pkl'),
    ]
    with mock.patch.object(sys, 'argv', arguments):
        runpy.run_path(str(tool), run_name='__main__')
    assert load(tmp_path / 'm.pkl').tolist() == [[2, 0], [1, 0]]


@pytest.mark.parametrize('suffix', ['pkl', 'yaml'])
def test_candidates_of_a_search(suffix: str, tmp_path: Path) -> None:
    """As mmrazor's evolution search stores and resumes them."""
    candidates = Candidates([{'layer': 'a', 'ratio': (0.5, 1)}, {'layer': 'b', 'ratio': (1, 1)}])
    candidates.set_score(0, 71.5)
    dump(dict(candidates=candidates, _epoch=3), tmp_path / f'search_epoch_3.{suffix}')
    found = load(tmp_path / f'search_epoch_3.{suffix}')['candidates']
    assert isinstance(found, Candidates)
    assert found == candidates
    assert found.scores == [71.5, -1]
    assert found.subnets == [{'layer': 'a', 'ratio': (0.5, 1)}, {'layer': 'b', 'ratio': (1, 1)}]


def test_a_subnet_of_a_search_is_not_run(tmp_path: Path) -> None:
    trace, candidates = tmp_path / 'trace', Candidates()
    candidates.data = [{f'open({str(trace)!r}, "w")': {'score': 0.0}}]
    dump(candidates, tmp_path / 'candidates.pkl')
    with pytest.raises(ValueError, match='malformed'):
        print(load(tmp_path / 'candidates.pkl').subnets)
    assert not trace.exists()
