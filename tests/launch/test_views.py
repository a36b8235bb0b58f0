"""Test-time augmentation: the scores of several views, averaged."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import TOOLS, exit_status
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.views import show_views, shown_model
from icd_mmrazor.models.networks.student import student_of

PACK = dict(type='PackInputs')
UPSIDE_DOWN = dict(type='RandomFlip', prob=1.0, direction='vertical')
NOT_FLIPPED = dict(type='RandomFlip', prob=0.0)
MIRRORED = dict(type='RandomFlip', prob=1.0)
VIEWS = [dict(type='TestTimeAug', transforms=[[UPSIDE_DOWN, NOT_FLIPPED, MIRRORED], [PACK]])]
# of the whole config, and of its model, which comes before
PREPROCESSORS = {
    'data_preprocessor': dict(mean=[90.0] * 3, std=[40.0] * 3),
    'model.data_preprocessor': dict(type='mmpretrain.ClsDataPreprocessor', mean=[9.0] * 3, std=[3.0] * 3),
}


@pytest.fixture
def student_config(demo_config: Callable) -> Callable[..., Config]:
    """Return the config of a test of the student of a distillation."""

    def config(**options: object) -> Config:
        cfg = demo_config(**options)
        cfg.model = student_of(cfg)
        return cfg

    return config


def mean_scores(model: nn.Module, normalisation: dict, images: Tensor, *views: Callable) -> Tensor:
    """Compute the mean of the softmaxes of some views of images, by torch alone."""
    mean, std = (torch.tensor(normalisation[name])[:, None, None] for name in ('mean', 'std'))
    with torch.no_grad():
        return sum(model((view(images) - mean) / std).softmax(1) for view in views) / len(views)


def images_of(run: Runner) -> Tensor:
    dataset = run.test_dataloader.dataset
    stored = [dataset.get_data_info(i)['img'] for i in range(len(dataset))]
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1).flip(0) for image in stored]).float()


@pytest.mark.parametrize(
    ('options', 'dims'),
    [
        ({}, ([3], [])),
        (dict(tta_pipeline=VIEWS, tta_model=dict(type='mmpretrain.AverageClsScoreTTA')), ([2], [], [3])),
        (PREPROCESSORS, ([3], [])),
    ],
    ids=['mirror image', 'own views', 'own preprocessor'],
)
def test_scores_are_the_mean_over_the_views(
    options: dict, dims: tuple[list[int], ...], student_config: Callable, runner: Callable
) -> None:
    cfg = student_config(**options)
    normalisation = cfg.model.data_preprocessor
    show_views(cfg)
    run = runner(cfg)
    model = shown_model(run.model, run.test_dataloader.dataset)
    nn.init.normal_(model.head.fc.weight, std=0.3)
    predicted = [sample for batch in run.test_dataloader for sample in run.model.eval().test_step(batch)]
    views = [lambda images, dim=dim: images.flip(dim) if dim else images for dim in dims]
    want = mean_scores(model, normalisation, images_of(run), *views)
    torch.testing.assert_close(torch.stack([sample.pred_score for sample in predicted]), want)
    assert [int(sample.gt_label) for sample in predicted] == run.test_dataloader.dataset.get_gt_labels().tolist()
    alone = mean_scores(model, normalisation, images_of(run), lambda images: images)
    assert not torch.allclose(alone, want, atol=1e-3)


@pytest.mark.slow
def test_the_tool_tests_on_views(
    demo_config: Callable, runner: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    turned = {'data_preprocessor': dict(mean=[90.0] * 3, std=[40.0] * 3, to_rgb=True)}
    cfg = demo_config(**turned)
    run = runner(cfg)
    nn.init.normal_(run.model.architecture.head.fc.weight, std=0.3)
    # the checkpoint says how the images were prepared, which is compared with the test
    meta = {'cfg': demo_config(**turned).pretty_text}
    torch.save({'meta': meta, 'state_dict': run.model.state_dict()}, 'distilled.pth')
    demo_config(**turned).dump('config.py')
    assert exit_status(TOOLS / 'test.py', 'config.py', 'distilled.pth', '--tta', '--out', 'metrics.json') is None
    run.model.eval()
    images, labels = images_of(run), torch.tensor(run.test_dataloader.dataset.get_gt_labels())
    scores = mean_scores(run.model.architecture, cfg.data_preprocessor, images, lambda x: x, lambda x: x.flip(3))
    right = (scores.argmax(1) == labels).float().mean().item()
    assert json.loads(Path('metrics.json').read_text())['accuracy/top1'] == pytest.approx(100 * right, abs=1e-3)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(tta_model='AverageClsScoreTTA'), 'tta_model'),
        (dict(tta_model=dict(module=None)), 'tta_model'),
        (dict(tta_pipeline=dict(type='TestTimeAug')), 'tta_pipeline'),
        (dict(tta_pipeline=[PACK]), 'tta_pipeline'),
        ({'test_dataloader.dataset': dict(type='ConcatDataset', datasets=[])}, 'test_dataloader'),
    ],
    ids=str,
)
def test_what_is_not_for_views_is_refused(
    options: dict, message: str, student_config: Callable, runner: Callable
) -> None:
    cfg = student_config(**options)
    if 'test_dataloader.dataset' in options:
        cfg.test_dataloader.dataset = options['test_dataloader.dataset']

    def shown() -> nn.Module:
        show_views(cfg)
        run = runner(cfg)
        return shown_model(run.model, run.test_dataloader.dataset)

    with pytest.raises(SettingError, match=message):
        shown()


@pytest.mark.slow
def test_sets_inside_others_are_shown_in_views(student_config: Callable, runner: Callable) -> None:
    cfg = student_config()
    inside = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[dict(type='IndexedDataset', dataset=inside), copy.deepcopy(inside)]
    )
    show_views(cfg)
    dataset = runner(cfg).test_dataloader.dataset
    assert [len(dataset[i]['inputs']) for i in (0, len(dataset) - 1)] == [2, 2]
