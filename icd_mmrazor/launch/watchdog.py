"""The end of a run of several processes in which one hangs."""

import dataclasses
import json
import os
import socket
import sys
import threading
import traceback
from time import monotonic
from types import TracebackType

import torch.distributed as dist
from mmengine.config import Config

from icd_mmrazor.compat.runs import current_iteration
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.processes import end_process, open_store, several_processes

SETTING = 'env_cfg.dist_cfg.timeout'
DEFAULT_SECONDS = 1800
# seconds: how often a process reports, when it is sure to have reported, and when it counts as silent
BEAT, LATE, SILENT = 1.0, 2.5, 5.0
SHOWN_FRAMES = 6
# a process whose innermost Python frame lies here waits for the others
WAITING_PLACES = ('/torch/distributed/', '/torch/autograd/', '/torch/nn/parallel/', '/mmengine/dist/')
REMEDY = f'If it only takes long, raise {SETTING}. The same command with --resume goes on from the last checkpoint.'


class Watchdog:
    """End a run in which one process hangs, with a message that names the process and the place.

    A collective operation waits for all processes. Where one is stopped or loops, the backend ends the others after its
    timeout, and blames them. With this, a thread in each process looks once a second where the main thread is, and
    tells the others through the key-value store of the launch. A main thread that has not moved at all, by its Python
    stack and the iteration, for nine tenths of the timeout waits for somebody. Its watchdog finds who has fallen silent
    (stopped, or its machine gone), else who is behind in iterations, else who is at another place than in a collective
    operation. It prints that with the place and ends its own process, for which the launcher ends the rest; torchrun
    kills what does not react to SIGTERM, as a stopped process, after another 30 seconds.

    A long computation is no hang, but one line that takes longer than that is taken for one: the timeout must be longer
    than any single call, the reading of all images for example. The main thread does nothing for all this.

    It needs what torchrun sets before a process starts (``WORLD_SIZE`` and others); processes that srun or mpirun start
    themselves have the backend's timeout alone.

    torch's own means do less: ``torch.distributed.elastic.timer`` (``TORCHELASTIC_ENABLE_FILE_TIMER``) kills whoever
    misses a deadline, and those that wait miss it with the one that hangs; ``monitored_barrier`` is one more collective
    operation in each iteration, of gloo alone; the flight recorder is NCCL's, and its files are read afterwards.

    Args:
        cfg: The run's config. ``env_cfg.dist_cfg.timeout`` is the timeout in seconds; a config without it gets 1800, so
            that NCCL, too, waits longer than the watchdog.

    Raises:
        SettingError: The timeout is no positive number.

    Config example::

        env_cfg = dict(dist_cfg=dict(backend='nccl', timeout=1800))
    """

    def __init__(self, cfg: Config) -> None:
        settings = cfg.get('env_cfg', {}).get('dist_cfg', {})
        if 'timeout' not in settings:
            cfg.merge_from_dict({SETTING: DEFAULT_SECONDS})
        timeout = settings.get('timeout', DEFAULT_SECONDS)
        if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout > 0:
            raise SettingError(
                f'{SETTING}={timeout!r} must be a number of seconds, more than 0: after how long a process that hangs '
                'ends the run. The default is 1800.'
            )
        self.timeout = timeout
        self._ended = threading.Event()

    def __enter__(self) -> 'Watchdog':
        """Begin, if there are other processes."""
        if several_processes():
            threading.Thread(target=self._watch, name='watchdog', daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End."""
        self._ended.set()

    def _watch(self) -> None:
        board: _Board | None = None
        report = _Report()
        while not self._ended.wait(BEAT):
            report = _Report.of_main_thread(report)
            try:
                board = board or _Board()
                message = self._look(board, report)
            except (RuntimeError, KeyError) as error:
                board, message = None, self._without_board(report, error)
            if message:
                end_process(message, 1)

    def _look(self, board: '_Board', report: '_Report') -> str | None:
        """Return why the run must end, or nothing."""
        board.post(report)
        limit = 0.9 * self.timeout
        if report.still < limit - 2 * SILENT:
            return None
        board.read()
        if report.still < limit:
            return None
        found = board.who_is_waited_for()
        if not found or not board.is_first():
            return None
        blamed, said = found
        waiting = ', '.join(str(rank) for rank in board.reports if rank not in blamed)
        return '\n'.join([self._standing(report), *said, *([f'Waiting: rank {waiting}.'] if waiting else []), REMEDY])

    def _without_board(self, report: '_Report', error: Exception) -> str | None:
        if report.still < 0.9 * self.timeout:
            return None
        reason = str(error).partition('\n')[0]
        return (
            f'{self._standing(report)}\nThe store of the launch (MASTER_ADDR {os.environ.get("MASTER_ADDR")}) does not '
            f'answer: {reason}. Its machine is gone or stopped.\n{REMEDY}'
        )

    def _standing(self, report: '_Report') -> str:
        return f'error: this process has stood still for {report.still:.0f} s ({SETTING}={self.timeout:g}).'


@dataclasses.dataclass
class _Report:
    """Where a process is: machine, last begun iteration, seconds without a move, places in the code, inner last."""

    number: int = 0
    host: str = dataclasses.field(default_factory=socket.gethostname)
    iteration: int = -1
    places: list[str] = dataclasses.field(default_factory=list)
    moved_at: float = dataclasses.field(default_factory=monotonic)
    still: float = 0.0

    @classmethod
    def of_main_thread(cls, before: '_Report') -> '_Report':
        """Report on this process, which has reported before."""
        frame = sys._current_frames().get(threading.main_thread().ident)
        stack = traceback.walk_stack(frame)
        places = [f'File "{each.f_code.co_filename}", line {line}, in {each.f_code.co_name}' for each, line in stack]
        report = cls(
            number=before.number + 1,
            host=before.host,
            iteration=current_iteration(),
            places=places[::-1],
        )
        if (report.iteration, report.places) == (before.iteration, before.places):
            report.moved_at, report.still = before.moved_at, report.moved_at - before.moved_at
        return report

    @property
    def waits(self) -> bool:
        return any(place in self.places[-1] for place in WAITING_PLACES)

    def __str__(self) -> str:
        iteration = self.iteration + 1 if self.iteration >= 0 else 'none yet'
        return f'Iteration {iteration}, last seen at:' + ''.join(f'\n    {p}' for p in self.places[-SHOWN_FRAMES:])


class _Board:
    """What the processes of a launch have reported, each under its rank in the store of the launch."""

    def __init__(self) -> None:
        self.rank, self.size = os.environ['RANK'], int(os.environ['WORLD_SIZE'])
        self.store: dist.Store = open_store()
        self.reports: dict[int, _Report | None] = {}
        self._heard_at: dict[int, float] = {}

    def post(self, report: _Report) -> None:
        self.store.set(self.rank, json.dumps(dataclasses.asdict(report)))

    def read(self) -> None:
        for rank in range(self.size):
            key = str(rank)
            report = _Report(**json.loads(self.store.get(key))) if self.store.check([key]) else None
            if rank not in self.reports or report != self.reports[rank]:
                self.reports[rank], self._heard_at[rank] = report, monotonic()

    def is_first(self) -> bool:
        """Return whether no other process has asked: one speaks, and the launcher ends the others."""
        return self.store.compare_set('spoken', '', self.rank).decode() == self.rank

    def who_is_waited_for(self) -> tuple[list[int], list[str]] | None:
        """Return the ranks and a text about each; nothing while it is not yet sure who is silent."""
        quiet = {rank: monotonic() - at for rank, at in self._heard_at.items() if monotonic() - at > LATE}
        silent = [rank for rank, seconds in quiet.items() if seconds > SILENT]
        if len(silent) < len(quiet):
            return None
        if silent:
            return silent, [
                f'{self._name(rank)} has been silent for {quiet[rank]:.0f} s: it is stopped or gone, or its machine '
                f'is. {self.reports[rank] or "It has not said a word yet."}'
                for rank in silent
            ]
        least = min(report.iteration for report in self.reports.values())
        behind = [rank for rank, report in self.reports.items() if report.iteration == least]
        blamed = [rank for rank in behind if not self.reports[rank].waits] or behind
        return blamed, [f'{self._name(rank)} is what the others wait for. {self.reports[rank]}' for rank in blamed]

    def _name(self, rank: int) -> str:
        report = self.reports[rank]
        return f'rank {rank}' + (f' (on {report.host})' if report else '')
