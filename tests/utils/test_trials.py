"""Trainings as processes: how they are run, stopped and gone on with."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from icd_mmrazor.utils.progress import Progress
from icd_mmrazor.utils.training_logs import read_log
from icd_mmrazor.utils.trial_pool import run_trials
from icd_mmrazor.utils.trials import SEPARATOR, Trial

# writes what mmengine writes, one epoch more at each start if it is told to fail
TRAINING = """
import json, os, sys
from pathlib import Path
folder, epochs, fails = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ['fails']
with (folder / 'starts').open('a') as starts:
    starts.write(os.environ['SLOT'])
log = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
log.parent.mkdir(parents=True, exist_ok=True)
done = log.read_text().count('accuracy') if log.is_file() else 0
with log.open('a') as file:
    for epoch in range(done + 1, epochs + 1):
        file.write(json.dumps({'accuracy/top1': 50.0 + epoch, 'step': epoch}) + '\\n')
        if fails:
            sys.exit('out of paint')
"""


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, 'it did not happen'
        time.sleep(0.02)


@pytest.fixture
def trial(tmp_path: Path) -> Callable[..., Trial]:
    def make(name: str, *more: str, epochs: int = 3, script: str = TRAINING) -> Trial:
        folder = tmp_path / name
        return Trial(name, folder, [sys.executable, '-S', '-c', script, folder, epochs, *more], epochs)

    return make


def slots(number: int) -> list[dict[str, str]]:
    return [{'SLOT': str(slot)} for slot in range(number)]


def test_trials_run_fail_and_go_on(trial: Callable, capsys: pytest.CaptureFixture) -> None:
    trials = [trial('a'), trial('b', 'fails'), trial('c'), trial('d', epochs=0)]
    failed = run_trials(trials, slots(2), Progress(trials, 2))
    assert failed == [trials[1], trials[3]]
    assert [one.result and one.result['accuracy'] for one in trials] == [53.0, None, 53.0, None]
    assert 'out of paint' in trials[1].failure
    assert 'ended without an accuracy of epoch 0' in trials[3].failure
    printed = capsys.readouterr().out
    assert 'a: 53.0 %' in printed
    assert f'b: failed, see {trials[1].log}' in printed

    # finished ones are left alone, the others go on
    b = trial('b')
    again = [trial('a'), b, trial('c')]
    assert run_trials(again, slots(1), Progress(again, 1)) == []
    assert [len((one.folder / 'starts').read_text()) for one in again] == [1, 2, 1]
    assert list(read_log(b.folder).accuracies) == [1, 2, 3]
    assert not list(b.folder.glob('.*'))

    # a result that is broken, or of other epochs, is none
    (b.folder / 'result.json').write_text('{"accuracy": 53.0')
    assert b.result is None
    assert run_trials(again, slots(1), Progress(again, 1)) == []
    assert b.result['accuracy'] == 53.0
    assert trial('b', epochs=4).result is None


def test_the_first_failure_can_end_it(trial: Callable) -> None:
    trials = [trial('a', 'fails'), trial('b')]
    assert run_trials(trials, slots(1), Progress(trials, 1), keep_going=False) == trials[:1]
    assert not trials[1].folder.exists()


def test_each_slot_is_taken_once_at_a_time(trial: Callable, tmp_path: Path) -> None:
    """A second training in the same slot would find the first one's folder."""
    script = (
        "import os, sys, time; os.mkdir(os.environ['SLOT']); time.sleep(0.2); os.rmdir(os.environ['SLOT'])\n" + TRAINING
    )
    trials = [trial(name, script=script) for name in 'abcde']
    places = [{'SLOT': str(tmp_path / name)} for name in ('slot0', 'slot1')]
    assert run_trials(trials, places, Progress(trials, 2)) == []
    used = {(one.folder / 'starts').read_text() for one in trials}
    assert used == {place['SLOT'] for place in places}


def test_a_training_that_was_killed_is_named_so(trial: Callable) -> None:
    killed = trial('a', script='import os; os.kill(os.getpid(), 9)')
    run_trials([killed], slots(1), Progress([killed], 1))
    assert 'ended by SIGKILL' in killed.failure


def alive(pid_file: Path) -> bool:
    """Whether the process whose number is in the file runs; one that nobody waits for does not."""
    status = Path('/proc') / pid_file.read_text() / 'stat'
    try:
        return status.read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def _not_ignored() -> Iterator[None]:
    """Let SIGINT count: a shell's background job, as the tests may be one, begins with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.usefixtures('_not_ignored')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_trainings_and_their_children(
    number: signal.Signals, trial: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    script = f"""
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])
for name, pid in (('parent', os.getpid()), ('child', child.pid)):
    with open(os.path.join({str(tmp_path)!r}, name), 'w') as file:
        file.write(str(pid))
os.kill(os.getppid(), {int(number)})
time.sleep(60)
"""
    trials = [trial('a', script=script), trial('b')]
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        run_trials(trials, slots(1), Progress(trials, 1))
    assert stopped.value.code == 128 + number
    assert 'the same command goes on' in capsys.readouterr().out
    assert signal.getsignal(number) is before
    wait_for(lambda: not alive(tmp_path / 'parent') and not alive(tmp_path / 'child'))
    assert not trials[1].folder.exists()


def test_the_log_keeps_every_attempt_and_the_message_has_the_last(trial: Callable) -> None:
    script = "import sys; print('says', sys.argv[3]); sys.exit(1)"
    for attempt in ('first', 'second'):
        one = trial('a', attempt, script=script)
        run_trials([one], slots(1), Progress([one], 1))
    lines = one.log.read_text().splitlines()
    assert [line for line in lines if line.startswith('says')] == ['says first', 'says second']
    assert sum(line.startswith(SEPARATOR) for line in lines) == 1
    assert 'says second' in one.failure
    assert 'says first' not in one.failure


def test_another_metric_is_named(trial: Callable) -> None:
    one = trial('a', script=TRAINING.replace("'accuracy/top1': 50.0", "'data_time': 1, 'accuracy/top5': 50.0"))
    assert run_trials([one], slots(1), Progress([one], 1)) == [one]
    assert 'its validation gives accuracy/top5, not accuracy/top1' in one.failure
