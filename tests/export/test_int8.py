"""INT8 files of a trained student, and the accuracy of exported files."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS as NETWORKS

from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.export import formats
from icd_mmrazor.export.evaluation import evaluate
from icd_mmrazor.export.evaluation import test_images as loader_of_tests
from icd_mmrazor.export.formats import export, files_of
from icd_mmrazor.export.int8 import Calibration, calibration_images
from icd_mmrazor.export.student import plain_student
from icd_mmrazor.export.trained import TrainedStudent, read_student


@pytest.fixture
def student(images_file: Path, demo_config: Callable[..., Config], tmp_path: Path) -> Callable[[int], TrainedStudent]:
    """Train a student on squares of ten brightnesses for some steps; 60 are enough to know most of them."""

    def make(steps: int = 0) -> TrainedStudent:
        cfg = demo_config('res8_digits')
        data = np.load(images_file)
        model = NETWORKS.build(cfg.model)
        images = (torch.tensor(data['train_images']).float()[:, None].expand(-1, 3, -1, -1) - 78) / 81
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            logits = model(images, mode='tensor')
            torch.nn.functional.cross_entropy(logits, torch.tensor(data['train_labels'])).backward()
            optimizer.step()
        meta = dict(cfg=cfg.pretty_text, dataset_meta=dict(classes=list('abcdefghij')))
        torch.save(dict(meta=meta, state_dict=model.state_dict()), tmp_path / 'trained.pth')
        return read_student(tmp_path / 'trained.pth')

    return make


def largest(file: Path) -> int:
    """Return the largest absolute value of the weights of a quantised file."""
    import onnx

    tensors = onnx.load(file).graph.initializer
    weights = [onnx.numpy_helper.to_array(each) for each in tensors if each.data_type == onnx.TensorProto.INT8]
    return max(int(np.abs(each.astype(int)).max()) for each in weights if each.ndim > 1)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::FutureWarning')  # of torch.jit
def test_int8_is_nearly_as_accurate_and_says_so(
    student: Callable[..., TrainedStudent],
    images_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    import onnx
    import onnxruntime

    trained, built = student(steps=60), []
    monkeypatch.setattr(formats, 'test_images', lambda each: built.append(loader_of_tests(each)) or built[-1])
    files = files_of(['mmpretrain', 'torchscript', 'onnx', 'onnx-int8'], tmp_path / 'out' / 'student')
    # on a processor without VNNI, sums of products of 8 bits overflow
    calibration = Calibration(reduce_range=True)
    exported = export(trained, files, calibration=calibration, measure=True)
    assert len(built) == 1  # an evaluation of each file reads the same dataset
    results = {result.format: result for result in exported}
    # mmengine's own test of the exported config
    cfg = Config.fromfile(files['mmpretrain'].with_suffix('.py'))
    cfg.load_from, cfg.work_dir, cfg.experiment_name = str(files['mmpretrain']), str(tmp_path / 'work'), 'tested'
    expected = Runner.from_cfg(cfg).test()['accuracy/top1']
    assert expected > 60
    for name in ('mmpretrain', 'torchscript', 'onnx'):
        assert results[name].metrics['accuracy/top1'] == expected, name
        assert f'accuracy/top1 {expected:.2f}' in str(results[name])

    # by hand, with nothing but onnxruntime and what the file says
    capfd.readouterr()
    session = onnxruntime.InferenceSession(files['onnx-int8'])
    assert capfd.readouterr() == ('', '')  # no warnings
    says = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    data = np.load(images_file)
    images = np.repeat(data['test_images'][:, None], 3, 1)
    images = (images - np.reshape(says['mean'], (3, 1, 1))) / np.reshape(says['std'], (3, 1, 1))
    (logits,) = session.run(['logits'], {'images': images.astype(np.float32)})
    accuracy = 100 * np.mean(logits.argmax(1) == data['test_labels'])
    # of few different logits, the largest would often be that of two classes, of which each program takes another one
    assert len(np.unique(logits)) > 256
    assert (np.sort(logits)[:, -2] < logits.max(1)).all()
    assert accuracy == pytest.approx(says['metrics']['accuracy/top1'])
    assert accuracy == pytest.approx(results['onnx-int8'].metrics['accuracy/top1'])
    assert says['metrics_float'] == {'accuracy/top1': expected}
    assert says['calibration_images'] == 64
    assert says['classes'] == list('abcdefghij')
    # equal when this was written; a wrong scale or a wrong channel gives chance, 10
    assert abs(accuracy - expected) <= 10
    model = onnx.load(files['onnx-int8'])
    kinds = [node.op_type for node in model.graph.node]
    assert {'QuantizeLinear', 'DequantizeLinear'} <= {*kinds}
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert any(len(tensor.dims) == 4 for tensor in weights)
    assert largest(files['onnx-int8']) <= 64
    # one scale for each output channel
    assert any(tensor.name.endswith('_scale') and [*tensor.dims] == [16] for tensor in model.graph.initializer)
    # 4 bytes of a weight became one
    assert files['onnx-int8'].stat().st_size < 0.6 * files['onnx'].stat().st_size


@pytest.mark.slow
def test_a_folder_and_no_test_images_are_enough(
    student: Callable[..., TrainedStudent], images_file: Path, tmp_path: Path
) -> None:
    trained = student(steps=5)
    folder = tmp_path / 'two words ü'
    (folder / 'inside').mkdir(parents=True)
    for number, image in enumerate(np.load(images_file)['train_images'][:12]):
        cv2.imwrite(str(folder / ('inside' if number % 2 else '') / f'{number}.png'), image)
    (folder / 'notes.txt').write_text('not an image')
    images_file.unlink()
    (result,) = export(trained, files_of(['onnx-int8'], tmp_path / 'x'), calibration=Calibration(folder, number=10))
    assert 'calibrated on 10 images' in result.note
    assert 'accuracy not measured' in result.note
    assert 'images.npz' in result.note
    assert result.metrics is None
    assert largest(result.file) == 127


def test_calibration_takes_training_images_as_test_images_are_prepared(
    student: Callable[..., TrainedStudent], images_file: Path
) -> None:
    trained = student()
    before = trained.run_cfg.to_dict()
    loaded = [image for batch in calibration_images(trained, Calibration(number=20)) for image in batch['inputs']]
    assert trained.run_cfg.to_dict() == before
    # no crop, no flip, and each image once
    known = {image.tobytes() for image in np.load(images_file)['train_images']}
    found = {image[0].numpy().tobytes() for image in loaded}
    assert len(found) == len(loaded) == 20
    assert found <= known
    again = [image for batch in calibration_images(trained, Calibration(number=20)) for image in batch['inputs']]
    assert all(torch.equal(one, other) for one, other in zip(loaded, again, strict=True))


def test_what_is_missing_is_named(student: Callable[..., TrainedStudent], tmp_path: Path) -> None:
    trained = student()
    with pytest.raises(SettingError, match=r'--input-size 8 8: .* 16 x 16'):
        export(trained, files_of(['onnx-int8'], tmp_path / 'x'), size=(8, 8))
    (tmp_path / 'images').mkdir()
    cv2.imwrite(str(tmp_path / 'images' / 'one.png'), np.zeros((16, 16, 3), np.uint8))
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    dataset = dict(type='CustomDataset', data_root=str(tmp_path / 'images'), with_label=False, pipeline=pipeline)
    trained.cfg.test_dataloader.dataset = dataset
    with pytest.raises(SettingError, match=r'test_dataloader: .* no labels'):
        evaluate(trained)
    trained.cfg.pop('test_dataloader')
    with pytest.raises(SettingError, match='test_dataloader'):
        evaluate(trained)
    assert [*tmp_path.glob('x*')] == []


def test_a_file_for_other_images_is_named(student: Callable[..., TrainedStudent], tmp_path: Path) -> None:
    trained = student()
    (result,) = export(trained, files_of(['onnx'], tmp_path / 'x'), size=(8, 8))
    with pytest.raises(UserError, match=r'x\.onnx fails on a batch of shape \(\d+, 3, 16, 16\)'):
        evaluate(trained, result.file)


@pytest.mark.slow
def test_the_mean_of_two_classifiers_is_not_rounded(tmp_path: Path) -> None:
    """Nor is what it is computed from: a student with a distillation token has few ties then, as in float."""
    import onnxruntime

    generator = np.random.default_rng(0)
    for number in range(8):
        cv2.imwrite(str(tmp_path / f'{number}.png'), generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)
    network = dict(
        type='ImageClassifier',
        backbone=dict(type='DistilledVisionTransformer', arch=arch, img_size=16, patch_size=8),
        head=dict(type='DeiTClsHead', num_classes=10, in_channels=16),
    )
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    dataset = dict(type='CustomDataset', data_root=str(tmp_path), with_label=False, pipeline=pipeline)
    loader = dict(batch_size=8, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False))
    preprocessor = dict(mean=[127.0] * 3, std=[64.0] * 3, to_rgb=True)
    run = Config(dict(model=network, data_preprocessor=preprocessor, test_dataloader=loader, test_cfg={}))
    run.test_evaluator = dict(type='Accuracy')
    cfg = plain_student(run)
    torch.manual_seed(0)
    model = NETWORKS.build(cfg.model).eval()
    torch.nn.init.normal_(model.head.layers.head.weight)
    torch.nn.init.normal_(model.head.layers.head_dist.weight)
    trained = TrainedStudent(model, cfg, dict(state_dict=model.state_dict(), meta={}), run)
    (result,) = export(trained, files_of(['onnx-int8'], tmp_path / 'x'), (16, 16), Calibration(tmp_path))
    session = onnxruntime.InferenceSession(result.file)
    images = torch.randn(100, 3, 16, 16, generator=torch.Generator().manual_seed(0)).numpy()
    (logits,) = session.run(['logits'], {'images': images})
    assert len(np.unique(logits)) > 900
    with torch.no_grad():
        expected = trained.logits()(torch.from_numpy(images)).numpy()
    assert np.abs(logits - expected).max() < 0.1 * np.ptp(expected)
