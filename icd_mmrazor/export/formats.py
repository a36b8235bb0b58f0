"""The formats that a student is exported to."""

import importlib.util
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.errors import SettingError, UserError, did_you_mean
from icd_mmrazor.export.content import Content, state_data
from icd_mmrazor.export.evaluation import evaluate, test_images
from icd_mmrazor.export.int8 import Calibration, as_int8, calibration_images
from icd_mmrazor.export.onnx import as_onnx
from icd_mmrazor.export.programs import as_exported_program, as_torchscript
from icd_mmrazor.export.running import RUNNABLE, check_logits
from icd_mmrazor.export.safetensors import as_safetensors
from icd_mmrazor.export.timm import as_timm, timm_settings
from icd_mmrazor.export.torchvision import as_torchvision, torchvision_settings
from icd_mmrazor.export.trained import TrainedStudent
from icd_mmrazor.models.networks.hubs import needed_by

ONNX = ('onnx', 'onnxruntime', 'onnxscript')
INT8 = 'onnx-int8'


class Format(NamedTuple):
    """A format.

    Args:
        suffix: The end of its files' names.
        usage: Python lines that use the file, for ``str.format`` with ``file``, ``config`` and ``call``.
        packages: The packages it needs, by the name to import.
        extra: The extra of this package that installs them.
        settings: Returns the name and the arguments that make the network in its library, or refuses the student,
            before any work.
        takes_images: Whether the student is run, so that the size of its images must be known.
    """

    suffix: str
    usage: str
    packages: tuple[str, ...] = ()
    extra: str = ''
    settings: Callable[[TrainedStudent], tuple[str, dict[str, Any]]] | None = None
    takes_images: bool = True


class Exported(NamedTuple):
    """A file that was written.

    Args:
        format: A key of :data:`FORMATS`.
        file: The file; for mmpretrain, its config is next to it, with the suffix ``.py``.
        note: A short description: the shape of the images, how exact it is.
        usage: Python lines that use it.
        metrics: The metrics of the file on the test images, if they were measured.
    """

    format: str
    file: Path
    note: str
    usage: str
    metrics: dict[str, float] | None = None

    def __str__(self) -> str:
        metrics = ''.join(f'{name} {value:.2f}, ' for name, value in (self.metrics or {}).items())
        return f'{self.file}: {self.file.stat().st_size / 1e6:.2f} MB, {metrics}{self.note}'


_SESSION = """\
import onnxruntime
session = onnxruntime.InferenceSession({file!r})
(logits,) = session.run(['logits'], {{'images': images}})  # normalised as its metadata say"""

# the quick ones first, so that what cannot be exported is found soon
FORMATS: dict[str, Format] = {
    'mmpretrain': Format(
        '.pth',
        """\
from mmpretrain import ImageClassificationInferencer
inferencer = ImageClassificationInferencer({config!r}, pretrained={file!r})
print(inferencer('IMAGE_FILE')[0]['pred_label'])""",
        takes_images=False,
    ),
    'safetensors': Format(
        '.safetensors',
        """\
from mmengine.config import Config
from mmpretrain import get_model
from safetensors import safe_open
with safe_open({file!r}, 'pt') as file:
    model = get_model(Config.fromstring(file.metadata()['config'], '.py'))
    model.load_state_dict({{name: file.get_tensor(name) for name in file.keys()}})""",
        ('safetensors',),
        'safetensors',
        takes_images=False,
    ),
    'timm': Format(
        '_timm.pth',
        """\
import timm
model = timm.create_model({call}, checkpoint_path={file!r}).eval()
logits = model(images)""",
        ('timm',),
        'timm',
        timm_settings,
    ),
    'torchvision': Format(
        '_torchvision.pth',
        """\
import torch, torchvision
model = torchvision.models.get_model({call}).eval()
model.load_state_dict(torch.load({file!r}))""",
        settings=torchvision_settings,
    ),
    'torchscript': Format(
        '_torchscript.pt',
        """\
import torch
model = torch.jit.load({file!r})
logits = model(images)  # normalised as its extra file about.json says""",
    ),
    'pt2': Format(
        '.pt2',
        """\
import torch
model = torch.export.load({file!r}).module()
logits = model(images)  # normalised as its extra file about.json says""",
    ),
    'onnx': Format('.onnx', _SESSION, ONNX, 'onnx'),
    INT8: Format('_int8.onnx', _SESSION, ONNX, 'onnx'),
}


def files_of(formats: Iterable[str], out: Path) -> dict[str, Path]:
    """Return the file of each format, in the order of :data:`FORMATS`.

    Args:
        formats: Names of formats.
        out: The name of the files, without a suffix or with ``.pth``.

    Raises:
        SettingError: A format is unknown.
    """
    formats = [*formats]
    for name in formats:
        if name not in FORMATS:
            raise SettingError(f'--to {name}: no such format.{did_you_mean(name, FORMATS)}')
    stem = out.name.removesuffix('.pth')
    return {name: out.with_name(f'{stem}{each.suffix}') for name, each in FORMATS.items() if name in formats}


def check_files(files: Mapping[str, Path], force: bool = False, sources: Collection[Path] = ()) -> None:
    """Check that files can be written and their packages are installed, before any work.

    Args:
        files: The file of each format, from :func:`files_of`.
        force: Whether files that exist are replaced.
        sources: Files that must stay.

    Raises:
        SettingError: A package is missing, a file exists, is a source, or cannot be written.
    """
    for name in files:
        require_packages(f'--to {name}', FORMATS[name].packages, FORMATS[name].extra)
    kept = {source.resolve() for source in sources}
    seen: set[Path] = set()
    for name, first in files.items():
        for file in (first, first.with_suffix('.py')) if name == 'mmpretrain' else (first,):
            setting = f'--to {name}:'
            check_writable(file, setting)
            if file.resolve() in kept:
                raise SettingError(f'{setting} {file} is a source of the export. Give another name.')
            if file.resolve() in seen:
                raise SettingError(f'{setting} {file} is the file of another format. Give another name.')
            if file.exists() and not force:
                raise SettingError(f'{setting} {file} exists. Give another name, or --force to replace it.')
            seen.add(file.resolve())


def require_packages(what: str, packages: Iterable[str], extra: str) -> None:
    """Raise a ``SettingError`` if a package is missing that an extra of this package installs."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise SettingError(
            f"{what} needs {', '.join(missing)}, not installed here. Install: pip install 'icd-mmrazor[{extra}]'"
        )


def export(
    student: TrainedStudent,
    files: Mapping[str, Path],
    size: tuple[int, int] | None = None,
    calibration: Calibration | None = None,
    measure: bool = False,
) -> list[Exported]:
    """Export a student to files, all of which are made and verified before the first is written.

    Args:
        student: The student, from :func:`icd_mmrazor.export.trained.read_student`.
        files: The file of each format, from :func:`files_of`; those that exist are replaced.
        size: Height and width of the images; by default what the test pipeline makes.
        calibration: The images for INT8; by default those of the run's training set.
        measure: Whether to evaluate each file on the test images; an INT8 file is evaluated whenever there are any.

    Returns:
        The files that were written.

    Raises:
        SettingError: A format cannot hold the student, or the size, the calibration or the test images are missing.
        UserError: A network cannot be exported, or its file gives other logits.

    Example::

        student = read_student('work_dirs/distilled/student_best.pth')
        for exported in export(student, files_of(['onnx', 'torchscript'], Path('exported/student'))):
            print(exported)
    """
    calls = {name: _call(*settings(student)) for name in files if (settings := FORMATS[name].settings)}
    if any(FORMATS[name].takes_images for name in files):
        size = size or student.image_size()
        check_logits(student.logits(), (student.channels, *size), student.kind)
    calibration, images = calibration or Calibration(), None
    if INT8 in files:
        images = calibration_images(student, calibration)
    tests, missing = None, ''
    if measure or INT8 in files:
        try:
            tests = test_images(student)
        except UserError as error:
            if measure:
                raise
            missing = f', accuracy not measured: {error}'  # images for the calibration are enough

    contents: dict[str, Content] = {}
    for name in (name for name in FORMATS if name in files):
        if name == INT8:
            float_model = contents['onnx'] if 'onnx' in contents else as_onnx(student, size)
            quantised = as_int8(student, size, float_model.data, images, calibration.reduce_range, tests)
            contents[name] = quantised._replace(note=quantised.note + missing)
        else:
            contents[name] = _MAKERS[name](student, size)
    exported = []
    for name, content in contents.items():
        file, metrics = files[name], content.metrics
        config = file.with_suffix('.py')
        if name == 'mmpretrain':
            atomic_write(student.cfg.pretty_text, config)
        atomic_write(content.data, file)
        if measure and metrics is None and (file.suffix in RUNNABLE or name == 'mmpretrain'):
            metrics = evaluate(student, file if file.suffix in RUNNABLE else None, tests)
        usage = FORMATS[name].usage.format(file=str(file), config=str(config), call=calls.get(name))
        exported.append(Exported(name, file, content.note, usage, metrics))
    return exported


def _call(name: str, settings: Mapping[str, Any]) -> str:
    """Return the arguments of a call as they are written in Python."""
    return ', '.join([repr(name), *(f'{setting}={value!r}' for setting, value in settings.items())])


def _as_mmpretrain(student: TrainedStudent) -> Content:
    meta = student.checkpoint['meta']
    parameters = sum(p.numel() for p in student.model.parameters())
    others = [*student.cfg.get('custom_imports', {}).get('imports', []), *needed_by(student.cfg.model)]
    needs = f'needs {", ".join(others)} in addition to mmpretrain' if others else 'needs only mmpretrain'
    epoch = f', epoch {meta["epoch"]}' if 'epoch' in meta else ''
    kind = f'{student.kind}, {parameters:,} parameters{f", {student.change}" if student.change else ""}'
    return Content(state_data(student.checkpoint), f'{kind}{epoch}, {needs}')


_MAKERS: dict[str, Callable[[TrainedStudent, tuple[int, int]], Content]] = {
    'mmpretrain': lambda student, _: _as_mmpretrain(student),
    'safetensors': lambda student, _: as_safetensors(student),
    'timm': as_timm,
    'torchvision': as_torchvision,
    'torchscript': as_torchscript,
    'pt2': as_exported_program,
    'onnx': as_onnx,
}
