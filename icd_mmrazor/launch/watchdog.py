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
from icd_mmrazor.launch.signals import Received

SETTING = 'env_cfg.dist_cfg.timeout'
DEFAULT_SECONDS = 1800
# seconds: between looks, to answer a process that stands still, and for the store, which may wait for those answers
BEAT, ANSWER, SILENCE = 1.0, 5.0, 10.0
SHOWN_FRAMES = 6
# a process whose innermost Python frame lies here waits for the others
WAITING_PLACES = ('/torch/distributed/', '/torch/autograd/', '/torch/nn/parallel/', '/mmengine/dist/')


class Watchdog:
    """End a run in which a process hangs, with a message that names the process and its place in the code.

    A collective operation waits for all processes. If one of them hangs, the backend ends the *others* after its
    timeout and blames them. Here, a thread in each process looks once a second at the Python stack of the main thread.
    If that has not changed for nine tenths of the timeout, another thread asks all processes for their place through
    the key-value store of the launch, prints which ones the others wait for, and ends its process; the launcher ends
    the rest. Requests to the store have no time limit, so the first thread ends the process if the second has had no
    answer. The environment is the one that torchrun sets (``WORLD_SIZE`` and others).

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
        self._place, self._since = place_of_main_thread(), monotonic()
        self._answered = monotonic()  # by the store

    def __enter__(self) -> 'Watchdog':
        """Start, if there are several processes."""
        if several_processes():
            for loop in (self._look, self._ask):
                threading.Thread(target=loop, name='watchdog', daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._ended.set()

    @property
    def _stands_still(self) -> bool:
        return monotonic() - self._since > 0.9 * self.timeout

    def _look(self) -> None:
        while not self._ended.wait(BEAT):
            before, self._place = self._place, place_of_main_thread()
            if self._place != before:
                self._since = monotonic()
            if self._stands_still and Received.number:  # its iteration, which the signal waits for, does not end
                end_process('', 128 + Received.number)
            silent = monotonic() - self._answered
            if self._stands_still and silent > SILENCE:
                self._end(f'{_no_answer()}: silent for {silent:.0f} s.', ask_others=False)

    def _ask(self) -> None:
        store: dist.Store | None = None
        while not self._ended.wait(BEAT):
            try:
                if store is None:
                    store = open_store()
                    store.set(f'host/{os.environ["RANK"]}', socket.gethostname())
                if self._stands_still:
                    store.set('asked', '')
                if store.check(['asked']):
                    store.set(os.environ['RANK'], json.dumps(self._place))
                    # the first to find it speaks; the launcher ends the others
                    if not self._ended.wait(ANSWER) and self._stands_still and _is_first(store):
                        self._end(_blame(store))
            except (RuntimeError, KeyError, OSError) as error:
                store = None
                if self._stands_still:
                    self._end(f'{_no_answer()}. ({error})', ask_others=False)
            self._answered = monotonic()

    def _end(self, reason: str, ask_others: bool = True) -> None:
        still = f'this process has stood still for {monotonic() - self._since:.0f} s ({SETTING}={self.timeout:g})'
        hint = f'If it only needs more time, raise {SETTING}. To continue, add --resume.'
        end_process(f'error: {still}.\n{reason}\n{hint}', 1, ask_others)


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


def _no_answer() -> str:
    address = os.environ.get('MASTER_ADDR')
    return (
        f'The store of the launch (MASTER_ADDR {address}) does not answer. Its machine is gone or stopped, or the '
        'network is down'
    )


def _is_first(store: dist.Store) -> bool:
    rank = os.environ['RANK']
    return store.compare_set('spoken', '', rank).decode() == rank


def _blame(store: dist.Store) -> str:
    ranks = range(int(os.environ['WORLD_SIZE']))
    places = {rank: json.loads(store.get(str(rank))) if store.check([str(rank)]) else None for rank in ranks}
    stalled, lines = find_stalled_ranks(places), []
    for rank in stalled:
        if places[rank] is None:
            host = (
                store.get(f'host/{rank}').decode() if store.check([f'host/{rank}']) else 'a machine that has not joined'
            )
            lines.append(f'rank {rank} (on {host}) does not answer: it is stopped or gone, or its machine is.')
            continue
        host, iteration, stack = places[rank]
        lines.append(f'rank {rank} (on {host}) is what the others wait for, after {max(iteration, 0)} iterations, at')
        lines += [f'    {frame}' for frame in stack[-SHOWN_FRAMES:]]
    if waiting := [str(rank) for rank in ranks if rank not in stalled]:
        lines.append(f'Waiting: rank {", ".join(waiting)}.')
    return '\n'.join(lines)
