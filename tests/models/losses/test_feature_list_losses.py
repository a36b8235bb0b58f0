"""ReviewKD, SemCKD and AFD against golden numbers of their authors' code and slow rewrites of their formulas."""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DATA
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.weight_schedule import WeightSchedule
from icd_mmrazor.models.losses.afd_loss import AFDLoss
from icd_mmrazor.models.losses.feature_lists import FeatureListLoss
from icd_mmrazor.models.losses.reviewkd_loss import ReviewKDLoss, hierarchical_context
from icd_mmrazor.models.losses.semckd_loss import SemCKDLoss

# the authors' names of parameters and ours
RENAMED = {
    'reviewkd': [],
    'semckd': [
        (r'^query_weight(\d+)', r'queries.\1'),
        (r'^key_weight(\d+)', r'keys.\1'),
        (r'linear1', '0'),
        (r'linear2', '2'),
        (r'^regressor(\d)(\d)\.regressor', r'regressors.\1.\2'),
    ],
    'afd': [
        (r'^attention\.', ''),
        (r'^p_t$', 'teacher_positions'),
        (r'^p_s$', 'student_positions'),
        (r'^linear_trans_t\.query_layer', 'queries'),
        (r'^linear_trans_s\.key_layer', 'keys'),
        (r'^linear_trans_s\.bilinear', 'keys_by_teacher'),
        (r'\.linear\.', '.0.'),
        (r'\.bn\.', '.1.'),
    ],
}
# what the authors' code does in each case besides its inputs
SETTINGS = {
    'reviewkd': lambda golden: {},
    'semckd': lambda golden: dict(batch_size=len(golden['student_0'])),
    'afd': lambda golden: dict(attention_dims=golden['afd/param/attention.p_t'].shape[1]),
}
LOSSES = {'reviewkd': ReviewKDLoss, 'semckd': SemCKDLoss, 'afd': AFDLoss}


def ours(method: str, name: str) -> str:
    for pattern, replacement in RENAMED[method]:
        name = re.sub(pattern, replacement, name)
    return name


def golden_of(method: str, case: str) -> dict[str, Tensor]:
    arrays = np.load(DATA / f'{method}.npz')
    prefix = f'{case}/'
    return {
        name.removeprefix(prefix): torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith(prefix)
    }


def features_of(golden: dict[str, Tensor], network: str) -> list[Tensor]:
    number = sum(name.startswith(f'{network}_') for name in golden)
    features = [golden[f'{network}_{i}'] for i in range(number)]
    # the last one is pooled, if it is
    return [each.flatten(1) if each.shape[2:] == (1, 1) else each for each in features]


def shapes_of(features: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(each.shape[1:]) for each in features]


def assert_close(got: Tensor, want: Tensor, name: str = '') -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12, msg=lambda text: f'{name}: {text}')


@pytest.mark.parametrize('case', ['default', 'hetero'])
@pytest.mark.parametrize('method', LOSSES)
def test_golden_numbers(method: str, case: str) -> None:
    golden = golden_of(method, case)
    students, teachers = (features_of(golden, network) for network in ('student', 'teacher'))
    loss = LOSSES[method](shapes_of(students), shapes_of(teachers), **SETTINGS[method](golden)).double()
    state = {}
    for kind in ('param', 'buffer_before'):
        prefix = f'{method}/{kind}/'
        state |= {
            ours(method, name.removeprefix(prefix)): value for name, value in golden.items() if name.startswith(prefix)
        }
    missing = loss.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith('num_batches_tracked') for name in missing.missing_keys)

    students = [each.requires_grad_() for each in students]
    value = loss(students, teachers)
    value.backward()
    assert_close(value.detach(), golden[f'{method}/loss'], 'loss')
    found = {f'student_{i}': each.grad for i, each in enumerate(students)}
    found |= {name: p.grad for name, p in loss.named_parameters()}
    expected = {
        ours(method, name.removeprefix(f'{method}/grad/')): value
        for name, value in golden.items()
        if name.startswith(f'{method}/grad/')
    }
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(found[name], gradient.reshape(found[name].shape), name)
    buffers, after = dict(loss.named_buffers()), f'{method}/buffer_after/'
    names = [name for name in golden if name.startswith(after) and 'num_batches' not in name]
    assert len(names) == sum('num_batches' not in name for name in buffers)
    for name in names:
        assert_close(buffers[ours(method, name.removeprefix(after))], golden[name], name)
    if method != 'reviewkd':
        assert_close(loss.attention(students, teachers).detach(), golden[f'{method}/part/attention'])


@pytest.mark.parametrize('case', ['default', 'hetero'])
def test_golden_numbers_of_reviewkds_schedule(case: str) -> None:
    golden = golden_of('reviewkd', case)
    schedule = WeightSchedule.of('', dict(type='Linear', begin=0, end=21, start_factor=0.0))
    assert [schedule.factor(epoch) for epoch in (0, 1, 20, 21, 239)] == [0, 0.05, 1, 1, 1]
    weight = golden['reviewkd/setting/weight'] * schedule.factor(golden['reviewkd/setting/epoch'].item())
    assert_close(weight * golden['reviewkd/loss'], golden['reviewkd/part/weighted'])


def normed(x: Tensor) -> Tensor:
    """Normalise each channel over everything else, as a new batch norm does."""
    mean = x.transpose(0, 1).flatten(1).mean(1)
    variance = x.transpose(0, 1).flatten(1).var(1, correction=0)
    shape = (1, -1, *[1] * (x.ndim - 2))
    return (x - mean.reshape(shape)) / (variance.reshape(shape) + 1e-5).sqrt()


def averaged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Average a map over cells, by loops."""
    out = x.new_zeros(*x.shape[:2], *size)
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * x.shape[2] // size[0], -(-(i + 1) * x.shape[2] // size[0]))
            columns = slice(j * x.shape[3] // size[1], -(-(j + 1) * x.shape[3] // size[1]))
            out[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    return out


def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = ([i * old // new for i in range(new)] for old, new in zip(x.shape[2:], size, strict=True))
    return x[:, :, rows][..., columns]


def slow_reviewkd(loss: ReviewKDLoss, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    above, total = None, 0
    for level, (s, t) in enumerate(zip(students[::-1], teachers[::-1], strict=True)):
        fusion = loss.abfs[level]
        s, t = (each.reshape(*each.shape, *[1] * (4 - each.ndim)) for each in (s, t))
        s = normed(torch.einsum('bchw,oc->bohw', s, fusion.conv1[0].weight[:, :, 0, 0]))
        if level:
            above = nearest(above, s.shape[2:])
            convolution = fusion.att_conv[0]
            both = torch.cat([s, above], 1)
            gates = 1 / (1 + torch.exp(-torch.einsum('bchw,oc->bohw', both, convolution.weight[:, :, 0, 0])))
            bias = convolution.bias.reshape(1, 2, 1, 1)
            gates = 1 / (1 + (1 / gates - 1) * torch.exp(-bias))
            s = gates[:, :1] * s + gates[:, 1:] * above
        above = nearest(s, t.shape[2:])
        s = normed(F.conv2d(above, fusion.conv2[0].weight, padding=1))
        sizes = [tuple(t.shape[2:]), *((i, i) for i in (4, 2, 1) if i < min(t.shape[2:]))]
        parts = [((averaged(s, size) - averaged(t, size)) ** 2).mean() for size in sizes]
        total = total + sum(part / 2**i for i, part in enumerate(parts)) / sum(1 / 2**i for i in range(len(parts)))
    return total


def slow_semckd(loss: SemCKDLoss, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    images = len(students[0])

    def embedded(x: Tensor, layers: nn.Sequential) -> Tensor:
        rows = torch.zeros(images, loss.batch_size, dtype=x.dtype)
        for i in range(images):
            for j in range(images):
                rows[i, j] = (x[i] * x[j]).sum()
        rows = (rows @ layers[0].weight.T + layers[0].bias).clamp(min=0) @ layers[2].weight.T + layers[2].bias
        return rows / (rows**2).sum(1, keepdim=True).sqrt()

    queries = [embedded(*each) for each in zip(students, loss.queries, strict=True)]
    keys = [embedded(*each) for each in zip(teachers, loss.keys, strict=True)]
    total = 0
    for i, s in enumerate(students):
        errors = []
        for j, t in enumerate(teachers):
            size = min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3])
            one, two, three = (loss.regressors[i][j][k].weight for k in (0, 3, 6))
            x = normed(F.conv2d(averaged(s, size), one)).clamp(min=0)
            x = F.conv2d(normed(F.conv2d(x, two, padding=1)).clamp(min=0), three)
            errors.append([((x[b] - averaged(t, size)[b]) ** 2).mean() for b in range(images)])
        for b in range(images):
            scores = [math.exp((queries[i][b] * key[b]).sum().item()) for key in keys]
            total = total + sum(score / sum(scores) * row[b] for score, row in zip(scores, errors, strict=True))
    return total / (images * len(students))


def slow_afd(loss: AFDLoss, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
    images, dims = len(students[0]), loss.attention_dims

    def linear(x: Tensor, layers: nn.Sequential) -> Tensor:
        return normed(x @ layers[0].weight.T + layers[0].bias)

    queries = [linear(t.mean((2, 3)), layers) for t, layers in zip(teachers, loss.queries, strict=True)]
    keys = [linear(s.mean((2, 3)), layers).clamp(min=0) for s, layers in zip(students, loss.keys, strict=True)]
    keys = linear(torch.cat(keys), loss.keys_by_teacher).chunk(len(students))
    total = 0
    for b in range(images):
        for i, t in enumerate(teachers):
            scores, errors = [], []
            for j, s in enumerate(students):
                key = keys[j][b, i * dims : (i + 1) * dims]
                offset = (loss.teacher_positions[i] * loss.student_positions[j]).sum()
                scores.append(((queries[i][b] * key).sum() + offset) / dims**0.5)
                x = averaged((s[b : b + 1] ** 2).mean(1, keepdim=True), t.shape[2:]).flatten()
                y = (t[b] ** 2).mean(0).flatten()
                errors.append(((x / (x**2).sum().sqrt() - y / (y**2).sum().sqrt()) ** 2).mean())
            weights = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
            total = total + (weights * torch.stack(errors)).sum()
    return total / images


REWRITES: dict[str, Callable] = {'reviewkd': slow_reviewkd, 'semckd': slow_semckd, 'afd': slow_afd}
# as many, in pairs of different sizes, not square
STUDENT = [(3, 6, 8), (4, 3, 4), (6, 2, 2)]
TEACHER = [(5, 12, 16), (4, 5, 6), (7, 1, 2)]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('number', [1, 2, 3])
@pytest.mark.parametrize('method', LOSSES)
def test_equals_a_slow_rewrite(method: str, number: int, dtype: torch.dtype) -> None:
    settings = dict(semckd=dict(batch_size=8), afd=dict(attention_dims=6), reviewkd={})[method]
    students, teachers = ([torch.randn(6, *shape) for shape in shapes[:number]] for shapes in (STUDENT, TEACHER))
    if method == 'reviewkd' and number > 1:
        students, teachers = [*students, torch.randn(6, 5)], [*teachers, torch.randn(6, 9)]
    students, teachers = ([each.to(dtype) for each in features] for features in (students, teachers))
    loss = LOSSES[method](shapes_of(students), shapes_of(teachers), loss_weight=2.0, **settings).to(dtype)
    value, want = loss(students, teachers), 2 * REWRITES[method](loss, students, teachers)
    assert value.dtype == dtype
    assert value.item() == pytest.approx(want.item(), rel=1e-10 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize('method', ['semckd', 'afd'])
def test_any_numbers_of_maps(method: str) -> None:
    students, teachers = [torch.randn(4, 2, 4, 4)] * 3, [torch.randn(4, 3, 2, 2)]
    settings = dict(semckd=dict(batch_size=4), afd=dict(attention_dims=2))[method]
    loss = LOSSES[method](shapes_of(students), shapes_of(teachers), **settings)
    assert loss(students, teachers).item() == pytest.approx(REWRITES[method](loss, students, teachers).item(), rel=1e-4)


def test_reviewkd_takes_maps_at_equal_distances_of_the_network_with_more() -> None:
    students, teachers = [(2, 8, 8), (3, 4, 4), (6,)], [(5, 16, 16), (7, 8, 8), (8, 4, 4), (9, 2, 2), (10,)]
    loss = ReviewKDLoss(students, teachers)
    assert [fusion.conv1[0].in_channels for fusion in loss.abfs] == [6, 3, 2]
    assert [fusion.conv2[0].out_channels for fusion in loss.abfs] == [10, 9, 7]
    features = [torch.randn(4, *shape) for shape in students]
    others = [torch.randn(4, *shape) for shape in teachers]
    value = loss(features, others)
    for i in (0, 2):
        others[i] = torch.zeros_like(others[i])
    assert loss(features, others) == value
    others[1] = torch.zeros_like(others[1])
    assert loss(features, others) != value


@pytest.mark.parametrize(
    ('widest', 'settings', 'want'), [(640, {}, 512), (256, {}, 256), (640, dict(mid_channels=256), 256)]
)
def test_width_of_reviewkds_fusions(widest: int, settings: dict, want: int) -> None:
    loss = ReviewKDLoss([(8, 4, 4), (widest,)], [(8, 4, 4), (8,)], **settings)
    assert {fusion.conv1[0].out_channels for fusion in loss.abfs} == {want}


def test_hierarchical_context_weighs_the_sizes_below_that_of_the_map() -> None:
    """Only the mean of the maps differs: all sizes have the same error."""
    teacher = torch.randn(2, 3, 8, 8)
    assert hierarchical_context(teacher + 2, teacher).item() == pytest.approx(4)
    # only within cells of 2 x 2 pixels: 1 of the weights 1, 1/2, 1/4
    student = teacher[..., :4, :4] + torch.tensor([1.0, -1.0]).repeat(2)
    assert hierarchical_context(student, teacher[..., :4, :4]).item() == pytest.approx(1 / 1.75)


def test_starts_as_published() -> None:
    torch.manual_seed(0)
    review = ReviewKDLoss([(256, 2, 2), (300,)], [(200, 2, 2), (400,)])
    for fusion in review.abfs:
        for convolution in (fusion.conv1[0], fusion.conv2[0]):
            weight = convolution.weight
            bound = math.sqrt(3 / weight[0].numel())
            assert weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
            assert weight.abs().max() <= bound
    attention = AFDLoss([(3, 2, 2)] * 40, [(3, 2, 2)] * 60, attention_dims=50)
    for positions in (attention.student_positions, attention.teacher_positions):
        assert positions.std().item() == pytest.approx(math.sqrt(2 / sum(positions.shape)), rel=0.1)


@pytest.mark.parametrize('images', [2, 5, 8])
def test_semckd_takes_smaller_batches(images: int) -> None:
    loss = SemCKDLoss([(3, 4, 4)], [(5, 2, 2)], batch_size=8)
    students, teachers = [torch.randn(images, 3, 4, 4).requires_grad_()], [torch.randn(images, 5, 2, 2)]
    value = loss(students, teachers)
    value.backward()
    assert value.item() > 0
    assert students[0].grad.abs().max() > 0
    assert all(p.grad is not None for p in loss.parameters())


def test_semckd_refuses_larger_batches() -> None:
    loss = SemCKDLoss([(3, 4, 4)], [(5, 2, 2)], batch_size=8)
    with pytest.raises(SettingError, match=r'batch_size=8.* 9 images'):
        loss([torch.randn(9, 3, 4, 4)], [torch.randn(9, 5, 2, 2)])


@pytest.mark.parametrize('method', LOSSES)
def test_one_image_trains_nothing(method: str) -> None:
    """Batch norms have no statistics of it, and it must not end a run."""
    loss = LOSSES[method]([(3, 2, 2)], [(4, 2, 2)])
    student = torch.randn(1, 3, 2, 2).requires_grad_()
    loss([student], [torch.randn(1, 4, 2, 2)]).backward()
    assert not student.grad.any()
    assert all(p.grad is not None and not p.grad.any() for p in loss.parameters())
    assert loss.eval()([student], [torch.randn(1, 4, 2, 2)]) > 0


@pytest.mark.parametrize('method', LOSSES)
def test_the_teacher_gets_no_gradient(method: str) -> None:
    loss = LOSSES[method]([(3, 2, 2)], [(4, 2, 2)])
    teacher = torch.randn(3, 4, 2, 2).requires_grad_()
    loss([torch.randn(3, 3, 2, 2)], [teacher]).backward()
    assert teacher.grad is None


@pytest.mark.parametrize(
    ('students', 'teachers', 'named'),
    [
        ([], [(4, 2, 2)], 'student_shapes'),
        ('maps', [(4, 2, 2)], 'student_shapes'),
        ([(3, 2, 2)], [(16, 32)], 'teacher_shapes'),
        ([(3, 2, 2)], [(16, 0, 2)], 'teacher_shapes'),
        ([(3,), (3, 2, 2)], [(4, 2, 2)], 'student_shapes'),
    ],
)
@pytest.mark.parametrize('method', LOSSES)
def test_other_features_are_refused(method: str, students: list, teachers: list, named: str) -> None:
    with pytest.raises(SettingError, match=named):
        LOSSES[method](students, teachers)


def test_pooled_features_are_refused_but_in_the_end_of_reviewkds_lists() -> None:
    for method in ('semckd', 'afd'):
        with pytest.raises(SettingError, match='teacher_shapes'):
            LOSSES[method]([(3, 2, 2)], [(4, 2, 2), (4,)])
    with pytest.raises(SettingError, match='only the teacher has a pooled feature'):
        ReviewKDLoss([(3, 2, 2)], [(4, 2, 2), (4,)])
    with pytest.raises(SettingError, match='only the student has a pooled feature'):
        ReviewKDLoss([(3, 2, 2), (4,)], [(4, 2, 2)])


@pytest.mark.parametrize(
    ('build', 'named'),
    [
        (lambda shapes: ReviewKDLoss(*shapes, mid_channels=0), 'mid_channels=0'),
        (lambda shapes: SemCKDLoss(*shapes, batch_size='64'), 'batch_size='),
        (lambda shapes: SemCKDLoss(*shapes, batch_size=3), 'batch_size=3'),
        (lambda shapes: AFDLoss(*shapes, attention_dims=1.5), 'attention_dims'),
        (lambda shapes: AFDLoss(*shapes, loss_weight='much'), 'loss_weight'),
    ],
)
def test_wrong_settings_are_refused(build: Callable, named: str) -> None:
    with pytest.raises(SettingError, match=named):
        build(([(3, 2, 2)], [(4, 2, 2)]))


@pytest.mark.parametrize(
    ('students', 'teachers', 'named'),
    [
        ([], [(4, 4, 2, 2)], 's_features'),
        ([(4, 3, 2, 2)] * 2, [(4, 4, 2, 2)], 's_features'),
        ([(4, 3, 2, 2)], [(4, 5, 2, 2)], 't_features'),
        ([(4, 3, 2, 2)], [(4, 4)], 't_features'),
        ([(0, 3, 2, 2)], [(0, 4, 2, 2)], 's_features'),
        ([(4, 3, 2, 2)], [(5, 4, 2, 2)], 'same images'),
    ],
)
@pytest.mark.parametrize('method', LOSSES)
def test_features_that_it_was_not_built_for_are_refused(
    method: str, students: list, teachers: list, named: str
) -> None:
    loss = LOSSES[method]([(3, 2, 2)], [(4, 2, 2)])
    with pytest.raises(SettingError, match=named):
        loss([torch.randn(shape) for shape in students], [torch.randn(shape) for shape in teachers])


@pytest.mark.parametrize('method', LOSSES)
def test_images_of_another_size(method: str) -> None:
    loss = LOSSES[method]([(3, 2, 2)], [(4, 2, 2)])
    assert loss([torch.randn(4, 3, 6, 6)], [torch.randn(4, 4, 3, 3)]).isfinite()


@pytest.mark.parametrize('method', LOSSES)
def test_one_graph_when_compiled(method: str) -> None:
    students, teachers = [(3, 4, 4), (4, 2, 2)], [(4, 4, 4), (5, 2, 2)]
    loss = LOSSES[method](students, teachers).double()
    features = [[torch.randn(4, *shape).double() for shape in shapes] for shapes in (students, teachers)]
    compiled = torch.compile(loss, backend='eager', fullgraph=True)
    assert compiled(*features).item() == pytest.approx(loss(*features).item(), rel=1e-12)


def test_the_printed_model_shows_settings_but_not_the_shapes() -> None:
    loss: FeatureListLoss = AFDLoss([(3, 2, 2)] * 54, [(4, 2, 2)] * 54, loss_weight=200.0)
    assert loss.extra_repr() == 'attention_dims=128, loss_weight=200.0'
