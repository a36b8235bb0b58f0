"""The report of a real run, whole and with parts missing."""

import json
import re
import shutil
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TOOLS, exit_status, shipped
from mmengine.config import Config
from mmrazor.registry import MODELS
from PIL import Image

from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.run_config import use_intact_checkpoints
from icd_mmrazor.launch.runner import ToolRunner
from icd_mmrazor.report.page import _name, write_report
from icd_mmrazor.report.run_folder import read_run

TOOL = TOOLS / 'analysis' / 'report.py'
VOID = {'meta', 'img', 'br'}
NAME = '<script>Käfer & "Co"</script>'


class Page(HTMLParser):
    """A page: its text by words, its elements; every element that is opened must be closed."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.source = file.read_text(encoding='utf-8')
        self.feed(self.source)
        assert not self.opened

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or '') for name, value in attrs]
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or '') for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] != 'style' and data.strip():
            self.text.append(data.strip())

    def values(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]

    @property
    def notes(self) -> list[str]:
        return re.findall(r'<p class="note">(.*?)</p>', self.source)


def trained(folder: Path, config: str) -> Path:
    """Train a network of the demo for two epochs on images of noise and squares."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, size in (('train', 64), ('test', 40)):
        labels = np.arange(size) % 10
        images = generator.integers(0, 60, (size, 16, 16), dtype=np.uint8)
        images[:, 4:12, 4:12] += (labels * 19).astype(np.uint8)[:, None, None]
        arrays |= {f'{split}_images': images, f'{split}_labels': labels}
    np.savez(folder / 'images.npz', **arrays)
    cfg = shipped(f'demo/{config}.py')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_file = str(folder / 'images.npz')
    if 'teacher' in cfg.model:
        torch.manual_seed(0)
        teacher = shipped('_base_/models/res20.py').res20
        teacher.head.num_classes = 10
        torch.save(
            {'state_dict': MODELS.build({'_scope_': 'mmpretrain', **teacher}).state_dict()}, folder / 'res20.pth'
        )
        cfg.model.teacher_ckpt = str(folder / 'res20.pth')
    cfg.work_dir = str(folder / config)
    cfg.merge_from_dict({'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 1, 'randomness.seed': 0})
    cfg.experiment_name = f'report_{time.time_ns()}'
    use_intact_checkpoints(cfg)
    with explained_settings():
        ToolRunner.from_cfg(cfg).train()
    return folder / config


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp('distilled'), 'icd_res20_res8_digits')


@pytest.fixture
def changed(run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the run, with a changed config and changed files."""

    def change(config: Callable[[Config], None] = lambda _: None, **texts: Callable[[str], str]) -> Path:
        folder = tmp_path / 'run'
        shutil.copytree(run, folder)
        (stored,) = folder.glob('*/vis_data/config.py')
        cfg = Config.fromfile(stored)
        config(cfg)
        cfg.dump(stored)
        for pattern, edit in (('*.log', texts.get('log')), ('vis_data/scalars.json', texts.get('scalars'))):
            for file in folder.glob(f'*/{pattern}') if edit else ():
                file.write_text(edit(file.read_text()))
        return folder

    return change


def rows_of(folder: Path) -> list[dict]:
    return [
        json.loads(line) for file in folder.glob('*/vis_data/scalars.json') for line in file.read_text().splitlines()
    ]


def test_numbers_are_those_of_the_log(run: Path) -> None:
    page, rows = Page(write_report(run)), rows_of(run)
    log = next(run.glob('*/*.log')).read_text()
    assert not page.notes
    validations = [row['accuracy/top1'] for row in rows if 'loss' not in row]
    teacher = re.search(r'validation set: accuracy/top1 ([\d.]+)', log)[1]
    best = re.findall(r'best ([\d.]+) \(epoch (\d)\)', log)[-1]
    tiles = re.findall(r'<div><b>(.*?)</b>(.*?)<span>(.*?)</span></div>', page.source)
    assert tiles[0] == (teacher, 'teacher', '')
    assert tiles[1][0] == f'{max(validations):.2f}' == best[0]
    assert tiles[1][1:] == ('student', f'epoch {best[1]}, the best')
    last = [row for row in rows if 'loss' in row][-1]
    for name in ('loss', 'student.loss', 'distill.loss_icd'):
        assert f'{name} <b>{last[name]:.4g}</b>' in page.source
    # the matrix counts what the log's accuracy counts, image by image
    cells = re.findall(r'<td class="(right|wrong)" style="--part:[\d.]+">(\d*)</td>', page.source)
    right = sum(int(count or 0) for kind, count in cells if kind == 'right')
    assert len(cells) == 100
    assert sum(int(count or 0) for _, count in cells) == 40
    assert 100 * right / 40 == pytest.approx(max(validations))
    for text in ('78,042 parameters', 'epoch 2', '2 of 2', '64', '40'):
        assert text in page.source
    assert next(run.glob('student_best.pth')).stat().st_size / 1e6 == pytest.approx(
        float(re.search(r'size of student_best\.pth</dt><dd>([\d.]+) MB', page.source)[1]), abs=0.006
    )


def test_a_page_needs_no_other_file_and_no_eyes(run: Path) -> None:
    page = Page(write_report(run))
    assert all(value.startswith('data:image/png;base64,') for value in page.values('src'))
    assert not page.values('href')
    assert not re.search(r'@import|url\(|https?://|<script|<link', page.source)
    images = [tag for tag, name, _ in page.attributes if tag == 'img' and name == 'src']
    alts = [value for tag, name, value in page.attributes if tag == 'img' and name == 'alt']
    assert len(images) == len(alts) > 0
    assert all(re.fullmatch(r'Validation image \d+: label \d, teacher .*, student .*', alt) for alt in alts)
    assert len(alts) <= 24
    charts = [value for tag, name, value in page.attributes if tag == 'svg' and name == 'aria-label']
    assert [chart.partition(' against ')[0] for chart in charts] == ['losses', 'accuracy (%)']


def test_the_lines_that_use_the_student_run(run: Path) -> None:
    page = Page(write_report(run))
    usage = next(text for text in page.text if text.startswith('from mmpretrain import'))
    assert len(usage.splitlines()) == 3
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save('image.png')
    namespace: dict = {}
    exec(usage.replace('IMAGE_FILE', 'image.png'), namespace)
    assert namespace['inferencer']('image.png')[0]['pred_label'] in range(10)


def test_some_images_of_many(run: Path, tmp_path: Path) -> None:
    page = Page(write_report(run, out=tmp_path / 'x.html', max_images=7))
    assert '7 of 40 validation images, drawn with seed 0.' in page.text
    teacher = re.search(r'validation set: accuracy/top1 ([\d.]+)', next(run.glob('*/*.log')).read_text())[1]
    assert f'<b>{teacher}</b>teacher' in page.source


def test_names_are_escaped(changed: Callable[..., Path]) -> None:
    def rename(cfg: Config) -> None:
        cfg.val_dataloader.dataset.metainfo = dict(classes=[NAME, *map(str, range(1, 10))])

    folder = changed(rename, log=lambda text: text.replace('CIFARResNet(depth=8)', NAME))
    page = Page(write_report(folder.rename(folder.with_name('<b>läuft'))))
    assert '<script' not in page.source
    assert '<b>läuft' not in page.source
    assert page.text.count(NAME) >= 3
    assert any('<b>läuft' in text for text in page.text)


def test_student_alone_as_a_baseline(run: Path, tmp_path: Path) -> None:
    alone = trained(tmp_path, 'res8_digits')
    assert exit_status(TOOL, run, '--baseline', alone, '--out', tmp_path / 'x.html') is None
    page = Page(tmp_path / 'x.html')
    expected = max(row['accuracy/top1'] for row in rows_of(alone) if 'loss' not in row)
    assert f'<b>{expected:.2f}</b>student alone' in page.source
    with pytest.raises(SettingError, match='without a teacher'):
        write_report(alone)


def test_what_accuracy_does_not_tell(changed: Callable[..., Path], capsys: pytest.CaptureFixture) -> None:
    folder = changed()
    assert 'Beyond accuracy' not in write_report(folder).read_text()
    tool, config = TOOLS / 'analysis' / 'robustness.py', next(folder.glob('*/vis_data/config.py'))
    short = ['--corruptions', 'fog', 'contrast', '--attacked', 3]
    assert exit_status(tool, config, folder / 'student_best.pth', *short) is None
    page = Page(write_report(folder))
    assert not page.notes
    titles = ['Calibration', 'Agreement with the teacher', 'Corrupted images', 'Adversarial examples', 'Unknown images']
    assert all(title in page.text for title in titles)
    agreement = re.search(r'agreement with the teacher: ([\d.]+) %', capsys.readouterr().out)[1]
    assert f'<b>{agreement} %</b>' in page.source
    results = folder / 'robustness.json'
    results.write_text(json.dumps(json.loads(results.read_text()) | {'ood': {}}))
    (note,) = Page(write_report(folder)).notes
    assert 'beyond accuracy' in note
    # the folder was trained again
    shutil.copy(folder / 'student_last.pth', folder / 'student_best.pth')
    again = Page(write_report(folder))
    (note,) = again.notes
    assert 'beyond accuracy' in note
    assert 'student_best.pth that the folder no longer has' in note
    assert 'Calibration' not in again.text


def test_folder_of_the_whole_workflow(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / 'distilled')
    assert write_report(tmp_path) == tmp_path / 'report.html'
    shutil.copy(tmp_path / 'distilled' / 'student_last.pth', tmp_path / 'student.pth')
    shutil.copy(tmp_path / 'distilled' / 'student.py', tmp_path / 'student.py')
    page = Page(write_report(tmp_path))
    last = [row['accuracy/top1'] for row in rows_of(run) if 'loss' not in row][-1]
    assert f'<b>{last:.2f}</b>student<span>epoch 2</span>' in page.source
    assert any(f"pretrained='{tmp_path}/student.pth'" in text for text in page.text)


@pytest.mark.parametrize(
    ('description', 'setting', 'name'),
    [
        ('CIFARResNet(depth=8), 78,042 parameters', {}, 'CIFARResNet(depth=8)'),
        ('ResNet, 11,689,512 parameters, validation set: accuracy/top1 9.00', None, 'ResNet'),
        ('VGG(depth=8, num_classes=10), 5 parameters', None, 'VGG(depth=8)'),
        ('TimmClassifier(model_name=resnet18, num_classes=10), 5 parameters', {}, 'resnet18'),
        ('ImageNetwork(num_classes=10, teacher=timm/test_vit, cache=False), 30 parameters', {}, 'timm/test_vit'),
        ('ResNet, 5 parameters', 'timm/resnet18', 'timm/resnet18'),
        ('ResNet, 5 parameters', 'configs/vanilla/res8.py', 'res8'),
    ],
)
def test_name_of_a_network(description: str, setting: object, name: str) -> None:
    assert _name(description, setting) == name


def no_validation(cfg: Config) -> None:
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None


def headless(cfg: Config) -> None:
    cfg.model.teacher = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8),
        neck=dict(type='GlobalAveragePooling'),
    )
    cfg.model.teacher_ckpt = None
    cfg.model.random_teacher = True
    cfg.model.distiller = dict(type='ICDDistiller')


def lost_teacher(cfg: Config) -> None:
    cfg.model.teacher_ckpt = 'gone/<teacher>.pth'


def lost_images(cfg: Config) -> None:
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_file = 'gone.npz'


@pytest.mark.parametrize(
    ('config', 'note', 'shown'),
    [
        (no_validation, 'has no validation set', False),
        (headless, 'The teacher gives no classes: it has no classifier', True),
        (lost_teacher, r'The teacher could not be built: .*gone/&lt;teacher&gt;\.pth', True),
        (lost_images, r'Nothing is said of single images: .*gone\.npz', False),
    ],
)
def test_missing_parts_are_named(changed: Callable, config: Callable, note: str, shown: bool) -> None:
    page = Page(write_report(changed(config)))
    assert any(re.search(note, text) for text in page.notes), page.notes
    assert ('Mistakes of the student' in page.text) is shown
    assert 'Curves' in page.text
    assert 'Use the student' in page.text


@pytest.mark.parametrize('kind', ['SingleTeacherDistill', 'FpnTeacherDistill'])
def test_distillation_of_mmrazor(run: Path, changed: Callable[..., Path], kind: str) -> None:
    """It has the same networks and losses as ours, so the same page."""

    def of_mmrazor(cfg: Config) -> None:
        cfg.model.type = f'mmrazor.{kind}'

    theirs, ours = Page(write_report(changed(of_mmrazor))), Page(write_report(run))
    assert theirs.notes == []
    assert 'Where teacher and student disagree' in theirs.text
    start = ours.text.index('Curves')
    assert theirs.text[start:-4] == ours.text[start:-4]


def test_named_teachers_of_mmrazor_are_left_out(changed: Callable[..., Path]) -> None:
    def without_data(cfg: Config) -> None:
        teacher = cfg.model.teacher
        cfg.model = dict(
            type='mmrazor.DataFreeDistillation',
            architecture=cfg.model.architecture,
            teachers=dict(one=dict(build_cfg=teacher), two=dict(build_cfg=teacher)),
            generator=dict(type='mmrazor.DAFLGenerator', img_size=16, latent_dim=4, hidden_channels=8),
            distiller=dict(type='mmrazor.ConfigurableDistiller'),
            generator_distiller=dict(type='mmrazor.ConfigurableDistiller'),
        )

    page = Page(write_report(changed(without_data)))
    assert ['DataFreeDistillation has no single teacher' in note for note in page.notes] == [True]
    assert 'Mistakes of the student' in page.text


def test_unfinished_run(changed: Callable[..., Path]) -> None:
    folder = changed(
        log=lambda text: text[: text.index('Saving checkpoint at 2 epochs')],
        scalars=lambda text: ''.join(text.splitlines(True)[:2]) + '{"loss": 1.5, "st',
    )
    for file in (*folder.glob('*.pth'), folder / 'last_checkpoint'):
        file.unlink()
    page = Page(write_report(folder))
    assert page.notes[0] == 'The training has not ended: epoch 1 of 2 when this was written.'
    assert 'There is no checkpoint yet' in page.notes[1]
    assert '1 of 2' in page.text


def test_another_metric(changed: Callable[..., Path]) -> None:
    folder = changed(scalars=lambda text: text.replace('accuracy/top1', 'single-label/f1-score'))
    page = Page(write_report(folder))
    assert 'Single-label/f1-score' in page.text
    assert 'accuracy (%)' not in page.text


def test_resumed_run_is_one_curve(changed: Callable[..., Path]) -> None:
    folder = changed()
    (start,) = [file.parent for file in folder.glob('*/*.log')]
    again = start.with_name('99990101_000000')
    shutil.copytree(start, again)
    rows = [json.loads(line) for line in (again / 'vis_data' / 'scalars.json').read_text().splitlines()]
    kept = rows[2:]  # it resumed after the first epoch
    kept[-1]['accuracy/top1'] = 12.5
    (again / 'vis_data' / 'scalars.json').write_text('\n'.join(map(json.dumps, kept)))
    found = read_run(folder)
    assert [row['step'] for row in found.validations] == [1, 2]
    assert found.validations[0] == rows[1]
    assert found.validations[1]['accuracy/top1'] == 12.5
    assert [row['epoch'] for row in found.training] == [1, 2]


def test_bad_input(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert exit_status(TOOL, tmp_path / 'absent') == 1
    assert 'absent: there is no such folder' in capsys.readouterr().err
    assert exit_status(TOOL, run, '--out', tmp_path) == 1
    assert '--out' in capsys.readouterr().err
    assert exit_status(TOOL, tmp_path) == 1
    assert 'has no config of a training' in capsys.readouterr().err
