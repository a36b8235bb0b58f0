"""MLKD in a distillation: both views, cross-entropy, one view, one graph."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers import TORCH_VERSION, two_views

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.multi_level_logit_loss import MultiLevelLogitLoss


def of_distillation(**settings: object) -> dict:
    loss = dict(type='MultiLevelLogitLoss', **settings)
    return dict(type='FeatureDistiller', losses=dict(mlkd=dict(loss=loss, features='logits')))


def test_in_a_distillation(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(distiller={**of_distillation(), 'student_loss_weight': 0.2}).eval()
    images, samples = batch()
    with pytest.raises(SettingError, match='TwoViewDataset'):
        model(images, samples, mode='loss')
    strong, both = images.flip(3) + 0.1, two_views(samples)
    losses = model(torch.cat([images, strong]), both, mode='loss')
    with torch.no_grad():
        logits = [
            network(torch.cat([images, strong]), mode='tensor') for network in (model.architecture, model.teacher)
        ]
    labels = torch.cat([sample.gt_label for sample in samples])
    of_views = [F.cross_entropy(view, labels).item() for view in logits[0].split(len(images))]
    assert losses['student.loss'].item() == pytest.approx(0.1 * sum(of_views), rel=1e-5)
    want = MultiLevelLogitLoss()(*logits, both)
    assert losses['distill.loss_mlkd'].item() == pytest.approx(want.item(), rel=1e-5)


def test_the_entry_of_a_distiller_does_not_standardise(algorithm: Callable) -> None:
    distiller = of_distillation()
    distiller['losses']['mlkd']['standardize'] = True
    with pytest.raises(SettingError, match=r'mlkd in losses: standardize=True .*loss=dict\(.*standardize=True'):
        algorithm(distiller=distiller)


def test_mixed_images_are_refused(algorithm: Callable) -> None:
    mixing = dict(num_classes=10, batch_augments=dict(augments=dict(type='Mixup', alpha=1.0)))
    with pytest.raises(SettingError, match=r'MultiLevelLogitLoss \(loss_mlkd\) compares two views.*batch_augments'):
        algorithm(distiller=of_distillation(), data_preprocessor=mixing)


@pytest.mark.slow
def test_compiled_it_is_the_same(algorithm: Callable, batch: Callable) -> None:
    images, samples = batch()
    both = torch.cat([images, images.flip(3) + 0.1]), two_views(samples)
    plain = algorithm(distiller=of_distillation()).eval()
    compiled = copy.deepcopy(plain)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled.torch_compile = dict(backend=backend, fullgraph=TORCH_VERSION >= (2, 14))
    want = plain.loss(*both)['distill.loss_mlkd'].item()
    for first in (0, 6):
        for number, sample in enumerate(both[1]):
            sample.set_metainfo(dict(sample_idx=first + number % 6))
        assert compiled.loss(*both)['distill.loss_mlkd'].item() == pytest.approx(want, rel=1e-5)
    assert compiled.torch_compile
    # the positions in the training set are not a part of it
    assert len(graphs) == 1 or TORCH_VERSION < (2, 14)
