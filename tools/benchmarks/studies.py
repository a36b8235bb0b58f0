"""The studies of docs/results.md: methods, pairs, settings and seeds."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icd_mmrazor import recipes

PUBLISHED = 'published'
BATCH, LR, SCALED_LR = 'train_dataloader.batch_size', 'optim_wrapper.optimizer.lr', 0.05 / 64


@dataclass(frozen=True)
class Point:
    """Methods and their settings; the published ones unless ``options`` changes them."""

    methods: tuple[str, ...] = ('icd',)  # or combinations, icd+kd
    options: tuple[str, ...] = ()  # KEY=VALUE, or METHODS:KEY=VALUE for one method
    processes: int = 1  # of each training


@dataclass(frozen=True)
class Axis:
    """A setting that is varied: the label of the axis, and its points by the labels of their ticks."""

    title: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Study:
    """Points that are trained on pairs of networks with several seeds."""

    purpose: str  # a line for --list
    pairs: Sequence[str]
    points: Mapping[str, Point]  # by the names of their folders
    teachers: Sequence[str] = ()  # their configs in configs/vanilla
    seeds: Sequence[int] = (0, 1, 2)
    axes: Mapping[str, Axis] = field(default_factory=dict)  # by the names of their tables
    labels: Mapping[str, str] = field(default_factory=dict)  # of pairs, if their networks do not tell them apart


@functools.cache
def teacher_of(pair: str) -> str:
    """Return the name of a pair's teacher, which its config and its folder share."""
    return Path(recipes.compose(pair, ['icd']).model.teacher_ckpt).parent.name


def icd(*settings: str) -> Point:
    """Return ICD with some settings of its loss changed."""
    return Point(options=tuple(f'model.distiller.icd.{setting}' for setting in settings))


def numbered(name: str, values: Sequence[int], published: int) -> dict[str, str]:
    """Return the points of an axis of numbers."""
    return {str(value): PUBLISHED if value == published else f'{name}-{value}' for value in values}


OF_FEW_CALLS = ('student', 'kd', 'rkd', 'crd', 'icd', 'ckd')


def few_calls(images: int, *changes: str, methods: tuple[str, ...] = OF_FEW_CALLS) -> Point:
    """Return methods on some images, each shown to the teacher once; students see as many as in 8 epochs of 5,000."""
    epochs = 8 * 5_000 // images
    steps = ','.join(str(part * epochs // 8) for part in (5, 6, 7))
    schedule = (
        f'train_cfg.max_epochs={epochs}',
        f'train_cfg.val_interval={epochs}',
        f'param_scheduler.milestones=[{steps}]',
    )
    others = f'train_dataloader.dataset.indices={images}', f'default_hooks.checkpoint.interval={epochs // 8}'
    calls = 'model.teacher_cache.views=first', f'model.teacher_cache.max_teacher_calls={images}'
    return Point(methods, (*schedule, *others, *calls, *changes))


COMPARED = ('student', 'kd', 'at', 'sp', 'crd', 'rrd', 'icd', 'icd+kd')
# the others are for transformers, several labels, two views or batches, attack the teacher, or have a form of ours
LEFT_OUT = ('deit', 'vitkd', 'mld', 'mlkd', 'r2kd', 'mixkd', 'bss', 'ceskd', 'hkd', 'rtk')
OF_BENCHMARK = tuple(name for name in recipes.method_names() if name not in LEFT_OUT)
CIFAR100_TEACHERS = ('res32x4', 'res50', 'res56', 'res110', 'vgg13', 'wrn40-2')
CIFAR100_PAIRS = tuple(pair for pair in recipes.pair_names() if pair.endswith('_cifar100'))
BATCHES = (16, 32, 64, 128, 256, 512)
CALLS = (500, 1_000, 2_500, 5_000)
WITH_TASK = 'model.distiller.student_loss_weight=1'
# RRD was measured in its form of February 2025, the loss's defaults; the method's config is now the form of 2024
RRD_OF_2025 = tuple(f'rrd:model.distiller.losses.rrd.loss.{setting}' for setting in ('_delete_=True', 'type=RRDLoss'))
# what the methods do in their first 30, 20 and 10 of 240 epochs: as shares of 8, or the least that there is
ONE_INITIAL_EPOCH = 'model.distiller.initial_epochs=1', 'param_scheduler.begin=1', 'train_cfg.max_epochs=9'
AT_ITERATION_53 = 'by_epoch=False', 'end=53'
GROWING = ('dkd', 'dkd_ls', 'reviewkd', 'rld')
BEGINNINGS = (
    *(f'{name}:{setting}' for name in ('ab', 'fsp', 'ft') for setting in ONE_INITIAL_EPOCH),
    *(f'{name}:model.distiller.losses.{name}.weight_schedule.{end}' for name in GROWING for end in AT_ITERATION_53),
    'ctkd:model.distiller.losses.ctkd.loss.ramp_epochs=1',
)
BEGINNING_OF_DKD = tuple(option for option in BEGINNINGS if option.startswith('dkd:'))
CORRUPTED = {
    **{f'noise{percent}': f'{percent} % random labels' for percent in (20, 40, 60)},
    **{f'tail{gamma}': f'long tail, gamma {gamma}' for gamma in (1, 2)},
}

ABLATIONS = {
    PUBLISHED: Point(('student', 'icd', 'icd+kd')),
    'contrastive-only': icd('alpha=0'),
    'invariance-only': icd('contrastive_weight=0'),
    'alpha-0.25': icd('alpha=0.25'),
    'alpha-1': icd('alpha=1'),
    # exp(1), where the learned one starts, and its limit of 10
    'tau-fixed-2.7': icd('learn_tau=False'),
    'tau-fixed-10': icd('learn_tau=False', 'init_log_tau=2.302585'),
    **{f'max-tau-{limit}': icd(f'max_tau={limit}') for limit in (5, 20, 50)},
    **{f'width-{width}': Point(options=(f'model.distiller.embed_dims={width}',)) for width in (16, 64, 256, 512)},
    # batch size and learning rate change the student alone, too
    **{
        f'batch-{size}': Point(('student', 'icd'), (f'{BATCH}={size}', f'{LR}={SCALED_LR * size:g}'))
        for size in BATCHES
        if size != 64
    },
    'negatives-own': Point(options=(f'{BATCH}=32',), processes=2),
    'negatives-all': Point(options=(f'{BATCH}=32', 'model.distiller.icd.gather_distributed=True'), processes=2),
}
AXES = {
    'terms': Axis(
        'terms of the objective',
        {'contrastive\nonly': 'contrastive-only', 'invariance\nonly': 'invariance-only', 'both': PUBLISHED},
    ),
    'alpha': Axis(
        'weight of the invariance term (alpha)',
        {'0': 'contrastive-only', '0.25': 'alpha-0.25', '0.5': PUBLISHED, '1': 'alpha-1'},
    ),
    'tau': Axis(
        'temperature (tau)', {'fixed at 2.7': 'tau-fixed-2.7', 'fixed at 10': 'tau-fixed-10', 'learned': PUBLISHED}
    ),
    'max_tau': Axis('limit of the temperature (max_tau)', numbered('max-tau', (5, 10, 20, 50), published=10)),
    'width': Axis('width of the embeddings', numbered('width', (16, 64, 128, 256, 512), published=128)),
    'batch': Axis('batch size, learning rate in proportion', numbered('batch', BATCHES, published=64)),
    'negatives': Axis(
        'processes and negatives',
        {
            '1 process,\nits 63': PUBLISHED,
            '2 processes,\n31 of its own': 'negatives-own',
            '2 processes,\n63 of both': 'negatives-all',
        },
    ),
}

STUDIES = {
    'cifar10-5k': Study(
        'eight methods on two pairs, 5,000 images of CIFAR-10, 8 epochs; for two CPU cores',
        ('res56_res20_cifar10-5k', 'wrn40-2_wrn16-2_cifar10-5k'),
        {PUBLISHED: Point(COMPARED, RRD_OF_2025)},
        ('res56_cifar10-16k', 'wrn40-2_cifar10-16k'),
    ),
    'methods': Study(
        'all methods on one pair, 5,000 images of CIFAR-10, 8 epochs; for two CPU cores',
        # after so few epochs, a ResNet-56 is the weaker teacher
        ('res20_res8_cifar10-5k',),
        {PUBLISHED: Point((*OF_BENCHMARK, 'icd+kd'), BEGINNINGS)},
        ('res20_cifar10-16k',),
    ),
    'noise': Study(
        'eight methods with wrong labels, or with classes of different sizes, CIFAR-10, 8 epochs; for two CPU cores',
        ('res20_res8_cifar10-5k', *(f'res20_res8_cifar10-{data}' for data in CORRUPTED)),
        {PUBLISHED: Point(('student', 'kd', 'at', 'sp', 'rkd', 'dist', 'dkd', 'icd', 'icd+kd'), BEGINNING_OF_DKD)},
        ('res20_cifar10-16k', *(f'res20_cifar10-{data}' for data in CORRUPTED)),
        labels={
            'res20_res8_cifar10-5k': 'as they are',
            **{f'res20_res8_cifar10-{data}': label for data, label in CORRUPTED.items()},
        },
    ),
    'ablations': Study(
        "ICD's settings on a small pair, 5,000 images of CIFAR-10, 8 epochs; for two CPU cores",
        ('res20_res8_cifar10-5k',),
        ABLATIONS,
        ('res20_cifar10-16k',),
        axes=AXES,
    ),
    'calls': Study(
        'six methods with few teacher calls, up to 5,000 images of CIFAR-10, 632 to 640 steps; for two CPU cores',
        ('res20_res8_cifar10-5k',),
        {
            **{f'calls-{images}': few_calls(images) for images in CALLS},
            # CKD as published does not learn the offsets between the classes
            **{f'calls-{images}-task': few_calls(images, WITH_TASK, methods=('ckd',)) for images in CALLS},
        },
        ('res20_cifar10-16k',),
        axes={
            'calls': Axis('number of teacher calls', {f'{images:,}': f'calls-{images}' for images in CALLS}),
            'calls-task': Axis(
                'number of teacher calls, CKD with cross-entropy',
                {f'{images:,}': f'calls-{images}-task' for images in CALLS},
            ),
        },
    ),
    'cifar10': Study(
        'eight methods on two pairs, all of CIFAR-10, 240 epochs; for GPUs',
        ('res32x4_res8x4_cifar10', 'wrn40-2_wrn16-2_cifar10'),
        {PUBLISHED: Point(COMPARED)},
        ('res32x4_cifar10', 'wrn40-2_cifar10'),
    ),
    'cifar100': Study(
        'all methods on the 13 pairs of the published tables, CIFAR-100, 240 epochs, 5 seeds; for GPUs',
        CIFAR100_PAIRS,
        {PUBLISHED: Point((*OF_BENCHMARK, 'icd+kd'))},
        tuple(f'{network}_cifar100' for network in CIFAR100_TEACHERS),
        seeds=(0, 1, 2, 3, 4),
    ),
}
