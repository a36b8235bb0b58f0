"""The fuzzing targets take their seeds, and what was found once."""

import sys

import pytest
from helpers import TOOLS

sys.path.insert(0, str(TOOLS / 'fuzz'))
import targets
from run import TARGETS

SEEDS = targets.seeds()
FOUND = {'network': [b'mmpretrain::resnet/' + b'\xa7' * 200]}


def test_the_tool_names_the_targets() -> None:
    assert set(TARGETS) == set(targets.TARGETS) == set(SEEDS)


@pytest.mark.parametrize('name', TARGETS)
def test_seeds_and_findings(name: str) -> None:
    for data in (*SEEDS[name], *FOUND.get(name, []), b'', b'\0\xff'):
        targets.attempt(targets.TARGETS[name], data)
    # and by and large what is right is not refused
    if name in ('config_text', 'network', 'config_options'):
        targets.TARGETS[name](SEEDS[name][0])
