"""Real runs on images without labels, alone or with labelled ones, up to what is refused before they start."""

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
import torch
from helpers import ROOT, TOOLS, exit_status, logged
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import nn
from torch.utils.data import DataLoader

from icd_mmrazor.engine.checks.labels import check_channels
from icd_mmrazor.errors import DatasetError, SettingError

PARTLY = dict(type='PartlyLabeledBatchSampler', unlabeled=0.75)


@pytest.fixture
def config(demo_config: Callable) -> Callable[..., Config]:
    """Sixteen labelled images, all 64 again without labels; batches of four and twelve."""

    def make(partly: bool = True, **options: Any) -> Config:
        cfg = demo_config('icd_res20_res8_digits', **{'train_dataloader.batch_size': 16, **options})
        loader, images = cfg.train_dataloader, cfg.train_dataloader.dataset.to_dict()
        images['indices'] = None
        loader.dataset = dict(type='UnlabeledDataset', dataset=images)
        if partly:
            labeled = {**images, 'indices': 16}
            loader.dataset = dict(type='PartlyLabeledDataset', labeled=labeled, unlabeled=images)
            loader.batch_sampler = dict(PARTLY)
        else:
            cfg.model.calculate_student_loss = False
        return cfg

    return make


def last_line(run: Runner, key: str) -> dict:
    files = sorted(Path(run.work_dir).glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if key in line][-1]


@pytest.mark.slow
def test_labelled_and_unlabelled_images(config: Callable, runner: Callable) -> None:
    run = runner(config(**{'default_hooks.logger.interval': 1}))
    run.train()
    log = logged(run)
    assert (
        '  training images: 16 with labels, 64 without; a batch has 4 and 12, an epoch is a pass over those with' in log
    )
    assert '80 training images are on cpu' in log
    assert {'student.loss', 'distill.loss_icd'} <= {*last_line(run, 'student.loss')}
    assert run.iter == 4
    assert 'teacher_metrics' in run.message_hub.runtime_info


@pytest.mark.slow
def test_no_labels_at_all(config: Callable, runner: Callable) -> None:
    """Training and validation: agreement with the teacher chooses the best checkpoint."""
    cfg = config(partly=False)
    cfg.model.predict_also = ['teacher']
    cfg.val_dataloader.dataset = dict(type='UnlabeledDataset', dataset=cfg.val_dataloader.dataset)
    cfg.val_evaluator = dict(type='TeacherAgreement')
    run = runner(cfg)
    run.train()
    log, line = logged(run), last_line(run, 'agreement/top1')
    assert '  training images: 64, none with a label' in log
    assert 'student.loss' not in log
    assert [*Path(cfg.work_dir).glob('best_agreement_top1_epoch_1.pth')]
    # against a plain loop
    model, same, divergence = run.model.eval(), [], []
    with torch.no_grad():
        for batch in run.val_dataloader:
            images = model.data_preprocessor(batch)['inputs']
            student, teacher = (each(images, mode='tensor').double() for each in (model.student, model.teacher))
            same.append(student.argmax(1) == teacher.argmax(1))
            terms = teacher.softmax(1) * (teacher.log_softmax(1) - student.log_softmax(1))
            divergence.append(terms.sum(1))
    assert line['agreement/top1'] == pytest.approx(100 * torch.cat(same).double().mean().item())
    assert line['agreement/kl'] == pytest.approx(torch.cat(divergence).mean().item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('headless', [False, True])
def test_nearest_neighbours(headless: bool, config: Callable, runner: Callable) -> None:
    cfg = config(partly=False)
    if headless:
        cfg.model.update(random_teacher=True, teacher_ckpt=None)
        cfg.model.teacher.pop('head')
        # nothing reads them
        cfg.model.architecture.head.num_classes = 3
    cfg.model.predict_also = ['pooled']
    cfg.model.distiller.kd = None
    bank = {**cfg.val_dataloader.dataset, 'images_key': 'train_images', 'labels_key': 'train_labels'}
    cfg.val_dataloader.dataset = dict(type='KNNDataset', bank=bank, queries=cfg.val_dataloader.dataset)
    cfg.val_evaluator = dict(type='KNNAccuracy', k=5, temperature=0.1)
    run = runner(cfg)
    run.train()
    log = logged(run)
    assert 'no loss reads the logits of the student, so head.fc is not trained' in log
    assert [*Path(cfg.work_dir).glob('best_knn_top1_epoch_1.pth')]
    model = run.model.eval()
    found = last_line(run, 'knn/top1')['knn/top1']
    assert found == pytest.approx(accuracy_by_a_loop(model.student, model, run.val_dataloader))
    of_teacher = accuracy_by_a_loop(model.teacher, model, run.val_dataloader)
    assert run.message_hub.get_info('teacher_metrics') == {'knn/top1': pytest.approx(of_teacher)}


@torch.no_grad()
def accuracy_by_a_loop(network: nn.Module, model: nn.Module, loader: DataLoader) -> float:
    features, labels, right = [], [], 0
    for batch in loader:
        data = model.data_preprocessor(batch)
        features.append(torch.nn.functional.normalize(network.extract_feat(data['inputs'])[-1]))
        labels += [int(sample.gt_label) for sample in data['data_samples']]
    features = torch.cat(features)
    for index in range(64, 104):
        similarities = [(float(features[index] @ features[other]), labels[other]) for other in range(64)]
        votes = [0.0] * 10
        for similarity, label in sorted(similarities, reverse=True)[:5]:
            votes[label] += torch.tensor(similarity / 0.1).exp().item()
        right += max(range(10), key=votes.__getitem__) == labels[index]
    return 100 * right / 40


def crd(cfg: Config) -> None:
    projection = dict(type='LinearProjection')
    loss = dict(type='ContrastiveRepresentationLoss', num_negatives=4)
    entry = dict(loss=loss, features='pooled', student_connector=projection, teacher_connector=projection)
    cfg.model.distiller = dict(type='FeatureDistiller', losses=dict(crd=entry))


def no_sampler(cfg: Config) -> None:
    cfg.train_dataloader.pop('batch_sampler')


def another_algorithm(cfg: Config) -> None:
    cfg.model = dict(
        _scope_='mmrazor',
        type='SingleTeacherDistill',
        architecture=cfg.model.architecture,
        teacher=cfg.model.teacher,
        teacher_ckpt=cfg.model.teacher_ckpt,
        data_preprocessor=cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor'),
        distiller=dict(type='ICDDistiller'),
    )


def unlabelled_validation(cfg: Config) -> None:
    cfg.val_dataloader.dataset = dict(type='UnlabeledDataset', dataset=cfg.val_dataloader.dataset)


def agreement(cfg: Config) -> None:
    cfg.val_evaluator = dict(type='TeacherAgreement')


def neighbours(cfg: Config) -> None:
    cfg.val_evaluator = dict(type='KNNAccuracy')
    cfg.model.predict_also = ['pooled']


def own_loss(cfg: Config) -> None:
    no_sampler(cfg)
    cfg.train_dataloader.dataset = dict(type='UnlabeledDataset', dataset=cfg.train_dataloader.dataset.unlabeled)


def loss_of_labels(cfg: Config) -> None:
    own_loss(cfg)
    cfg.model.calculate_student_loss = False
    cfg.model.distiller = dict(
        type='FeatureDistiller', losses=dict(dkd=dict(loss=dict(type='DKDLoss'), features='logits'))
    )


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (crd, DatasetError, r'ContrastiveRepresentationLoss needs the class of every .*, and 64 of the 80 have none'),
        (no_sampler, SettingError, r'train_dataloader\.batch_sampler'),
        (another_algorithm, SettingError, r"SingleTeacherDistill.*model\.type='FrozenTeacherDistill'"),
        (unlabelled_validation, SettingError, r'val_evaluator \(Accuracy\) reads labels'),
        (agreement, SettingError, r"TeacherAgreement.*model\.predict_also=\['teacher'\]"),
        (neighbours, SettingError, r'KNNAccuracy.*KNNDataset'),
        (own_loss, SettingError, r'LinearClsHead.*calculate_student_loss=False'),
        (loss_of_labels, SettingError, r'no labels, which DKDLoss \(loss_dkd\) reads\. Use a dataset with labels'),
    ],
)
def test_what_is_refused_before_training(
    change: Callable, error: type, message: str, config: Callable, runner: Callable
) -> None:
    cfg = config()
    change(cfg)
    with pytest.raises(error, match=message):
        runner(cfg).train()
    assert not [*Path(cfg.work_dir).glob('*.pth')]


def test_datasets_joined_without_a_part_for_each(config: Callable, runner: Callable) -> None:
    cfg = config()
    no_sampler(cfg)
    dataset = cfg.train_dataloader.dataset
    parts = [dataset.labeled, dict(type='UnlabeledDataset', dataset=dataset.unlabeled)]
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=parts, ignore_keys=['classes'])
    with pytest.raises(DatasetError, match='PartlyLabeledDataset'):
        runner(cfg).train()


LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackInputs')
FILES = dict(type='CustomDataset', pipeline=[LOAD, PACK])
ARRAYS = dict(type='CIFAR10', pipeline=[PACK])
TURNED = dict(FILES, pipeline=[LOAD, dict(type='NumpyToPIL', to_rgb=True), dict(type='PILToNumpy'), PACK])


@pytest.mark.parametrize(
    ('labeled', 'unlabeled', 'refused'),
    [
        (ARRAYS, FILES, True),
        (FILES, dict(type='UnlabeledDataset', dataset=ARRAYS), True),
        (ARRAYS, TURNED, False),
        (FILES, FILES, False),
        (FILES, dict(type='NPZDataset', pipeline=[PACK]), False),
    ],
)
def test_orders_of_the_channels(labeled: dict, unlabeled: dict, refused: bool) -> None:
    """Arrays of CIFAR are RGB, files are read as BGR."""
    loader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
    with pytest.raises(SettingError, match='channels') if refused else contextlib.nullcontext():
        check_channels(loader)


PAGE, TUTORIAL = (ROOT / 'docs' / name for name in ('howto/unlabeled_images.md', 'howto/by_hand.md'))
CONFIGS_OF_PAGES = r'^```python\n# (my/\w+\.py)\n(.*?)^```'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'metric'), [('few_labels', 'accuracy'), ('no_labels', 'agreement'), ('neighbours', 'knn')]
)
def test_the_configs_of_the_page(name: str, metric: str, images_file: Path, runner: Callable) -> None:
    """On a folder of images, of which few are left; the teacher is one of random weights."""
    Path('my').mkdir()
    for page in (TUTORIAL, PAGE):
        for file, code in re.findall(CONFIGS_OF_PAGES, page.read_text(), re.DOTALL | re.MULTILINE):
            Path(file).write_text(code.replace('num_workers=2', 'num_workers=0').replace('1297, 13', '64, 4'))
    with np.load(images_file) as arrays:
        for split, source in (('train', 'train'), ('val', 'test')):
            pairs = zip(arrays[f'{source}_images'], arrays[f'{source}_labels'], strict=True)
            for index, (image, label) in enumerate(pairs):
                mmcv.imwrite(image, f'data/digits/{split}/{label}/{index}.png')
    cfg = Config.fromfile(f'my/{name}.py')
    Path('work_dirs/teacher').mkdir(parents=True)
    teacher = MODELS.build(Config.fromfile('my/teacher.py').model)
    torch.save({'state_dict': teacher.state_dict()}, cfg.model.teacher_ckpt)
    cfg.merge_from_dict({'work_dir': 'work', 'train_cfg.max_epochs': 1, 'randomness.seed': 0})
    run = runner(cfg)
    run.train()
    # the command that the summary gives
    command = ('work/epoch_1.pth', '--out', 'tested.json', '--work-dir', 'tested')
    assert exit_status(TOOLS / 'test.py', f'work/{name}.py', *command) is None
    trained = last_line(run, f'{metric}/top1')[f'{metric}/top1']
    assert json.loads(Path('tested.json').read_text())[f'{metric}/top1'] == pytest.approx(trained)
    student = Config.fromfile('work/student.py')
    assert student.test_evaluator.type == 'Accuracy'
    assert student.test_dataloader.dataset.type == 'CustomDataset'
