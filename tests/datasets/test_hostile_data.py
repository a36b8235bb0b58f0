"""Untrusted datasets, annotations, images, logs and configs: nothing in them runs or takes all memory."""

import hashlib
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import hostile_files
import mmcv
import mmengine
import numpy as np
import pytest
from helpers import TOOLS, exit_status
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmpretrain.registry import DATASETS
from PIL import Image
from transfer_data import write_stl10, write_tiny_imagenet

from icd_mmrazor.checkpoints import downloads
from icd_mmrazor.compat.imports import MAX_PIXELS
from icd_mmrazor.datasets import VerifiedCIFAR100
from icd_mmrazor.errors import DatasetError, SettingError


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / 'trace'


def array_file(folder: Path, header: str, data: bytes, **others: bytes) -> str:
    """Write an ``.npz`` file whose images have any header."""
    text = header.encode().ljust(117) + b'\n'
    images = b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text + data
    np.savez(folder / 'labels.npz', labels=np.zeros(2, np.int64))
    with zipfile.ZipFile(folder / 'labels.npz') as old, zipfile.ZipFile(folder / 'data.npz', 'w') as new:
        for name, content in {'images.npy': images, 'labels.npy': old.read('labels.npy'), **others}.items():
            new.writestr(name, content, zipfile.ZIP_DEFLATED)
    return str(folder / 'data.npz')


def header(shape: object, kind: str = "'|u1'") -> str:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}"


def read_npz(file: str, **settings: object) -> int:
    return len(DATASETS.build(dict(type='NPZDataset', data_file=file, **settings)))


@pytest.mark.parametrize(
    ('header', 'message'),
    [
        (header((2, 10**6, 10**6)), 'its data is not'),
        (header((-2, -4, 4)), 'its data is not'),
        (header((2, 2**63, 2**63)), 'its data is not'),
        (header((10**12, 0)), 'its data is not'),
        (header((2, 4, 4), "'|O'"), 'Python objects'),
        (header((2,), "[('a', '|O'), ('b', '<i8')]"), 'Python objects'),
        (header('__import__("os")'), 'cannot be read as plain arrays'),
        (header((2, 4, 4)) + ' ' * 20_000, 'cannot be read as plain arrays'),
        ('(' * 3000, 'cannot be read as plain arrays'),
    ],
    ids=['huge', 'negative', 'overflow', 'empty', 'objects', 'fields', 'code', 'long', 'nested'],
)
def test_arrays_are_what_they_say(header: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        read_npz(array_file(tmp_path, header, bytes(32)))


def test_arrays_fit_in_memory_and_are_there_once(tmp_path: Path) -> None:
    file = array_file(tmp_path, header((2, 4, 4)), bytes(32))
    assert read_npz(file, max_memory=48e-9) == 2
    with pytest.raises(DatasetError, match=r'take 4\.8e-08 GB, more than max_memory=4e-08'):
        read_npz(file, max_memory=40e-9)
    for value in (0, -1, '1GB', True, float('nan')):
        with pytest.raises(SettingError, match='NPZDataset: max_memory='):
            read_npz(file, max_memory=value)
    with pytest.raises(DatasetError, match='two arrays images'):
        read_npz(array_file(tmp_path, header((2, 4, 4)), bytes(32), images=b''))


def test_annotations_hold_plain_values(trace: Path, tmp_path: Path) -> None:
    lines = [{'img_path': 'a.png', 'gt_label': 1}]
    annotations = {'metainfo': {'classes': ['a', 'b']}, 'data_list': lines}
    for suffix in ('json', 'pkl', 'yaml'):
        file = tmp_path / f'plain.{suffix}'
        mmengine.dump(annotations, file)
        data = DATASETS.build(dict(type='BaseDataset', ann_file=str(file)))
        assert data.get_data_info(0)['gt_label'] == 1
    # long, but not deep
    (tmp_path / 'long.yaml').write_text(f'[{"[1], " * 2000}]')
    assert mmengine.load(tmp_path / 'long.yaml') == [[1]] * 2000
    hostile = {
        'code.pkl': pickle.dumps({**annotations, 'more': hostile_files.touching(trace)}),
        'name.pkl': pickle.dumps([Path.touch]),
        'cut.pkl': pickle.dumps(annotations)[:-5],
        'bytearray.pkl': b'\x80\x05' + pickle.BYTEARRAY8 + struct.pack('<Q', 2**50) + b'.',
        'code.yaml': f'!!python/object/apply:os.mkdir ["{trace}"]'.encode(),
        'name.yml': b'!!python/name:os.system',
        'cut.yaml': b'[1, 2',
        # the loaders call themselves
        **{f'deep{i}.yaml': 200_000 * text for i, text in enumerate((b'[', b'- ', b'{a: ', b'? '))},
        'indented.yaml': b''.join(b' ' * i + b'a:\n' for i in range(2000)),
    }
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match='damaged, or holds more than plain values'):
            DATASETS.build(dict(type='BaseDataset', ann_file=str(tmp_path / name)))
        if not name.endswith('.pkl'):
            with pytest.raises(DatasetError, match='plain values'):
                Config.fromfile(tmp_path / name)
    assert not trace.exists()


def test_the_memo_of_a_pickle_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / 'memo.pkl'
    file.write_bytes(b'\x80\x02N' + pickle.LONG_BINPUT + struct.pack('<I', 2**32 - 1) + b'.')
    with hostile_files.bounded(extra=2**30):  # the unpickler in C takes 64 GB
        assert mmengine.load(file) is None


def test_batches_of_cifar_are_verified_before_they_are_read(trace: Path, tmp_path: Path) -> None:
    root = tmp_path / 'data'
    folder = root / VerifiedCIFAR100.base_folder
    folder.mkdir(parents=True)
    for name in ('train', 'test', 'meta'):
        (folder / name).write_bytes(pickle.dumps(hostile_files.touching(trace)))
    with pytest.raises(DatasetError, match='train is damaged'):
        DATASETS.build(dict(type='VerifiedCIFAR100', data_root=str(root), download=False))
    with tarfile.open(root / VerifiedCIFAR100.filename, 'w:gz') as tar:
        tar.add(folder, VerifiedCIFAR100.base_folder)
    with pytest.raises(DatasetError, match=r'tar\.gz is damaged'):
        DATASETS.build(dict(type='VerifiedCIFAR100', data_root=str(root), download=False))
    assert not trace.exists()


@pytest.mark.parametrize('link', [False, True])
def test_only_known_members_of_archives_are_written(
    link: bool, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one with the right sum: the members are taken by name, only files, and each is verified."""
    source, archive = tmp_path / 'source', tmp_path / 'archive'
    (tmp_path / 'data').mkdir()
    source.write_bytes(pickle.dumps(hostile_files.touching(trace)))
    with tarfile.open(archive, 'w:gz') as tar:
        for name in ('../escaped', str(tmp_path / 'escaped'), 'cifar-100-python/../../escaped'):
            tar.add(source, name)
        for name in ('train', 'test', 'meta'):
            member = tar.gettarinfo(source, f'cifar-100-python/{name}')
            if link:
                member.type, member.linkname, member.size = tarfile.SYMTYPE, str(source), 0
            tar.addfile(member, source.open('rb'))
    monkeypatch.setattr(downloads, 'final_address', str)
    monkeypatch.setattr(VerifiedCIFAR100, 'url', archive.as_uri())
    monkeypatch.setattr(VerifiedCIFAR100, 'tgz_md5', hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(VerifiedCIFAR100, 'tgz_sha256', hashlib.sha256(archive.read_bytes()).hexdigest())
    with pytest.raises(DatasetError, match='has no file cifar-100-python/train' if link else 'train is damaged'):
        DATASETS.build(dict(type='VerifiedCIFAR100', data_root=str(tmp_path / 'data')))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['archive', 'data', 'source']


def test_sizes_of_stl10_are_compared_before_it_is_read(tmp_path: Path) -> None:
    folder = write_stl10(tmp_path / 'stl10')
    with (folder / 'train_X.bin').open('r+b') as file:
        file.truncate(10**13)  # takes no room on the disk
    with pytest.raises(DatasetError, match='10,000,000,000,000 bytes'):
        DATASETS.build(dict(type='STL10', data_root=str(folder)))
    (folder / 'train_y.bin').unlink()
    (folder / 'train_y.bin').symlink_to(folder / 'nothing')
    with pytest.raises(DatasetError, match=r'train_y\.bin not found'):
        DATASETS.build(dict(type='STL10', data_root=str(folder)))


def test_files_that_may_not_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stl10, tiny = write_stl10(tmp_path / 'stl10'), write_tiny_imagenet(tmp_path / 'tiny')

    def deny(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(np, 'fromfile', deny)
    with pytest.raises(DatasetError, match=r'STL10.*cannot be read .*Permission denied'):
        DATASETS.build(dict(type='STL10', data_root=str(stl10)))
    monkeypatch.setattr(Path, 'iterdir', deny)
    with pytest.raises(DatasetError, match=r'TinyImageNet.*train/.*/images cannot be read .*Permission denied'):
        DATASETS.build(dict(type='TinyImageNet', data_root=str(tiny)))


def test_lists_of_tiny_imagenet_name_what_is_in_it(tmp_path: Path) -> None:
    folder = write_tiny_imagenet(tmp_path / 'tiny')
    lines = (folder / 'val' / 'val_annotations.txt').read_text().splitlines(keepends=True)

    def refused(message: str, split: str) -> None:
        with pytest.raises(DatasetError, match=message):
            DATASETS.build(dict(type='TinyImageNet', data_root=str(folder), split=split))

    (folder / 'val' / 'val_annotations.txt').write_text(''.join([*lines[:-1], lines[0]]))
    refused(r'val/images/val_0\.JPEG has a line already', 'val')
    (folder / 'val' / 'val_annotations.txt').write_text(''.join([*lines[:-1], '../../x.JPEG\tn02124075\n']))
    refused(r'val/images/\.\./\.\./x\.JPEG not found', 'val')
    with (folder / 'val' / 'val_annotations.txt').open('r+b') as file:
        file.truncate(10**10)
    refused('has 10,000,000,000 bytes', 'val')
    (folder / 'wnids.txt').write_text('../../../etc\n')
    refused('is not a WordNet id', 'train')


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_unreadable_and_huge_images_are_named(backend: str, tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 1 if backend == 'cv2' else int((2 * MAX_PIXELS) ** 0.5) + 1
    Image.new('1', (side, side)).save(tmp_path / 'large.png')
    Image.new('RGB', (20, 20), 'red').save(tmp_path / 'whole.png')
    content = (tmp_path / 'whole.png').read_bytes()
    (tmp_path / 'cut.png').write_bytes(content[:30])
    (tmp_path / 'text.png').write_text('no image')
    (tmp_path / 'empty.png').write_bytes(b'')
    load = LoadImageFromFile(imdecode_backend=backend)
    assert load({'img_path': str(tmp_path / 'whole.png')})['img'].shape == (20, 20, 3)
    assert (tmp_path / 'large.png').stat().st_size < 100_000
    for name in ('large', 'cut', 'text', 'empty', 'absent'):
        with pytest.raises(DatasetError, match=rf'{name}\.png cannot be read'):
            load({'img_path': str(tmp_path / f'{name}.png')})
    assert mmcv.imfrombytes(content, backend=backend).shape == (20, 20, 3)


def test_untrusted_logs_and_configs_run_nothing(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A work folder is read by the tools that draw."""
    pytest.importorskip('matplotlib')
    monkeypatch.chdir(tmp_path)
    run = tmp_path / 'work' / '20260101_000000' / 'vis_data'
    run.mkdir(parents=True)
    hostile = pickle.dumps(hostile_files.touching(trace))
    text = f'__import__("pathlib").Path({str(trace)!r}).touch()\n'
    for log, config in ((hostile, text.encode()), (b'[' * 100_000, b'model = ' + b'[' * 100_000), (b'', b'')):
        (run / 'scalars.json').write_bytes(log)
        (run / 'config.py').write_bytes(config)
        there = hostile_files.below(tmp_path)
        for tool, *arguments in (
            (TOOLS / 'analysis' / 'plot_logit_correlation.py', tmp_path / 'work', '--out', 'out.png'),
            (TOOLS / 'analysis' / 'plot_features.py', tmp_path / 'work', '--out', 'out.png'),
        ):
            status, error = exit_status(tool, *arguments), capsys.readouterr().err
            assert (status, 'error: ' in error, 'Traceback' in error) == (1, True, False), (tool, error)
            assert hostile_files.below(tmp_path) == there, tool
