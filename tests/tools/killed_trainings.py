"""Kill trainings at random moments with SIGKILL, resume them, and compare their results bit for bit.

Each training runs ``tools/train.py`` in a process forked from this one, which imports the stack once. Each config is
first trained without interruption. Then trainings of each config in turn are started, killed and resumed
(``--resume``) until they end, and the result is compared, until the given number of kills. Half of the kills come at
a uniformly random moment, the others while a checkpoint is being written, as soon as its temporary file appears.

Prints a report as JSON; ``problems`` is empty if all went well.
"""

import argparse
import json
import os
import random
import runpy
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests' / 'support'))

from icd_mmrazor import compat  # noqa: E402, F401

# isort: split
import torch  # noqa: E402
from mmengine.runner import Runner  # noqa: E402, F401 (imported once, for all)
from same_checkpoints import differences  # noqa: E402

from icd_mmrazor.models.teacher_cache.store_folder import LOCK  # noqa: E402

LAST = 'last_checkpoint'
TEMPORARY = '.*.pth.*'
# of one start of a training
TIMEOUT = 300


class Training:
    """A training in a folder, perhaps in several starts."""

    def __init__(self, config: Path, folder: Path) -> None:
        self.config, self.folder = config, folder
        folder.mkdir(parents=True)

    def start(self, resume: bool) -> int:
        """Start or resume it in a new process; return the process id."""
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            output = os.open(self.folder.with_suffix('.log'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.argv = ['train.py', str(self.config), '--work-dir', str(self.folder), *(['--resume'] if resume else [])]
            runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')
            status = 0
        except SystemExit as end:
            status = int(bool(end.code))
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def end(self, pid: int, at: float | None = None, writing: bool = False) -> int | None:
        """Kill a process so many seconds after now, or when it writes a checkpoint after that.

        Returns:
            Its exit status; ``None`` if it was killed.
        """
        start = time.monotonic()
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            passed = time.monotonic() - start
            due = at is not None and passed >= at and (not writing or any(self.folder.glob(TEMPORARY)))
            if due or passed > TIMEOUT:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                if due:
                    return None
                raise TimeoutError(f'{self.folder} has not ended after {TIMEOUT} s')
            time.sleep(0.0002 if writing else 0.002)

    @property
    def checkpoint(self) -> Path:
        return Path((self.folder / LAST).read_text())

    def left_over(self) -> list[str]:
        return [str(file) for file in self.folder.rglob('.*') if file.name != LOCK]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', type=Path)
    parser.add_argument('--folder', type=Path, required=True, help='for the trainings; must not exist')
    parser.add_argument('--kills', type=int, required=True)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(args.seed)
    report = dict(kills=0, while_writing=0, trainings=0, seconds=[], problems=[])
    whole = []
    for i, config in enumerate(args.configs):
        training, begin = Training(config, args.folder / f'whole_{i}'), time.monotonic()
        if training.end(training.start(resume=False)):
            sys.exit(training.folder.with_suffix('.log').read_text())
        whole.append((training, time.monotonic() - begin))
        report['seconds'].append(round(whole[-1][1], 2))
    while report['kills'] < args.kills and not report['problems']:
        i = report['trainings'] % len(whole)
        wanted, length = whole[i]
        training = Training(wanted.config, args.folder / f'killed_{report["trainings"]}')
        report['trainings'] += 1
        status, begun = None, False
        while status is None:
            kill = report['kills'] < args.kills
            writing = kill and draw.random() < 0.5
            pid = training.start(resume=begun)
            status = training.end(pid, draw.uniform(0, length) if kill else None, writing)
            begun = True
            if status is None:
                report['kills'] += 1
                report['while_writing'] += bool(training.left_over())
        if status:
            report['problems'].append(training.folder.with_suffix('.log').read_text()[-5000:])
            continue
        report['problems'] += differences(wanted.checkpoint, training.checkpoint)
        report['problems'] += [f'left over: {file}' for file in training.left_over()]
        names = [{file.name for file in each.folder.glob('*.pth')} for each in (wanted, training)]
        report['problems'] += sorted(names[0] ^ names[1])
    print(json.dumps(report))


if __name__ == '__main__':
    main()
