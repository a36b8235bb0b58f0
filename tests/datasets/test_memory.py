"""Free memory, as the machine's files say."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from icd_mmrazor.datasets import memory

CPU = torch.device('cpu')


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write the files of a machine with 2000 kB free, and of its control groups."""

    def write(own_groups: str = '', files: dict[str, str] | None = None) -> None:
        texts = {'meminfo': 'MemFree:  10 kB\nMemAvailable:     2000 kB\n', 'own': own_groups}
        texts |= {f'groups/{name}': text for name, text in (files or {}).items()}
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(memory, 'MEMINFO', tmp_path / 'meminfo')
        monkeypatch.setattr(memory, 'OWN_GROUPS', tmp_path / 'own')
        monkeypatch.setattr(memory, 'GROUPS', tmp_path / 'groups')

    return write


def test_this_machine() -> None:
    assert memory.free_memory(CPU) > 1e6
    assert memory.free_memory(torch.device('meta')) is None


def test_a_machine_without_groups(machine: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    assert memory.free_memory(CPU) == 2000 * 1024
    for name in ('MEMINFO', 'OWN_GROUPS', 'GROUPS'):
        monkeypatch.setattr(memory, name, tmp_path / 'nothing')
    assert memory.free_memory(CPU) is None or memory.free_memory(CPU) > 1e6


def group(folder: str, limit: object, used: int, cache: int = 0, version: int = 2) -> dict[str, str]:
    """Return the files of a control group."""
    names = {
        1: ('limit_in_bytes', 'usage_in_bytes', 'total_inactive_file'),
        2: ('max', 'current', 'inactive_file'),
    }[version]
    folder = folder if version == 2 else f'memory/{folder}'
    return {
        f'{folder}/memory.{names[0]}': f'{limit}\n',
        f'{folder}/memory.{names[1]}': f'{used}\n',
        f'{folder}/memory.stat': f'anon 5\n{names[2]} {cache}\nactive_file 7\n',
    }


V1 = '9:name=systemd:/\n4:memory:/slurm/job_7\n1:cpu,cpuacct:/other\n0::/\n'


@pytest.mark.parametrize(
    ('own_groups', 'files', 'wanted'),
    [
        # in a container its group is the top
        ('0::/\n', group('.', 1000, 400), 600),
        ('0::/\n', group('.', 1000, 900, cache=300), 400),
        ('0::/\n', group('.', 1000, 1100), 0),
        ('0::/\n', group('.', 'max', 400), 2000 * 1024),
        ('0::/\n', group('.', 10**12, 400), 2000 * 1024),
        # a limit may be that of the group or of one it is in; those beside it do not count
        ('0::/job/step\n', group('job/step', 1000, 100) | group('job', 'max', 500), 900),
        ('0::/job/step\n', group('job/step', 'max', 100) | group('job', 1000, 500) | group('another', 10, 10), 500),
        # version 1
        (V1, group('slurm/job_7', 1000, 400, version=1) | group('.', 2**63 - 4096, 10**6, version=1), 600),
        (V1, group('slurm/job_7', 1000, 900, cache=300, version=1), 400),
        # in a container that sees the path outside of it
        (V1, group('.', 1000, 400, version=1), 600),
    ],
)
def test_limits_of_control_groups(own_groups: str, files: dict, wanted: int, machine: Callable) -> None:
    machine(own_groups, files)
    assert memory.free_memory(CPU) == wanted


def test_processes_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    assert memory.processes_sharing(CPU) == 1
    monkeypatch.setattr(memory, 'get_world_size', lambda: 8)
    assert memory.processes_sharing(CPU) == 8
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    assert memory.processes_sharing(CPU) == 4
    assert memory.processes_sharing(torch.device('cuda')) == 1
