"""Every loss at the limits of numbers: features without a direction, too large, too small, NaN or infinite.

A loss must be finite with finite gradients, or not finite itself, so that ``SanityCheckHook`` stops the run. The losses
of the package are those that are registered: a new one is tested without an entry here.
"""

import copy
import functools
import inspect
import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from helpers import two_views
from mmpretrain.structures import DataSample
from mmrazor.models.losses import ABLoss
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses import ComparativeLoss, ContrastiveRepresentationLoss, FeatureLoss, ICDLoss
from icd_mmrazor.models.losses.abkd_loss import ABKDLoss
from icd_mmrazor.models.losses.ctkd_loss import CTKDLoss
from icd_mmrazor.models.losses.feature_lists import ShapedListLoss
from icd_mmrazor.models.losses.functional import kd, standardized, unit_vectors
from icd_mmrazor.models.losses.srd_loss import SRDLoss
from icd_mmrazor.models.losses.ttm_loss import TTMLoss
from icd_mmrazor.models.losses.vitkd_loss import ViTKDLoss
from icd_mmrazor.models.losses.vkd_loss import VkDLoss

# arguments of constructors, where a loss has them
SMALL = dict(embed_dims=6, memory_size=12, num_negatives=4, num_samples=12)
SMALL |= dict(teacher_norm=nn.BatchNorm2d(3), teacher_classifier=nn.Linear(6, 4).double())
# of a loss of several features per network: a map of each, and a part of it
LISTS = dict(student_shapes=((3, 4, 4), (3, 1, 1)), teacher_shapes=((2, 2, 2), (2, 1, 1)))
LISTS |= dict(batch_size=8, attention_dims=3)
SHAPES = ('student_shape', 'teacher_shape')
# its targets are exponentials of exponentials: at the default temperature, its gradients are in the thousands
MILD = {'RRDMemoryLoss': dict(temperature=0.5)}


class OfOnePair(nn.Module):
    """Any loss as one between two features, which forgets them: each batch meets the same memory."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        if isinstance(loss, ContrastiveRepresentationLoss):
            loss.normalisers.fill_(loss.num_samples)  # the first batch sets them, without gradients
        if isinstance(loss, CTKDLoss):
            loss.set_progress(epoch=0, iteration=0)
            loss.factor.fill_(1.0)  # theta gets another gradient than that of the value, on purpose

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        # a memory is a buffer that is in checkpoints; parameters stay the same ones
        memories = {*self.loss.state_dict()} - {name for name, _ in self.loss.named_parameters()}
        kept = {id(p): p for p in self.loss.parameters()}
        loss = copy.deepcopy(self.loss, kept) if memories else self.loss
        parameters = inspect.signature(loss.forward).parameters
        samples = [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i % 3) for i in range(len(s))]
        given: dict = dict(data_samples=samples, gt_labels=torch.arange(len(s)) % 3)
        given['negatives'] = torch.tensor([[7, 8, 9, 11]] * len(s))
        given['noise'] = torch.arange(s[0, 0].numel()).expand(len(s), -1)
        # a loss of several features per network gets another one, too
        features = [name for name in parameters if name not in given]
        if getattr(loss, 'reads_views', False):  # the same features in another order for the strong views
            s, t, given['data_samples'] = torch.cat([s, s.flip(0)]), torch.cat([t, t.flip(0)]), two_views(samples)
        values = (s, t) if len(features) == 2 else (s, s.flip(1), t, t.flip(1))
        if isinstance(loss, ShapedListLoss):
            values = tuple([each, each[..., :1, :1]] for each in (s, t))
        elif takes_lists(type(loss)):
            values = [s, s.flip(1)], [t, t.flip(1)]
        named = dict(zip(features, values, strict=True))
        return loss(**named, **{name: value for name, value in given.items() if name in parameters})


def takes_lists(cls: type[FeatureLoss]) -> bool:
    return any(p.annotation == Sequence[Tensor] for p in inspect.signature(cls.forward).parameters.values())


def built(cls: type[FeatureLoss], **settings: object) -> nn.Module:
    given = {**SMALL, **LISTS, **dict(zip(SHAPES, shapes_of(cls), strict=True))}
    small = {name: value for name, value in given.items() if name in inspect.signature(cls).parameters}
    return OfOnePair(cls(**{**small, **MILD.get(cls.__name__, {}), **settings}))


def shapes_of(cls: type[FeatureLoss]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return shapes that a loss compares, the student's and the teacher's, without the batch."""
    if 'preds_S' in inspect.signature(cls.forward).parameters:  # logits of the same classes
        return VECTORS
    if issubclass(cls, ShapedListLoss):
        return (3, 4, 4), (2, 2, 2)
    if takes_lists(cls):
        return MAPS
    if cls.same_width_by:
        return ((3, 2, 2), (3, 4, 4)) if cls.takes_maps else VECTORS
    if len(inspect.signature(cls.forward).parameters) > 3:
        return MAPS
    return ((3, 4, 4), (5, 2, 2)) if cls.takes_maps else ((6,), (4,))


def is_built_so(cls: object) -> bool:
    if not (inspect.isclass(cls) and issubclass(cls, FeatureLoss) and cls.__module__.startswith('icd_mmrazor.')):
        return False
    parameters = inspect.signature(cls).parameters.values()
    return all(p.default is not p.empty or p.name in (*SMALL, *LISTS, *SHAPES) for p in parameters)


MAPS, VECTORS = ((3, 2, 2), (3, 2, 2)), ((6,), (6,))
REGISTERED = [cls for _, cls in sorted(MODELS.module_dict.items()) if is_built_so(cls)]
OURS = {cls.__name__: (functools.partial(built, cls), *shapes_of(cls)) for cls in REGISTERED}
OURS['ICDLoss, contrastive alone'] = (functools.partial(built, ICDLoss, alpha=0), *VECTORS)
OURS['CKD, teacher alone'] = (functools.partial(built, ComparativeLoss, label_weight=0), *VECTORS)
OURS['CKD, KL'] = (functools.partial(built, ComparativeLoss, distance='kl'), *VECTORS)
OURS['WTTM'] = (functools.partial(built, TTMLoss, weighted=True), *VECTORS)
for alpha, beta in ((1, 0), (0, 1), (0, 0)):
    OURS[f'ABKD, {alpha} and {beta}'] = (functools.partial(built, ABKDLoss, alpha=alpha, beta=beta), *VECTORS)
OURS['SRD, correlations'] = (functools.partial(built, SRDLoss, compares='correlations'), *VECTORS)
OURS['SRD, DeiT'] = (functools.partial(built, SRDLoss, compares='correlations', bn_eps=0.0, log_eps=1e-5), *VECTORS)
OURS['VkD, detection'] = (functools.partial(built, VkDLoss, normalize='batch'), *VECTORS)
OURS['ViTKDLoss'] = (
    functools.partial(built, ViTKDLoss, student_shapes=[MAPS[0]] * 2, teacher_shapes=[MAPS[1]] * 2),
    *MAPS,
)
OURS['kd'] = (lambda: Function(kd), *VECTORS)
OURS['kd, standardised'] = (lambda: Function(lambda s, t: kd(standardized(s), standardized(t))), *VECTORS)


class Function(nn.Module):
    """A loss that is a function."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.forward = function


def stock(**cfg: object) -> Callable[[], nn.Module]:
    return functools.partial(MODELS.build, {'_scope_': 'mmrazor', **cfg})


# and mmrazor's that our methods use
LOSSES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    **OURS,
    'KLDivergence': (stock(type='KLDivergence', tau=4.0), *VECTORS),
    'L2Loss': (stock(type='L2Loss', normalize=False, div_element=True), *MAPS),
}
SIDES = ('student', 'teacher', 'both')
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def first_image(features: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([change(features[:1]), features[1:]])


# what may happen to a network's features
DEGENERATE: dict[str, Callable[[Tensor], Tensor]] = {
    'zero': lambda x: 0 * x,
    'tiny': lambda x: 1e-30 * x,
    'subnormal': lambda x: torch.full_like(x, 1e-42) * x.sign(),
    'identical': lambda x: x[:1].expand_as(x),
    'one image zero': lambda x: first_image(x, lambda image: 0 * image),
    'two images equal': lambda x: torch.cat([x[:1], x[:1], x[2:]]),
    'one channel zero': lambda x: torch.cat([0 * x[:, :1], x[:, 1:]], dim=1),
    'hardly active': lambda x: x.relu() * (x > 1),
}
LARGE: dict[str, Callable[[Tensor], Tensor]] = {
    '1e10': lambda x: 1e10 * x,
    '1e30': lambda x: 1e30 * x,
    'largest': lambda x: torch.full_like(x, torch.finfo(torch.float32).max) * x.sign(),
    'largest, one sign': lambda x: torch.full_like(x, torch.finfo(torch.float32).max),
}


def step(
    loss: nn.Module,
    shapes: Sequence[tuple[int, ...]],
    change: Callable[[Tensor], Tensor],
    side: str,
    images: int = 5,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, list[Tensor]]:
    """Return the loss of changed random features, and its gradients."""
    generator = torch.Generator().manual_seed(1)
    leaves = []
    for network, shape in zip(('student', 'teacher'), shapes, strict=True):
        feature = torch.randn(images, *shape, generator=generator)
        feature = change(feature) if side in (network, 'both') else feature
        leaves.append(feature.to(dtype).clone().requires_grad_())
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        value = loss(*leaves)
    leaves += [p for p in loss.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return value.detach(), [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('name', LOSSES)
def test_features_without_a_direction_have_finite_gradients(name: str, dtype: torch.dtype) -> None:
    build, *shapes = LOSSES[name]
    # a batch norm divides what does not vary by the root of 1e-5, and some losses have two in a row
    largest = 1e5 if any(isinstance(module, BATCH_NORMS) for module in build().modules()) else 100
    for case, change in DEGENERATE.items():
        for side in SIDES:
            value, gradients = step(build(), shapes, change, side, dtype=dtype)
            assert value.isfinite(), (case, side)
            for gradient in gradients:
                # a NaN is not less
                assert gradient.abs().max() < largest, (case, side)


@pytest.mark.parametrize('name', LOSSES)
def test_large_features_give_numbers_or_a_stop(name: str) -> None:
    build, *shapes = LOSSES[name]
    for case, change in LARGE.items():
        for side in SIDES:
            value, gradients = step(build(), shapes, change, side)
            finite = all(gradient.isfinite().all() for gradient in gradients)
            assert finite or not value.isfinite(), (case, side)


@pytest.mark.parametrize('images', [1, 2])
@pytest.mark.parametrize('name', LOSSES)
def test_small_batches(name: str, images: int) -> None:
    build, *shapes = LOSSES[name]
    for change in (lambda x: x, DEGENERATE['zero'], DEGENERATE['identical']):
        for side in SIDES:
            value, gradients = step(build(), shapes, change, side, images)
            assert value.isfinite()
            assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize('name', [cls.__name__ for cls in REGISTERED if cls.compares_images])
def test_a_batch_of_one_image_has_no_relations(name: str) -> None:
    build, *shapes = LOSSES[name]
    value, gradients = step(build(), shapes, lambda x: x, 'both', images=1)
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert all(gradient.abs().max().item() == pytest.approx(0.0, abs=1e-5) for gradient in gradients)


# the others are not differences
DIFFERENCES = [
    'L2Loss',
    'kd',
    'kd, standardised',
    'DecoupledKDLoss',
    'CKD, teacher alone',
    'CTKDLoss',
    'CTKDDKDLoss',
    *(name for name in OURS if name.startswith('ABKD')),
    *(f'{name}Loss' for name in ('SP', 'CC', 'RKD', 'PKT', 'NST', 'FSP', 'SRRL', 'ICKD', 'KDSVD')),
]


@pytest.mark.parametrize('name', [*DIFFERENCES, 'AttentionTransferLoss', 'FactorTransferLoss'])
def test_a_student_equal_to_its_teacher_has_no_loss(name: str) -> None:
    build, shape, _ = LOSSES[name]
    features = torch.randn(4, *shape).requires_grad_()
    value = build()(features, features.detach())
    (gradient,) = torch.autograd.grad(value, features)
    assert value.item() == pytest.approx(0.0, abs=1e-5)
    assert gradient.abs().max().item() == pytest.approx(
        0.0, abs=1.0 if name == 'FactorTransferLoss' else 1e-5
    )  # |x| has a corner


@pytest.mark.parametrize('number', [math.nan, math.inf])
@pytest.mark.parametrize('name', LOSSES)
def test_non_finite_features_give_a_non_finite_loss(name: str, number: float) -> None:
    build, *shapes = LOSSES[name]

    def spoil(x: Tensor) -> Tensor:
        x.flatten()[3] = number
        return x

    for side in SIDES:
        value, _ = step(build(), shapes, spoil, side)
        assert not value.isfinite(), side


def test_mmrazors_activation_boundaries_hide_non_finite_features() -> None:
    value = ABLoss()(torch.randn(2, 4, 3, 3), torch.full((2, 4, 3, 3), math.nan))
    assert value.isfinite()


@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('max_tau', [1e-6, 10.0, 1e6])
@pytest.mark.parametrize('log_tau', [-1e4, -200.0, -20.0, 2.3, 3.0, 80.0, 89.0, 1e4])
def test_tau_at_both_limits(log_tau: float, max_tau: float, alpha: float) -> None:
    loss = ICDLoss(alpha, max_tau, log_tau)
    for case in ('identical', 'one image zero', 'hardly active'):
        value, gradients = step(loss, [(6,), (6,)], DEGENERATE[case], 'student')
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)
        try:
            tau = min(math.exp(log_tau), max_tau)
        except OverflowError:
            tau = max_tau
        assert loss.terms['tau'].item() == pytest.approx(tau, rel=1e-5)
        # s, t, log_tau, bias: beyond the limit tau is a constant
        assert tau < max_tau or gradients[2].item() == 0.0


def double(name: str) -> tuple[nn.Module, list[Tensor]]:
    build, *shapes = LOSSES[name]
    generator = torch.Generator().manual_seed(2)
    features = [torch.randn(3, *shape, generator=generator).double().requires_grad_() for shape in shapes]
    return build().double(), features


# weights of the images that follow from the logits, and get no gradient as published
CONSTANT_WEIGHTS = ('WeightedSoftLabelLoss',)


@pytest.mark.parametrize('name', [name for name in LOSSES if name not in CONSTANT_WEIGHTS])
def test_gradients_are_those_of_the_value(name: str) -> None:
    loss, features = double(name)
    # of some losses the teacher gets none, or none through a memory
    if name == 'CRDQueueLoss' or torch.autograd.grad(loss(*features), features[1], allow_unused=True)[0] is None:
        features[1].requires_grad_(False)
    parameters = dict(loss.named_parameters())

    def of_parameters(s: Tensor, t: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(loss, dict(zip(parameters, values, strict=True)), (s, t))

    # of many parameters, random combinations
    fast_mode = sum(p.numel() for p in parameters.values()) > 100
    assert torch.autograd.gradcheck(of_parameters, (*features, *parameters.values()), fast_mode=fast_mode)


# the slopes of the others have steps: a square hinge, |x|, smooth L1
SMOOTH = [
    'ICDLoss',
    'ContrastiveRepresentationLoss',
    'ComparativeLoss',
    'CKD, KL',
    'WTTM',
    'kd, standardised',
    'SRD, correlations',
    'SRD, DeiT',
    *(name for name in OURS if name.startswith('ABKD')),
    *(f'{name}Loss' for name in ('ABDKD', 'CTKD', 'CTKDDKD', 'DecoupledKD', 'NKD', 'OFA', 'PearsonCorrelation', 'RLD')),
    *(f'{name}Loss' for name in ('CRDQueue', 'EGA', 'FSP', 'ICKD', 'ITRD', 'NST', 'PKT', 'RRD', 'RSD', 'SP', 'SRD')),
    *(f'{name}Loss' for name in ('SRRL', 'TTM', 'VID')),
]


@pytest.mark.parametrize('name', [*SMOOTH, 'AttentionTransferLoss', 'KLDivergence', 'L2Loss', 'kd'])
def test_second_derivatives_are_those_of_the_gradients(name: str) -> None:
    loss, (s, t) = double(name)
    assert torch.autograd.gradgradcheck(lambda s: loss(s, t.detach()), (s,))


def test_unit_vectors_equal_torchs() -> None:
    x = torch.randn(40, 7, 3) * torch.logspace(-11, 18, 40)[:, None, None]
    x.requires_grad_()
    weight = torch.randn(x.shape)
    for dim in (1, 2):
        got, want = unit_vectors(x, dim), F.normalize(x, dim=dim)
        assert torch.equal(got, want)
        assert torch.equal(*(torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, want)))


def test_a_vector_without_a_direction_becomes_zero_and_gets_no_gradient() -> None:
    x = torch.tensor([[0.0, 0.0], [1e-13, 0.0], [3.0, 4.0], [math.nan, 1.0], [math.inf, 1.0]], requires_grad=True)
    units = unit_vectors(x)
    (gradient,) = torch.autograd.grad(units[:, 0].sum(), x)
    assert units[:3].tolist() == [[0, 0], [0, 0], [pytest.approx(0.6), pytest.approx(0.8)]]
    assert units[3].isnan().all()
    assert units[4].isnan().any()
    assert gradient[:2].tolist() == [[0, 0], [0, 0]]
    assert gradient[2].tolist() == pytest.approx([0.128, -0.096])


def test_contrasts_stay_in_the_range_of_float32() -> None:
    """At the lowest temperature that is accepted, for the largest similarity."""
    loss = ContrastiveRepresentationLoss(4, temperature=0.02, embed_dims=6, num_samples=50_000)
    towards = F.normalize(torch.ones(6), dim=0)
    for memory in (loss.student_memory, loss.teacher_memory):
        memory.copy_(towards.expand_as(memory))
    pair = OfOnePair(loss)
    loss.normalisers.zero_()
    value, gradients = step(pair, VECTORS, torch.ones_like, 'both')
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    with pytest.raises(SettingError, match=r'temperature=0\.01'):
        ContrastiveRepresentationLoss(temperature=0.01)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('name', OURS)
def test_autocast_computes_in_float32(name: str, dtype: torch.dtype) -> None:
    """Of the package's own losses; mmrazor's get features in float32 from our algorithm and connectors."""
    build, *shapes = LOSSES[name]
    loss = build()
    # the square of 1000 is beyond half precision
    s, t = ((1000 * torch.randn(6, *shape)).to(dtype) for shape in shapes)
    with torch.autocast('cpu', dtype=dtype):
        value = loss(s, t)
    assert value.dtype == torch.float32
    assert value.item() == loss(s.float(), t.float()).item()
    assert math.isfinite(value.item())


@pytest.mark.gpu
@pytest.mark.parametrize('tf32', [False, True])
@pytest.mark.parametrize('name', LOSSES)
def test_gpu_equals_cpu(name: str, tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 keeps 10 bits of the mantissa of what is multiplied."""
    build, *shapes = LOSSES[name]
    loss = build()
    s, t = (torch.randn(6, *shape) for shape in shapes)
    want = loss(s, t).item()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('high' if tf32 else 'highest')
    try:
        loss.cuda()
        with torch.autocast('cuda', dtype=torch.float16):
            got = loss(s.cuda(), t.cuda())
    finally:
        torch.set_float32_matmul_precision(before)
    assert got.item() == pytest.approx(want, rel=2e-2 if tf32 else 1e-4)
