"""Every format of an exported student, used as its own library is, against the logits of the network."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from helpers import whole_network
from mmengine.config import Config
from mmpretrain.registry import MODELS as NETWORKS
from torch import nn

from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.export.formats import FORMATS, check_files, export, files_of
from icd_mmrazor.export.running import network_in
from icd_mmrazor.export.trained import TrainedStudent, read_student

CLASSES = list('abcdefghij')
POOLING = dict(type='GlobalAveragePooling')
SIZE = (16, 16)
VIT = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=16,
        patch_size=4,
    ),
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16),
)
# predicts with the average of two classifiers
DEIT = dict(
    VIT,
    backbone=dict(VIT['backbone'], type='DistilledVisionTransformer'),
    head=dict(
        type='DeiTClsHead', num_classes=10, in_channels=16, init_cfg=dict(type='Normal', layer='Linear', std=0.3)
    ),
)
SWIN = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SwinTransformer',
        arch=dict(embed_dims=8, depths=[2], num_heads=[2]),
        img_size=16,
        patch_size=2,
        window_size=4,
        out_indices=(0,),
    ),
    neck=POOLING,
    head=dict(type='LinearClsHead', num_classes=10, in_channels=8),
)
# for 32 x 32
LENET = dict(type='ImageClassifier', backbone=dict(type='LeNet5', num_classes=10), head=dict(type='ClsHead'))
TIMM = dict(type='TimmClassifier', model_name='test_resnet', num_classes=10)


def classifier(in_channels: int, **backbone: object) -> dict:
    head = dict(type='LinearClsHead', num_classes=10, in_channels=in_channels)
    return dict(type='ImageClassifier', backbone=backbone, neck=POOLING, head=head)


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., TrainedStudent]:
    """Write the checkpoint of a distillation whose student has random weights, also in its norms, and read it."""

    def make(network: dict, name: str = 'run', **settings: object) -> TrainedStudent:
        generator, model = torch.Generator().manual_seed(0), NETWORKS.build(network)
        for key, tensor in model.state_dict().items():
            if key.endswith('running_var'):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.ndim == 1 and tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
        preprocessor = dict(mean=[10.0, 20.0, 30.0], std=[50.0, 60.0, 70.0], to_rgb=True, num_classes=10)
        cfg = Config(
            dict(
                default_scope='mmpretrain',
                model=dict(_scope_='mmrazor', type='FrozenTeacherDistill', architecture=network, distiller={}),
                data_preprocessor=preprocessor,
                **settings,
            )
        )
        algorithm = nn.Module()
        algorithm.architecture = model
        meta = dict(cfg=cfg.pretty_text, epoch=3, dataset_meta=dict(classes=CLASSES))
        torch.save(dict(meta=meta, state_dict=algorithm.state_dict()), tmp_path / f'{name}.pth')
        return read_student(tmp_path / f'{name}.pth')

    return make


def eager(student: TrainedStudent, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return student.model(images, mode='tensor')


def images_of(size: int, shape: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randn(size, 3, *shape, generator=torch.Generator().manual_seed(2))


def used(exported: object, images: torch.Tensor, onnx: bool) -> Mapping:
    """Run the lines that a user is told to run."""
    names = {'images': images.numpy() if onnx else images}
    with torch.no_grad():
        exec(exported.usage, names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['ours', pytest.param('mmpretrain', marks=pytest.mark.stack), 'timm', 'vit', 'swin', 'deit']
)
@pytest.mark.filterwarnings('ignore::FutureWarning')  # of torch.jit
def test_files_give_the_logits_of_the_network_and_say_what_they_take(
    name: str, network: Callable[..., dict], trained: Callable[..., TrainedStudent], tmp_path: Path
) -> None:
    cfg = dict(ours=network('res8'), mmpretrain=whole_network(), timm=TIMM, vit=VIT, swin=SWIN, deit=DEIT)[name]
    student = trained(cfg)
    formats = ['torchscript', 'pt2', 'onnx', 'safetensors', *(['timm'] if name == 'timm' else [])]
    formats = ['torchscript', 'onnx'] if name == 'swin' else formats  # it takes its time
    files = files_of(formats, tmp_path / 'out' / 'student')
    results = {result.format: result for result in export(student, files, SIZE)}
    assert results.keys() == {*formats}
    for format_name, result in results.items():
        assert result.file == files[format_name]
        assert result.file.stat().st_size > 0
        for size in (1, 2, 5):
            images = images_of(size)
            names = used(result, images, format_name == 'onnx')
            if format_name == 'safetensors':
                with torch.no_grad():
                    names['logits'] = names['model'].eval()(images, mode='tensor')
            # onnxruntime's kernels add up in another order
            tolerance = 1e-4 if format_name == 'onnx' else 1e-5
            found = torch.as_tensor(names['logits'])
            torch.testing.assert_close(found, eager(student, images), rtol=tolerance, atol=tolerance)
    if name == 'mmpretrain':
        check_what_files_say(student, files)


def check_what_files_say(student: TrainedStudent, files: Mapping[str, Path]) -> None:
    import onnx
    from safetensors import safe_open

    expected = dict(mean=[10.0, 20.0, 30.0], std=[50.0, 60.0, 70.0], channel_order='RGB', classes=CLASSES)
    found = onnx.load(files['onnx']).metadata_props
    assert {entry.key: json.loads(entry.value) for entry in found} == expected
    extra = {'about.json': ''}
    torch.jit.load(files['torchscript'], _extra_files=extra)
    assert json.loads(extra['about.json']) == {**expected, 'size': [*SIZE]}
    extra = {'about.json': ''}
    torch.export.load(files['pt2'], extra_files=extra)
    assert json.loads(extra['about.json']) == {**expected, 'size': [*SIZE]}
    with safe_open(files['safetensors'], 'pt') as file:
        says = dict(file.metadata())
    assert says.pop('format') == 'pt'
    assert says.pop('config') == student.cfg.pretty_text
    assert {name: json.loads(value) for name, value in says.items()} == expected


V3_HEAD = dict(
    type='StackedLinearClsHead',
    num_classes=10,
    in_channels=576,
    mid_channels=[1024],
    dropout_rate=0.2,
    act_cfg=dict(type='HSwish'),
)
SHARED = {
    'resnet18': classifier(512, type='ResNet', depth=18),
    'resnet50 of groups': classifier(2048, type='ResNeXt', depth=50, groups=32, width_per_group=4),
    'mobilenet_v2 of half width': classifier(1280, type='MobileNetV2', widen_factor=0.5),
    'mobilenet_v3_small': {**classifier(0, type='MobileNetV3', arch='small'), 'head': V3_HEAD},
    'shufflenet_v2_x0_5': classifier(1024, type='ShuffleNetV2', widen_factor=0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', SHARED)
def test_a_network_that_torchvision_has(name: str, trained: Callable[..., TrainedStudent], tmp_path: Path) -> None:
    student = trained(SHARED[name])
    (result,) = export(student, files_of(['torchvision'], tmp_path / 'student'), (64, 64))
    assert repr(name.partition(' ')[0]) in result.usage
    model = used(result, images_of(1), False)['model']
    for shape in ((64, 64), (33, 70)):
        with torch.no_grad():
            found = model(images_of(2, shape))
        torch.testing.assert_close(found, eager(student, images_of(2, shape)), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_backbone_of_timm_with_a_head_of_mmpretrain(trained: Callable[..., TrainedStudent], tmp_path: Path) -> None:
    student = trained(classifier(96, type='TIMMBackbone', model_name='test_resnet'))
    (result,) = export(student, files_of(['timm'], tmp_path / 'student'), SIZE)
    names = used(result, images_of(3), False)
    torch.testing.assert_close(names['logits'], eager(student, images_of(3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('formats', 'cfg', 'size', 'message'),
    [
        (['onx'], None, SIZE, '--to onx.*onnx'),
        (['timm'], whole_network(), SIZE, 'ResNet_CIFAR.*torchscript'),
        (['torchvision'], whole_network(), SIZE, 'ResNet_CIFAR.*torchscript'),
        (['torchvision'], classifier(64, type='ResNet', depth=18, base_channels=8), SIZE, 'resnet18 from .*conv1'),
        (['torchvision'], classifier(512, type='ResNet', depth=18, deep_stem=True), SIZE, 'resnet18 from '),
        (['onnx'], whole_network(), None, '--input-size'),
        (['pt2'], LENET, SIZE, '--input-size.*LeNet5.*1 x 16 x 16'),
        (['onnx'], dict(type='ImageClassifier', backbone=VIT['backbone']), SIZE, 'gives no logits.*safetensors'),
        (['onnx-int8'], whole_network(), SIZE, 'test_dataloader'),
    ],
    ids=['unknown', 'timm', 'torchvision', 'narrow', 'stem', 'size', 'wrong size', 'headless', 'no pipeline'],
)
def test_what_cannot_be_exported(
    formats: list[str],
    cfg: dict | None,
    size: tuple[int, int] | None,
    message: str,
    trained: Callable[..., TrainedStudent],
    tmp_path: Path,
) -> None:
    with pytest.raises(SettingError, match=f'(?s){message}'):
        export(trained(cfg or whole_network()), files_of(['mmpretrain', *formats], tmp_path / 'out' / 'x'), size)
    assert not (tmp_path / 'out').exists()


class ByBrightness(nn.Module):
    """Turn bright batches around, which neither a trace nor an exported program can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 10)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        pooled = images.mean((2, 3))
        return (self.linear(pooled if images.mean() >= 0 else -10 * pooled),)


@pytest.mark.parametrize('name', ['torchscript', 'pt2', 'onnx'])
def test_a_network_that_depends_on_its_images(
    name: str, trained: Callable[..., TrainedStudent], tmp_path: Path
) -> None:
    NETWORKS.register_module(module=ByBrightness, force=True)
    student = trained(dict(type='ImageClassifier', backbone=dict(type='ByBrightness'), head=dict(type='ClsHead')))
    with pytest.raises(UserError, match=f'--to {name}'):
        export(student, files_of([name], tmp_path / 'student'), SIZE)
    assert [*tmp_path.glob('student*')] == []


def test_an_order_of_strides_that_torchvision_does_not_have(trained: Callable[..., TrainedStudent]) -> None:
    """The same weights fit, and only the logits tell."""
    student = trained(classifier(2048, type='ResNet', depth=50, style='caffe'))
    with pytest.raises(UserError, match=r'--to torchvision: its logits differ.*torchscript'):
        export(student, {'torchvision': Path('x.pth')}, (32, 32))


def test_files_that_are_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / 'student'
    assert {name: file.name for name, file in files_of(FORMATS, out.with_suffix('.pth')).items()} == {
        'mmpretrain': 'student.pth',
        'safetensors': 'student.safetensors',
        'timm': 'student_timm.pth',
        'torchvision': 'student_torchvision.pth',
        'torchscript': 'student_torchscript.pt',
        'pt2': 'student.pt2',
        'onnx': 'student.onnx',
        'onnx-int8': 'student_int8.onnx',
    }
    files = files_of(['mmpretrain', 'pt2'], out)
    check_files(files)
    (tmp_path / 'student.py').write_text('mine')
    with pytest.raises(SettingError, match=r'--to mmpretrain.*student\.py exists'):
        check_files(files)
    check_files(files, force=True)
    with pytest.raises(SettingError, match=r'student\.pt2 is a source'):
        check_files(files, force=True, sources=[tmp_path / 'student.pt2'])
    with pytest.raises(SettingError, match=r'student\.pth is the file of another'):
        check_files({**files, 'onnx': tmp_path / 'student.pth'}, force=True)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    for name, extra in {'safetensors': 'safetensors', 'timm': 'timm', 'onnx': 'onnx', 'onnx-int8': 'onnx'}.items():
        with pytest.raises(SettingError, match=rf'--to {name} needs .*icd-mmrazor\[{extra}\]'):
            check_files(files_of([name], out))


def test_a_file_that_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r'student\.pth'):
        network_in(tmp_path / 'student.pth')
    with pytest.raises(SettingError, match='no such file'):
        network_in(tmp_path / 'student.onnx')
