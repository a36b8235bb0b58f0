"""Where an interrupted training goes on, and what it says when it cannot."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from icd_mmrazor.utils.resuming import prepare_resume

EPOCHS = 3


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., tuple[str | None, str | None]]:
    """Write checkpoints, cut off ones, a pointer and a log; return the problem and where the training would go on."""

    def prepare(*whole: int, cut: tuple[int, ...] = (), pointer: str = '', log: tuple[dict, ...] = ()) -> tuple:
        for epoch in (*whole, *cut):
            file = tmp_path / f'epoch_{epoch}.pth'
            torch.save({'weight': torch.arange(100)}, file)
            if epoch in cut:
                file.write_bytes(file.read_bytes()[:-100])
        last = tmp_path / 'last_checkpoint'
        last.write_text(str(tmp_path / pointer) if pointer else '')
        scalars = tmp_path / '20260101_000000' / 'vis_data' / 'scalars.json'
        scalars.parent.mkdir(parents=True)
        scalars.write_text(''.join(json.dumps({'data_time': 0.1, **line}) + '\n' for line in log))
        problem = prepare_resume(tmp_path, EPOCHS)
        # nothing is lost
        assert {file.name for file in tmp_path.glob('*.pth')} == {f'epoch_{epoch}.pth' for epoch in (*whole, *cut)}
        return problem, Path(last.read_text()).name if last.is_file() else None

    return prepare


LAST = ({'accuracy/top1': 50.0, 'step': EPOCHS},)
OTHER = ({'accuracy/top5': 50.0, 'single-label/f1-score': 40.0, 'step': EPOCHS},)


@pytest.mark.parametrize(
    ('given', 'pointer'),
    [
        # killed while it wrote the pointer, moved from another folder, nothing left
        (dict(whole=(1, 2)), 'epoch_2.pth'),
        (dict(whole=(1, 2), pointer='/elsewhere/epoch_2.pth'), 'epoch_2.pth'),
        (dict(whole=(1, 2), pointer='epoch_1.pth'), 'epoch_1.pth'),
        (dict(pointer='epoch_1.pth'), None),
        # killed while it wrote a checkpoint
        (dict(whole=(1,), cut=(2,), pointer='epoch_2.pth'), 'epoch_1.pth'),
        (dict(whole=(2,), cut=(3,), pointer='epoch_2.pth'), 'epoch_2.pth'),
        # killed while it validated the last epoch, and afterwards
        (dict(whole=(2, 3), pointer='epoch_3.pth'), 'epoch_2.pth'),
        (dict(whole=(2, 3), pointer='epoch_3.pth', log=LAST), 'epoch_3.pth'),
        (dict(whole=(3,), pointer='epoch_3.pth', log=LAST), 'epoch_3.pth'),
        # of a longer training: it is for the training to say what it makes of that
        (dict(whole=(3, 4), pointer='epoch_4.pth'), 'epoch_4.pth'),
    ],
)
def test_it_goes_on_from_the_last_checkpoint_that_helps(given: dict, pointer: str | None, prepared: Callable) -> None:
    assert prepared(*given.pop('whole', ()), **given) == (None, pointer)


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        (dict(whole=(3,)), ['epoch_3.pth is the last epoch', 'no earlier', 'tools/test.py CONFIG', 'delete it and']),
        (dict(whole=(3,), log=OTHER), ['epoch_3.pth: trained', 'gives accuracy/top5, single-label/f1-score, not accu']),
        (dict(whole=(2, 3), log=OTHER), ['epoch_3.pth: trained', "val_evaluator=dict(type='Accuracy'"]),
        (dict(cut=(2,)), ['epoch_2.pth: cut off', 'Delete it']),
        (dict(cut=(1, 2)), ['epoch_1.pth, ', 'epoch_2.pth: cut off']),
    ],
)
def test_what_would_destroy_or_repeat_a_training_is_a_message(
    given: dict, said: list[str], prepared: Callable, tmp_path: Path
) -> None:
    problem, pointer = prepared(*given.pop('whole', ()), pointer='epoch_3.pth', **given)
    for part in said:
        assert part in problem
    assert pointer == 'epoch_3.pth'
