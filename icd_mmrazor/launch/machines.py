"""Machines that train together."""

import fcntl
import hashlib
import ipaddress
import json
import os
import platform
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import mmcv
import mmengine
import mmpretrain
import mmrazor
import torch
import torchvision
from mmengine.config import Config

from icd_mmrazor.compat.distributed import process_group
from icd_mmrazor.configuration.changes import LOADER_SETTINGS, SHOWN_LENGTH, settings_of
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.processes import several_processes
from icd_mmrazor.launch.restarts import join_start, of_first
from icd_mmrazor.launch.watchdog import Watchdog
from icd_mmrazor.version import __version__

SIOCGIFADDR = 0x8915  # linux/sockios.h
GLOO_INTERFACE = 'GLOO_SOCKET_IFNAME'
SHOWN_DIFFERENCES = 4
ADDRESS = re.compile(r' at 0x[0-9a-f]+')  # of a function
# each machine may have its own; of other paths, the last part counts
LOCAL = ('data_file', 'data_root', 'resume', 'load_from', 'work_dir')
VERSIONS = (torch, torchvision, mmengine, mmcv, mmpretrain, mmrazor)


@contextmanager
def joined_processes(cfg: Config) -> Iterator[None]:
    """Hold the process group of a tool and watch over it; a single process has none.

    Args:
        cfg: The run's config, ``launcher`` set; gets settings for several processes.

    Raises:
        SettingError: The launcher does not fit, a process that has restarted is alone, or the machines have different
            code, packages or settings.
    """
    watchdog = Watchdog(cfg)
    if several_processes() and cfg.launcher == 'pytorch':
        join_start(watchdog.timeout)
        if several_machines():
            choose_interface()
            compare_machines(cfg)
    with watchdog, process_group(cfg):
        yield


def several_machines() -> bool:
    """Return whether torchrun has started this process together with others on another machine."""
    return int(os.environ.get('GROUP_WORLD_SIZE', 1)) > 1


def choose_interface() -> None:
    """Let gloo use an interface that other machines reach, if the name of this one is a loopback address.

    Debian and Ubuntu write ``127.0.1.1 HOSTNAME`` into ``/etc/hosts``, and gloo listens at the address of the name.
    ``GLOO_SOCKET_IFNAME`` takes precedence; the first interface with an address is taken otherwise.
    """
    if GLOO_INTERFACE in os.environ or not _is_loopback(socket.gethostname()):
        return
    found = next(
        (name for _, name in socket.if_nameindex() if (own := _address_of(name)) and not _is_loopback(own)), ''
    )
    if found:
        os.environ[GLOO_INTERFACE] = found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    except OSError:
        return False


def _address_of(interface: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket.fileno(), SIOCGIFADDR, struct.pack('256s', interface.encode()[:15]))
        except OSError:  # it has none
            return ''
    return socket.inet_ntoa(answer[20:24])


def compare_machines(cfg: Config) -> None:
    """Refuse to train on machines with different code, packages or settings, which would train different things.

    Args:
        cfg: The run's config. Where data, work folder and checkpoint lie may differ.

    Raises:
        SettingError: This machine differs from that of the first process; the message names the first differences.
    """
    own = dict(host=socket.gethostname(), facts=_facts(cfg))
    first = json.loads(of_first('machine', lambda: json.dumps(own)))
    names = [name for name in {**first['facts'], **own['facts']} if first['facts'].get(name) != own['facts'].get(name)]
    if names:
        listed = [f'{name}: {_get(first, name)} there, {_get(own, name)} here' for name in names[:SHOWN_DIFFERENCES]]
        more = f'\n  and {len(names) - SHOWN_DIFFERENCES} more' if len(names) > SHOWN_DIFFERENCES else ''
        raise SettingError(
            f'{own["host"]} differs from {first["host"]}, the machine of rank 0:\n  '
            + '\n  '.join(listed)
            + f'{more}\nGive all machines the same code, packages and config.'
        )


def _get(machine: dict[str, Any], name: str) -> str:
    text = machine['facts'].get(name, 'not set')
    return text if len(text) <= SHOWN_LENGTH else f'{text[: SHOWN_LENGTH - 3]}...'


def _facts(cfg: Config) -> dict[str, str]:
    """Return what machines must have in common, as texts."""
    versions = {each.__name__: each.__version__ for each in VERSIONS}
    settings = {
        name: ADDRESS.sub('', repr(PurePath(value).name if isinstance(value, str) and '/' in value else value))
        for name, value in settings_of(cfg.to_dict())
        if name.rpartition('.')[2] not in (*LOCAL, *LOADER_SETTINGS)
    }
    python = '.'.join(platform.python_version_tuple()[:2])
    return dict(icd_mmrazor=_digest_of_code(), python=python, **versions, **settings)


def _digest_of_code() -> str:
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for file in sorted(root.rglob('*.py')):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return f'{__version__}, files {digest.hexdigest()[:12]}'
