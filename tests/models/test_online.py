"""Deep mutual learning: two networks that learn from each other, by config alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS, logged
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

FILES = sorted((CONFIGS / 'dml').glob('*.py'))


def built(file: Path) -> nn.Module:
    cfg = Config.fromfile(file)
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    model.init_weights()
    model.train()  # mmrazor's returns nothing
    return model


def gradients(network: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(network.parameters())))


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_each_network_takes_the_other_as_it_is(file: Path) -> None:
    """The gradients of both are those of its own loss, whose other prediction is a constant (equations 4 and 5)."""
    algorithm = built(file)
    images = torch.randn(6, 3, 32, 32)
    labels = torch.arange(6)
    losses = algorithm.loss(images, [DataSample().set_gt_label(label) for label in labels])
    assert {*losses} == {'teacher.loss', 'student.loss', 'distill.loss_student', 'distill.loss_peer'}
    sum(losses.values()).backward()
    networks = algorithm.architecture, algorithm.teacher
    logits = [network(images, mode='tensor') for network in networks]
    for own, other, network in ((0, 1, networks[0]), (1, 0, networks[1])):
        probabilities = logits[other].softmax(1).detach()
        divergence = (probabilities * (probabilities.log() - logits[own].log_softmax(1))).sum() / 6
        expected = gradients(network, F.cross_entropy(logits[own], labels) + divergence)
        for parameter, gradient in zip(network.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_the_networks_start_apart() -> None:
    algorithm = built(CONFIGS / 'dml' / 'dml_res8_res8_digits.py')
    own, other = (network.backbone.state_dict() for network in (algorithm.architecture, algorithm.teacher))
    assert own.keys() == other.keys()
    assert not torch.equal(own['conv1.weight'], other['conv1.weight'])


def test_both_networks_are_trained_and_stored(
    demo_config: Callable[..., Config], images_file: Path, runner: Callable[[Config], Runner], tmp_path: Path
) -> None:
    cfg = Config.fromfile(CONFIGS / 'dml' / 'dml_res8_res8_digits.py')
    cfg.work_dir = str(tmp_path / 'work')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_file = str(images_file)
    cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'randomness.seed': 0})
    run = runner(cfg)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.train()
    weights = torch.load(tmp_path / 'work' / 'epoch_1.pth')['state_dict']
    for name in ('architecture', 'teacher'):
        # batch norms, too, count in the statistics of both
        for each in ('backbone.conv1.weight', 'head.fc.weight', 'backbone.bn1.running_mean'):
            assert not torch.equal(weights[f'{name}.{each}'], before[f'{name}.{each}'])
    log = logged(cfg)
    assert 'weights trained along with the student' in log
    assert '| teacher ' not in log  # there is no accuracy of before the training
    student = torch.load(tmp_path / 'work' / 'student_last.pth')['state_dict']
    torch.testing.assert_close(student['head.fc.weight'], weights['architecture.head.fc.weight'])
