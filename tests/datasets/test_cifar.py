"""The verified CIFAR datasets, on small files of CIFAR's form whose MD5 sums take the place of the published ones."""

import hashlib
import pickle
import runpy
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import TOOLS
from mmpretrain.registry import DATASETS

from icd_mmrazor.checkpoints import downloads
from icd_mmrazor.datasets import VerifiedCIFAR10, VerifiedCIFAR100
from icd_mmrazor.errors import DatasetError, SettingError


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a CIFAR-100 of 6 + 4 images and its archive as the published ones; return the archive."""
    folder = tmp_path / 'published' / VerifiedCIFAR100.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, size in (('train', 6), ('test', 4)):
        entry = {'data': generator.integers(0, 256, (size, 3072), np.uint8), 'fine_labels': list(range(size))}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / 'meta').write_bytes(pickle.dumps({'fine_label_names': [str(i) for i in range(100)]}))
    archive = folder.parent / VerifiedCIFAR100.filename
    with tarfile.open(archive, 'w:gz') as tar:
        tar.add(folder, folder.name)
    for name in ('train', 'test'):
        monkeypatch.setattr(VerifiedCIFAR100, f'{name}_list', [[name, md5(folder / name)]])
    monkeypatch.setattr(VerifiedCIFAR100, 'meta', {**VerifiedCIFAR100.meta, 'md5': md5(folder / 'meta')})
    monkeypatch.setattr(VerifiedCIFAR100, 'tgz_md5', md5(archive))
    # instead of https: tests/checkpoints/test_downloads.py
    monkeypatch.setattr(VerifiedCIFAR100, 'tgz_sha256', hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(downloads, 'final_address', str)
    monkeypatch.setattr(VerifiedCIFAR100, 'url', archive.as_uri())
    return archive


@pytest.fixture
def cifar(tmp_path: Path) -> Callable[..., VerifiedCIFAR100]:
    def build(**settings: object) -> VerifiedCIFAR100:
        defaults = dict(type='VerifiedCIFAR100', data_root=str(tmp_path / 'data'), split='train')
        return DATASETS.build({**defaults, **settings})

    return build


def files_below(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob('*') if file.is_file()}


def test_sums_and_addresses_are_mmpretrains() -> None:
    """The published sums and addresses are mmpretrain's."""
    assert VerifiedCIFAR100.tgz_md5 == 'eb9058c3a382ffc7106e4002c42a8d85'
    assert VerifiedCIFAR10.tgz_md5 == 'c58f30108f718f92721af3b95e74349a'
    assert VerifiedCIFAR100.url.startswith('https://')
    assert VerifiedCIFAR10.url.startswith('https://')


@pytest.mark.parametrize('split', ['train', 'test'])
def test_unpacks_the_archive_it_finds(split: str, published: Path, cifar: Callable, tmp_path: Path) -> None:
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / published.name).write_bytes(published.read_bytes())
    data = cifar(split=split, download=False)
    entry = pickle.loads((published.parent / 'cifar-100-python' / split).read_bytes())
    assert data.get_gt_labels().tolist() == entry['fine_labels']
    want = entry['data'][1].reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.array_equal(data.get_data_info(1)['img'], want)
    assert len(data.metainfo['classes']) == 100
    assert files_below(tmp_path / 'data') == {
        'cifar-100-python.tar.gz',
        *(f'cifar-100-python/{name}' for name in ('train', 'test', 'meta')),
    }


def test_downloads_when_nothing_is_there(published: Path, cifar: Callable) -> None:
    assert len(cifar()) == 6


def test_repairs_a_damaged_file_from_the_archive(published: Path, cifar: Callable, tmp_path: Path) -> None:
    cifar()
    file = tmp_path / 'data' / 'cifar-100-python' / 'train'
    file.write_bytes(file.read_bytes()[:-1])
    assert len(cifar(download=False)) == 6


def test_missing_files_say_where_to_put_them(cifar: Callable, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r'(?s)cifar-100-python/train is missing.*Put cifar-100-python\.tar\.gz'):
        cifar(download=False)
    assert not (tmp_path / 'data').exists()


def test_failed_download_leaves_nothing(
    published: Path, cifar: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VerifiedCIFAR100, 'url', (tmp_path / 'nowhere.tar.gz').as_uri())
    with pytest.raises(DatasetError, match='could not be downloaded'):
        cifar()
    assert not (tmp_path / 'data').exists()


def test_damaged_files_are_named_and_kept(published: Path, cifar: Callable, tmp_path: Path) -> None:
    folder = tmp_path / 'data' / 'cifar-100-python'
    folder.mkdir(parents=True)
    (folder / 'train').write_text('mine')
    archive = tmp_path / 'data' / published.name
    archive.write_bytes(published.read_bytes()[:-10])
    with pytest.raises(DatasetError, match=r'train is damaged.*test is missing.*tar\.gz is damaged.*delete it'):
        cifar()
    assert (folder / 'train').read_text() == 'mine'
    assert files_below(tmp_path / 'data') == {'cifar-100-python/train', 'cifar-100-python.tar.gz'}


def test_what_came_damaged_is_not_kept(
    published: Path, cifar: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tmp_path / 'short.tar.gz'
    short.write_bytes(published.read_bytes()[:-10])
    monkeypatch.setattr(VerifiedCIFAR100, 'url', short.as_uri())
    root = tmp_path / 'new' / 'data'
    with pytest.raises(DatasetError, match=r'could not be downloaded .*hash'):
        cifar(data_root=str(root))
    assert not root.parent.exists()


def test_impossible_folders_are_named(published: Path, cifar: Callable, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('mine')
    for root in ('file', 'file/below', '/proc/none'):
        with pytest.raises(DatasetError, match=r'VerifiedCIFAR100: data_root='):
            cifar(data_root=str(tmp_path / root))
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.slow
def test_concurrent_runs_do_not_interfere(published: Path, cifar: Callable, tmp_path: Path) -> None:
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / published.name).write_bytes(published.read_bytes())
    with ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(lambda _: len(cifar(download=False)), range(8)))
    assert lengths == [6] * 8


def test_conversion_to_npz(published: Path, tmp_path: Path) -> None:
    main = runpy.run_path(str(TOOLS / 'dataset_converters' / 'cifar_to_npz.py'))['main']
    file, root = tmp_path / 'data' / 'cifar.npz', ['--data-root', str(tmp_path / 'data')]
    main(['cifar100', str(file), *root])
    with np.load(file) as arrays:
        assert {name: array.dtype for name, array in arrays.items()} == dict.fromkeys(
            ['x_train', 'y_train', 'x_test', 'y_test'], np.dtype(np.uint8)
        )
        for split in ('train', 'test'):
            entry = pickle.loads((published.parent / 'cifar-100-python' / split).read_bytes())
            assert arrays[f'y_{split}'].tolist() == entry['fine_labels']
            want = entry['data'].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            assert np.array_equal(arrays[f'x_{split}'], want)
    before = file.read_bytes()
    with pytest.raises(SettingError, match='DST'):
        main(['cifar100', str(file), *root])
    with pytest.raises(SettingError, match='DST'):
        main(['cifar100', str(tmp_path / 'cifar.pkl'), *root])
    assert file.read_bytes() == before
