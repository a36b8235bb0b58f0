"""What is said of running trials, and the estimate of what is left."""

import io
import json
from pathlib import Path

import pytest

from icd_mmrazor.utils.progress import Progress, seconds_left
from icd_mmrazor.utils.trials import Trial


def write_log(folder: Path, epoch: int, accuracy: float) -> None:
    log = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({'accuracy/top1': accuracy, 'step': epoch}))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize('stream', [Terminal(), io.StringIO()], ids=['terminal', 'file'])
def test_progress_is_one_line_on_a_terminal(
    stream: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('COLUMNS', '40')
    write_log(tmp_path / 'a', 1, 10.0)
    running = Trial('a name', tmp_path / 'a', [], 4)
    progress = Progress([running, Trial('b', tmp_path / 'b', [], 4)], 1, seconds=0, eta=False, stream=stream)
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
    write_log(trials[1].folder, 4, 1.0)
    assert seconds_left(trials, 1) == 6 * 2 + 10 * 2
    # two at a time take no less than the longer one
    assert seconds_left(trials, 2) == 10 * 2
    trials[2].failure = 'failed'
    assert seconds_left(trials, 2) == 6 * 2
