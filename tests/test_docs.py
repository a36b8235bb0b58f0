"""The documentation: links resolve, what is named exists, configs load, the tutorial's commands run."""

import io
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import cv2
import pytest
from helpers import CONFIGS, ROOT, TOOLS, exit_status, run_python
from mmengine.config import Config

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.configuration.stored import read_config_text
from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.models.teacher_cache.layout import Field, RowLayout
from icd_mmrazor.models.teacher_cache.store_folder import size_of_files

DOCS = ROOT / 'docs'
TUTORIAL, BY_HAND = DOCS / 'tutorial.md', DOCS / 'howto' / 'by_hand.md'
PAGES = [ROOT / 'README.md', *sorted(DOCS.glob('*.md')), *sorted(DOCS.glob('[hmr]*/*.md'))]
TOOL = r'(?<!tests/)tools/[\w/-]+\.(?:py|sh)'
# what the shell scripts pass their arguments to
STARTED = {f'{kind}_{name}.sh': f'{name}.py' for kind in ('dist', 'slurm') for name in ('train', 'test')}
# options of other programs
FOREIGN = {
    # srun's and sbatch's
    '--account',
    '--comment',
    '--container-image',
    '--container-mounts',
    '--nodes',
    '--partition',
    '--signal',
    '--time',
    '--logdir',
    '--keys',
    '--nproc_per_node',
}


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(), re.DOTALL | re.MULTILINE)


def files_in(page: Path) -> dict[str, str]:
    """Return the files that a page tells its reader to write, by name."""
    return dict(re.findall(r'^```python\n# (my/\S+\.py)\n(.*?)^```', page.read_text(), re.DOTALL | re.MULTILINE))


def commands(page: Path) -> list[list[str]]:
    """Return the commands of a page, each as its words."""
    lines = '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ').splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def anchors(page: Path) -> set[str]:
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
    return {re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.fixture(scope='module')
def options() -> Callable[[str], set[str]]:
    """Return a function from a tool to the options of its parser."""
    known: dict[str, set[str]] = {}

    def of(tool: str) -> set[str]:
        tool = f'tools/{STARTED[name]}' if (name := Path(tool).name) in STARTED else tool
        if tool not in known:
            file = ROOT / tool
            # as started from its folder, which has its parts
            with redirect_stdout(io.StringIO()) as text, mock.patch.object(sys, 'path', [str(file.parent), *sys.path]):
                # one of those parts has no parser, and only defines
                assert exit_status(file, '--help') in (0, None)
            known[tool] = set(re.findall(r'(?<![\w-])--[a-z][\w-]*', text.getvalue()))
        return known[tool]

    return of


@pytest.mark.parametrize('page', [*PAGES, ROOT / 'CONTRIBUTING.md'], ids=page_name)
def test_links_resolve(page: Path) -> None:
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        path, _, heading = target.partition('#')
        if path.startswith('https://'):
            continue
        found = page.parent / path if path else page
        assert found.is_file(), target
        assert not heading or heading in anchors(found), target


@pytest.mark.parametrize('page', PAGES, ids=page_name)
def test_what_is_named_exists(page: Path, options: Callable) -> None:
    text = page.read_text()
    for name in re.findall(r'(?<!tests/)(?:tools|configs|requirements)/[\w./-]+\.(?:py|sh|txt|csv|md)', text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r'`((?:tests|examples|icd_mmrazor)/[\w./-]+)`', text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r'icd_mmrazor::([\w./-]+\.py)', text):
        assert (CONFIGS / name).is_file(), name
    for words in commands(page):
        tool = next((word for word in words if re.fullmatch(TOOL, word)), None)
        named = {word for word in words if word.startswith('--')}
        # the front of the benchmark passes on what it does not know
        passed_on = options('tools/train.py') if tool == 'tools/benchmarks/train.py' else set()
        assert tool is None or named <= options(tool) | passed_on, words
    # in the text around them: an option of a tool that the page names
    tools = {'tools/train.py', *re.findall(TOOL, text)}
    tools |= {page_name(file) for file in TOOLS.rglob('*.py') if f'`{file.name}`' in text}
    allowed = FOREIGN.union(*map(options, tools))
    for option in re.findall(r'`[^`\n]*?(?<![\w-])(--[a-z][\w-]*)', text):
        assert option in allowed, option


def test_headings_of_the_faq_quote_our_errors(tmp_path: Path) -> None:
    titles = re.findall(r'^### `(.*)`$', (DOCS / 'faq.md').read_text(), re.MULTILINE)
    file = tmp_path / 'FILE'
    file.write_bytes(b'neither an archive nor a pickle')
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(file)
    assert str(refused.value).replace(str(file), 'FILE').partition(' Reason:')[0] in titles
    with pytest.raises(SettingError) as refused:
        read_config_text('model = open("FILE")', 'the config')
    (title,) = (title for title in titles if 'as Python' in title)
    assert title.removeprefix('... ') in str(refused.value)


@pytest.mark.parametrize('page', [page for page in PAGES if files_in(page)], ids=page_name)
def test_configs_load(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path('my').mkdir()
    # the other pages build on these files
    for name, code in {**files_in(BY_HAND), **files_in(page)}.items():
        Path(name).write_text(code)
    for name, code in files_in(page).items():
        if code.startswith('_base_'):
            assert Config.fromfile(name).pretty_text


def follow(page: Path, capfd: pytest.CaptureFixture, short: Callable[[str], str], *more: str) -> dict[str, str]:
    """Run the commands of a page, trainings of one epoch; return what each printed, by its script and arguments."""
    Path('my').mkdir()
    for name, code in files_in(page).items():
        Path(name).write_text(short(code).replace('num_workers=2', 'num_workers=0'))
    outputs: dict[str, str] = {}
    for script, *arguments in (words[1:] for words in commands(page) if words[0] == 'python'):
        arguments = [short(argument) for argument in arguments]
        if script.startswith('my/'):
            # by itself: nothing of this package is needed
            done = run_python(script, OMP_NUM_THREADS='1')
            assert done.returncode == 0, done.stderr
            outputs[script] = done.stdout
            continue
        if script == 'tools/train.py' and arguments[0].startswith('configs/'):
            arguments += ['--cfg-options', *more]
        file = ROOT / script
        arguments = [str(ROOT / word) if word.startswith('configs/') else word for word in arguments]
        status = exit_status(file, *arguments)
        captured = capfd.readouterr()
        assert status is None, (script, captured.err)
        outputs[' '.join([script, *arguments])] = captured.out + captured.err
        if script.endswith('digits_to_folder.py'):
            check_folder(Path(arguments[0]), 100 if '--labeled' in arguments else 1297)
    return outputs


@pytest.mark.slow
def test_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    """Follow it with one epoch and a tenth of the images: the student is in plain mmpretrain what the command said."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TOOLS / 'dataset_converters'))

    def short(word: str) -> str:
        return {'8': '1'}.get(word, word).replace('epoch_20', 'epoch_1')

    outputs = follow(TUTORIAL, capfd, short, 'train_cfg.max_epochs=1')
    (printed,) = (text for command, text in outputs.items() if command.startswith('tools/distill.py'))
    # the tables of the page have the rows of the command
    for row in ('images', 'teacher', 'student', 'method', 'training', 'estimate', 'work folder', 'student alone'):
        assert re.search(rf'^{row} ', printed, re.MULTILINE), row
        assert re.search(rf'^{row} ', TUTORIAL.read_text(), re.MULTILINE), row
    accuracy = re.search(r'^student +([\d.]+) ', printed, re.MULTILINE)[1]
    used = re.search(r"class (\d) score .*\{'accuracy/top1': ([\d.]+)\}", outputs['my/use.py'], re.DOTALL)
    assert float(used[2]) == pytest.approx(float(accuracy), abs=0.01)
    # one network, one image, in mmpretrain and in onnxruntime
    Path('my/use_onnx.py').write_text(files_in(DOCS / 'howto' / 'export_student.md')['my/use_onnx.py'])
    assert run_python('my/use_onnx.py').stdout.strip() == f'class {used[1]}'
    # the config of the page is the one that was written
    config = Path('work_dirs/few_digits/distilled.py').read_text()
    (shown,) = (code for code in blocks(TUTORIAL, 'python') if 'FrozenTeacherDistill' in code)
    for line in shown.splitlines():
        assert any(word in line for word in ('...', 'epoch', 'data_root', 'ann_file')) or line in config, line


@pytest.mark.slow
def test_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    """Follow the page with one epoch and a tenth of the images; the exported student is that of the log."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TOOLS / 'dataset_converters'))

    def short(word: str) -> str:
        return word.replace('max_epochs=20', 'max_epochs=1').replace('epoch_20', 'epoch_1')

    outputs = follow(BY_HAND, capfd, short)
    (trained,) = (text for command, text in outputs.items() if command == 'tools/train.py my/distilled.py')
    (tested,) = (text for command, text in outputs.items() if command.startswith('tools/test.py'))
    accuracy = re.findall(r'Epoch\(val\) \[1\].*accuracy/top1: ([\d.]+)', trained)[-1]
    assert re.findall(r'accuracy/top1: ([\d.]+)', tested) == [accuracy]
    for figure in ('features', 'logits'):
        assert {Path(f'work_dirs/{figure}.{kind}').is_file() for kind in ('png', 'svg')} == {True}


def check_folder(folder: Path, labeled: int) -> None:
    """Check the digits, then keep a tenth of them."""
    files = {split: sorted(folder.glob(f'{split}/*/*.png')) for split in ('train', 'val')}
    files['unlabeled'] = sorted(folder.glob('unlabeled/*.png'))
    numbers = {'train': labeled, 'val': 500, 'unlabeled': 1297 - labeled}
    assert {split: len(found) for split, found in files.items()} == numbers
    assert {file.parent.name for file in files['val']} == set('0123456789')
    assert cv2.imread(str(files['train'][0]), cv2.IMREAD_UNCHANGED).shape == (16, 16)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    # what is there stays there
    assert exit_status(TOOLS / 'dataset_converters' / 'digits_to_folder.py', folder) == 2
    for found in files.values():
        for file in found:
            if file.name > '0150.png':
                file.unlink()


CONTRIBUTING = (ROOT / 'CONTRIBUTING.md').read_text()
# a path, then the content of the file
EXAMPLES = re.findall(r'^`([\w/]+\.py)`\n\n(`{3,})python\n(.*?)^\2$', CONTRIBUTING, re.MULTILINE | re.DOTALL)
HOOK_LINE = r"^    (\w+)=dict\(type='\w+Hook'\),$"

TRAIN_THEM = """
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
    assert len(EXAMPLES) == 3
    for name, _, code in EXAMPLES:
        (copy / name).write_text(code)
    (line,) = (match[0] for match in re.finditer(HOOK_LINE, CONTRIBUTING, re.MULTILINE))
    runtime = copy / 'configs' / '_base_' / 'runtimes' / 'default.py'
    runtime.write_text(runtime.read_text().replace('default_hooks = dict(\n', f'default_hooks = dict(\n{line}\n'))

    done = run_python(
        '-c', TRAIN_THEM, images_file, cwd=copy, PYTHONPATH=f'{copy}:{copy / "docs"}', OMP_NUM_THREADS='1'
    )
    assert done.returncode == 0, done.stderr
    scalars = done.stdout.splitlines()[-1]
    assert {'train/distill.centroid.loss_centroid', 'train/weight_norm'} <= set(re.findall(r"'(.*?)'", scalars))
    page = (copy / 'configs' / 'centroid' / 'README.md').read_text()
    assert page.startswith('# Centroid\n\n> [Centroids for Distillation](https://example.org/centroids), Author and')
    assert '[`centroid`](../configs/centroid/README.md)' in (copy / 'docs' / 'model_zoo.md').read_text()
    assert 'README: configs/centroid/README.md' in (copy / 'configs' / 'metafile.yml').read_text()


def test_sizes_of_caches_are_computed() -> None:
    """A row of the table, and a store's own count of its bytes."""
    networks = {'res56': 64, 'res32x4': 256, 'ResNet-34': 512, 'ResNet-50': 2048}
    images = {'CIFAR-10': (50_000, 10), 'CIFAR-100': (50_000, 100), 'ImageNet': (1_281_167, 1000)}
    text = (DOCS / 'howto' / 'teacher_cache.md').read_text()
    rows = re.findall(r'^\| ([\w-]+), ([\w-]+), (?:all )?(\d+) \| (.*) \|$', text, re.MULTILINE)
    assert len(rows) == 5
    for network, name, views, sizes in rows:
        (number, classes), width = images[name], networks[network]
        computed = []
        for dtype, top_k in (('float32', None), ('bfloat16', None), ('bfloat16', 20)):
            outputs = {'pooled': Field((width,), dtype), 'logits': Field((classes,), dtype)}
            size = size_of_files(number * int(views), RowLayout(outputs, top_k).row_bytes)
            computed.append(f'{size / 1e9:.3g}')
        assert sizes.split(' | ') == computed
