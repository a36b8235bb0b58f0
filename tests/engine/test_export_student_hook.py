"""What a distillation leaves for its user."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmpretrain import ImageClassificationInferencer
from mmpretrain.registry import MODELS
from PIL import Image

from icd_mmrazor.engine.hooks import ExportStudentHook
from icd_mmrazor.errors import SettingError


@pytest.fixture
def colour_config(demo_config: Callable, tmp_path: Path) -> Config:
    """A distillation on colour images, ten colours of them, for two epochs."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, size in (('train', 64), ('test', 40)):
        labels = np.arange(size) % 10
        colours = np.random.default_rng(1).integers(0, 200, (10, 1, 1, 3))
        images = colours[labels] + generator.integers(0, 56, (size, 16, 16, 3))
        arrays |= {f'{split}_images': images.astype(np.uint8), f'{split}_labels': labels}
    file = tmp_path / 'colours.npz'
    np.savez(file, **arrays)
    cfg = demo_config('icd-kd_res20_res8_digits', **{'train_cfg.max_epochs': 2})
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_file = str(file)
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.5)]
    return cfg


@pytest.mark.slow
def test_the_student_is_ready_to_use(colour_config: Config, runner: Callable, tmp_path: Path) -> None:
    run = runner(colour_config)
    run.train()
    work = Path(colour_config.work_dir)
    assert not list(work.glob('.*'))
    student = torch.load(work / 'student_last.pth', weights_only=True)
    whole = torch.load(work / 'epoch_2.pth', weights_only=True)
    assert student['meta'].keys() == {'cfg', 'dataset_meta', 'epoch', 'iter', 'source'}
    assert student['meta']['epoch'] == 2
    # the averaged weights, as the checkpoint has them
    for name, weight in student['state_dict'].items():
        assert torch.equal(weight, whole['state_dict'][f'architecture.{name}'])
    best = torch.load(work / 'student_best.pth', weights_only=True)
    assert [*work.glob('best_*_epoch_*.pth')] == [work / f'best_accuracy_top1_epoch_{best["meta"]["epoch"]}.pth']
    assert best['meta']['metrics'] == {'accuracy/top1': run.message_hub.get_info('best_score')}

    # mmpretrain's way to test: the config and the weights
    cfg = Config.fromfile(work / 'student.py')
    assert cfg.pretty_text == student['meta']['cfg']
    cfg.merge_from_dict(dict(load_from=str(work / 'student_last.pth'), work_dir=str(tmp_path / 'tested')))
    tester = runner(cfg)
    accuracy = tester.test()['accuracy/top1']
    assert accuracy == run.message_hub.get_scalar('val/accuracy/top1').current()

    # the same logits, bit for bit, as those of the network that was trained
    run.model.load_state_dict(whole['state_dict'])
    trained = run.model.architecture.to(memory_format=torch.contiguous_format).eval()
    dataset = tester.test_dataloader.dataset
    images = torch.stack([dataset[i]['inputs'] for i in range(len(dataset))])
    with torch.no_grad():
        inputs = run.model.data_preprocessor(dict(inputs=images))['inputs']
        expected = trained(inputs, mode='tensor')
        assert torch.equal(tester.model(inputs, mode='tensor'), expected)
        # and of the plain network's own config
        vanilla = MODELS.build(colour_config.model.architecture).eval()
        vanilla.load_state_dict(student['state_dict'], strict=True)
        assert torch.equal(vanilla(inputs, mode='tensor'), expected)

    # and for an image file that has the colours of an image of the dataset
    Image.fromarray(dataset.get_data_info(7)['img']).save(tmp_path / 'image.png')
    inferencer = ImageClassificationInferencer(str(work / 'student.py'), pretrained=str(work / 'student_last.pth'))
    data = next(inferencer.preprocess([str(tmp_path / 'image.png')]))
    assert torch.equal(data['inputs'][0], images[7])
    found = inferencer(str(tmp_path / 'image.png'))[0]['pred_scores']
    with torch.no_grad():
        assert np.array_equal(found, trained(inputs[7:8], mode='predict')[0].pred_score.numpy())


@pytest.mark.slow
def test_it_follows_the_checkpoints_of_a_run_by_iterations(demo_config: Callable, runner: Callable) -> None:
    cfg = demo_config(**{'model.teacher_ckpt': None, 'model.random_teacher': True})
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, by_epoch=False)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
    run = runner(cfg)
    file, seen = Path(cfg.work_dir, 'student_last.pth'), []

    def call_hook(name: str, call: Callable = run.call_hook, **arguments: object) -> None:
        call(name, **arguments)
        if name in ('after_train_iter', 'after_val_epoch', 'after_train'):
            exported = torch.load(file, weights_only=True)['meta']['iter']
            seen.append((name, exported, file.stat().st_mtime_ns))

    run.call_hook = call_hook
    run.train()
    assert [each[:2] for each in seen] == [
        ('after_train_iter', 1), ('after_train_iter', 2), ('after_val_epoch', 2), ('after_train', 2)
    ]  # fmt: skip
    # it is written once for each checkpoint
    assert len({written for _, _, written in seen}) == 2
    assert not file.with_name('student_best.pth').exists()


def test_nothing_is_exported_without_a_student_or_a_local_folder(demo_config: Callable, tmp_path: Path) -> None:
    checkpoints, warnings = CheckpointHook(), []
    checkpoints.file_backend, checkpoints.out_dir = LocalBackend(), str(tmp_path)
    checkpoints.last_ckpt = str(tmp_path / 'epoch_1.pth')
    torch.save(dict(state_dict={'architecture.x': torch.zeros(1)}), checkpoints.last_ckpt)
    run = SimpleNamespace(hooks=[checkpoints], logger=SimpleNamespace(warning=warnings.append))

    def exported(cfg: Config) -> list[str]:
        hook, run.cfg = ExportStudentHook(), cfg
        hook.before_train(run)
        hook.after_train_epoch(run)
        return sorted(file.name for file in tmp_path.glob('student*'))

    assert exported(demo_config('res8_digits')) == []
    checkpoints.file_backend, checkpoints.out_dir = object(), 's3://bucket'
    assert exported(demo_config()) == []
    assert len(warnings) == 1
    assert 's3://bucket' in warnings[0]
    checkpoints.file_backend, checkpoints.out_dir = LocalBackend(), str(tmp_path)
    assert exported(demo_config()) == ['student.py', 'student_last.pth']
    # what a user's hook may have put into it does not end the training
    torch.save(dict(state_dict={'x': torch.zeros(1)}, mine=Path), tmp_path / 'epoch_2.pth')
    checkpoints.last_ckpt = str(tmp_path / 'epoch_2.pth')
    exported(demo_config())
    assert len(warnings) == 2
    assert 'is not exported. checkpoint' in warnings[1]
    # nor is a damaged file
    (tmp_path / 'epoch_2.pth').write_bytes(b'damaged')
    exported(demo_config())
    assert len(warnings) == 3


def test_what_is_exported_is_known_by_its_content(demo_config: Callable, tmp_path: Path) -> None:
    """Not by the times of the files, which a copied work folder has in any order."""
    checkpoints = CheckpointHook()
    checkpoints.file_backend, checkpoints.out_dir = LocalBackend(), str(tmp_path)
    checkpoint, student = tmp_path / 'epoch_1.pth', tmp_path / 'student_last.pth'
    checkpoints.last_ckpt = str(checkpoint)
    run = SimpleNamespace(hooks=[checkpoints], cfg=demo_config())

    def exported(value: float, mtime: int) -> tuple[float, int]:
        torch.save(dict(state_dict={'architecture.x': torch.full((1,), value)}), checkpoint)
        if student.is_file():
            os.utime(student, ns=(mtime, mtime))
        hook = ExportStudentHook()  # of a new process
        hook.before_train(run)
        for _ in range(2):
            hook.after_train_epoch(run)
        return torch.load(student)['state_dict']['x'].item(), student.stat().st_mtime_ns

    later = 2 * 10**18
    assert exported(1, 0)[0] == 1
    assert exported(1, 10**9) == (1, 10**9)
    assert exported(2, later)[0] == 2
    assert exported(2, later) == (2, later)
    student.write_bytes(b'damaged')
    assert exported(2, later)[0] == 2


def test_an_earlier_best_student_does_not_get_the_metrics_of_now(demo_config: Callable, tmp_path: Path) -> None:
    """A run was resumed, without its student, and validates before it trains."""
    checkpoints = CheckpointHook(save_best='accuracy/top1')
    checkpoints.file_backend, checkpoints.out_dir = LocalBackend(), str(tmp_path)
    checkpoints.best_ckpt_path = str(tmp_path / 'best_accuracy_top1_epoch_1.pth')
    torch.save(dict(state_dict={'architecture.x': torch.zeros(1)}), checkpoints.best_ckpt_path)
    run, hook = SimpleNamespace(hooks=[checkpoints], cfg=demo_config()), ExportStudentHook()
    hook.before_train(run)
    hook.after_val_epoch(run, {'accuracy/top1': 1.0})
    assert 'metrics' not in torch.load(tmp_path / 'student_best.pth')['meta']


def test_a_config_of_the_same_name_is_refused(demo_config: Callable, tmp_path: Path) -> None:
    demo_config().dump(tmp_path / 'student.py')
    run = SimpleNamespace(cfg=Config.fromfile(tmp_path / 'student.py'))
    with pytest.raises(SettingError, match=r"the run's config is called student\.py"):
        ExportStudentHook().before_train(run)
