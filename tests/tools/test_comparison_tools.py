"""Figures that compare a teacher with its students: outputs, numbers, the whole tools, and what they refuse."""

import argparse
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CONFIGS, TOOLS, exit_status
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmrazor.registry import MODELS

from icd_mmrazor.errors import CheckpointError, DatasetError, SettingError

pytest.importorskip('matplotlib')
pytest.importorskip('sklearn')
sys.path.insert(0, str(TOOLS / 'analysis'))
from compare import (
    Comparison,
    Outputs,
    add_arguments,
    chosen_images,
    compare,
    load_network,
    names_of,
    network_outputs,
    stored_config,
)

FEATURES, CORRELATION = (TOOLS / 'analysis' / f'plot_{name}.py' for name in ('features', 'logit_correlation'))
MEAN, STD = 78.0, 81.0


@pytest.fixture(scope='module')
def correlation_tool() -> dict:
    return runpy.run_path(str(CORRELATION))


@pytest.fixture(scope='module')
def features_tool() -> dict:
    return runpy.run_path(str(FEATURES))


@pytest.fixture
def logits() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(30, 6)).astype(np.float32), np.arange(30) % 6


@pytest.fixture
def work_dir(demo_config: Callable[..., Config], tmp_path: Path) -> Callable[..., Path]:
    """Write what a training leaves, with random weights."""

    def write(folder: str, config: str = 'icd_res20_res8_digits', seed: int = 0, **options: object) -> Path:
        cfg = demo_config(config, **options)
        torch.manual_seed(seed)
        student = {'_scope_': 'mmpretrain', **cfg.model.get('architecture', cfg.model)}
        weights = MODELS.build(student).state_dict()
        if 'architecture' in cfg.model:
            weights = {f'architecture.{name}': tensor for name, tensor in weights.items()}
        run = tmp_path / folder
        (run / '20260101_000000' / 'vis_data').mkdir(parents=True)
        cfg.dump(run / '20260101_000000' / 'vis_data' / 'config.py')
        torch.save({'state_dict': weights}, run / 'epoch_1.pth')
        return run

    return write


def network_config(network: dict) -> Config:
    """Return the config of a run that trains a network on digits, so normalised."""
    preprocessor = dict(mean=[MEAN] * 3, std=[STD] * 3)
    return Config(dict(model=dict(architecture=network), data_preprocessor=preprocessor))


@pytest.fixture
def loader(demo_config: Callable[..., Config]) -> dict:
    init_default_scope('mmpretrain')
    cfg = demo_config('res8_digits').test_dataloader
    return {**cfg, 'batch_size': 7, 'dataset': DATASETS.build(cfg.dataset)}


def test_outputs_are_those_of_the_parts_image_by_image(
    network: Callable, teacher_file: Callable[..., str], loader: dict, images_file: Path
) -> None:
    networks = [
        load_network(name, network_config(network(name)), teacher_file(name), 'student_source')
        for name in ('res8', 'wrn16-1')
    ]
    chosen = np.array([1, 4, 7, 11, 14, 17, 21, 24, 27, 31])
    outputs = network_outputs(networks, loader, chosen)
    stored = np.load(images_file)['test_images']
    for each, output in zip(networks, outputs, strict=True):
        assert each.layer is each.model.head.fc
        assert not each.model.training
        for place, feature, logits in zip(chosen, output.features, output.logits, strict=True):
            image = (torch.from_numpy(stored[place]).float().expand(1, 3, -1, -1) - MEAN) / STD
            with torch.no_grad():
                expected = each.model.backbone(image)[-1].mean(dim=(2, 3))
                torch.testing.assert_close(torch.from_numpy(feature)[None], expected, rtol=1e-4, atol=1e-5)
                expected = each.model.head.fc(expected)
            torch.testing.assert_close(torch.from_numpy(logits)[None], expected, rtol=1e-4, atol=1e-4)


def test_choice_of_images() -> None:
    labels = np.arange(40) % 10
    np.testing.assert_array_equal(chosen_images(labels, range(10), None, seed=0), np.arange(40))
    first, again, other = (chosen_images(labels, range(10), 20, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other
    some = chosen_images(labels, [1, 4, 7], 10, seed=0)
    np.testing.assert_array_equal(some, np.unique(some))
    assert len(some) == 10
    assert set(labels[some]) <= {1, 4, 7}


@pytest.mark.parametrize(
    ('folders', 'names'),
    [
        (['runs/icd/seed_0', 'runs/kd/seed_0'], ['icd', 'kd']),
        (['icd/seed_0', 'icd/seed_1', 'kd/seed_0'], ['icd/seed_0', 'icd/seed_1', 'kd/seed_0']),
        (['first/icd', 'second/icd'], ['first', 'second']),
        (['run', 'run/inner'], ['run', 'run/inner']),
    ],
)
def test_students_are_named_by_what_tells_them_apart(folders: list[str], names: list[str]) -> None:
    assert names_of([Path(folder) for folder in folders], None) == names
    assert names_of([Path(folder) for folder in folders], [*'abc'][: len(names)]) == [*'abc'][: len(names)]


def test_networks_that_do_not_fit_are_refused(
    network: Callable, teacher_file: Callable[..., str], loader: dict, tmp_path: Path
) -> None:
    cfg, file = network_config(network('res8')), teacher_file('res8')
    cfg.model.distiller = dict(student_source='head.gap')
    with pytest.raises(SettingError, match=r"student_source='head\.gap'"):
        load_network('a', cfg, file, 'student_source')
    with pytest.raises(SettingError, match='a cannot be built'):
        load_network('a', network_config({**network('res8'), 'backbone': dict(type='Unheard')}), file, 'student_source')
    cfg.model.distiller = None
    with pytest.raises(CheckpointError, match='a: checkpoint'):
        load_network('a', cfg, teacher_file('res20'), 'student_source')
    weights = torch.load(file)['state_dict']
    weights['head.fc.bias'][3] = torch.nan
    torch.save(weights, tmp_path / 'nan.pth')
    broken = load_network('a', cfg, tmp_path / 'nan.pth', 'student_source')
    with pytest.raises(CheckpointError, match='a: '):
        network_outputs([broken], loader, np.array([0, 10]))


def test_correlations(correlation_tool: dict, logits: tuple) -> None:
    values, _ = logits
    for classes in (range(6), [1, 4, 5]):
        expected = np.empty((len(classes), len(classes)))
        for i, first in enumerate(classes):
            for j, second in enumerate(classes):
                x, y = (values[:, k].astype(float) - values[:, k].astype(float).mean() for k in (first, second))
                expected[i, j] = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
        np.testing.assert_allclose(correlation_tool['correlations'](values, classes), expected, atol=1e-12)


def test_mean_logits(correlation_tool: dict, logits: tuple) -> None:
    values, labels = logits
    rows: dict[int, list[torch.Tensor]] = {number: [] for number in range(6)}
    for value, label in zip(torch.from_numpy(values).double(), labels, strict=True):
        rows[label].append((value - value.mean()) / value.std())
    expected = torch.stack([sum(row) / len(row) for row in rows.values()]).numpy()
    np.testing.assert_allclose(correlation_tool['mean_logits'](values, labels, range(6)), expected, atol=1e-12)
    chosen = [0, 3]
    found = correlation_tool['mean_logits'](values[np.isin(labels, chosen)], labels[np.isin(labels, chosen)], chosen)
    np.testing.assert_allclose(found, expected[np.ix_(chosen, chosen)], atol=1e-12)


def test_undefined_matrices(correlation_tool: dict, logits: tuple) -> None:
    values, labels = logits
    with pytest.raises(SettingError, match='--classes'):
        correlation_tool['correlations'](values, [2])
    with pytest.raises(SettingError, match='class 6'):
        correlation_tool['mean_logits'](values, labels, [0, 6])
    values[:, 3] = 1.0
    with pytest.raises(SettingError, match='class 3 '):
        correlation_tool['correlations'](values, [0, 3])


def test_default_classes(features_tool: dict) -> None:
    assert list(features_tool['shown_classes'](20)) == list(range(20))
    assert features_tool['shown_classes'](100) == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert features_tool['shown_classes'](21)[-1] < 21


def test_embedding_keeps_clusters_together(features_tool: dict) -> None:
    groups = np.repeat(np.eye(3, 8) * 20, 15, axis=0)
    places = features_tool['embed'](groups + np.random.default_rng(0).normal(size=(45, 8)), 5.0, seed=0)
    nearest = np.linalg.norm(places[:, None] - places, axis=-1)
    np.fill_diagonal(nearest, np.inf)
    np.testing.assert_array_equal(nearest.argmin(axis=1) // 15, np.arange(45) // 15)


@pytest.mark.parametrize(('count', 'listed'), [(20, True), (25, False)])
def test_panels_of_features(features_tool: dict, count: int, listed: bool) -> None:
    labels = np.arange(50) % count
    names = ['teacher', 'a', 'b', 'c', 'd']
    compared = Comparison(names, [], labels, list(range(count)), [f'class {i}' for i in range(count)], count)
    places = np.random.default_rng(0).normal(size=(50, 2))
    figure = features_tool['draw'](compared, [places] * 5, 'perplexity 5')
    assert [panel.get_title() for panel in figure.axes if panel.get_title()] == names
    # every image once in each panel
    assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) == 50
    assert [text.get_text() for legend in figure.legends for text in legend.get_texts()] == (
        compared.class_names if listed else []
    )


def test_panels_of_correlations(correlation_tool: dict, logits: tuple) -> None:
    values, labels = logits
    outputs = [Outputs(values, values), Outputs(values, np.roll(values, 1)), Outputs(values, values)]
    compared = Comparison(['teacher', 'a', 'b'], outputs, labels, list(range(6)), list('uvwxyz'), 6)
    matrices = np.stack([np.corrcoef(output.logits.T) for output in outputs])
    figure = correlation_tool['draw'](compared, matrices, 'correlation')
    apart = np.abs(matrices[1] - matrices[0])
    titles = [panel.get_title() for panel in figure.axes if panel.images]
    assert titles == ['teacher', 'a', 'b', f'mean difference {apart.mean():.3f}', 'mean difference 0.000']
    shown = [panel.images[0] for panel in figure.axes if panel.images][3:]
    np.testing.assert_allclose(shown[0].get_array(), apart, atol=1e-12)
    # one scale for all students
    assert [image.get_clim() for image in shown] == [(0, apart.max())] * 2


@pytest.mark.slow
def test_work_folders(work_dir: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = [work_dir('runs/alone/seed_0', 'res8_digits', 0), work_dir('runs/icd/seed_0', seed=1)]
    out = tmp_path / 'figures' / 'features.png'
    assert exit_status(FEATURES, *folders, '--perplexity', 5, '--classes', '0-3,7', '--out', out) is None
    printed = capsys.readouterr().out
    assert '20 test images' in printed
    assert 't-SNE of icd: features of width 64' in printed
    assert out.is_file()
    text = out.with_suffix('.svg').read_text()
    assert text.startswith('<?xml')

    out = tmp_path / 'figures' / 'correlation.svg'
    assert exit_status(CORRELATION, *folders, '--out', out) is None
    assert re.findall(r'^  (\w+): 0\.\d{4}$', capsys.readouterr().out, re.MULTILINE) == ['alone', 'icd']
    assert out.with_suffix('.png').is_file()


@pytest.mark.slow
def test_config_and_checkpoints(
    work_dir: Callable, teacher_file: Callable[..., str], images_file: Path, tmp_path: Path
) -> None:
    run, teacher = work_dir('run'), teacher_file('res20')
    parser = argparse.ArgumentParser()
    add_arguments(parser, max_images=None, classes='all', out='x.png')
    config, data = CONFIGS / 'demo' / 'icd_res20_res8_digits.py', f'test_dataloader.dataset.data_file={images_file}'
    arguments = [str(config), str(run / 'epoch_1.pth'), '--cfg-options', data]
    # the config's teacher is not here
    with pytest.raises(CheckpointError, match=r'epoch_20\.pth.*--teacher-ckpt'):
        compare(parser.parse_args(arguments))
    by_name = compare(parser.parse_args([*arguments, '--teacher-ckpt', teacher]))
    by_folder = compare(parser.parse_args([str(run)]))
    assert by_name.names == by_folder.names == ['teacher', 'student']
    assert by_name.images == '40 test images of all 10 classes'
    for one, other in zip(by_name.outputs, by_folder.outputs, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
    weights = torch.load(teacher)['state_dict']
    logits = by_name.outputs[0].features @ weights['head.fc.weight'].numpy().T + weights['head.fc.bias'].numpy()
    np.testing.assert_allclose(by_name.outputs[0].logits, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_networks_of_other_classes_than_the_images(work_dir: Callable, teacher_file: Callable[..., str]) -> None:
    """Only the file of weights and the dataset know it."""
    parser = argparse.ArgumentParser()
    add_arguments(parser, max_images=None, classes='all', out='x.png')
    digits = tuple('0123456789')
    run = work_dir('run', **{'test_dataloader.dataset.metainfo': dict(classes=digits)})
    for file, name in ((teacher_file('res20'), 'teacher'), (run / 'epoch_1.pth', 'student')):
        weights = torch.load(file, weights_only=True)
        torch.save({**weights, 'meta': {'dataset_meta': {'classes': digits[::-1]}}}, file)
        with pytest.raises(DatasetError, match=rf'{name}: checkpoint {file} was trained on .*, in another order: '):
            compare(parser.parse_args([str(run)]))
        compare(parser.parse_args([str(run), '--cfg-options', 'default_hooks.check_weights.names=list']))
        torch.save({**weights, 'meta': {'dataset_meta': {'classes': digits}}}, file)
    compare(parser.parse_args([str(run)]))


def test_the_config_of_the_latest_training_is_read(tmp_path: Path) -> None:
    for start, logged in ((1, True), (2, True), (3, False)):
        folder = tmp_path / f'2026010{start}_000000' / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'config.py').write_text(f'start = {start}\n')
        if logged:
            (folder / 'scalars.json').touch()
    for name in ('student.py', 'mine.py'):
        (tmp_path / name).write_text('start = 4\n')
    assert stored_config(tmp_path).start == 2  # the third was a test, which logs nothing
    for folder in tmp_path.glob('*_000000'):
        shutil.rmtree(folder)
    assert stored_config(tmp_path).start == 4
    (tmp_path / 'mine.py').unlink()
    with pytest.raises(SettingError, match=str(tmp_path)):
        stored_config(tmp_path)


@pytest.mark.slow
def test_bad_input(work_dir: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, alone = work_dir('icd'), work_dir('alone', 'res8_digits')
    other = work_dir('other', **{'model.teacher_ckpt': 'other.pth'})
    missing = work_dir('missing', **{'test_dataloader.dataset.data_file': str(tmp_path / 'absent.npz')})
    untested = work_dir('untested', test_dataloader=None, test_cfg=None, test_evaluator=None)
    untaught = work_dir('untaught', **{'model.teacher_ckpt': None})
    program = tmp_path / 'network.py'
    program.write_text('raise RuntimeError("it was run")')
    stored = work_dir('stored')
    file = stored / '20260101_000000' / 'vis_data' / 'config.py'
    cfg = Config.fromfile(file)
    cfg.model.teacher = str(program)
    cfg.dump(file)
    (tmp_path / 'empty').mkdir()
    vanilla = CONFIGS / 'demo' / 'res8_digits.py'
    for arguments, message in [
        ([alone], 'model.teacher'),
        ([vanilla, alone / 'epoch_1.pth'], 'model.teacher'),
        ([vanilla], 'checkpoints of its student'),
        ([tmp_path / 'absent.py', run], 'there is no such file'),
        ([tmp_path / 'empty'], str(tmp_path / 'empty')),
        ([tmp_path / 'absent'], str(tmp_path / 'absent')),
        ([run, other], 'model.teacher_ckpt'),
        ([run, run], 'two are the same'),
        ([run, '--labels', 'a', 'b'], '--labels'),
        ([run, '--classes', '0-10'], '--classes 10'),
        ([run, '--max-images', 1], '--max-images 1'),
        ([run, '--max-images', 20, '--perplexity', 20], '--perplexity 20'),
        ([run, '--perplexity', 0.5], '--perplexity 0.5'),
        ([run, '--out', tmp_path / 'figure.doc'], '--out'),
        ([missing], 'absent.npz'),
        ([stored], 'network.py'),
        ([untested], 'test_dataloader'),
        ([untaught], f'model.teacher_ckpt of {untaught}: there is no file None'),
        ([run, '--teacher-ckpt', 'absent.pth'], '--teacher-ckpt absent.pth: there is no file'),
    ]:
        assert exit_status(FEATURES, '--out', tmp_path / 'figure.png', *arguments) == 1, arguments
        assert message in capsys.readouterr().err
    assert not (tmp_path / 'figure.png').exists()
