"""Branches of a classifier: each is a network of the usual form, and all learn from their ensemble."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS, logged, scalars
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

from icd_mmrazor.errors import SettingError

FILES = sorted((CONFIGS / 'one').glob('*.py'))


def built(file: Path = CONFIGS / 'one' / 'one_res8_digits.py', **settings: object) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build({**copy.deepcopy(Config.fromfile(file).model), **settings})
    model.init_weights()
    return model


def branch_alone(model: nn.Module, file: Path, i: int) -> nn.Module:
    """Return a branch as the plain classifier that it is."""
    cfg = Config.fromfile(file).model
    plain = MODELS.build(
        {name: cfg[name] for name in ('_scope_', 'backbone', 'neck', 'head')} | {'type': 'ImageClassifier'}
    )
    weights = {}
    for name, value in model.state_dict().items():
        for part in ('backbone.layer3', 'head.fc'):
            name = name.replace(f'{part}.{i}.', f'{part}.', 1) if name.startswith(f'{part}.{i}.') else name
        weights[name] = value
    wanted = {name: weights[name] for name in plain.state_dict()}
    plain.load_state_dict(wanted)
    return plain.eval()


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_a_branch_is_a_plain_classifier(file: Path) -> None:
    model, images = built(file).eval(), torch.randn(4, 3, 32, 32)
    seen: list[Tensor] = []
    model.backbone.layer3[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found, ensemble = model.logits(images)
    for i, logits in enumerate(found):
        torch.testing.assert_close(logits, branch_alone(model, file, i)(images, mode='tensor'), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-2)  # they start apart
    linear, norm = model.gate[0], model.gate[1]
    pooled = F.linear(seen[0].mean((2, 3)), linear.weight, linear.bias)
    gate = F.relu(norm(pooled)).softmax(1)
    torch.testing.assert_close(ensemble, sum(gate[:, i : i + 1] * found[i] for i in range(3)))
    others = []
    model.backbone.layer3[1].register_forward_hook(lambda *_: others.append(1))
    torch.testing.assert_close(model(images, mode='tensor'), found[0])
    (first, *_) = model(images, [DataSample() for _ in range(4)], mode='predict')
    torch.testing.assert_close(first.pred_score, found[0].softmax(1)[0])
    assert not others  # the first branch alone
    model.predict_by = 'ensemble'
    torch.testing.assert_close(model(images, mode='tensor'), ensemble)
    (first, *_) = model(images, [DataSample() for _ in range(4)], mode='predict')
    torch.testing.assert_close(first.pred_score, ensemble.softmax(1)[0])


def test_losses_of_a_slow_rewrite() -> None:
    model, images, labels = built().train(), torch.randn(6, 3, 16, 16), torch.arange(6)
    model.set_progress(40, 0)
    twin = copy.deepcopy(model)
    losses = model(images, [DataSample().set_gt_label(label) for label in labels], mode='loss')
    found, ensemble = twin.logits(images)
    for name, logits in zip(('branch0', 'branch1', 'branch2', 'ensemble'), (*found, ensemble), strict=True):
        torch.testing.assert_close(losses[f'loss_{name}'], F.cross_entropy(logits, labels))
    target = (ensemble / 3).softmax(1) + 1e-7
    divergences = [9 * (target * (target.log() - (each / 3).log_softmax(1))).sum() / 6 for each in found]
    weight = torch.tensor(-5 * 0.5**2).exp()
    torch.testing.assert_close(losses['loss_one'], weight * sum(divergences))


def test_state_has_each_weight_once() -> None:
    model = built()
    names = [*model.state_dict()]
    plain = sum(p.numel() for p in branch_alone(model, CONFIGS / 'one' / 'one_res8_digits.py', 0).parameters())
    stage = sum(p.numel() for p in model.backbone.layer3[0].parameters())
    gate = sum(p.numel() for p in model.gate.parameters())
    assert sum(model.state_dict()[name].numel() for name, _ in model.named_parameters()) == (
        plain + 2 * stage + 2 * 650 + gate
    )
    assert len(names) == len({*names})
    assert 'backbone.layer3.2.0.conv1.weight' in names
    assert not any(name.startswith('_') for name in names)


def test_training_with_the_ramp_up(images_file: Path, runner: Callable[[Config], Runner], tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'one' / 'one_res8_digits.py')
    cfg.work_dir = str(tmp_path / 'work')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_file = str(images_file)
    cfg.merge_from_dict({'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 1, 'default_hooks.logger.interval': 1})
    run = runner(cfg)
    run.train()
    schedule = run.model.ensemble_loss.scheduled_weight
    assert schedule.factor.item() == pytest.approx(schedule.schedule.factor(1))
    rows = [row for row in scalars(cfg) if 'loss' in row]
    assert all('loss_one' in row and 'loss_branch2' in row for row in rows)
    end = schedule.schedule.end
    assert f'the weight of ensemble_loss changes over {end} epochs, but the training ends after 2' in logged(cfg)


def test_a_training_that_counts_iterations(
    images_file: Path, runner: Callable[[Config], Runner], tmp_path: Path
) -> None:
    cfg = Config.fromfile(CONFIGS / 'one' / 'one_res8_digits.py')
    cfg.work_dir, cfg.train_dataloader.dataset.data_file = str(tmp_path / 'work'), str(images_file)
    cfg.merge_from_dict({'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None, 'param_scheduler': None})
    cfg.train_cfg = dict(by_epoch=False, max_iters=3)
    with pytest.raises(SettingError, match=r'weight_schedule of ensemble_loss counts epochs.*by_epoch=False'):
        runner(cfg).train()
    cfg.model.ensemble_loss.weight_schedule = dict(type='RampUp', end=4, by_epoch=False)
    run = runner(cfg)
    run.train()
    schedule = run.model.ensemble_loss.scheduled_weight
    assert schedule.factor.item() == pytest.approx(schedule.schedule.factor(2))


def test_wrong_settings_are_refused() -> None:
    for settings, message in (
        ({'last_stage': 'layer9'}, 'layer9'),
        ({'branches': 0}, 'branches=0'),
        ({'predict_by': 'all'}, 'predict_by'),
    ):
        with pytest.raises(SettingError, match=message):
            built(**settings)
    resnet = dict(type='ResNet', depth=18)
    head = dict(type='LinearClsHead', num_classes=10, in_channels=512)
    with pytest.raises(SettingError, match=r"'layer3' is followed by layer4 in the ResNet\. Set last_stage='layer4'"):
        built(backbone=resnet, head=head)
    model = built(backbone=resnet, head=head, last_stage='layer4')
    assert model.gate[0].in_features == 256
    vit = dict(type='VisionTransformer', arch='deit-t', img_size=32, patch_size=8, out_type='cls_token')
    with pytest.raises(SettingError, match='VisionTransformer has no convolutions'):
        built(backbone=vit, neck=None, last_stage='layers', head=dict(head, in_channels=192))
    model = built().train()
    model.set_progress(0, 0)
    with pytest.raises(SettingError, match=r'has one image.*drop_last=True'):
        model(torch.randn(1, 3, 16, 16), [DataSample().set_gt_label(0)], mode='loss')
    with pytest.raises(SettingError, match='LossScheduleHook'):
        built()(torch.randn(2, 3, 16, 16), [DataSample().set_gt_label(0)] * 2, mode='loss')
