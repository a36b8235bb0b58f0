"""Analyses of whole networks: the numbers of a test, teachers of every kind, and what is refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TOOLS, exit_status
from mmengine.config import Config
from mmrazor.registry import MODELS

from icd_mmrazor.analysis.attacks import pgd
from icd_mmrazor.analysis.images import Images
from icd_mmrazor.analysis.networks import logits_of, student_network
from icd_mmrazor.analysis.robustness import CHECKS, Check, Settings, measure
from icd_mmrazor.analysis.subject import Subject, read_subject
from icd_mmrazor.analysis.text import describe
from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError

TOOL = TOOLS / 'analysis' / 'robustness.py'


@pytest.fixture
def saved(demo_config: Callable[..., Config]) -> Callable[..., tuple[str, str]]:
    """Write config and checkpoint of a distillation of the digits, and return both files."""

    def save(change: Callable[[Config], None] = lambda _: None, name: str = 'icd_res20_res8_digits') -> tuple[str, str]:
        cfg = demo_config(name)
        change(cfg)
        cfg.dump('run.py')
        model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
        torch.save({'state_dict': model.state_dict(), 'meta': {'cfg': cfg.pretty_text}}, 'run.pth')
        return 'run.py', 'run.pth'

    return save


def test_accuracies_are_those_of_a_test(saved: Callable, capsys: pytest.CaptureFixture) -> None:
    config, checkpoint = saved()
    assert exit_status(TOOLS / 'test.py', config, checkpoint, '--out', 'test.json') is None
    expected = json.loads(Path('test.json').read_text())['accuracy/top1']
    short = ['--checks', 'classes', 'calibration', 'corruptions', '--corruptions', 'contrast']
    assert exit_status(TOOL, config, checkpoint, *short) is None
    found = json.loads(Path('robustness.json').read_text())
    assert found['checkpoint'] == 'run.pth'
    assert found['sha256'] == hashlib.sha256(Path('run.pth').read_bytes()).hexdigest()
    assert found['images'] == found['total'] == 40
    assert found['calibration']['student']['accuracy'] == pytest.approx(expected)
    assert found['corruptions']['student']['clean'] == pytest.approx(expected)
    # ten classes of four images
    assert np.mean(found['classes']['student']) == pytest.approx(expected)
    assert [*found['corruptions']['student']['accuracies']] == ['contrast']
    assert f'{expected:.2f}' in capsys.readouterr().out


def test_every_check_has_a_result_and_its_text(saved: Callable) -> None:
    config, checkpoint = saved()
    subject = read_subject(checkpoint, config, max_images=12)
    assert len(subject.images) == 12
    assert subject.images.total == 40
    found = dict(measure(subject, Settings(corruptions=['fog'], attacked=5, steps=2)))
    assert [*found] == [*CHECKS]
    assert found['attacks']['images'] == found['transfer']['images'] == 5
    assert found['attacks']['student']['robust'] <= found['attacks']['student']['clean']
    for name, result in found.items():
        assert describe(name, result)
    assert json.loads(json.dumps(found)) == found


def test_network_sees_pixels_as_its_run_prepares_them(saved: Callable) -> None:
    """The teacher has another normalisation, and channels in the other order."""

    def other(cfg: Config) -> None:
        cfg.model.teacher_preprocessor = dict(mean=[10.0, 20.0, 30.0], std=[50.0, 60.0, 70.0], to_rgb=True)

    subject = read_subject(*saved(other)[::-1])
    cfg = Config.fromfile('run.py')
    weights = torch.load(cfg.model.teacher_ckpt)['state_dict']
    teacher = MODELS.build({'_scope_': 'mmpretrain', **cfg.model.teacher}).eval()
    teacher.load_state_dict(weights)
    images = torch.randint(0, 256, (3, 3, 16, 16)).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([10.0, 20.0, 30.0], [50.0, 60.0, 70.0]))
    expected = teacher((images.flip(1) - mean) / std, mode='tensor')
    torch.testing.assert_close(subject.networks['teacher'](images / 255), expected, atol=1e-4, rtol=1e-4)


def test_an_ensemble_of_teachers_is_attacked(saved: Callable) -> None:
    def several(cfg: Config) -> None:
        file, teacher = cfg.model.pop('teacher_ckpt'), cfg.model.pop('teacher')
        cfg.model.teachers = [dict(teacher=teacher, teacher_ckpt=file)] * 2
        kd = dict(loss=dict(type='KLDivergence', tau=4.0), features='logits')
        cfg.model.distiller = dict(type='FeatureDistiller', losses=dict(kd=kd))

    subject = read_subject(*saved(several)[::-1], max_images=4)
    network, pixels = subject.networks['teacher'], subject.images.pixels.float() / 255
    changed = pgd(network, pixels, subject.images.labels, steps=3)
    loss = torch.nn.functional.cross_entropy
    labels = subject.images.labels
    assert loss(network(changed), labels) > loss(network(pixels), labels)


def several_precisions(cfg: Config) -> None:
    file, teacher = cfg.model.pop('teacher_ckpt'), cfg.model.pop('teacher')
    cfg.model.teacher_precision = 'bf16-true'
    cfg.model.teachers = [dict(teacher=teacher, teacher_ckpt=file, teacher_precision='bf16')]
    cfg.model.teachers.append(dict(teacher=teacher, teacher_ckpt=file))
    kd = dict(loss=dict(type='KLDivergence', tau=4.0), features='logits')
    cfg.model.distiller = dict(type='FeatureDistiller', losses=dict(kd=kd))


@pytest.mark.parametrize(
    'change', [lambda cfg: cfg.model.update(teacher_precision='bf16-true'), several_precisions], ids=['one', 'two']
)
def test_teachers_are_attacked_in_float32(saved: Callable, change: Callable) -> None:
    config, checkpoint = saved(change)
    subject = read_subject(checkpoint, config, max_images=4)
    cfg = Config.fromfile(config).model
    file = cfg.teacher_ckpt if 'teacher' in cfg else cfg.teachers[0].teacher_ckpt
    teacher = MODELS.build({'_scope_': 'mmpretrain', **(cfg.get('teacher') or cfg.teachers[0].teacher)}).eval()
    teacher.load_state_dict(torch.load(file)['state_dict'])
    expected = teacher((subject.images.pixels.float() - 78) / 81, mode='tensor').log_softmax(1)
    torch.testing.assert_close(subject.clean['teacher'].log_softmax(1), expected, atol=1e-5, rtol=1e-5)


class OfClass:
    """A network that knows the class of an image by its first pixel, unless the image is of the last class."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        places = torch.arange(4.0)
        label = 255 * pixels[:, :1, 0, 0] / 50
        return -((places - label.where(label < 2.5, label - 3)) ** 2)


def by_class(number: int = 100, channels: int = 3) -> Images:
    """Return images that are sorted by class, as a folder for each class gives them."""
    labels = torch.arange(4).repeat_interleave(number)
    pixels = (50 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, channels, 8, 8)
    return Images(pixels, labels, len(labels), None, 'RGB')


def test_attacks_are_on_images_of_all_classes() -> None:
    subject = Subject({'student': OfClass(), 'teacher': OfClass()}, by_class(), list('abcd'))
    for checks in (['attacks'], ['transfer']):
        settings = [Settings(checks=checks, attacked=100, steps=1, seed=seed) for seed in (0, 0, 1)]
        ((first,), (again,), (other,)) = (measure(subject, each) for each in settings)
        assert first == again
        name = 'student' if checks == ['attacks'] else 'teacher'
        # three classes of four are known
        assert 60 < first[1][name]['clean'] < 90
        assert first[1][name] != other[1][name]


def test_unknown_images_are_read_before_the_first_check(saved: Callable, capsys: pytest.CaptureFixture) -> None:
    config, checkpoint = saved()
    checks = ['--checks', 'calibration', 'ood']
    assert exit_status(TOOL, config, checkpoint, *checks, '--ood', 'nose') == 1
    assert not Path('robustness.json').exists()
    output = capsys.readouterr()
    assert 'no such folder' in output.err
    assert 'calibration' not in output.out


def test_results_are_kept_if_a_later_check_fails(
    saved: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def failing(*_: object) -> dict:
        raise SettingError('out of luck')

    config, checkpoint = saved()
    monkeypatch.setitem(CHECKS, 'attacks', Check(failing))
    assert exit_status(TOOL, config, checkpoint, '--checks', 'calibration', 'attacks', 'ood') == 1
    assert 'out of luck' in capsys.readouterr().err
    found = json.loads(Path('robustness.json').read_text())
    assert {*found} == {'checkpoint', 'sha256', 'images', 'total', 'calibration'}


def test_images_of_four_channels_are_not_corrupted() -> None:
    subject = Subject({'student': OfClass()}, by_class(2, 4), list('abcd'), 'there is none')
    found = dict(measure(subject, Settings(steps=1)))
    assert {*CHECKS} - {*found} == {'agreement', 'transfer', 'corruptions'}
    with pytest.raises(SettingError, match=r'corruptions needs gray or RGB images .* 4 x 8 x 8'):
        next(measure(subject, Settings(checks=['corruptions'])))


@pytest.mark.parametrize(
    ('head', 'message'),
    [
        (dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64), 'the student .* several classes'),
        (None, 'the student .* no logits'),
    ],
)
def test_networks_without_one_label_are_refused(head: dict | None, message: str) -> None:
    model = dict(type='ImageClassifier', backbone=dict(type='CIFARResNet', depth=8), head=head, _scope_='mmpretrain')
    with pytest.raises(SettingError, match=message):
        logits_of(student_network(MODELS.build(model)), by_class(1).pixels, 2)


def trained_along(cfg: Config) -> None:
    cfg.model = dict(
        _scope_='mmrazor',
        type='SingleTeacherDistill',
        architecture=cfg.model.architecture,
        teacher=cfg.model.teacher,
        teacher_trainable=True,
        teacher_norm_eval=False,
        distiller=dict(type='ConfigurableDistiller'),
    )


def test_a_teacher_that_is_trained_along_is_in_the_checkpoint(saved: Callable) -> None:
    config, checkpoint = saved(trained_along)
    subject = read_subject(checkpoint, config, max_images=4)
    content = torch.load(checkpoint)
    teacher = MODELS.build({'_scope_': 'mmpretrain', **Config.fromfile(config).model.teacher}).eval()
    weights = {k.removeprefix('teacher.'): v for k, v in content['state_dict'].items() if k.startswith('teacher.')}
    teacher.load_state_dict({k: v for k, v in weights.items() if 'data_preprocessor' not in k})
    expected = teacher((subject.images.pixels.float() - 78) / 81, mode='tensor')
    torch.testing.assert_close(subject.clean['teacher'], expected, atol=1e-4, rtol=1e-4)
    # an exported student is without it
    student = {k: v for k, v in content['state_dict'].items() if k.startswith('architecture.')}
    torch.save({'state_dict': student, 'meta': content['meta']}, 'student.pth')
    with pytest.raises(SettingError, match='trains the teacher'):
        read_subject('student.pth', config)


def test_a_plain_student_has_no_teacher(saved: Callable) -> None:
    subject = read_subject(*saved(name='res8_digits')[::-1], max_images=4)
    found = dict(measure(subject, Settings(corruptions=['fog'], steps=1)))
    assert {'agreement', 'transfer'} == {*CHECKS} - {*found}
    for name in ('agreement', 'transfer'):
        with pytest.raises(SettingError, match=f'{name} needs a teacher'):
            next(measure(subject, Settings(checks=[name])))


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ({'checks': ['calibraton']}, 'Did you mean calibration'),
        ({'corruptions': ['frog']}, 'Did you mean fog'),
        ({'attacked': 0}, 'attacked=0'),
        ({'bins': 0}, 'bins=0'),
        ({'eps': -1.0}, 'eps=-1.0'),
        ({'seed': -1}, 'seed=-1'),
    ],
)
def test_wrong_settings_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Settings(**setting)


def test_wrong_files_are_refused(saved: Callable, capsys: pytest.CaptureFixture) -> None:
    config, checkpoint = saved()
    other = Config.fromfile(config)
    other.model.architecture.backbone.depth = 14
    other.dump('other.py')
    with pytest.raises(CheckpointError, match='does not fit'):
        read_subject(checkpoint, 'other.py')
    with pytest.raises(SettingError, match='max_images=0'):
        read_subject(checkpoint, config, max_images=0)
    with pytest.raises(
        SettingError, match=r'the student \(CIFARResNet\) fails on images of 5 x 8 x 8: .*test_dataloader'
    ):
        read_subject(checkpoint, config).logits(torch.zeros(1, 5, 8, 8, dtype=torch.uint8))
    assert exit_status(TOOL, config, checkpoint, '--max-images', 0) == 2
    assert exit_status(TOOL, config, checkpoint, '--checks', 'speed') == 1
    assert "'speed' is unknown" in capsys.readouterr().err
    assert not Path('robustness.json').exists()


def normalised(cfg: Config) -> None:
    cfg.test_dataloader.dataset.pipeline = [dict(type='Normalize', mean=[0] * 3, std=[1] * 3), dict(type='PackInputs')]


def renamed(cfg: Config) -> None:
    cfg.test_dataloader.dataset.metainfo = dict(classes=[f'other {i}' for i in range(10)])


def few_classes(cfg: Config) -> None:
    cfg.model.architecture.head.num_classes = cfg.model.teacher.head.num_classes = 3
    cfg.model.teacher_ckpt, cfg.model.random_teacher = None, True


def empty(cfg: Config) -> None:
    cfg.test_dataloader.dataset.indices = []


def no_test(cfg: Config) -> None:
    for split in ('val', 'test'):
        cfg[f'{split}_dataloader'] = cfg[f'{split}_evaluator'] = cfg[f'{split}_cfg'] = None


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (normalised, SettingError, 'uint8'),
        (few_classes, DatasetError, '3 classes'),
        (no_test, SettingError, 'no test images'),
        (empty, DatasetError, 'NPZDataset has no images'),
    ],
)
def test_test_images_that_do_not_fit_are_refused(
    saved: Callable, change: Callable, error: type[Exception], message: str
) -> None:
    config, checkpoint = saved(change)
    with pytest.raises(error, match=message):
        read_subject(checkpoint, config)


def test_classes_of_other_names_are_refused(saved: Callable) -> None:
    config, checkpoint = saved(renamed)
    content = torch.load(checkpoint)
    content['meta']['dataset_meta'] = {'classes': [str(i) for i in range(10)]}
    torch.save(content, checkpoint)
    with pytest.raises(DatasetError, match='other classes'):
        read_subject(checkpoint, config)
