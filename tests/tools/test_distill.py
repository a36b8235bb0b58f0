"""From a folder of images to a student: the function and the command."""

import re
import sys
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import ROOT, TOOLS, exit_status, run_python
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from PIL import Image

import icd_mmrazor
from icd_mmrazor.errors import DatasetError, SettingError, UserError
from icd_mmrazor.workflow import stages
from icd_mmrazor.workflow.request import Request

SMALL = dict(
    teacher='res8', teacher_ckpt='random', student='res8', recipe='fast', epochs=1, batch_size=8, image_size=16
)
# nothing but mmpretrain
USE = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner
{lines}
cfg = Config.fromfile({config!r})
cfg.load_from, cfg.work_dir = {weights!r}, 'used'
print('metrics', Runner.from_cfg(cfg).test())
print('ours', 'icd_mmrazor' in sys.modules)
"""


def images(folder: Path, classes: dict[str, int], size: int = 16) -> Path:
    generator = np.random.default_rng(0)
    for label, (name, number) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            pixels = generator.integers(0, 60, (size, size, 3), dtype=np.uint8) + 80 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f'{i:02}.png')
    return folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a folder of two classes, and work where it lies."""
    monkeypatch.chdir(tmp_path)
    images(tmp_path / 'zwei Tüten', {'hell': 9, 'dunkel': 12})
    return 'zwei Tüten'


def distill(data: str, **settings: Any) -> Any:
    return icd_mmrazor.distill(**{**SMALL, 'data': data, **settings})


@pytest.mark.slow
def test_a_method_that_changes_the_student(data: str, capfd: pytest.CaptureFixture) -> None:
    """SimKD: plan, result and files tell the size of the student that comes out."""
    teacher = dict(type='ImageClassifier', backbone=dict(type='CIFARResNet', depth=8))
    teacher |= dict(
        neck=dict(type='GlobalAveragePooling'), head=dict(type='LinearClsHead', num_classes=2, in_channels=64)
    )
    student = distill(data, teacher=teacher, method='simkd', baseline=True, work_dir='work')
    result, printed = student.distillation, capfd.readouterr().out
    total = sum(parameter.numel() for parameter in student.parameters())
    assert result.parameters[1] == total
    assert result.alone_parameters == result.parameters[0] < total
    assert f'{total:,} in all' in printed
    assert f'{total:,} parameters, changed by SimKD' in str(result)
    assert torch.isfinite(student(torch.randn(2, 3, 16, 16))).all()


def times(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob('*') if file.is_file()}


@pytest.mark.slow
def test_from_a_folder_to_a_student(
    data: str, capfd: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher gets a classifier, the baseline is trained, and the student is one that plain mmpretrain runs."""
    settings = dict(student='mobilenet-v3-small_8xb128_in1k', baseline=True, export='onnx', work_dir='work')
    student = distill(data, **settings)
    result, printed = student.distillation, capfd.readouterr().out
    assert result.classes == ('dunkel', 'hell')
    # the teacher has a classifier of two classes now: 64 weights and a bias each
    assert result.parameters[0] == 83_892 - (100 - 2) * 65
    assert result.parameters[1] == sum(p.numel() for p in student.parameters())
    (log,) = Path('work/distilled').glob('*/*.log')
    assert 'System environment:' in log.read_text()
    assert 'System environment:' not in printed
    assert 'Epoch(val)' in printed
    # networks that the plan, the export and the report build say nothing
    assert 'training a classifier' in next(Path('work/teacher').glob('*/*.log')).read_text()
    assert 'training a classifier' not in printed
    assert not student.training
    assert student(torch.zeros(2, 3, 16, 16)).shape == (2, 2)
    rows = dict(re.findall(r'^(teacher|student alone|student) +([\d.]+) +[\d,]+$', printed, re.M))
    shown = dict(teacher=result.teacher_accuracy, student=result.accuracy)
    assert {name: float(value) for name, value in rows.items()} == pytest.approx(
        {**shown, 'student alone': result.baseline_accuracy}, abs=0.01
    )
    for name in ('student.pth', 'student.py', 'student.onnx', 'report.html'):
        assert Path('work', name).is_file(), name
    assert len(Path('work/train.txt').read_text(encoding='utf-8').splitlines()) == 17
    assert len(Path('work/val.txt').read_text(encoding='utf-8').splitlines()) == 4

    # the lines that it printed, in another folder, and the accuracy, without this package
    lines = printed.rpartition('Use the student:\n')[2].partition('\n\n')[0].replace('  ', '')
    lines = lines.replace('IMAGE_FILE', f'{Path.cwd()}/{data}/hell/00.png')
    files = {
        name: str(Path(f'work/{file}').absolute())
        for name, file in (('config', 'student.py'), ('weights', 'student.pth'))
    }
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    Path('use.py').write_text(USE.format(lines=lines, **files))
    used = run_python('use.py', OMP_NUM_THREADS='1')
    assert used.returncode == 0, used.stderr
    (accuracy,) = re.findall(r"'accuracy/top1': ([\d.]+)", used.stdout)
    assert float(accuracy) == pytest.approx(result.accuracy, abs=1e-4)
    assert 'ours False' in used.stdout

    monkeypatch.chdir(tmp_path)

    # the same again does nothing, even in the same process; another request is refused; so are other images
    before = times(Path('work'))
    again = distill(data, **settings)
    assert times(Path('work')) == before
    assert again.distillation == result
    for name, weight in student.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    with pytest.raises(SettingError, match=r'epochs: 1 there, 2 now'):
        distill(data, **{**settings, 'epochs': 2})
    Path(data, 'hell', '00.png').rename(Path(data, 'hell', '99.png'))
    with pytest.raises(DatasetError, match='has changed'):
        distill(data, **settings)
    assert times(Path('work')) == before


@pytest.mark.slow
def test_a_person_can_continue_with_what_was_written(data: str) -> None:
    distill(data, method='icd', work_dir='work')
    assert sorted(file.name for file in Path('work').glob('*.py')) == [
        'data.py', 'distilled.py', 'student.py', 'student_alone.py',
    ]  # fmt: skip
    assert exit_status(TOOLS / 'train.py', 'work/student_alone.py', '--work-dir', 'alone') is None
    assert exit_status(TOOLS / 'train.py', 'work/distilled.py', '--work-dir', 'by_hand') is None
    ours, theirs = (torch.load(f'{folder}/epoch_1.pth')['state_dict'] for folder in ('work/distilled', 'by_hand'))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_an_interrupted_command_continues(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before each training, and in the middle of the last one; nothing is repeated."""
    settings = dict(baseline=True, work_dir='work', epochs=2)
    train, started, stop = stages.train, [], ['']

    def stopped(cfg: Config, **settings: Any) -> Any:
        started.append((Path(cfg.work_dir).name, bool(cfg.get('resume'))))
        if started[-1][0] == stop[0]:
            raise KeyboardInterrupt
        return train(cfg, **settings)

    monkeypatch.setattr(stages, 'train', stopped)
    for stop[0] in ('teacher', 'student_alone', 'distilled'):
        with pytest.raises(KeyboardInterrupt):
            distill(data, **settings)
    assert exit_status(TOOLS / 'train.py', 'work/distilled.py', '--work-dir', 'work/distilled') is None
    Path('work/distilled/epoch_2.pth').unlink()
    stop[0] = ''
    student = distill(data, **settings)
    assert started == [
        ('teacher', False), ('teacher', False), ('student_alone', False), ('student_alone', False),
        ('distilled', False), ('distilled', True),
    ]  # fmt: skip
    assert Path('work/distilled/epoch_2.pth').is_file()
    assert student.distillation.baseline_accuracy is not None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='asks Linux for processes')
@pytest.mark.parametrize(('method', 'mixes'), [('icd', True), ('r2kd', False)])
def test_mixed_images(method: str, mixes: bool, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default recipe mixes labels, also for the student alone; no training leaves processes behind.

    R2KD mixes images itself, in a second batch.
    """
    before, found, stop = {*active_children()}, [], stages._stop_workers

    def counted(runner: Runner) -> None:
        found.append(len({*active_children()} - before))
        stop(runner)
        found.append(len({*active_children()} - before))

    monkeypatch.setattr(stages, '_stop_workers', counted)
    student = distill(data, method=method, recipe='standard', baseline=True, work_dir='work')
    assert Config.fromfile('work/student_alone.py').data_preprocessor.batch_augments
    assert bool(Config.fromfile('work/distilled.py').data_preprocessor.batch_augments) == mixes
    assert student.distillation.baseline_accuracy is not None
    assert not any(found[1::2])
    assert all(found[::2])


@pytest.mark.slow
def test_images_without_labels(data: str, tmp_path: Path) -> None:
    more = images(tmp_path / 'more', {'whatever': 10})
    student = distill(data, method='icd', unlabeled=str(more), work_dir='work')
    dataset = Config.fromfile('work/distilled.py').train_dataloader.dataset
    assert (dataset.type, dataset.unlabeled.with_label) == ('PartlyLabeledDataset', False)
    assert len(Path('work/unlabeled.txt').read_text().splitlines()) == 10
    assert student.distillation.teacher_accuracy is None


@pytest.mark.slow
def test_the_plan_alone(data: str, network: Callable, capfd: pytest.CaptureFixture) -> None:
    Image.new('L', (16, 16)).save(f'{data}/hell/gray.png')
    images(Path(data), {'unlabeled': 3})
    assert distill(data, student='res14', dry_run=True) is None
    plan = capfd.readouterr().out
    parameters = sum(p.numel() for p in MODELS.build(network('res14', 2)).parameters())
    assert sorted(file.name for file in Path().iterdir()) == [data]
    for text in (
        '2 classes; 18 images to train on (8 to 10 per class), 4 to validate on; 16 x 16 pixels',
        'split off 4 images',
        'read as RGB with 8 bits: gray (1)',
        "leaves out the folder 'unlabeled', which is for --unlabeled",
        'res8, 83,892 parameters, 100 classes, weights random',
        'kd compares logits, and this teacher has a classifier of 100 classes: a linear one of 2 classes is trained',
        f'res14, {parameters:,} parameters',
        'it is larger than its teacher',
        '1 epochs of 2 steps, batches of 8, images of 16 x 16, seed 0',
        'estimate',
    ):
        assert text in plan, text


@pytest.mark.slow
def test_a_classifier_inside_the_backbone(data: str, capfd: pytest.CaptureFixture) -> None:
    """Its number of classes is set and read, and the steps that the plan measures run."""
    student = dict(type='ImageClassifier', backbone=dict(type='AlexNet', num_classes=1000), head=dict(type='ClsHead'))
    distill(data, student=student, image_size=224, dry_run=True)
    parameters = sum(p.numel() for p in MODELS.build(dict(type='mmpretrain.AlexNet', num_classes=2)).parameters())
    assert f'{parameters:,} parameters; ' in capfd.readouterr().out


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(student='mobilenet-v3-smal'), r'--student mobilenet-v3-smal[^$]*Did you mean mobilenet-v3-small_8xb128'),
        (dict(teacher='resnet5_8xb32_in1k'), r'--teacher resnet5_8xb32_in1k[^$]*Did you mean .*resnet50_8xb32_in1k'),
        (dict(teacher='timm/resnet1'), r'timm/resnet1[^$]*Did you mean .*resnet18'),
        (dict(teacher='vit_tiny_patch16_224'), r'--teacher [^$]*Did you mean timm/vit_tiny_patch16_224'),
        (dict(teacher='facebook/dinov2-small'), r'--teacher [^$]*hf/facebook/dinov2-small'),
        (dict(student=__file__ + 'c'), r'--student [^$]*is not a known network'),
        (dict(teacher='zwei Tüten/hell/00.png'), r'--teacher [^$]* is neither a config'),
        (dict(teacher_ckpt='other.pth', baseline=True), r'other.pth does not fit'),
        (dict(teacher_ckpt='other.pth', baseline=True, method='icd'), r'other.pth does not fit'),
        (dict(teacher='res8', teacher_ckpt=None), '--teacher res8: its weights are missing'),
        (dict(teacher_ckpt='missing.pth'), 'missing.pth'),
        (dict(teacher='missing.pth', teacher_ckpt=None), 'missing.pth'),
        (dict(student='model.pth'), '--student model.pth is a file of weights'),
        (dict(student='deit-tiny_4xb256_in1k', image_size=32), '--image-size 32: the student .* 224 x 224'),
        (dict(method='idc'), "method 'idc'. Did you mean .*icd"),
        (dict(method='kd+kd'), 'kd.kd'),
        (dict(method='ceskd'), 'ceskd does not fit these networks.*teaching assistants'),
        (dict(method='mlkd'), '--method mlkd[^$]*two views of each image[^$]*TwoViewDataset'),
        (dict(recipe='quick'), "recipe 'quick'"),
        (dict(export='onxx'), "export='onxx'.*Did you mean onnx"),
        (dict(export='timm'), r'--export timm: the student \(CIFARResNet\)'),
        (dict(method='simkd', export='timm'), '--method simkd puts a projector'),
        (dict(export='torchvision'), r'--export torchvision: the student \(CIFARResNet\)'),
        (dict(epochs=0), 'epochs=0'),
        (dict(image_size=1), 'image_size=1 .*from 8 to 2048'),
        (dict(batch_size=1), '--batch-size 1'),
        (dict(val_fraction=1.0), 'val_fraction=1.0'),
        (dict(seed=-1), 'seed=-1'),
        (dict(method='crd', recipe='standard'), r'reads one label for each image[^$]*batch_augments=None'),
        (dict(method='fsp', teacher='timm/test_vit'), 'FSPLoss needs equal widths'),
        (
            dict(
                teacher='timm/vit_tiny_patch16_224',
                method='icd',
                cfg_options={'model.teacher_preprocessor': 'student'},
            ),
            r'model.teacher[^$]*16[^$]*224',
        ),
        (dict(method='crd', unlabeled='more'), '--method crd[^$]*--unlabeled'),
        (dict(unlabeled='zwei Tüten'), '--unlabeled [^$]*21 of its 21 images are images of --data'),
        (dict(unlabeled='zwei Tüten/hell'), '--unlabeled [^$]*9 of its 9 images are images of --data'),
        (dict(data=''), "--data '' is empty"),
        (dict(unlabeled=' '), "--unlabeled ' ' is empty"),
        (dict(data='missing'), r'--data .*missing does not exist'),
        (dict(data='~nobody-of-this-name/images'), r'--data .*~nobody-of-this-name'),
        (dict(unlabeled='missing'), r'--unlabeled .*missing does not'),
        (dict(data=['a', 'b']), '--data: .* is not a name or a path'),
        (dict(work_dir=3), '--work-dir: 3 is not'),
        (dict(teacher=torch.nn.Linear(2, 2)), '--teacher: a built Linear [^$]*register_module'),
        (dict(student=torch.nn.Linear(2, 2)), '--student: a built Linear [^$]*register_module'),
        (dict(teacher=None), '--teacher None is empty'),
        (dict(cfg_options=['a=b']), 'cfg_options'),
        (dict(work_dir=__file__), '--work-dir'),
        (dict(work_dir='zwei Tüten'), 'files that another program wrote'),
        (dict(work_dir='zwei Tüten', dry_run=True), 'files that another program wrote'),
        (dict(cfg_options={'train_fcg.max_epochs': 1}), 'train_fcg'),
        (dict(cfg_options={'train_cfg.max_epoch': 1}), "train_cfg has no setting 'max_epoch'. Did you mean max_epochs"),
        (dict(cfg_options={'optim_wrapper.optimizer.lr': -1.0}), 'Invalid learning rate: -1.0'),
        (dict(cfg_options={'train_dataloader.num_worker': 1}), "no setting 'num_worker'. Did you mean num_workers"),
        (dict(cfg_options={'work_dir': 'x'}), 'work_dir[^$]*--work-dir'),
    ],
    ids=lambda value: ' '.join(map(str, value)) if isinstance(value, dict) else '',
)
def test_refused_before_any_training(changes: dict, message: str, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, 'train', lambda *_, **__: pytest.fail('a training'))
    images(Path('more'), {'whatever': 3})
    torch.save(dict(state_dict={'fc.weight': torch.zeros(2, 2)}), 'other.pth')
    with pytest.raises(UserError, match=message):
        distill(**{'data': data, 'work_dir': 'work', **changes})


@pytest.mark.slow
def test_one_command_at_a_time(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one is refused while the first trains; the folder is free again when that is interrupted."""

    def another(*_: Any, **__: Any) -> None:
        code = f'import icd_mmrazor; icd_mmrazor.distill(**{dict(SMALL, data=data, work_dir="work")})'
        second = run_python('-c', code, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
        assert '--work-dir' in second.stderr
        assert 'in use by another command' in second.stderr
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, 'train', another)
    with pytest.raises(KeyboardInterrupt):
        distill(data, work_dir='work')
    monkeypatch.setattr(stages, 'train', Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        distill(data, work_dir='work')


def test_words_may_have_blanks_and_capitals() -> None:
    request = Request('res8', 'res8', 'images', method=' ICD + kd', recipe='Fast', export='ONNX, onnx-int8,onnx')
    assert (request.method, request.recipe, request.export) == ('icd+kd', 'fast', ('onnx', 'onnx-int8'))
    for method in ('crd,KD', ['crd', 'kd'], 'CRD+kd'):
        assert Request('res8', 'res8', 'images', method=method).methods == ['crd', 'kd']
    request = Request(Path('teacher.pth'), Path('student.py'), Path('images'), export=None)
    assert (request.teacher, request.student, request.export) == ('teacher.pth', 'student.py', ())


def test_a_work_folder_that_cannot_be_created_is_refused(data: str) -> None:
    with pytest.raises(SettingError, match='--work-dir /proc/x cannot be written'):
        distill(data, work_dir='/proc/x')


def test_the_function_is_imported_when_it_is_asked_for() -> None:
    code = "import sys, icd_mmrazor; print('icd_mmrazor.workflow' in sys.modules, callable(icd_mmrazor.distill))"
    assert run_python('-c', code).stdout.split() == ['False', 'True']
    with pytest.raises(AttributeError, match='distil'):
        icd_mmrazor.distil  # noqa: B018


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='starts processes')
def test_several_processes(data: str) -> None:
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', TOOLS / 'distill.py']
    options = [
        '--teacher', 'res8', '--teacher-ckpt', 'random', '--student', 'res8', '--recipe', 'fast', '--epochs', '1',
        '--batch-size', '4', '--image-size', '16', '--data', data, '--work-dir', 'work', '--launcher', 'pytorch',
    ]  # fmt: skip
    done = run_python(*torchrun, *options, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('Use the student:') == 1
    assert Path('work/student.pth').is_file()
