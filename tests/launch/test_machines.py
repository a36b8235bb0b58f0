"""Machines that train together, with a store that this process holds; on real machines in tests/cluster."""

import os
import socket
from collections.abc import Iterator
from unittest import mock

import pytest
import torch.distributed as dist
from mmengine.config import Config

from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch import machines
from icd_mmrazor.launch.machines import choose_interface, compare_machines, joined_processes

SETTINGS = dict(
    work_dir='here',
    model=dict(type='ICDDistiller', alpha=0.5),
    train_dataloader=dict(batch_size=64, num_workers=2, dataset=dict(data_root='/disk1/cifar', kind='/a/labels.txt')),
)


@pytest.fixture
def as_rank() -> Iterator[None]:
    store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    world = dict(RANK='0', WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(store.port))
    with mock.patch.dict(os.environ, world):
        yield


def compared(**settings: object) -> str:
    """Compare a config with the first one; return the message."""
    os.environ['RANK'] = '1'
    cfg = Config(SETTINGS)
    cfg.merge_from_dict(settings)
    with mock.patch('socket.gethostname', return_value='node2'):
        try:
            compare_machines(cfg)
        except SettingError as error:
            return str(error)
    return ''


def test_machines_with_other_settings_are_refused(as_rank: None) -> None:
    with mock.patch('socket.gethostname', return_value='node1'):
        compare_machines(Config(SETTINGS))
    assert compared() == ''
    # where the data and the results lie, and how many processes load images
    own = {'work_dir': '/scratch', 'train_dataloader.num_workers': 8, 'train_dataloader.dataset.data_root': '/disk2'}
    assert compared(**own) == ''
    assert compared(**{'train_dataloader.dataset.kind': '/b/labels.txt'}) == ''
    message = compared(**{'model.alpha': 1.0, 'train_dataloader.batch_size': 32})
    assert message.startswith('node2 differs from node1, the machine of rank 0:\n')
    assert '  model.alpha: 0.5 there, 1.0 here\n  train_dataloader.batch_size: 64 there, 32 here\n' in message
    message = compared(**{f'model.setting{number}': number for number in range(6)})
    assert 'model.setting3: not set there, 3 here\n  and 2 more\n' in message


def test_machines_with_other_code_are_refused(as_rank: None) -> None:
    compare_machines(Config(SETTINGS))
    with mock.patch.object(machines, '__version__', '0.0'):
        assert 'icd_mmrazor: ' in compared()


def test_a_loopback_name_lets_gloo_use_an_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {name: machines._address_of(name) for _, name in socket.if_nameindex()}
    assert addresses['lo'] == '127.0.0.1'
    for host, given, chosen in (
        ('127.0.1.1', None, next((name for name, own in addresses.items() if own and name != 'lo'), None)),
        ('127.0.1.1', 'mine', 'mine'),
        ('192.0.2.7', None, None),
        ('no.such.host.invalid', None, None),
    ):
        with mock.patch.dict(os.environ), mock.patch('socket.gethostname', return_value=host):
            os.environ.pop('GLOO_SOCKET_IFNAME', None)
            if given:
                os.environ['GLOO_SOCKET_IFNAME'] = given
            choose_interface()
            assert os.environ.get('GLOO_SOCKET_IFNAME') == chosen


def test_a_single_process_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    cfg = Config(dict(launcher='none'))
    with joined_processes(cfg):
        assert not dist.is_initialized()
