"""The outputs of a teacher that a cache stores."""

import pytest
import torch
from helpers import whole_network
from mmengine.config import Config
from mmrazor.registry import MODELS

from icd_mmrazor import recipes
from icd_mmrazor.models.algorithms.records import recorders_of
from icd_mmrazor.models.networks.headless import as_teacher
from icd_mmrazor.models.teacher_cache.points import captured, fill_recorders, other_records, stored_points


def distilled(methods: str, pair: str = 'res20_res8_digits') -> torch.nn.Module:
    model = recipes.compose(pair, methods.split('+')).model
    return MODELS.build(Config(dict(model, teacher_ckpt=None, random_teacher=True)))


@pytest.mark.parametrize('methods', ['icd', 'kd', 'icd+kd', 'rkd', 'crd', 'sp', 'pkt', 'cc', 'rrd'])
def test_recorders_are_filled_as_by_the_teacher(methods):
    algorithm = distilled(methods)
    distiller, teacher, images = algorithm.distiller, algorithm.teacher, torch.randn(4, 3, 16, 16)
    points = stored_points(teacher)
    if others := other_records(distiller, points):
        # of these methods only SP compares maps
        assert methods == 'sp'
        assert others == ['last_map']
        return
    with distiller.teacher_recorders, torch.no_grad():
        teacher(images, mode='tensor')
    truth = [list(recorder.data_buffer) for recorder in recorders_of(distiller, 'teacher')]
    with torch.no_grad(), captured(teacher, points) as outputs:
        teacher(images, mode='tensor')
    fill_recorders(distiller, points, outputs)
    found = [list(recorder.data_buffer) for recorder in recorders_of(distiller, 'teacher')]
    assert truth
    torch.testing.assert_close(found, truth, rtol=0, atol=0)


@pytest.mark.parametrize('methods', ['at', 'fitnet', 'icd+at'])
def test_methods_that_compare_maps_are_named(methods):
    algorithm = distilled(methods)
    others = other_records(algorithm.distiller, stored_points(algorithm.teacher))
    assert others
    assert all('map' in name for name in others)


def test_a_network_without_a_classifier_has_a_pooled_feature_alone():
    network = MODELS.build(whole_network() | {'head': None})
    teacher = as_teacher(network).eval()
    points = stored_points(teacher)
    assert points.keys() == {'pooled'}
    # also if a distiller has found what pools it
    assert stored_points(teacher, points['pooled'].source) == points
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad(), captured(teacher, points) as outputs:
        output = teacher(images, mode='tensor')
    assert torch.equal(outputs['pooled'], output)
