"""The examples of CONTRIBUTING.md: each is complete, and nothing else is needed."""

import re
import shutil
from pathlib import Path

import pytest
from helpers import ROOT, run_python

TEXT = (ROOT / 'CONTRIBUTING.md').read_text()
# a path, then the content of the file
FILES = re.findall(r'^`([\w/]+\.py)`\n\n(`{3,})python\n(.*?)^\2$', TEXT, re.MULTILINE | re.DOTALL)
HOOK_LINE = r"^    (\w+)=dict\(type='\w+Hook'\),$"

TRAIN = """
import sys

from mmengine.runner import Runner

import generate
from icd_mmrazor import recipes

for file, text in generate.generate().items():
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
cfg = recipes.compose('res20_res8_digits', ['centroid', 'icd'])
cfg.model.update(teacher_ckpt=None, random_teacher=True)
for split in ('train', 'val', 'test'):
    cfg[f'{split}_dataloader'].dataset.data_file = sys.argv[1]
cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'work_dir': 'work'})
runner = Runner.from_cfg(cfg)
runner.train()
print(sorted(runner.message_hub.log_scalars))
"""


@pytest.mark.slow
def test_a_method_is_two_files_and_a_hook_one_file_and_one_line(tmp_path: Path, images_file: Path) -> None:
    """Add both to a copy, generate what follows from them, and train an epoch."""
    copy = tmp_path / 'copy'
    for folder in ('icd_mmrazor', 'configs', 'docs', 'tools'):
        ignored = shutil.ignore_patterns('__pycache__', '_*build', 'results')
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / 'README.md', copy)
    assert len(FILES) == 3
    for name, _, code in FILES:
        (copy / name).write_text(code)
    (line,) = (match[0] for match in re.finditer(HOOK_LINE, TEXT, re.MULTILINE))
    runtime = copy / 'configs' / '_base_' / 'runtimes' / 'default.py'
    runtime.write_text(runtime.read_text().replace('default_hooks = dict(\n', f'default_hooks = dict(\n{line}\n'))

    done = run_python('-c', TRAIN, images_file, cwd=copy, PYTHONPATH=f'{copy}:{copy / "docs"}', OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stderr
    scalars = done.stdout.splitlines()[-1]
    assert {'train/distill.centroid.loss_centroid', 'train/weight_norm'} <= set(re.findall(r"'(.*?)'", scalars))
    page = (copy / 'configs' / 'centroid' / 'README.md').read_text()
    assert page.startswith('# Centroid\n\n> [Centroids for Distillation](https://example.org/centroids), Author and')
    assert '[`centroid`](../configs/centroid/README.md)' in (copy / 'docs' / 'model_zoo.md').read_text()
    assert 'README: configs/centroid/README.md' in (copy / 'configs' / 'metafile.yml').read_text()
