"""What tools/benchmarks/step_time.py measures with: timers, traces, counts, and the machine's own speed."""

import contextlib
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from icd_mmrazor.models.connectors import LinearProjection
from icd_mmrazor.models.losses import ICDLoss

# one turn of a contender takes about so long at most, where it takes several steps
TURN_SECONDS = 3.0
REST = 'rest'
# what the host does when it waits for the GPU, in a trace; the third that there is, of the device, is our own
WAITS = ('cudaStreamSynchronize', 'cudaEventSynchronize')


class Timed:
    """Something callable that adds the time of its calls to a part; it is the same in all else.

    Args:
        inner: What is called.
        times: Seconds by part; changed.
        part: The part's name.
        device: ``'cpu'`` or ``'cuda'``.
    """

    def __init__(self, inner: Callable, times: dict[str, float], part: str, device: str) -> None:
        self.inner = inner
        self.times = times
        self.part = part
        self.device = device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        begin = now(self.device)
        result = self.inner(*args, **kwargs)
        self.times[self.part] += now(self.device) - begin
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def now(device: str) -> float:
    """Return the time in seconds when the device has done all that it was given."""
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter()


class Bench:
    """A contender being measured: ``step()``, ``start_epoch()``, ``batches_left``, ``workers`` and ``parts``.

    Before the steps of a turn that count come some that do not: caches are those of another contender, and batches
    that workers have made in the meantime would come for free.

    Its steps are as many as fit in ``TURN_SECONDS``, at most those given, and at least one.

    Args:
        contender: A loop.
        steps: The most steps of a turn.
        device: ``'cpu'`` or ``'cuda'``.
        warm_up: Steps before anything is measured.
    """

    def __init__(self, contender: Any, steps: int, device: str, warm_up: int) -> None:
        self.contender = contender
        self.device = device
        self.steps = 1
        self.lead_in = lead_in_steps(contender.workers, device)
        # as the contender has set them when it was built; the next one sets others
        self.switches = backend_switches()
        self.start_epoch_for(warm_up)
        self.take(warm_up - 1)
        fitting = int(TURN_SECONDS / self.take(1))
        self.steps = max(1, min(steps, fitting))
        if device == 'cpu':
            self.lead_in = min(self.lead_in, fitting)

    def start_epoch_for(self, steps: int) -> None:
        """Begin an epoch, if fewer steps are left of this one: none ends while the time is taken."""
        if self.contender.batches_left < steps:
            self.contender.start_epoch()

    def prepare(self) -> None:
        set_backend_switches(self.switches)
        self.start_epoch_for(self.lead_in + self.steps)
        self.take(self.lead_in)

    def take(self, steps: int) -> float:
        """Take steps; return the seconds."""
        begin = now(self.device)
        for _ in range(steps):
            self.contender.step()
        return now(self.device) - begin

    def seconds_a_step(self) -> float:
        """Take a turn."""
        self.prepare()
        return self.take(self.steps) / self.steps

    def seconds_of_parts(self) -> dict[str, float]:
        """Take a turn; return the seconds a step by part, and of what is left as ``rest``."""
        self.prepare()
        times: dict[str, float] = defaultdict(float)
        with contextlib.ExitStack() as stack:
            for part, calls in self.contender.parts.items():
                times[part] = 0.0
                for owner, name in calls:
                    stack.enter_context(replaced(owner, name, Timed(getattr(owner, name), times, part, self.device)))
            whole = self.take(self.steps)
        times[REST] = whole - sum(times.values())
        return {part: seconds / self.steps for part, seconds in times.items()}

    def trace(self) -> dict[str, float]:
        """Trace some steps of a new epoch, so few that none of them logs.

        Returns:
            ``memory_mb``: the most that tensors take beyond what is there between steps, weights for example. On a GPU
            also ``busy``, the share of the time in which a kernel runs, and ``synchronisations`` a step.
        """
        set_backend_switches(self.switches)
        self.contender.start_epoch()
        self.take(self.lead_in)
        if self.device == 'cpu':
            _, events = traced(lambda: self.take(1), ProfilerActivity.CPU)
            return {'memory_mb': peak_allocation(events) / 1e6}
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.take(1)
        memory = torch.cuda.max_memory_allocated() - before
        steps = min(10, self.steps)
        seconds, events = traced(lambda: self.take(steps), ProfilerActivity.CUDA)
        return {
            'memory_mb': memory / 1e6,
            'busy': busy_seconds(events) / seconds,
            'synchronisations': sum(event['name'] in WAITS for event in events) / steps,
        }


def lead_in_steps(workers: int, device: str) -> int:
    """Return how many steps of a turn do not count.

    Args:
        workers: How many processes load data.
        device: A GPU may wait for data: two batches a worker lie ready, and have to be used up.
    """
    return 2 * workers + 1 if device == 'cuda' else 1


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let an attribute of an object be another for a while."""
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def backend_switches() -> tuple[str, bool, bool]:
    """Return what is set for the whole process and changes how fast a GPU is."""
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark


def set_backend_switches(switches: tuple[str, bool, bool]) -> None:
    torch.set_float32_matmul_precision(switches[0])
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = switches[1:]


def interleave(tasks: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list]:
    """Call tasks in turn, round by round, and begin each round with the next one.

    Args:
        tasks: By name.
        rounds: How often each is called.

    Returns:
        What each returned, by name, in the order of the rounds.
    """
    names = list(tasks)
    results: dict[str, list] = {name: [] for name in names}
    for place in range(rounds):
        first = place % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(tasks[name]())
    return results


def spread(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Return the median and the quartiles of some values, and the values."""
    lower, median, upper = statistics.quantiles(values, n=4, method='inclusive') if len(values) > 1 else [*values] * 3
    return {'median': median, 'lower': lower, 'upper': upper, 'values': list(values)}


def traced(function: Callable[[], Any], activity: ProfilerActivity) -> tuple[Any, list[dict]]:
    """Call a function; return what it returns, and the events of torch's trace."""
    with profile(activities=[activity], profile_memory=activity == ProfilerActivity.CPU) as profiler:
        result = function()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'trace.json')
        profiler.export_chrome_trace(str(file))
        return result, json.loads(file.read_text())['traceEvents']


def peak_allocation(events: Sequence[dict]) -> int:
    """Return the most bytes that were allocated at a time, beyond those before the trace."""
    changes = [event['args'] for event in sorted(events, key=lambda e: e.get('ts', 0)) if event['name'] == '[memory]']
    if not changes:
        return 0
    # torch counts on from earlier traces
    before = changes[0]['Total Allocated'] - changes[0]['Bytes']
    return max(change['Total Allocated'] for change in changes) - before


def busy_seconds(events: Sequence[dict]) -> float:
    """Return how long at least one kernel ran."""
    busy = end = 0.0
    for event in sorted((event for event in events if event.get('cat') == 'kernel'), key=lambda event: event['ts']):
        stop = event['ts'] + event['dur']
        busy += max(0.0, stop - max(end, event['ts']))
        end = max(end, stop)
    return busy / 1e6


def seconds_a_call(function: Callable[[], Any], device: str, calls: int = 3, least: float = 0.2) -> float:
    """Call a function for some time, and some times at least; return the seconds a call."""
    function()
    begin = now(device)
    function()
    calls = max(calls, int(least / (now(device) - begin)))
    begin = now(device)
    for _ in range(calls):
        function()
    return (now(device) - begin) / calls


class ICDAlone:
    """ICD's own cost: its projections, its loss and their backward pass, on features that are there.

    Args:
        batch_size: Images.
        student_width: Width of the student's feature.
        teacher_width: Width of the teacher's feature.
        device: ``'cpu'`` or ``'cuda'``.
        **settings: Of the loss.
    """

    def __init__(self, batch_size: int, student_width: int, teacher_width: int, device: str, **settings: Any) -> None:
        self.device = device
        self.student = torch.randn(batch_size, student_width, device=device, requires_grad=True)
        self.teacher = torch.randn(batch_size, teacher_width, device=device)
        self.projections = nn.ModuleList(LinearProjection(width) for width in (student_width, teacher_width)).to(device)
        self.loss = ICDLoss(**settings).to(device)

    def step(self) -> None:
        student, teacher = self.projections
        self.loss(student(self.student), teacher(self.teacher)).backward()
        self.student.grad = None
        for module in (self.projections, self.loss):
            module.zero_grad()

    def seconds_a_step(self) -> float:
        return seconds_a_call(self.step, self.device)
