"""gather_distributed over real gloo processes against one process with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from gathered_gradients import gradients, seeded


@pytest.mark.parametrize('sizes', [(6, 6), (7, 4, 1)], ids=str)
def test_gradients_equal_those_of_one_process(sizes: tuple[int, ...], tmp_path: Path) -> None:
    script, address, out = Path(__file__).with_name('gathered_gradients.py'), tmp_path / 'address', tmp_path / 'out.npz'
    command = [sys.executable, str(script)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(address), str(out), *map(str, sizes)], env={**os.environ, 'OMP_NUM_THREADS': '1'}
        )
        for rank in range(len(sizes))
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * len(sizes)

    model, s, t = seeded(gather_distributed=False)
    value = model(s, t)
    value.backward()
    got = np.load(out)
    assert got['True/value'] == pytest.approx(value.item(), rel=1e-12)
    for name, want in gradients(model).items():
        # the bias has no gradient; 1e-10 of a typical one is its bar
        bar = 1e-10 * max(np.abs(want).max(), 1e-3)
        assert np.abs(got[f'True/{name}'] - want).max() <= bar, name

    # without it each process has negatives of its own: another loss, the mean over the processes
    first, parts = 0, []
    for size in sizes:
        parts.append(model(s[first : first + size], t[first : first + size]).item())
        first += size
    assert got['False/value'] == pytest.approx(np.mean(parts), rel=1e-12)
    assert abs(got['False/value'] - got['True/value']) > 0.1
