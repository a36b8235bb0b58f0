"""train.py, test.py and the launchers as a user calls them, from another folder."""

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import CONFIGS, TOOLS, exit_status
from launches import Launch
from mmengine.config import Config
from mmpretrain.registry import DATASETS, MODELS

from icd_mmrazor.datasets import InMemoryBatches

DEMO = CONFIGS / 'demo' / 'icd_res20_res8_digits.py'


@pytest.fixture
def options(images_file: Path, teacher_file: Callable) -> list[str]:
    """Settings that put the demo's config on the small problem."""
    data = [f'{split}_dataloader.dataset.data_file={images_file}' for split in ('train', 'val', 'test')]
    short = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=1', 'randomness.seed=0']
    return ['--cfg-options', f'model.teacher_ckpt={teacher_file("res20")}', *data, *short]


def validated(work_dir: Path) -> list[dict]:
    lines = ''.join(file.read_text() for file in sorted(work_dir.glob('*/vis_data/scalars.json'))).splitlines()
    return [values for values in map(json.loads, lines) if 'accuracy/top1' in values]


@pytest.mark.slow
@pytest.mark.stack
def test_train_resume_and_test(options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert exit_status(TOOLS / 'train.py', DEMO, *options) is None
    work_dir = tmp_path / 'work_dirs' / 'icd_res20_res8_digits'
    assert (work_dir / 'epoch_2.pth').is_file()
    assert 'What is being distilled' in ''.join(capfd.readouterr())

    more = [*options, 'train_cfg.max_epochs=3']
    resume = ['--resume', '--resume-changes', 'list', '--auto-scale-lr']
    assert exit_status(TOOLS / 'train.py', DEMO, *resume, *more) is None
    # a repeated validation of the second epoch has the same result
    results = {(values['step'], values['accuracy/top1']) for values in validated(work_dir)}
    assert sorted(step for step, _ in results) == [1, 2, 3]
    accuracy = validated(work_dir)[-1]['accuracy/top1']

    # the distillation's checkpoint with its own config and with the plain student's, without its teacher
    Path(options[1].partition('=')[2]).unlink()
    plain = tmp_path / 'plain.pth'
    weights = torch.load(work_dir / 'epoch_3.pth', weights_only=True)['state_dict']
    student = {name[13:]: weight for name, weight in weights.items() if name.startswith('architecture.')}
    torch.save({'state_dict': student}, plain)
    for config, checkpoint in ((DEMO, work_dir / 'epoch_3.pth'), (CONFIGS / 'demo' / 'res8_digits.py', plain)):
        data = [option for option in options if 'data_file' in option]
        out = tmp_path / 'metrics.json'
        assert exit_status(TOOLS / 'test.py', config, checkpoint, '--out', out, '--cfg-options', *data) is None
        assert json.loads(out.read_text())['accuracy/top1'] == accuracy


@pytest.mark.slow
@pytest.mark.stack
def test_testing_changes_nothing_of_the_training(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config stays, its preprocessor is used, and no other weights are loaded."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / 'inside.py'
    config.write_text(
        f"_base_ = ['{DEMO}']\ndata_preprocessor = None\n"
        "model = dict(data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', mean=[78.] * 3, std=[40.] * 3))\n"
    )
    assert exit_status(TOOLS / 'train.py', config, *options) is None
    work_dir = tmp_path / 'work_dirs' / 'inside'
    kept = (work_dir / 'inside.py').read_text()
    Path(options[1].partition('=')[2]).unlink()
    arguments = [
        work_dir / 'epoch_2.pth',
        '--out',
        tmp_path / 'out.json',
        *options,
        'load_from=none.pth',
        'resume=True',
    ]
    assert exit_status(TOOLS / 'test.py', config, *arguments) is None
    accuracy = json.loads((tmp_path / 'out.json').read_text())['accuracy/top1']
    assert accuracy == validated(work_dir)[-1]['accuracy/top1']
    assert (work_dir / 'inside.py').read_text() == kept


@pytest.mark.slow
@pytest.mark.stack
def test_all_metrics_are_written(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix by its rows, next to the numbers."""
    monkeypatch.chdir(tmp_path)
    network, out = CONFIGS / 'demo' / 'res8_digits.py', tmp_path / 'metrics.json'
    config = tmp_path / 'matrix.py'
    matrix = "dict(type='ConfusionMatrix', num_classes=10)"
    config.write_text(f"_base_ = ['{network}']\ntest_evaluator = [dict(type='Accuracy'), {matrix}]\n")
    cfg = Config.fromfile(config)
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, tmp_path / 'random.pth')
    data = [option for option in options if 'data_file' in option]
    assert exit_status(TOOLS / 'test.py', config, tmp_path / 'random.pth', '--out', out, '--cfg-options', *data) is None
    metrics = json.loads(out.read_text())
    matrix = np.array(metrics['confusion_matrix/result'])
    assert matrix.shape == (10, 10)
    assert metrics['accuracy/top1'] == pytest.approx(100 * matrix.trace() / matrix.sum())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent.py'], 'config absent.py: there is no such file'),
        ([DEMO], r'checkpoint work_dirs/demo/teacher/epoch_20.pth: there is no such file'),
        ([DEMO, '--cfg-options', 'model.teacher_ckpt='], 'FrozenTeacherDistill: teacher_ckpt='),
        ([CONFIGS / 'vanilla/res8_cifar100.py', '--cfg-options', 'train_dataloader.dataset.download=False'],
         "VerifiedCIFAR100: data_root='data/cifar100'.*is missing"),
        ([DEMO, '--resume', 'absent.pth'], 'absent.pth: there is no such file'),
        ([DEMO, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr.base_batch_size=0'], '--auto-scale-lr: the config'),
    ],
    ids=['config', 'teacher', 'no teacher', 'data', 'resume', 'batch size'],
)  # fmt: skip
def test_bad_input_is_a_message_and_not_a_trace(
    arguments: list, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_status(TOOLS / 'train.py', *arguments) == 1
    printed = capsys.readouterr().err
    error = printed[printed.rindex('error: ') :]
    assert re.search(message, error), error
    assert 'Traceback' not in printed
    assert not list(tmp_path.rglob('*.pth'))
    assert not (tmp_path / 'data').exists()


@pytest.mark.slow
@pytest.mark.stack
@pytest.mark.parametrize('hooks', ['', 'default_hooks = dict(_delete_=True)\n'], ids=['ours', 'none'])
def test_weights_that_fit_neither_network_nor_classes(
    hooks: str, options: list[str], network: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Whatever hooks a config has."""
    config, file = tmp_path / 'alone.py', tmp_path / 'student.pth'
    classes = "metainfo=dict(classes=tuple('0123456789'))"
    config.write_text(
        f"_base_ = ['{CONFIGS / 'demo' / 'res8_digits.py'}']\n{hooks}"
        + ''.join(f'{split}_dataloader = dict(dataset=dict({classes}))\n' for split in ('train', 'val', 'test'))
    )
    weights = MODELS.build({'_scope_': 'mmpretrain', **network('res8')}).state_dict()
    data = [option for option in options if 'teacher_ckpt' not in option]

    def outcome(tool: str, *arguments: object) -> str:
        status = exit_status(TOOLS / f'{tool}.py', config, *arguments, '--work-dir', tmp_path / 'work')
        printed = capsys.readouterr().err
        return printed[printed.rindex('error: ') :] if status == 1 else ''

    torch.save({f'encoder.{name}': value for name, value in weights.items()}, file)
    assert 'is of another network: it has 0 of 47' in outcome('train', *data, f'load_from={file}')
    meta = {'dataset_meta': {'classes': tuple('0123456798')}}
    torch.save({'meta': meta, 'state_dict': weights}, file)
    message = r"was trained on other classes than test_dataloader.dataset has, in another order: label 8 is '9' in the"
    assert message in outcome('test', file, *data)
    assert 'in another order' in outcome('train', *data, f'load_from={file}')
    assert not outcome('test', file, *data, 'default_hooks.check_weights.names=list')


def test_where_metrics_go_is_checked_before_the_test(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'folder.json').mkdir()
    for out, message in (('file/out.json', 'not a folder'), ('folder.json', 'is a folder'), ('out.txt', 'must end in')):
        assert exit_status(TOOLS / 'test.py', DEMO, 'absent.pth', '--out', tmp_path / out) == 1
        assert re.search(f'error: --out .*{message}', capsys.readouterr().err)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_amp_without_a_gpu_says_so(capsys: pytest.CaptureFixture) -> None:
    assert exit_status(TOOLS / 'train.py', DEMO, '--amp') == 1
    printed = capsys.readouterr().err
    assert 'error: --amp fp16 needs a GPU' in printed
    assert '--amp bf16' in printed


@pytest.mark.parametrize(
    ('arguments', 'precision'),
    [
        (['demo.py'], None),
        (['demo.py', '--amp'], 'fp16'),
        (['--amp', 'demo.py'], 'fp16'),
        (['--amp', 'bf16', 'demo.py'], 'bf16'),
        (['demo.py', '--amp', 'bf16'], 'bf16'),
        (['demo.py', '--amp=bf16', '--resume'], 'bf16'),
        (['--amp', '--auto-scale-lr', 'demo.py'], 'fp16'),
        (['--amp', 'demo.py', '--auto-scale-lr'], 'fp16'),
        (['--auto-scale-lr', 'demo.py', '--amp'], 'fp16'),
        (['--amp', 'demo.json'], 'fp16'),
    ],
    ids=str,
)
def test_amp_takes_a_precision_and_no_config(arguments: list[str], precision: str | None) -> None:
    tool = runpy.run_path(str(TOOLS / 'train.py'))
    with mock.patch.object(sys, 'argv', ['train.py', *arguments]):
        args = tool['parse_args']()
    assert (args.config in arguments, Path(args.config).stem, args.amp) == (True, 'demo', precision)


@pytest.mark.parametrize('arguments', [[DEMO, '--amp', 'fp8'], ['--amp', 'fp8', DEMO], [DEMO, '--amp=fp8']], ids=str)
def test_amp_takes_no_other_precision(arguments: list, capsys: pytest.CaptureFixture) -> None:
    assert exit_status(TOOLS / 'train.py', *arguments) == 2
    assert "argument --amp: invalid choice: 'fp8'" in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [[], ['--amp'], ['--amp', 'bf16']], ids=str)
def test_amp_is_no_config(arguments: list, capsys: pytest.CaptureFixture) -> None:
    assert exit_status(TOOLS / 'train.py', *arguments) == 2
    assert 'the following arguments are required: config' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.stack
@pytest.mark.skipif(torch.cuda.is_available(), reason='the processes are forked, and want the CPU')
def test_two_processes_train_and_test(
    options: list[str], images_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # hooks_of_processes
    config = tmp_path / 'shared.py'
    config.write_text(
        f"_base_ = ['{DEMO}']\ncustom_imports = dict(imports=['icd_mmrazor', 'hooks_of_processes'])\n"
        "default_hooks = dict(seen=dict(type='SeenBatchesHook'))\n"
    )
    gather = ['model.distiller.icd.gather_distributed=True', 'train_dataloader.dataset.indices=60']
    trained = Launch(tmp_path / 'train.log', 2, TOOLS / 'train.py', config, *options, *gather)
    output = trained.log.read_text() if trained.wait(300) == 0 else pytest.fail(trained.log.read_text())
    work_dir = tmp_path / 'work_dirs' / 'shared'
    assert 'gather_distributed=True' in output
    assert 'GPU number: 2' in output
    # the processes share the images of an epoch, each with its own crops
    cfg = Config.fromfile(DEMO).train_dataloader.dataset
    dataset = DATASETS.build({**cfg, 'data_file': str(images_file), 'indices': 60})
    positions = []
    for rank in (0, 1):
        batches = InMemoryBatches(dataset, seed=0, rank=rank)
        seen = torch.load(work_dir / f'seen_{rank}.pth', weights_only=True)
        for iteration, batch in enumerate(seen):
            assert torch.equal(batch['images'], batches(batch['positions'], iteration)['inputs'])
        positions += [position for batch in seen if batch['epoch'] == 0 for position in batch['positions']]
    assert sorted(positions) == list(range(60))
    data = [option for option in options if 'data_file' in option]
    arguments = [DEMO, work_dir / 'epoch_2.pth', '--out', tmp_path / 'out.json', '--cfg-options', *data]
    tested = Launch(tmp_path / 'test.log', 2, TOOLS / 'test.py', *arguments)
    assert tested.wait(300) == 0, tested.log.read_text()
    # what was validated is what was saved
    assert json.loads((tmp_path / 'out.json').read_text()) == {
        'accuracy/top1': validated(work_dir)[-1]['accuracy/top1']
    }


@pytest.mark.slow
def test_demo(capfd: pytest.CaptureFixture) -> None:
    """The demo in small: a teacher, then the one command on digits of which few have labels; and again."""
    for _ in range(2):
        assert exit_status(TOOLS / 'demo.py', '--epochs', 1) is None
        printed = capfd.readouterr().out
        assert '100 images to train on' in printed or 'not repeated' in printed
        rows = re.findall(r'^(teacher|student alone|student) +[\d.]+ +([\d,]+)$', printed, re.M)
        assert rows == [('teacher', '272,474'), ('student alone', '78,042'), ('student', '78,042')]
        (command,) = re.findall(r'^python (.*distill\.py.*)$', printed, re.M)
        assert '--unlabeled work_dirs/demo/digits/unlabeled' in command
    assert Path('work_dirs/demo/epochs_1/student/student.pth').is_file()
    # the whole demo does not meet trainings of another length
    assert sorted(file.name for file in Path('work_dirs', 'demo').iterdir()) == ['digits', 'digits.npz', 'epochs_1']


def test_the_demo_needs_epochs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert exit_status(TOOLS / 'demo.py', '--work-dir', tmp_path / 'demo', '--epochs', 0) == 2
    assert '--epochs' in capsys.readouterr().err
    assert not (tmp_path / 'demo').exists()


@pytest.mark.slow
def test_digits_are_as_the_demo_wants_them(tmp_path: Path) -> None:
    out = tmp_path / 'data' / 'digits.npz'
    converter = TOOLS / 'dataset_converters' / 'digits_to_npz.py'
    assert exit_status(converter, out) is None
    cfg = Config.fromfile(CONFIGS / 'demo' / 'res8_digits.py').train_dataloader.dataset
    data = DATASETS.build({**cfg, 'data_file': str(out)})
    assert len(data) == 100
    # every digit is among the few
    assert set(data.get_gt_labels().tolist()) == set(range(10))
    assert data.get_data_info(0)['img'].shape == (16, 16, 3)
    assert list(out.parent.iterdir()) == [out]
    # existing files stay
    for other in (out, tmp_path / 'other.txt'):
        assert exit_status(converter, other) == 1
