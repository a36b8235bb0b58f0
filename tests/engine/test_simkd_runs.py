"""Trainings with SimKD, whose student is another one at inference, and what they leave."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS, TOOLS, distiller, exit_status, logged, scalars
from mmengine.config import Config
from mmpretrain import get_model
from mmpretrain.registry import MODELS

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.export.trained import read_student
from icd_mmrazor.launch.training import name_networks


@pytest.fixture
def simkd_config(demo_config: Callable) -> Callable[..., Config]:
    """A short distillation of the digits with SimKD, alone or with others, whose config names it in one line."""

    def make(*others: str, **options: object) -> Config:
        cfg = demo_config('icd_res20_res8_digits', **options)
        cfg.model.distiller = distiller('simkd', *others)
        return cfg

    return make


def scores(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.to(memory_format=torch.contiguous_format).eval()(images, mode='tensor')


@pytest.mark.slow
@pytest.mark.parametrize('recorded', [False, True], ids=['short config', 'recorded config'])
def test_the_exported_student_is_the_one_that_was_trained(
    recorded: bool, simkd_config: Callable, runner: Callable, tmp_path: Path
) -> None:
    cfg = simkd_config(custom_hooks=[dict(type='EMAHook', momentum=0.5)])
    if recorded:  # as our tools do
        name_networks(cfg)
        assert cfg.model.architecture.type == 'ProjectedClassifier'
    run = runner(cfg)
    run.train()
    work = Path(cfg.work_dir)
    text = logged(run)
    total = sum(parameter.numel() for parameter in run.model.architecture.parameters())
    assert f'student  CIFARResNet(depth=8), {total:,} parameters, changed by SimKD' in text
    assert 'loss = student.loss' in text

    # mmpretrain's way to test: the config and the weights
    plain = Config.fromfile(work / 'student.py')
    assert plain.model.type == 'ProjectedClassifier'
    plain.merge_from_dict(dict(load_from=str(work / 'student_last.pth'), work_dir=str(tmp_path / 'tested')))
    tester = runner(plain)
    assert tester.test()['accuracy/top1'] == run.message_hub.get_scalar('val/accuracy/top1').current()
    whole = torch.load(work / 'epoch_1.pth', weights_only=True)
    run.model.load_state_dict(whole['state_dict'])
    images = torch.randn(4, 3, 16, 16)
    expected = scores(run.model.architecture, images)
    assert torch.equal(scores(tester.model, images), expected)
    assert torch.equal(scores(get_model(str(work / 'student.py'), str(work / 'student_last.pth')), images), expected)
    # it has its teacher's classifier
    stored = torch.load(cfg.model.teacher_ckpt, weights_only=True)['state_dict']
    assert torch.equal(tester.model.head.fc.weight.cpu(), stored['head.fc.weight'])
    # the tools find it in the run's checkpoint, without the teacher's
    Path(cfg.model.teacher_ckpt).unlink()
    student = read_student(work / 'epoch_1.pth')
    assert torch.equal(scores(student.model, images), expected)
    assert 'projector' in student.change
    assert student.image_size() == (16, 16)


@pytest.mark.slow
def test_tools_train_and_test_it(simkd_config: Callable, tmp_path: Path) -> None:
    """Without labels for the student's own loss; the test gives what the last validation gave."""
    cfg, out = simkd_config(**{'model.calculate_student_loss': False}), tmp_path / 'metrics.json'
    cfg.dump(tmp_path / 'run.py')
    assert exit_status(TOOLS / 'train.py', tmp_path / 'run.py') is None
    checkpoint = Path(cfg.work_dir, 'epoch_1.pth')
    assert "type='ProjectedClassifier'" in read_checkpoint(checkpoint)['meta']['cfg']
    # the config that was written, and the one that was stored with the run
    for config in (tmp_path / 'run.py', Path(cfg.work_dir, 'run.py')):
        assert exit_status(TOOLS / 'test.py', config, checkpoint, '--out', out) is None
        validated = [row for row in scalars(cfg) if 'accuracy/top1' in row]
        assert json.loads(out.read_text())['accuracy/top1'] == pytest.approx(validated[-1]['accuracy/top1'])
    tested = '\n'.join(file.read_text() for file in Path(cfg.work_dir, 'test').glob('*/*.log'))
    assert 'changed by SimKD' in tested


@pytest.mark.slow
def test_a_linear_probe_reads_the_projected_feature(simkd_config: Callable, runner: Callable) -> None:
    cfg = simkd_config()
    run = runner(cfg)
    run.train()
    file = Path(cfg.work_dir, 'student_last.pth')
    probe = MODELS.build(dict(type='LinearProbe', num_classes=7, student_ckpt=str(file))).eval()
    images = torch.randn(4, 3, 16, 16)
    student = read_student(file).model
    with torch.no_grad():
        assert torch.equal(probe.extract_feat(images)[-1], student.extract_feat(images)[-1])
    assert [name for name, p in probe.named_parameters() if p.requires_grad] == ['head.fc.weight', 'head.fc.bias']


@pytest.mark.slow
def test_onnx(simkd_config: Callable, runner: Callable) -> None:
    for package in ('onnx', 'onnxruntime', 'onnxscript'):
        pytest.importorskip(package)
    from icd_mmrazor.export.onnx import as_onnx
    from icd_mmrazor.export.running import onnx_network

    # the student's map is the larger one
    cfg = simkd_config(**{'model.teacher_preprocessor': dict(size=8)})
    run = runner(cfg)
    run.train()
    student = read_student(Path(cfg.work_dir, 'student_last.pth'))
    assert student.model.neck.size == (2, 2)
    network, images = onnx_network(as_onnx(student, (16, 16)).data), torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(network(images), scores(student.model, images), rtol=1e-4, atol=1e-5)


def test_the_config_that_users_write_is_short() -> None:
    (file,) = (CONFIGS / 'simkd').glob('*.py')
    assert len(file.read_text().splitlines()) <= 3
