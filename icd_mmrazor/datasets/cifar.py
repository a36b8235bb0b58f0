"""CIFAR-10 and CIFAR-100, verified before use."""

import tarfile
import tempfile
from pathlib import Path

import mmengine.dist as dist
from mmpretrain.datasets import CIFAR10, CIFAR100
from mmpretrain.datasets.utils import check_md5
from mmpretrain.registry import DATASETS

from icd_mmrazor.checkpoints.downloads import download
from icd_mmrazor.errors import DatasetError


class _VerifiedFiles:
    """Files of a CIFAR dataset that are verified, and completed from the archive or over https, before they are read.

    mmpretrain downloads over plain http when https fails, and unpacks in place. Here files appear whole or not at all.
    """

    def load_data_list(self) -> list[dict]:
        """Verify the files on the main process, then read them; every rank raises the same error."""
        problem: list[str | None] = [None]
        if dist.is_main_process():
            try:
                self._complete_files()
            except (DatasetError, OSError, tarfile.TarError) as error:
                problem = [str(error if isinstance(error, DatasetError) else self._error([str(error)]))]
        dist.broadcast_object_list(problem)
        if problem[0]:
            raise DatasetError(problem[0])
        self.download = False  # mmpretrain's own is not verified
        return super().load_data_list()

    @property
    def _root(self) -> Path:
        return Path(self.data_prefix['root']).expanduser()

    @property
    def _published(self) -> dict[str, str]:
        """MD5 sums of the files by their names."""
        return dict([*self.train_list, *self.test_list, (self.meta['filename'], self.meta['md5'])])

    def _problems(self) -> list[str]:
        problems = []
        for name, md5 in self._published.items():
            file = self._root / self.base_folder / name
            if not file.is_file():
                problems.append(f'{self.base_folder}/{name} is missing')
            elif not check_md5(str(file), md5):
                problems.append(f'{self.base_folder}/{name} is damaged (wrong MD5 sum)')
        return problems

    def _complete_files(self) -> None:
        problems = self._problems()
        if not problems:
            return
        archive = self._root / self.filename
        if not archive.is_file():
            if not self.download:
                raise self._error(problems)
            self._download(archive, problems)
        elif not check_md5(str(archive), self.tgz_md5):
            raise self._error([*problems, f'{self.filename} is damaged (wrong MD5 sum); delete it'])
        self._unpack(archive)
        problems = self._problems()
        if problems:
            raise self._error(problems)

    def _download(self, archive: Path, problems: list[str]) -> None:
        new_folders = [folder for folder in (self._root, *self._root.parents) if not folder.exists()]
        try:
            download(self.url, archive, self.tgz_sha256)
        except OSError as error:
            for folder in new_folders:
                if folder.is_dir():
                    folder.rmdir()
            raise self._error([*problems, f'{self.url} could not be downloaded ({error})']) from error

    def _unpack(self, archive: Path) -> None:
        """Unpack the known members alone, and rename each into place when it is whole."""
        target = self._root / self.base_folder
        target.mkdir(exist_ok=True)
        with tarfile.open(archive) as tar, tempfile.TemporaryDirectory(dir=self._root) as folder:
            files = {member.name: member for member in tar if member.isfile()}
            for name in self._published:
                member, part = files.get(f'{self.base_folder}/{name}'), Path(folder, name)
                if member is None:
                    raise tarfile.TarError(f'{archive} has no file {self.base_folder}/{name}')
                part.write_bytes(tar.extractfile(member).read())
                part.replace(target / name)

    def _error(self, problems: list[str]) -> DatasetError:
        return DatasetError(
            f'{type(self).__name__}: data_root={str(self._root)!r} (working folder: {Path.cwd()}): '
            f'{"; ".join(problems)}.\nPut {self.filename} from {self.url}, or its unpacked folder {self.base_folder}, '
            f'into {self._root}; or set data_root of train_dataloader.dataset, val_dataloader.dataset and '
            'test_dataloader.dataset to where they are.'
        )


@DATASETS.register_module()
class VerifiedCIFAR10(_VerifiedFiles, CIFAR10):
    """mmpretrain's ``CIFAR10`` with verified files and clear errors.

    Args:
        data_root: Folder of ``cifar-10-batches-py``, or of its archive ``cifar-10-python.tar.gz``.
        split: ``'train'`` or ``'test'``.
        download: Whether to download the archive (https) if nothing is there.
        **kwargs: Other arguments of ``CIFAR10``.

    Raises:
        DatasetError: Files are missing or damaged and cannot be completed.

    Config example::

        dataset=dict(type='VerifiedCIFAR10', data_root='data/cifar10', split='train', pipeline=[...])
    """

    tgz_sha256 = '6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce'


@DATASETS.register_module()
class VerifiedCIFAR100(_VerifiedFiles, CIFAR100):
    """The same as :class:`VerifiedCIFAR10` for CIFAR-100: ``cifar-100-python`` or ``cifar-100-python.tar.gz``."""

    tgz_sha256 = '85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7'
