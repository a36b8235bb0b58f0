"""The wheel: what it carries, and that it works without the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import CONFIGS, ROOT, run_python

USER_CONFIG = """
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
    (folder / 'mine.py').write_text(USER_CONFIG)
    process = run_python(
        '-c',
        'import icd_mmrazor; from mmengine.config import Config\n'
        'cfg = Config.fromfile("mine.py"); print(icd_mmrazor.__file__, cfg.model.distiller.embed_dims)',
        cwd=folder,
        PYTHONPATH=str(installed),
    )
    assert process.stdout.split() == [str(installed / 'icd_mmrazor' / '__init__.py'), '64'], process.stderr
