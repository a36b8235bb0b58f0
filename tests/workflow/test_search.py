"""A search in a folder of images: what is planned, refused, trained and written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, exit_status
from mmengine.config import Config
from mmpretrain.registry import MODELS
from PIL import Image

import icd_mmrazor
from icd_mmrazor.errors import DatasetError, SettingError
from icd_mmrazor.workflow import search, stages
from icd_mmrazor.workflow.request import Request

PAGE = ROOT / 'docs' / 'howto' / 'image_search.md'
SMALL = dict(
    task='retrieval', teacher='res14', teacher_ckpt='random', student='res8', epochs=1, batch_size=8, image_size=16
)


@pytest.fixture
def folder(image_folder: Callable) -> Path:
    """Return a folder of 30 images in any subfolders."""
    root = image_folder({'cats': 12, 'cats/black': 10, "it's": 7}, 'my images')
    Image.fromarray(np.full((20, 24, 3), 90, np.uint8)).save(root / 'loose.jpg')
    return root


def request(data: Path, **settings: object) -> Request:
    return Request(**{**SMALL, 'data': data, **settings})


def test_the_plan(folder: Path) -> None:
    plan = search.plan_of(request(folder, val_fraction=0.3, seed=3))
    assert (len(plan.folder.train), len(plan.folder.val)) == (21, 9)
    assert not {*plan.folder.train} & {*plan.folder.val}
    assert (plan.width, plan.image_size, plan.batch_size, plan.epochs) == (64, 16, 8, 1)
    assert plan.folder.val == search.plan_of(request(folder, val_fraction=0.3, seed=3)).folder.val
    assert plan.folder.val != search.plan_of(request(folder, val_fraction=0.3, seed=4)).folder.val
    text = str(plan)
    assert '30 images, 16 x 16 to 24 x 20 pixels' in text
    assert 'res14' in text
    own = 64 * 64 + 64  # the projection replaces the classifier
    backbone = MODELS.build(plan.student.cfg.backbone)
    assert plan.parameters[1] == sum(p.numel() for p in backbone.parameters()) + own


@pytest.mark.parametrize(
    ('settings', 'error', 'named'),
    [
        (dict(task='search'), SettingError, r'--task search'),
        (dict(task='retrieva'), SettingError, 'Did you mean retrieval'),
        (dict(batch_size=25), DatasetError, r'30 images, 24 of them to train on.*--batch-size'),
        (dict(batch_size=1), SettingError, '--batch-size'),
        (dict(method='crd'), SettingError, '--method'),
        (dict(baseline=True), SettingError, '--baseline'),
        (dict(flip=False), SettingError, '--no-flip'),
        (dict(unlabeled='x'), SettingError, '--unlabeled'),
        (dict(export='timm'), SettingError, '--export timm'),
        (dict(data='nowhere'), SettingError, 'does not exist'),
        (dict(student='timm/resnet10t'), SettingError, '--student'),
    ],
)
def test_refusals(folder: Path, settings: dict, error: type, named: str) -> None:
    with pytest.raises(error, match=named):
        search.plan_of(request(**{'data': folder, **settings}))


def test_too_few_images(image_folder: Callable) -> None:
    with pytest.raises(DatasetError, match=r'has 19 images.*20 images or more'):
        search.plan_of(request(image_folder({'a': 19}), batch_size=4))
    with pytest.raises(DatasetError, match='no images'):
        search.plan_of(request(image_folder({'b': 0}, 'empty')))


@pytest.mark.parametrize('size', [4, 8, 16])
def test_the_learning_rate_follows_the_batch(folder: Path, tmp_path: Path, size: int) -> None:
    search.write_files(search.plan_of(request(folder, batch_size=size)), tmp_path)
    cfg = Config.fromfile(tmp_path / 'distilled.py')
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(2e-3 * size / 64)  # of the recipe


def test_names_of_files(folder: Path, tmp_path: Path) -> None:
    odd = 'line\u2028separator, next\x85line.png'
    (folder / 'loose.jpg').rename(folder / odd)
    search.write_files(search.plan_of(request(folder)), tmp_path)
    names = search.names_of(tmp_path)
    assert len(names) == 30
    assert odd in names
    (folder / odd).rename(folder / 'a\nbreak.jpg')
    with pytest.raises(DatasetError, match=r"'a\\nbreak.jpg' contains a line break"):
        search.plan_of(request(folder))


@pytest.mark.slow
def test_from_a_folder_to_searches(folder: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = dict(SMALL, data=str(folder), work_dir='work', seed=0, export='onnx')
    options = [f'--{name.replace("_", "-")}={value}' for name, value in arguments.items()]
    assert exit_status(ROOT / 'tools' / 'distill.py', *options) in (0, None)
    printed = capfd.readouterr().out
    rows = {
        line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.startswith(('teacher  ', 'stud'))
    }
    assert {'Recall@1', 'Recall@5', 'Recall@20', 'MRR@10'} <= {*printed.split()}
    assert [float(value) for value in rows['student'][:3]] == sorted(map(float, rows['student'][:3]))

    # the gallery, against an encoding made here
    gallery = np.load('work/gallery.npz')
    teacher = MODELS.build(Config.fromfile('work/distilled.py').model.teacher).eval()
    teacher.load_state_dict(torch.load('work/teacher_random.pth', weights_only=True)['state_dict'])
    assert gallery['names'].tolist() == sorted(
        str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()
    )
    number = gallery['names'].tolist().index('cats/03.png')
    pixels = torch.from_numpy(np.array(Image.open(folder / 'cats' / '03.png'))).permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(each)[:, None, None] for each in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    with torch.no_grad():
        want = teacher.extract_feat((pixels - mean) / std)[-1][0]
    np.testing.assert_allclose(gallery['embeddings'][number], want / want.norm(), rtol=1e-4, atol=1e-5)

    # as the command says
    usage = printed.partition('Search with the student:\n')[2]
    code = '\n'.join(line[2:] for line in usage.splitlines() if line.startswith('  '))
    names: dict = {}
    exec(code.replace('IMAGE_FILE', str(folder / 'cats' / '03.png')), names)
    assert len(names['scores']) == 30
    assert capfd.readouterr().out.count('.png') + 1 >= 5
    import onnxruntime

    session = onnxruntime.InferenceSession('work/student.onnx')
    found = session.run(None, {'images': names['image'].numpy()})[0][0]
    np.testing.assert_allclose(found, names['query'], rtol=1e-3, atol=1e-4)

    # as the page says
    (example,) = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
    exec(example.replace('WORK_DIR', 'work'), names)
    found = names['search'](str(folder / 'cats' / '03.png'))
    assert len(found) == 5
    assert [name for name, _ in found] == gallery['names'][names['scores'].argsort()[:-6:-1]].tolist()

    # again: nothing is trained
    monkeypatch.setattr(stages, 'train', SimpleNamespace())
    student = icd_mmrazor.distill(**arguments)
    result = student.distillation
    assert json.loads(Path('work/distilled/result.json').read_text())['metrics'].items() >= result.metrics.items()
    assert result.gallery == Path('work/gallery.npz').absolute()
    assert {*result.metrics} == {*result.teacher_metrics} == {*search_metrics()}
    (folder / 'loose.jpg').unlink()
    with pytest.raises(DatasetError, match='has changed'):
        icd_mmrazor.distill(**arguments)


def search_metrics() -> list[str]:
    return [f'retrieval/{name}' for name in ('Recall@1', 'Recall@5', 'Recall@20', 'MRR@10')]


def test_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert icd_mmrazor.distill(**SMALL, data=folder, work_dir='work', dry_run=True) is None
    assert '30 images' in capsys.readouterr().out
    assert not Path('work').exists()
