"""CRD and RRD over real gloo processes against one process with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from gathered_memories import BATCH, trained


def test_steps_equal_those_of_one_process(tmp_path: Path) -> None:
    sizes = (7, 3)
    script, address = Path(__file__).with_name('gathered_memories.py'), tmp_path / 'address'
    outs = [tmp_path / f'{rank}.npz' for rank in range(len(sizes))]
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(address), str(out), *map(str, sizes)],
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )
        for rank, out in enumerate(outs)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * len(sizes)
    ranks = [np.load(out) for out in outs]
    for method in ('crd', 'rrd'):
        # processes with seeds of their own start with the memories of the first
        alone = trained(method, slice(0, BATCH), parallel=False, seed=0)
        assert {f'{method}/{name}' for name in alone} <= set(ranks[0].files)
        for name, want in alone.items():
            for rank in ranks:
                got = rank[f'{method}/{name}']
                assert np.abs(got - want).max() <= 1e-10 * max(np.abs(want).max(), 1e-3), (method, name)
        memories = [name for name in alone if 'memory' in name or 'normalisers' in name or 'oldest' in name]
        assert len(memories) == 3 * (3 if method == 'crd' else 2)
        for name in memories:
            for rank in ranks[1:]:
                assert np.array_equal(rank[f'{method}/{name}'], ranks[0][f'{method}/{name}']), name
