"""What the student's and the teacher's settings ask of the one data preprocessor."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import DKD
from mmengine.config import Config
from mmpretrain.models import CutMix, Mixup
from mmpretrain.structures import DataSample

from icd_mmrazor.errors import SettingError

LOG = 'icd_mmrazor.models.algorithms.shared_preprocessor.print_log'
PLAIN = dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True)
AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)], probs=[0.3, 0.7])


def raw_batch() -> dict[str, list]:
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return {'inputs': list(images), 'data_samples': [DataSample().set_gt_label(i) for i in range(6)]}


@pytest.mark.slow
@pytest.mark.parametrize('place', ['train_cfg', 'data_preprocessor'])
def test_the_students_augmentations_are_done(place: str, algorithm: Callable, network: Callable) -> None:
    student = network('res8')
    student[place] = dict(AUGMENTS) if place == 'train_cfg' else dict(batch_augments=dict(AUGMENTS))
    model = algorithm(architecture=student, data_preprocessor=dict(PLAIN))
    # the run's own settings stay; the number of classes is found
    assert (model.data_preprocessor.to_rgb, model.data_preprocessor.num_classes) == (True, 10)
    assert model.data_preprocessor.batch_augments.probs[:2] == [0.3, 0.7]
    data = model.data_preprocessor(raw_batch(), True)
    scores = torch.stack([sample.gt_score for sample in data['data_samples']])
    assert ((scores > 0).sum(1) == 2).any()
    plain = model.data_preprocessor(raw_batch(), False)
    assert not torch.equal(data['inputs'], plain['inputs'])
    # the loss is that of the mixed labels
    losses = model.eval()(data['inputs'], data['data_samples'], mode='loss')
    logits = model.architecture(data['inputs'], mode='tensor')
    want = -(scores * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(losses['student.loss'], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('own', [None, dict(augments=dict(type='Mixup', alpha=0.2))])
def test_augmentations_of_the_run_come_first(own: dict | None, algorithm: Callable, network: Callable) -> None:
    student = network('res8')
    student.train_cfg = dict(AUGMENTS)
    model = algorithm(architecture=student, data_preprocessor=dict(PLAIN, batch_augments=own, num_classes=10))
    augments = model.data_preprocessor.batch_augments
    assert [type(augment) for augment in augments.augments] == [Mixup] if own else augments is None


@pytest.mark.slow
def test_a_students_own_preprocessor_is_used_as_it_is(algorithm: Callable, network: Callable) -> None:
    student = network('res8')
    student.train_cfg = dict(AUGMENTS)
    preprocessor = algorithm(architecture=student).data_preprocessor
    assert [type(augment) for augment in preprocessor.batch_augments.augments] == [Mixup, CutMix, type(None)]
    assert preprocessor.num_classes == 10


def test_what_cannot_be_augmented_is_refused(algorithm: Callable, network: Callable) -> None:
    student = network('res8')
    student.train_cfg = dict(AUGMENTS)
    with pytest.raises(SettingError, match=r'Mixup or CutMix.*ImgDataPreprocessor.*data_preprocessor\.type'):
        algorithm(architecture=student, data_preprocessor=dict(type='mmpretrain.ImgDataPreprocessor'))


@pytest.mark.parametrize(
    ('distiller', 'name'),
    [
        (dict(type='FeatureDistiller', losses=dict(crd=dict(
            loss=dict(type='ContrastiveRepresentationLoss'), features='pooled',
            student_connector=dict(type='LinearProjection'), teacher_connector=dict(type='LinearProjection')))),
         'ContrastiveRepresentationLoss'),
        (DKD, 'DKDLoss'),
        (dict(type='MixedDistiller', distillers=dict(icd=dict(type='ICDDistiller'), dkd=DKD)), 'DKDLoss'),
    ],
)  # fmt: skip
def test_losses_that_read_labels_are_refused(
    distiller: dict, name: str, algorithm: Callable, network: Callable
) -> None:
    student = network('res8')
    assert algorithm(architecture=student, distiller=distiller)
    student.train_cfg = dict(AUGMENTS)
    with pytest.raises(SettingError, match=rf'{name} \(.*Mixup or CutMix.*data_preprocessor\.batch_augments'):
        algorithm(architecture=student, distiller=distiller, data_preprocessor=dict(PLAIN))


@pytest.mark.parametrize('label_weight', [0.0, 0.5])
def test_a_loss_that_takes_scores_for_labels_gets_mixed_images(
    label_weight: float, algorithm: Callable, network: Callable
) -> None:
    loss = dict(type='ComparativeLoss', label_weight=label_weight)
    ckd = dict(type='FeatureDistiller', losses=dict(ckd=dict(loss=loss, features='logits')))
    with mock.patch(LOG) as log:
        model = algorithm(
            distiller=ckd, data_preprocessor=dict(PLAIN, num_classes=10, batch_augments=dict(AUGMENTS))
        ).eval()
    assert not [call for call in log.call_args_list if 'ComparativeLoss' in str(call)]
    data = model.data_preprocessor(raw_batch(), True)
    losses = model(data['inputs'], data['data_samples'], mode='loss')
    student, teacher = (each(data['inputs'], mode='tensor') for each in (model.architecture, model.teacher))
    scores = torch.stack([sample.gt_score for sample in data['data_samples']])
    want = sum(w * 2 * (student - target).var(0).mean() for w, target in ((1.0, teacher), (label_weight, scores)))
    torch.testing.assert_close(losses['distill.loss_ckd'], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ('head', 'message'),
    [(dict(loss=dict(type='SeesawLoss', num_classes=10)), 'SeesawLoss'), (dict(cal_acc=True), 'head.cal_acc=False')],
)
def test_heads_that_read_one_label_are_refused(
    head: dict, message: str, algorithm: Callable, network: Callable
) -> None:
    student = network('res8')
    student.head.update(head)
    assert algorithm(architecture=student)
    with pytest.raises(SettingError, match=rf'{message}.*data_preprocessor\.batch_augments'):
        algorithm(architecture=student, data_preprocessor=dict(PLAIN, num_classes=10, batch_augments=dict(AUGMENTS)))


def trained_by(file: str, loads_files: bool, **preprocessor: Any) -> str:
    """Write into a checkpoint what its training saw its images through, as mmengine does."""
    pipeline = [*([dict(type='LoadImageFromFile')] if loads_files else []), dict(type='PackInputs')]
    dataset = dict(type='CustomDataset' if loads_files else 'CIFAR10', pipeline=pipeline)
    cfg = Config(dict(
        data_preprocessor=preprocessor, train_dataloader=dict(dataset=dataset), model=dict(type='ImageClassifier')
    ))  # fmt: skip
    checkpoint = torch.load(file, weights_only=True)
    torch.save({**checkpoint, 'meta': dict(cfg=cfg.pretty_text)}, file)
    return file


@pytest.mark.parametrize('turned', [True, False])
def test_another_order_in_the_teachers_config(turned: bool, algorithm: Callable, network: Callable) -> None:
    """It is converted where it is known: to_rgb=True is said of networks that take RGB."""
    teacher = network('res20')
    teacher.data_preprocessor = dict(PLAIN, to_rgb=turned)
    used = dict(PLAIN, to_rgb=not turned)
    message = (
        rf'\(to_rgb={turned}\), as its config says.*data_preprocessor\.to_rgb={turned}.*dict\(to_rgb={not turned}\)'
    )
    with pytest.raises(SettingError, match=message):
        algorithm(teacher=teacher, data_preprocessor=used).check_order_of_channels('NPZDataset')
    with pytest.raises(SettingError, match=message):
        algorithm(teacher=teacher, data_preprocessor=used, teacher_preprocessor='student')
    if turned:
        for source in ('RGB', 'BGR'):
            model = algorithm(teacher=teacher, data_preprocessor=used)
            model.check_order_of_channels(source)
            assert model.teacher_view.turned == (source == 'BGR')
    for told in (True, False):
        model = algorithm(teacher=teacher, data_preprocessor=used, teacher_preprocessor=dict(to_rgb=told))
        model.check_order_of_channels('NPZDataset')
        assert model.teacher_view.turned == (told == turned)
    model = algorithm(teacher=teacher, data_preprocessor=dict(PLAIN, to_rgb=turned))
    model.check_order_of_channels('NPZDataset')
    assert not model.teacher_view.changes


CASES = {
    'files, to_rgb left out': (dict(loads_files=True, to_rgb=False), 'BGR', True, True),
    'files, alike': (dict(loads_files=True, to_rgb=True), 'BGR', True, False),
    'arrays in RGB, then files turned to it': (dict(loads_files=False), 'BGR', True, False),
    'arrays in RGB, then files as they are': (dict(loads_files=False), 'BGR', False, True),
    'files turned to RGB, then arrays in RGB': (dict(loads_files=True, to_rgb=True), 'RGB', False, False),
    'files turned to RGB, then arrays that are turned': (dict(loads_files=True, to_rgb=True), 'RGB', True, True),
    'gray files': (dict(loads_files=True, to_rgb=False), 'gray', True, False),
}


@pytest.mark.parametrize(('trained', 'source', 'turned', 'other'), CASES.values(), ids=CASES)
def test_the_order_is_that_of_the_teachers_training(
    trained: dict, source: str, turned: bool, other: bool, algorithm: Callable, teacher_file: Callable
) -> None:
    file = trained_by(teacher_file('res20'), mean=[120.0] * 3, std=[60.0] * 3, **trained)
    model = algorithm(teacher_ckpt=file, data_preprocessor=dict(PLAIN, to_rgb=turned))
    model.check_order_of_channels(source)
    assert model.teacher_view.turned == other
    settings = dict(teacher_ckpt=file, data_preprocessor=dict(PLAIN, to_rgb=turned), teacher_preprocessor='student')
    if not other:
        algorithm(**settings).check_order_of_channels(source)
        return
    with pytest.raises(SettingError, match=rf'as its checkpoint says.*data_preprocessor\.to_rgb={not turned}'):
        algorithm(**settings).check_order_of_channels(source)
    algorithm(**settings).check_order_of_channels(source, gray=lambda: True)


@pytest.mark.parametrize('setting', ['auto', 'student'])
def test_a_run_without_the_hook_is_checked_with_its_first_batch(
    setting: str, algorithm: Callable, teacher_file: Callable, batch: Callable
) -> None:
    file = trained_by(teacher_file('res20'), loads_files=True, mean=[120.0] * 3, std=[60.0] * 3, to_rgb=False)
    settings = dict(teacher_ckpt=file, data_preprocessor=dict(PLAIN), teacher_preprocessor=setting)
    model = algorithm(**settings)
    images, samples = batch()
    for sample in samples:
        sample.set_metainfo(dict(img_path='image.png'))
    if setting == 'student':
        with pytest.raises(SettingError, match=r'BGR, as its checkpoint says.* RGB'):
            model(images, samples, mode='loss')
        # a gray image, replicated
        gray = images[:, :1].repeat(1, 3, 1, 1)
        algorithm(**settings)(gray, samples, mode='loss')
        return
    model(images, samples, mode='loss')
    assert model.teacher_view(images).equal(images.flip(1))


def test_a_config_that_is_given_the_runs_order_is_intended(
    algorithm: Callable, network: Callable, teacher_file: Callable
) -> None:
    file = trained_by(teacher_file('res20'), loads_files=True, mean=[120.0] * 3, std=[60.0] * 3, to_rgb=False)
    teacher = network('res20')
    teacher.data_preprocessor = dict(PLAIN)
    model = algorithm(teacher=teacher, teacher_ckpt=file, data_preprocessor=dict(PLAIN))
    with mock.patch(LOG) as log:
        model.check_order_of_channels('BGR')
    (warning,) = log.call_args.args
    assert 'data_preprocessor.to_rgb=False' in warning


def test_what_the_checkpoint_says_of_normalisation_is_more_certain(
    algorithm: Callable, network: Callable, teacher_file: Callable
) -> None:
    file = trained_by(teacher_file('res20'), loads_files=True, mean=[1.0] * 3, std=[2.0] * 3, to_rgb=True)
    teacher = network('res20')
    teacher.data_preprocessor = dict(PLAIN)
    with mock.patch(LOG) as log:
        model = algorithm(teacher=teacher, teacher_ckpt=file, data_preprocessor=dict(PLAIN))
    assert not log.called
    assert model.teacher_view.own.mean == (1.0,) * 3
    with mock.patch(LOG) as log:
        algorithm(teacher=teacher, teacher_ckpt=file, data_preprocessor=dict(PLAIN), teacher_preprocessor='student')
    (warning,) = log.call_args.args
    assert 'checkpoint normalises images by mean [1.0, 1.0, 1.0], std [2.0, 2.0, 2.0]' in warning


def test_weights_that_a_student_starts_from(algorithm: Callable, network: Callable) -> None:
    student = network('res8')
    student.data_preprocessor = dict(PLAIN, to_rgb=False)
    with mock.patch(LOG) as log:
        algorithm(architecture=student, data_preprocessor=dict(PLAIN))
        assert not log.called
        student.backbone.init_cfg = dict(type='Pretrained', checkpoint='file.pth')
        algorithm(architecture=student, data_preprocessor=dict(PLAIN))
    (warning,) = log.call_args.args
    assert 'student' in warning
    assert 'channels as in the dataset (to_rgb=False)' in warning
