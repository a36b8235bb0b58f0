"""What is said while trials run, and when they will be done."""

import shutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import IO

from icd_mmrazor.utils.trials import Trial


class Progress:
    """Say what is running: every second in a line that is rewritten on a terminal, in new lines elsewhere.

    Args:
        trials: All of them; those with a result count as done.
        slots: How many run at a time.
        seconds: Between two lines where there is no terminal.
        eta: Whether to estimate when all will be done.
        stream: Where to print; standard output by default.
    """

    def __init__(
        self, trials: Sequence[Trial], slots: int, seconds: float = 10, eta: bool = True, stream: IO[str] | None = None
    ) -> None:
        self.trials = trials
        self.slots = slots
        self.eta = eta
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.seconds = 1 if self.terminal else seconds
        self._width = 0
        self._next = time.monotonic() + self.seconds

    def show(self, text: str, end: str = '\n') -> None:
        """Print a line, over the rewritten one if there is one.

        Args:
            text: The line.
            end: Empty for a line that the next one is to replace.
        """
        print(f'\r{text:<{self._width}}' if self.terminal else text, end=end, flush=True, file=self.stream)
        self._width = len(text) if end == '' else 0

    def update(self, running: Sequence[Trial]) -> None:
        """Report, if it is time.

        Args:
            running: The trials that have a process.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.seconds
        text = self.text(running)
        if self.terminal:
            # a line that wraps could not be rewritten
            text = text[: shutil.get_terminal_size().columns - 1]
        self.show(text, end='' if self.terminal else '\n')

    def text(self, running: Sequence[Trial]) -> str:
        """Return the line.

        Args:
            running: The trials that have a process.
        """
        states = []
        for trial in running:
            epoch, accuracy = trial.look()
            state = 'starts' if accuracy is None else f'epoch {epoch}/{trial.max_epochs}, {accuracy:.1f} %'
            states.append(f'{trial.name} {state}')
        head = f'  {sum(trial.result is not None for trial in self.trials)}/{len(self.trials)} done'
        failed = sum(trial.failure is not None for trial in self.trials)
        if failed:
            head += f', {failed} failed'
        left = seconds_left(self.trials, self.slots) if self.eta else None
        if left is not None:
            head += f', ETA {timedelta(seconds=round(left))}'
        return f'{head}; {"; ".join(states)}'


def seconds_left(trials: Sequence[Trial], slots: int) -> float | None:
    """Estimate how long trials still take from the measured pace of those that run or ran.

    Args:
        trials: Finished, running and waiting ones.
        slots: How many run at a time.

    Returns:
        Seconds; None as long as nothing has been measured.
    """
    paces = defaultdict(list)
    for trial in trials:
        if pace := trial.pace():
            paces[trial.kind].append(pace)
    if not paces:
        return None
    mean = statistics.mean(pace for group in paces.values() for pace in group)
    left = [
        trial.seconds_left(trial.pace() or statistics.mean(paces.get(trial.kind, [mean])))
        for trial in trials
        if trial.result is None and trial.failure is None
    ]
    return max(sum(left) / slots, max(left, default=0.0))
