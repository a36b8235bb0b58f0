"""Short trainings with a cache of the teacher's outputs."""

from collections.abc import Callable
from pathlib import Path

from helpers import distiller, scalars
from mmengine.config import Config
from same_checkpoints import differences

ALL = {'views': 'all', 'verify': 0}
FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')


def short_training(
    demo_config: Callable,
    folder: Path,
    methods: str = 'icd',
    cache: dict | None = None,
    work_dir: str = 'work',
    **options: object,
) -> Config:
    """Return a config: two epochs of three batches of 24, 24 and 16 images; a learning rate that matters, and changes.

    Args:
        demo_config: The fixture.
        folder: For the outputs and the work folder.
        methods: The distiller, such as ``'icd+kd'``.
        cache: Settings of the cache; None: there is none.
        work_dir: Name of the work folder.
        **options: Other settings.
    """
    cfg = demo_config(**{'train_dataloader.batch_size': 24, 'train_cfg.max_epochs': 2, **options})
    cfg.model.distiller = distiller(*methods.split('+'))
    cfg.train_dataloader.dataset.indices = None
    cfg.train_dataloader.dataset.pipeline.insert(1, FLIP)
    cfg.param_scheduler = dict(type='CosineAnnealingLR', T_max=6, end=6, by_epoch=False)
    cfg.default_hooks.distillation_report.evaluate_teacher = False
    cfg.default_hooks.pop('export_student')
    cfg.work_dir = str(folder / work_dir)
    if cache is not None:
        cfg.model.teacher_cache = {'path': str(folder / 'outputs'), **cache}
    return cfg


def trained(cfg: Config, runner: Callable) -> Path:
    """Train; return the last checkpoint."""
    runner(cfg).train()
    return Path(cfg.work_dir, f'epoch_{cfg.train_cfg.max_epochs}.pth')


def counts(cfg: Config) -> tuple[int, int]:
    """Return how many outputs a run has used, and on how many images it ran the teacher for them."""
    (found,) = [line for line in scalars(cfg) if 'teacher_asked' in line]
    return found['teacher_asked'], found['teacher_images']


def other_than_counts(one: Path, other: Path) -> list[str]:
    """Return where two checkpoints differ, without the counts."""
    return [each for each in differences(one, other) if not each.startswith('meta.teacher_cache')]
