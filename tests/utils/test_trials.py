"""Trainings as processes: what is read of their logs, and how they are run, watched, stopped and gone on with."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import CONFIGS
from mmengine.config import Config

from icd_mmrazor.utils.errors import SettingError
from icd_mmrazor.utils.training_logs import read_log, read_setting
from icd_mmrazor.utils.trials import Progress, Trial, locked, run_trials, seconds_left

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
def log_of(tmp_path: Path) -> Callable[..., Path]:
    """Write the lines of one start of a training; return its work folder."""

    def write(*lines: object, start: str = '20260101_000000') -> Path:
        file = tmp_path / start / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(''.join(line if isinstance(line, str) else json.dumps(line) + '\n' for line in lines))
        return tmp_path

    return write


@pytest.fixture
def trial(tmp_path: Path) -> Callable[..., Trial]:
    def make(name: str, *more: str, epochs: int = 3, script: str = TRAINING) -> Trial:
        folder = tmp_path / name
        return Trial(name, folder, [sys.executable, '-S', '-c', script, folder, epochs, *more], epochs)

    return make


def slots(number: int) -> list[dict[str, str]]:
    return [{'SLOT': str(slot)} for slot in range(number)]


def validated(step: int, accuracy: float) -> dict:
    return {'accuracy/top1': accuracy, 'data_time': 0.01, 'step': step}


def test_a_resumed_training_is_one(log_of: Callable) -> None:
    trained = {'lr': 0.05, 'loss': 1.0, 'epoch': 1, 'iter': 2, 'step': 2}
    log_of(trained, validated(1, 10.0), trained, validated(2, 20.0), validated(3, 30.0))
    folder = log_of(validated(3, 33.0), validated(4, 40.0), start='20260102_000000')
    log = read_log(folder)
    assert log.accuracies == {1: 10.0, 2: 20.0, 3: 33.0, 4: 40.0}
    assert (log.epoch, log.problems) == (4, [])
    # one that begins anew in the same folder does not inherit the end
    log_of(validated(1, 11.0), start='20260103_000000')
    assert read_log(folder).accuracies == {1: 11.0}
    assert read_log(folder / 'nothing').epoch == 0


@pytest.mark.parametrize(
    'line',
    [
        '{"accuracy/top1": 30.0, "st',
        'garbage\n',
        '\x00\xff\n',
        '[' * 100_000 + '\n',
        '7\n',
        '{"accuracy/top1": 30.0}\n',
        *(validated(3, accuracy) for accuracy in (float('nan'), float('inf'), 10**400, -1, 100.5, None, True, '30')),
        *(validated(step, 30.0) for step in (None, 0, 3.0, '3', [3])),
    ],
    ids=lambda line: str(line)[:30],
)
def test_a_broken_line_is_named(line: object, log_of: Callable) -> None:
    log = read_log(log_of(validated(1, 10.0), validated(2, 20.0), line))
    assert log.accuracies == {1: 10.0, 2: 20.0}
    assert len(log.problems) == 1
    assert '1 of 3 lines' in log.problems[0]


def test_a_later_nan_is_not_hidden_by_an_earlier_number(log_of: Callable) -> None:
    log_of(validated(1, 10.0), validated(2, 20.0))
    log = read_log(log_of(validated(2, float('nan')), start='20260102_000000'))
    assert log.accuracies == {1: 10.0}


def test_broken_files_are_named(log_of: Callable, tmp_path: Path) -> None:
    log_of()
    (tmp_path / '20260102_000000' / 'vis_data' / 'scalars.json').mkdir(parents=True)
    empty, folder = read_log(tmp_path).problems
    assert 'empty' in empty
    assert 'cannot be read' in folder


def test_a_config_is_read_and_not_run(tmp_path: Path) -> None:
    config = tmp_path / '20260102_000000' / 'vis_data' / 'config.py'
    config.parent.mkdir(parents=True)
    touched = tmp_path / 'touched'
    config.write_text(
        f'open({str(touched)!r}, "w").close()\n'
        'custom_imports = dict(imports=[\n    "icd_mmrazor",\n])\n'
        'other_train_cfg = dict(max_epochs=1)\n'
        'randomness = dict(deterministic=True, diff_rank_seed=1, seed=3)\n'
        'train_cfg = dict(\n    by_epoch=True, dynamic_intervals=[\n        (180, 2),\n    ], max_epochs=240)\n'
        'val_cfg = dict(val_interval=9)\n'
    )
    assert read_setting(tmp_path, 'train_cfg', 'max_epochs') == 240
    assert read_setting(tmp_path, 'randomness', 'seed') == 3
    # of another section, of none
    assert read_setting(tmp_path, 'train_cfg', 'val_interval') is None
    assert read_setting(tmp_path, 'absent', 'max_epochs') is None
    assert not touched.exists()
    # the last start counts, unless its config says nothing
    for start, text in (('20260101_000000', '100)'), ('20260103_000000', '300)'), ('20260104_000000', '')):
        (tmp_path / start / 'vis_data').mkdir(parents=True)
        (tmp_path / start / 'vis_data' / 'config.py').write_text(f'train_cfg = dict(max_epochs={text}')
    assert read_setting(tmp_path, 'train_cfg', 'max_epochs') == 300


def test_the_dump_of_mmengine_is_read(tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'demo' / 'icd_res20_res8_digits.py')
    cfg.merge_from_dict({'train_cfg.dynamic_intervals': [(30, 1)], 'randomness.seed': 5})
    cfg.dump(tmp_path / 'any_name.py')
    assert read_setting(tmp_path, 'train_cfg', 'max_epochs') == cfg.train_cfg.max_epochs
    assert read_setting(tmp_path, 'randomness', 'seed') == 5
    # not set
    cfg.randomness.seed = None
    cfg.dump(tmp_path / 'any_name.py')
    assert read_setting(tmp_path, 'randomness', 'seed') is None


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


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
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


def test_last_checkpoint_names_one_to_go_on_from(trial: Callable) -> None:
    one = trial('a')
    one.folder.mkdir()
    checkpoints = {epoch: one.folder / f'epoch_{epoch}.pth' for epoch in (1, 2, 3)}
    pointer = one.folder / 'last_checkpoint'

    def after_start(*epochs: int, text: str) -> str | None:
        for epoch in epochs:
            checkpoints[epoch].touch()
        pointer.write_text(text)
        one.start({'SLOT': '0'})
        one.wait(60)
        return pointer.read_text() if pointer.is_file() else None

    # killed while it wrote this file, moved from another folder, nothing left
    assert after_start(1, 2, text='') == str(checkpoints[2])
    assert after_start(text='/elsewhere/epoch_2.pth') == str(checkpoints[2])
    assert after_start(text=str(checkpoints[1])) == str(checkpoints[1])
    # that run has now validated epoch 3, so its checkpoint stays; without the accuracy it is made again
    assert after_start(3, text=str(checkpoints[3])) == str(checkpoints[3])
    (one.folder / '20260101_000000' / 'vis_data' / 'scalars.json').unlink()
    assert after_start(text=str(checkpoints[3])) == str(checkpoints[2])
    assert not checkpoints[3].exists()
    for epoch in (1, 2):
        checkpoints[epoch].unlink()
    assert after_start(text=str(checkpoints[1])) is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize('stream', [Terminal(), io.StringIO()], ids=['terminal', 'file'])
def test_progress_is_one_line_on_a_terminal(
    stream: io.StringIO, log_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('COLUMNS', '40')
    folder = log_of(validated(1, 10.0))
    running = Trial('a name', folder, [], 4)
    progress = Progress([running, Trial('b', folder / 'b', [], 4)], 1, seconds=0, eta=False, stream=stream)
    # a terminal's line is else rewritten once a second
    progress.seconds = progress._next = 0
    progress.update([running])
    progress.update([running])
    progress.show('done')
    text = '  0/2 done; a name epoch 1/4, 10.0 %'
    if stream.isatty():
        assert stream.getvalue() == f'\r{text}\r{text}\r{"done":<{len(text)}}\n'
        running.name = 'long ' * 20
        progress.update([running])
        assert len(stream.getvalue().splitlines()[-1].rpartition('\r')[2]) == 39
    else:
        assert stream.getvalue() == f'{text}\n{text}\ndone\n'


def test_what_is_left_follows_from_what_was_measured(tmp_path: Path) -> None:
    trials = [Trial(name, tmp_path / name, [], 10, kind=kind) for name, kind in (('a', 'x'), ('b', 'x'), ('c', 'y'))]
    assert seconds_left(trials, 1) is None
    trials[0].folder.mkdir()
    (trials[0].folder / 'result.json').write_text('{"accuracy": 1, "epochs": 10, "seconds": 20, "pace": 2}')
    # b is of a's kind, of c's nothing is known but the mean; b has 4 of its 10 epochs
    scalars = trials[1].folder / 'x' / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True)
    scalars.write_text(json.dumps(validated(4, 1.0)))
    assert seconds_left(trials, 1) == 6 * 2 + 10 * 2
    # two at a time take no less than the longer one
    assert seconds_left(trials, 2) == 10 * 2
    trials[2].failure = 'failed'
    assert seconds_left(trials, 2) == 6 * 2


def test_one_runner_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / 'new' / 'folder'
    with (
        locked(folder),
        pytest.raises(SettingError, match=f'{folder} is in use by another runner .process {os.getpid()} '),
        locked(folder),
    ):
        pass
    with locked(folder) as lock:
        # a training that outlives its runner
        orphan = subprocess.Popen([sys.executable, '-S', '-c', 'input()'], stdin=subprocess.PIPE, pass_fds=[lock])
    try:
        with pytest.raises(SettingError, match='in use'), locked(folder):
            pass
    finally:
        orphan.communicate(b'\n')
    with locked(folder):
        pass


def test_what_a_killed_runner_left_is_waited_for(tmp_path: Path) -> None:
    with locked(tmp_path) as lock:
        orphan = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(0.5)'], pass_fds=[lock])
    gone = subprocess.Popen([sys.executable, '-S', '-c', ''])
    gone.wait()
    owner = (tmp_path / '.lock').read_text().replace(str(os.getpid()), str(gone.pid))
    (tmp_path / '.lock').write_text(owner)
    with locked(tmp_path):
        assert orphan.wait(10) == 0
