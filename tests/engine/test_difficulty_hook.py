"""The difficulty of training images in real runs on a small problem."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import logged
from launches import in_processes
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmrazor.registry import MODELS

from icd_mmrazor import recipes
from icd_mmrazor.datasets.samples import sample_indices
from icd_mmrazor.errors import DatasetError, SettingError
from icd_mmrazor.launch.runner import ToolRunner


@pytest.fixture
def config(demo_config: Callable, network: Callable, teacher_file: Callable) -> Callable[..., Config]:
    def make(**options: object) -> Config:
        cfg = demo_config(**options)
        del cfg.model.teacher, cfg.model.teacher_ckpt
        cfg.model.type = 'ExpertSelectionDistill'
        names = ('res8', 'res14', 'res20')
        cfg.model.teachers = [dict(teacher=network(name), teacher_ckpt=teacher_file(name)) for name in names]
        cfg.model.distiller = recipes.compose_distiller(['ceskd'])
        cfg.train_dataloader.batch_size = 16
        return cfg

    return make


def logits_of_training_images(images_file: Path, network: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the logits of the images as they are in the file."""
    arrays = np.load(images_file)
    images = torch.from_numpy(arrays['train_images'])[:, None].expand(-1, 3, -1, -1).float()
    with torch.no_grad():
        logits = network.eval()((images - 78) / 81)
    return logits.double(), torch.from_numpy(arrays['train_labels']).long()


class Watch(Hook):
    """Keep the epoch, position and expert of each image."""

    def __init__(self) -> None:
        self.images: list[tuple[int, int, int]] = []

    def before_train(self, runner: Runner) -> None:
        run_teacher = runner.model.run_teacher

        def watched(images: torch.Tensor, samples: list, mode: str = 'tensor') -> object:
            experts = runner.model._experts_of(samples).tolist()
            for position, expert in zip(sample_indices(samples), experts, strict=True):
                self.images.append((runner.epoch, position, expert))
            return run_teacher(images, samples, mode)

        runner.model.run_teacher = watched


@pytest.mark.slow
@pytest.mark.parametrize(('score', 'scorer'), [('loss', -1), ('confidence', 0)])
def test_a_run_measures_stores_and_resumes_it(
    score: str, scorer: int, config: Callable, runner: Callable, images_file: Path
) -> None:
    settings = {'model.score': score, 'model.scorer': scorer, 'train_cfg.max_epochs': 2}
    whole = runner(config(**settings))
    watch = Watch()
    whole.register_hook(watch, priority='LOWEST')
    whole.train()
    model = whole.model
    logits, labels = logits_of_training_images(images_file, model.teacher.members[scorer])
    want = F.cross_entropy(logits, labels, reduction='none') if score == 'loss' else -logits.softmax(1).amax(1).log()
    torch.testing.assert_close(model.difficulty, want, rtol=1e-4, atol=1e-4)
    number = len(want)
    rank = model.difficulty.argsort(stable=True).argsort()
    assert torch.equal(model.experts, rank * 3 // number)
    # the same expert for an image in both epochs
    assert len(watch.images) == 2 * number
    assert {(position, expert) for _, position, expert in watch.images} == {*enumerate(model.experts.tolist())}
    log = logged(whole)
    assert f'teachers[{scorer % 3}] measures the difficulty ({score}) of {number} training images' in log
    assert 'for teachers[2]' in log
    assert 'easy images to the first' in log  # in the report

    state = torch.load(Path(whole.work_dir, 'epoch_1.pth'), weights_only=True)['state_dict']
    assert torch.equal(state['difficulty'], model.difficulty)
    resumed = runner(config(**settings, resume=True, load_from=str(Path(whole.work_dir, 'epoch_1.pth'))))

    def refuse(*_: object) -> None:
        pytest.fail('it is in the checkpoint')

    resumed.model.set_difficulty = refuse
    resumed.train()
    assert torch.equal(resumed.model.experts, model.experts)
    for name, weight in resumed.model.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=0, atol=0, msg=name)
    # only to test, no training set is wanted
    cfg = config(**settings, load_from=str(Path(whole.work_dir, 'epoch_2.pth')))
    cfg.train_dataloader.dataset.data_file = 'nowhere.npz'
    tested = runner(cfg)
    assert tested.test()
    assert torch.equal(tested.model.experts, model.experts)
    assert 'do not match exactly' not in logged(cfg)


@pytest.mark.slow
def test_averaged_weights_repeated_images_and_a_ramp(config: Callable, runner: Callable) -> None:
    cfg = config(custom_hooks=[dict(type='EMAHook')], **{'model.ramp_epochs': 3, 'train_cfg.max_epochs': 3})
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)
    run = runner(cfg)
    watch = Watch()
    run.register_hook(watch, priority='LOWEST')
    run.train()
    experts = run.model.experts.tolist()
    assert len(experts) == 64
    assert {*watch.images} == {
        (epoch, position, min(expert, epoch)) for epoch in range(3) for position, expert in enumerate(experts)
    }
    state = torch.load(Path(run.work_dir, 'epoch_3.pth'), weights_only=True)['state_dict']
    assert state['experts'].tolist() == experts
    assert 'teaches no image' not in logged(run)


@pytest.mark.slow
def test_a_ramp_that_is_longer_than_the_training(config: Callable, runner: Callable) -> None:
    run = runner(config(**{'model.ramp_epochs': 4, 'train_cfg.max_epochs': 2}))
    watch = Watch()
    run.register_hook(watch, priority='LOWEST')
    run.train()
    assert max(expert for _, _, expert in watch.images) < 2
    assert 'the training ends after 2 epochs' in logged(run)
    assert 'model.ramp_epochs=4: teachers[2] teaches no image' in logged(run)


@pytest.mark.slow
def test_concatenated_images_with_another_pipeline(config: Callable, runner: Callable, images_file: Path) -> None:
    cfg = config(val_cfg=None, val_dataloader=None, val_evaluator=None)
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='IndexedDataset', dataset=dict(type='ConcatDataset', datasets=[dataset, dataset])
    )
    with pytest.raises(SettingError, match=r'no val_dataloader.*default_hooks\.difficulty\.pipeline'):
        runner(cfg).train()
    cfg.default_hooks.difficulty.pipeline = [dict(type='Resize', scale=(16, 16)), dict(type='PackInputs')]
    run = runner(cfg)
    run.train()
    logits, labels = logits_of_training_images(images_file, run.model.teacher.members[-1])
    want = F.cross_entropy(logits, labels, reduction='none').repeat(2)
    torch.testing.assert_close(run.model.difficulty, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (dict(type='ConcatDataset'), DatasetError, 'does not number its images.*IndexedDataset'),
        (dict(type='UnlabeledDataset'), DatasetError, r"needs the class.*model\.score='confidence'"),
        (dict(indices=2), DatasetError, '3 teachers share 2 training images'),
    ],
)
def test_training_sets_that_do_not_fit(
    change: dict, error: type, message: str, config: Callable, runner: Callable
) -> None:
    cfg = config()
    dataset = cfg.train_dataloader.dataset
    if change.get('type') == 'ConcatDataset':
        cfg.train_dataloader.dataset = dict(change, datasets=[dataset, dataset])
    elif 'type' in change:
        cfg.train_dataloader.dataset = dict(type='IndexedDataset', dataset=dict(change, dataset=dataset))
    else:
        dataset.update(change)
    with pytest.raises(error, match=message):
        runner(cfg).train()


@pytest.mark.slow
def test_images_without_labels_have_a_confidence(config: Callable, runner: Callable) -> None:
    cfg = config(**{'model.score': 'confidence', 'model.calculate_student_loss': False})
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='IndexedDataset', dataset=dict(type='UnlabeledDataset', dataset=dataset))
    run = runner(cfg)
    run.train()
    assert torch.bincount(run.model.experts).tolist() == [22, 21, 21]


def test_a_ramp_needs_epochs(config: Callable, runner: Callable) -> None:
    cfg = config(**{'model.ramp_epochs': 2})
    cfg.train_cfg, cfg.param_scheduler = dict(by_epoch=False, max_iters=8), None
    with pytest.raises(SettingError, match='ramp_epochs=2 counts epochs'):
        runner(cfg).train()


@pytest.mark.parametrize('pipeline', [[], 'PackInputs'])
def test_a_pipeline_is_a_list_of_transforms(pipeline: object, config: Callable, runner: Callable) -> None:
    cfg = config()
    cfg.default_hooks.difficulty.pipeline = pipeline
    with pytest.raises(SettingError, match='pipeline='):
        runner(cfg)


def measured(rank: int, cfg: Config) -> tuple[list[float], list[int]]:
    """Train in one of several processes, and return the difficulties and experts."""
    run = ToolRunner.from_cfg(cfg)
    run.train()
    model = run.model.module
    return model.difficulty.tolist(), model.experts.tolist()


@pytest.mark.slow
def test_several_processes_share_the_images(config: Callable, images_file: Path, tmp_path: Path) -> None:
    cfg = config(launcher='pytorch', model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None))
    one, two = in_processes(measured, 2, tmp_path, cfg)
    assert one == two
    scorer = MODELS.build(cfg.model.teachers[-1].teacher)
    scorer.load_state_dict(torch.load(cfg.model.teachers[-1].teacher_ckpt)['state_dict'])
    logits, labels = logits_of_training_images(images_file, scorer)
    want = F.cross_entropy(logits, labels, reduction='none')
    torch.testing.assert_close(torch.tensor(one[0], dtype=torch.float64), want, rtol=1e-4, atol=1e-4)
