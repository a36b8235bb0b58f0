"""Facts of the machine."""

import os

import pytest

from icd_mmrazor.machine import cores, processor


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='the system binds no process to cores')
def test_cores_are_those_that_the_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores() == len(allowed)


def test_a_processor_has_a_name_of_one_line() -> None:
    assert processor().strip()
    assert len(processor().splitlines()) == 1
