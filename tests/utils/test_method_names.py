import runpy

import pytest
from helpers import TOOLS

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.utils.method_names import own_names
from icd_mmrazor.utils.trial_results import method_key

PAIR = 'res20_res8_digits'


@pytest.mark.parametrize(
    ('given', 'own'), [('dcd', 'icd'), ('kd+dcd', 'kd+icd'), ('icd', 'icd'), ('crd', 'crd'), ('dcdx', 'dcdx'), ('', '')]
)
def test_own_names(given: str, own: str) -> None:
    assert own_names(given) == own


def test_dcd_is_composed_as_icd() -> None:
    for given in (['dcd'], ['dcd', 'kd']):
        own = [own_names(name) for name in given]
        assert recipes.compose(PAIR, given).to_dict() == recipes.compose(PAIR, own).to_dict()
    with pytest.raises(SettingError, match='icd is given more than once'):
        recipes.compose(PAIR, ['icd', 'dcd'])
    with pytest.raises(SettingError, match=r"no method 'icd\+kd'"):
        recipes.compose(PAIR, ['dcd+kd'])


def test_a_table_may_call_it_either() -> None:
    assert method_key('DCD+KD') == method_key('kd+icd') == 'icd+kd'


def test_cells_of_dcd_are_those_of_icd() -> None:
    tool = runpy.run_path(str(TOOLS / 'benchmarks' / 'run_trials.py'))
    args = tool['parse_args'](['--methods', 'dcd', 'dcd+kd', 'at', '--pairs', PAIR])
    assert args.methods == ['icd', 'icd+kd', 'at']
