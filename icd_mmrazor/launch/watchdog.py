"""Timeout of a run in which one of several processes hangs."""

import json
import os
import socket
import sys
import threading
import traceback
from time import monotonic

import torch.distributed as dist
from mmengine.config import Config

from icd_mmrazor import checks
from icd_mmrazor.compat.runs import current_iteration
from icd_mmrazor.launch.processes import end_process, open_store, several_processes

SETTING = 'env_cfg.dist_cfg.timeout'
DEFAULT_SECONDS = 1800
BEAT, ANSWER = 1.0, 5.0  # seconds: between looks, and to answer a process that stands still
SHOWN_FRAMES = 6
# a process whose innermost Python frame lies here waits for the others
WAITING_PLACES = ('/torch/distributed/', '/torch/autograd/', '/torch/nn/parallel/', '/mmengine/dist/')


class Watchdog:
    """End a run in which a process hangs, with a message that names the process and its place in the code.

    A collective operation waits for all processes. If one of them hangs, the backend ends the *others* after its
    timeout and blames them. Here, a thread in each process looks once a second at the Python stack of the main thread.
    If that has not changed for nine tenths of the timeout, the thread asks all processes for their place through the
    key-value store of the launch, prints which ones the others wait for, and ends its process; the launcher ends the
    rest. It needs the environment that torchrun sets (``WORLD_SIZE`` and others).

    Args:
        cfg: The run's config; ``env_cfg.dist_cfg.timeout`` is the timeout in seconds, 1800 by default.

    Raises:
        SettingError: The timeout is not a positive number.

    Config example::

        env_cfg = dict(dist_cfg=dict(backend='nccl', timeout=1800))
    """

    def __init__(self, cfg: Config) -> None:
        settings = cfg.get('env_cfg', {}).get('dist_cfg', {})
        if 'timeout' not in settings:  # NCCL's own default is shorter
            cfg.merge_from_dict({SETTING: DEFAULT_SECONDS})
        self.timeout = checks.positive(self, SETTING, settings.get('timeout', DEFAULT_SECONDS))
        self._ended = threading.Event()

    def __enter__(self) -> 'Watchdog':
        """Start, if there are several processes."""
        if several_processes():
            threading.Thread(target=self._watch, name='watchdog', daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._ended.set()

    def _watch(self) -> None:
        store: dist.Store | None = None
        place, since = None, monotonic()
        while not self._ended.wait(BEAT):
            before, place = place, place_of_main_thread()
            since = since if place == before else monotonic()
            still = monotonic() - since
            stands_still = still > 0.9 * self.timeout
            message = f'error: this process has stood still for {still:.0f} s ({SETTING}={self.timeout:g}).'
            try:
                store = store or open_store()
                if stands_still:
                    store.set('asked', '')
                if not store.check(['asked']):
                    continue
                store.set(os.environ['RANK'], json.dumps(place))
                # the first to find it speaks; the launcher ends the others
                if self._ended.wait(ANSWER) or not (stands_still and _is_first(store)):
                    continue
                message += f'\n{_blame(store)}'
            except (RuntimeError, KeyError) as error:
                store = None
                if not stands_still:
                    continue
                message += f'\nThe store of the launch does not answer: its machine is gone or stopped. ({error})'
            end_process(f'{message}\nIf it only needs more time, raise {SETTING}. To continue, add --resume.', 1)


def place_of_main_thread() -> tuple[str, int, list[str]]:
    """Return the machine of this process, its iteration (-1 before the first) and its stack, innermost last."""
    frame = sys._current_frames().get(threading.main_thread().ident)
    stack = [f'File "{f.f_code.co_filename}", line {n}, in {f.f_code.co_name}' for f, n in traceback.walk_stack(frame)]
    return socket.gethostname(), current_iteration(), stack[::-1]


def find_stalled_ranks(places: dict[int, tuple[str, int, list[str]] | None]) -> list[int]:
    """Return the ranks that the others wait for, given the :func:`place_of_main_thread` of each, None without answer.

    Those are the ones that do not answer; else, of those with the fewest iterations, the ones outside of a collective
    operation; else all of these.
    """
    if silent := [rank for rank, place in places.items() if place is None]:
        return silent
    least = min(iteration for _, iteration, _ in places.values())
    behind = [rank for rank, (_, iteration, _) in places.items() if iteration == least]
    return [rank for rank in behind if not any(part in places[rank][2][-1] for part in WAITING_PLACES)] or behind


def _is_first(store: dist.Store) -> bool:
    rank = os.environ['RANK']
    return store.compare_set('spoken', '', rank).decode() == rank


def _blame(store: dist.Store) -> str:
    ranks = range(int(os.environ['WORLD_SIZE']))
    places = {rank: json.loads(store.get(str(rank))) if store.check([str(rank)]) else None for rank in ranks}
    stalled, lines = find_stalled_ranks(places), []
    for rank in stalled:
        if places[rank] is None:
            lines.append(f'rank {rank} does not answer: it is stopped or gone, or its machine is.')
            continue
        host, iteration, stack = places[rank]
        lines.append(f'rank {rank} (on {host}) is what the others wait for, after {max(iteration, 0)} iterations, at')
        lines += [f'    {frame}' for frame in stack[-SHOWN_FRAMES:]]
    if waiting := [str(rank) for rank in ranks if rank not in stalled]:
        lines.append(f'Waiting: rank {", ".join(waiting)}.')
    return '\n'.join(lines)
