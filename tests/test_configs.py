"""The shipped configs: the protocol, the pairs, nothing that no one reads, the wheel, and users' own files."""

import inspect
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import CONFIGS, ROOT, run_python
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.runner import Runner
from mmrazor.registry import MODELS

FILES = sorted(file for file in CONFIGS.glob('*/*.py') if file.parent.name != '_base_')
PAIRS = [
    ('wrn40-2', 'wrn16-2'),
    ('wrn40-2', 'wrn40-1'),
    ('res56', 'res20'),
    ('res110', 'res20'),
    ('res110', 'res32'),
    ('res32x4', 'res8x4'),
]
LIGHT = ['mobilenetv2', 'shufflenetv1', 'shufflenetv2']
VANILLA = [
    *(f'res{d}' for d in (8, 14, 20, 32, 44, 56, 110, '8x4', '32x4')),
    'wrn16-1',
    'wrn16-2',
    'wrn40-1',
    'wrn40-2',
    *(f'vgg{d}' for d in (8, 11, 13, 16, 19)),
    'res50',
    *LIGHT,
]


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


@pytest.mark.stack
@pytest.mark.parametrize('file', FILES, ids=lambda file: f'{file.parent.name}/{file.stem}')
def test_every_key_is_read(file: Path) -> None:
    read = {*inspect.signature(Runner.__init__).parameters, 'custom_imports', 'find_unused_parameters'}
    assert set(Config.fromfile(file)) <= read


@pytest.mark.stack
@pytest.mark.parametrize('name', VANILLA)
def test_protocol(name: str) -> None:
    cfg = load(f'vanilla/{name}_cifar100')
    lr = 0.01 if name in LIGHT else 0.05
    assert cfg.optim_wrapper == {'optimizer': {'type': 'SGD', 'lr': lr, 'momentum': 0.9, 'weight_decay': 5e-4}}
    assert cfg.param_scheduler == {'type': 'MultiStepLR', 'by_epoch': True, 'milestones': [150, 180, 210], 'gamma': 0.1}
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (240, 64)
    assert cfg.data_preprocessor.mean == pytest.approx([255 * x for x in (0.5071, 0.4867, 0.4408)])
    assert cfg.data_preprocessor.std == pytest.approx([255 * x for x in (0.2675, 0.2565, 0.2761)])
    crop, flip, pack = cfg.train_dataloader.dataset.pipeline
    assert crop == {'type': 'RandomCrop', 'crop_size': 32, 'padding': 4}
    assert flip == {'type': 'RandomFlip', 'prob': 0.5, 'direction': 'horizontal'}
    assert [step.type for step in cfg.val_dataloader.dataset.pipeline] == [pack.type] == ['PackInputs']
    assert cfg.model.head.num_classes == 100
    assert {cfg[f'{split}_dataloader'].dataset.type for split in ('train', 'val', 'test')} == {'VerifiedCIFAR100'}


@pytest.mark.stack
@pytest.mark.parametrize(
    ('name', 'epochs', 'milestones', 'fresh'),
    [
        ('vanilla/preact18', 80, [50], [50]),
        ('vanilla/cnn1-a', 80, [50], [50]),
        ('vanilla/cnn1', 50, None, None),
        ('hkd/hkd_preact18_cnn1-a', 40, [30], [30]),
        ('hkd/hkd_cnn1-a_cnn1', 50, None, True),
    ],
)
def test_protocol_of_hkd(name: str, epochs: int, milestones: list | None, fresh: object) -> None:
    """As in passalis/pkth, commit 5766e63: cifar10/exp0, exp1 and exp2."""
    cfg = load(f'{name}_cifar10')
    assert cfg.optim_wrapper == {'optimizer': {'type': 'Adam', 'lr': 0.001}}
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval, cfg.train_dataloader.batch_size) == (
        epochs,
        epochs,
        128,
    )
    schedule = milestones and {'type': 'MultiStepLR', 'by_epoch': True, 'milestones': milestones, 'gamma': 0.1}
    assert cfg.get('param_scheduler') == schedule
    assert cfg.default_hooks.loss_schedule.get('fresh_optimizer') == fresh
    assert (cfg.data_preprocessor.mean, cfg.data_preprocessor.std) == ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7])
    assert {step.type for step in cfg.train_dataloader.dataset.pipeline} == {'RandomCrop', 'RandomFlip', 'PackInputs'}
    assert (cfg.val_dataloader.dataset.bank.split, cfg.val_dataloader.dataset.queries.split) == ('train', 'test')
    if 'distiller' in cfg.model:
        terms = cfg.model.distiller.losses
        assert not cfg.model.calculate_student_loss
        assert {term.loss.reduction for term in terms.values()} == {'mean'}
        assert 'loss_weight' not in terms['last'].loss
        assert ('flow' in terms) == (name == 'hkd/hkd_cnn1-a_cnn1')


@pytest.mark.stack
@pytest.mark.parametrize(('teacher', 'student'), PAIRS)
def test_pair(teacher: str, student: str) -> None:
    name = f'icd/icd_{teacher}_{student}_cifar100'
    assert len((CONFIGS / f'{name}.py').read_text().splitlines()) <= 15
    cfg, with_kd = load(name), load(name.replace('icd_', 'icd-kd_', 1))
    assert cfg.model.architecture == load(f'vanilla/{student}_cifar100').model
    assert cfg.model.teacher == load(f'vanilla/{teacher}_cifar100').model
    assert cfg.model.teacher_ckpt == f'work_dirs/{teacher}_cifar100/epoch_240.pth'
    icd = {'_scope_': 'mmrazor', 'type': 'ICDDistiller'}
    assert cfg.model.distiller == icd
    assert with_kd.model.distiller == {**icd, 'kd': {'type': 'KLDivergence', 'tau': 4.0}}
    for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert cfg[key] == load(f'vanilla/{student}_cifar100')[key] == with_kd[key]


@pytest.mark.stack
@pytest.mark.parametrize(('teacher', 'student'), [('resnet34', 'resnet18'), ('resnet50', 'mobilenet-v2')])
def test_imagenet_pair(teacher: str, student: str) -> None:
    name = f'icd/icd_{teacher}_{student}_8xb32_in1k'
    cfg, with_kd = load(name), load(name.replace('icd_', 'icd-kd_', 1))
    # what mmpretrain trains its ResNet-18 with
    want = get_config('mmpretrain::resnet/resnet18_8xb32_in1k.py')
    for key in ('train_dataloader', 'val_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'auto_scale_lr'):
        assert without_scopes(cfg[key]) == without_scopes(want[key]), key
    assert cfg.data_preprocessor == want.data_preprocessor
    assert Path(cfg.model.teacher_ckpt).name.startswith(f'{teacher}_8xb32_in1k_')
    assert with_kd.model.distiller.pop('kd') == {'type': 'KLDivergence', 'tau': 4.0}
    assert with_kd.to_dict() == cfg.to_dict()
    for network, role in ((teacher, 'teacher'), (student, 'architecture')):
        assert Path(cfg.model[role].cfg_path).name == f'{network}_8xb32_in1k.py'


def without_scopes(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_scopes(item) for key, item in value.items() if key != '_scope_'}
    return [without_scopes(item) for item in value] if isinstance(value, list) else value


@pytest.mark.stack
@pytest.mark.slow
def test_imagenet_end_to_end(tmp_path: Path, runner: Callable) -> None:
    """A folder of images as mmpretrain reads it, one epoch and its validation."""
    data = tmp_path / 'imagenet'
    generator = np.random.default_rng(0)
    for split, names in (
        ('train', [f'n0000000{i}/{i}.JPEG' for i in range(4)]),
        ('val', [f'{i}.JPEG' for i in range(4)]),
    ):
        for name in names:
            file = data / split / name
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            file.write_bytes(cv2.imencode('.jpg', pixels)[1].tobytes())
        (data / 'meta').mkdir(exist_ok=True)
        labels = ''.join(f'{name} {250 * i}\n' for i, name in enumerate(names))
        (data / 'meta' / f'{split}.txt').write_text(labels)
    cfg = load('icd/icd-kd_resnet34_resnet18_8xb32_in1k')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(data)
        cfg[f'{split}_dataloader'].num_workers = 0
    cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'work_dir': str(tmp_path / 'work'), 'randomness.seed': 0})
    cfg.model.update(teacher_ckpt=None, random_teacher=True)
    # this run is about images and losses
    cfg.default_hooks.checkpoint = None
    run = runner(cfg)
    model = run.train()
    seen = run.train_dataloader.dataset[0]['inputs']
    assert (tuple(seen.shape), seen.dtype) == ((3, 224, 224), torch.uint8)
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert model.data_preprocessor.to_rgb
    scalars = run.message_hub.log_scalars
    assert {'train/distill.loss_icd', 'train/distill.loss_kd', 'val/accuracy/top5'} <= set(scalars)
    assert np.isfinite(scalars['train/loss'].current())


@pytest.mark.stack
def test_defaults_of_the_method_are_the_published_ones(teacher_file: Callable) -> None:
    cfg = load('icd/icd-kd_res56_res20_cifar100').model
    cfg.teacher_ckpt = teacher_file('res56', 100)
    distiller = MODELS.build(cfg).distiller
    icd, kd = distiller.distill_losses['loss_icd'], distiller.distill_losses['loss_kd']
    assert (icd.alpha, icd.max_tau, icd.log_tau.item(), icd.bias.item(), icd.loss_weight) == (0.5, 10.0, 1.0, 0.0, 1.0)
    assert (kd.tau, kd.loss_weight, kd.reduction) == (4.0, 1.0, 'batchmean')
    assert distiller.connectors['icd_student'].linear.out_features == 128
    assert not icd.gather_distributed


USER_CONFIG = """
_base_ = ['icd_mmrazor::icd/icd_res32x4_res8x4_cifar100.py']
# what a user may touch of an inherited config
train_dataloader = _base_.train_dataloader
train_dataloader.batch_size = 32
model = dict(teacher_ckpt='mine.pth', distiller=dict(embed_dims=64))
"""


@pytest.mark.stack
def test_a_users_file_inherits(tmp_path: Path) -> None:
    file = tmp_path / 'mine.py'
    file.write_text(USER_CONFIG)
    cfg = Config.fromfile(file)
    assert (cfg.model.distiller.embed_dims, cfg.model.distiller.type) == (64, 'ICDDistiller')
    assert (cfg.train_dataloader.batch_size, cfg.optim_wrapper.optimizer.lr) == (32, 0.05)


@pytest.mark.stack
@pytest.mark.slow
def test_an_inherited_config_runs(tmp_path: Path, images_file: Path, teacher_file: Callable, runner: Callable) -> None:
    file = tmp_path / 'mine.py'
    # a variable of the base in the user's own: mmengine then builds it in the scope icd_mmrazor
    file.write_text(
        "_base_ = ['icd_mmrazor::demo/icd_res20_res8_digits.py']\n"
        f'model = dict(teacher_ckpt={teacher_file("res20")!r})\n'
        'train_dataloader = _base_.train_dataloader\n'
        'val_dataloader = _base_.val_dataloader\n'
        'test_dataloader = _base_.test_dataloader\n'
        'for dataloader in (train_dataloader, val_dataloader, test_dataloader):\n'
        f'    dataloader.dataset.data_file = {str(images_file)!r}\n'
        'del dataloader\n'
        'default_hooks = _base_.default_hooks\n'
        'visualizer = _base_.visualizer\n'
        'param_scheduler = _base_.param_scheduler\n'
        'train_cfg = dict(max_epochs=1, val_interval=1)\n'
        f'work_dir = {str(tmp_path / "work")!r}\n'
    )
    runner(Config.fromfile(file)).train()
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()


@pytest.mark.stack
def test_cfg_path_names_our_networks() -> None:
    model = MODELS.build(dict(cfg_path='icd_mmrazor::vanilla/res8_cifar100.py', pretrained=False))
    assert type(model.backbone).__name__ == 'CIFARResNet'


CONFIG_OF_A_USER = """
_base_ = ['icd_mmrazor::icd/icd_res32x4_res8x4_cifar100.py']
model = dict(teacher_ckpt='mine.pth', distiller=dict(embed_dims=64))
"""


@pytest.mark.slow
def test_wheel_carries_the_configs(tmp_path: Path) -> None:
    """Build the wheel, use it alone from another folder, and inherit."""
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path, ROOT]
    # not in the checkout's build/, which may hold files of an earlier version
    settings = tmp_path / 'build.cfg'
    settings.write_text(f'[build]\nbuild_base = {tmp_path / "build"}\n')
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, 'DIST_EXTRA_CONFIG': str(settings)})
    (wheel,) = tmp_path.glob('icd_mmrazor-*.whl')
    installed = tmp_path / 'installed'
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(installed)
    shipped = {str(file.relative_to(CONFIGS)) for file in CONFIGS.rglob('*') if file.suffix in ('.py', '.yml', '.md')}
    prefix = 'icd_mmrazor/.mim/configs/'
    assert shipped == {name[len(prefix) :] for name in names if name.startswith(prefix)}
    wanted = ('.mim/tools/train.py', '.mim/tools/dist_train.sh', '.mim/model-index.yml', 'py.typed')
    assert {f'icd_mmrazor/{name}' for name in wanted} <= names
    assert not [name for name in names if name.startswith(('tests', 'configs', 'tools'))]

    folder = tmp_path / 'users_folder'
    folder.mkdir()
    (folder / 'mine.py').write_text(CONFIG_OF_A_USER)
    process = run_python(
        '-c',
        'import icd_mmrazor; from mmengine.config import Config\n'
        'cfg = Config.fromfile("mine.py"); print(icd_mmrazor.__file__, cfg.model.distiller.embed_dims)',
        cwd=folder,
        PYTHONPATH=str(installed),
    )
    assert process.stdout.split() == [str(installed / 'icd_mmrazor' / '__init__.py'), '64'], process.stderr
