"""Self-supervised knowledge distillation using singular value decomposition (KD-SVD)."""

import itertools
import math

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.feature_lists import FeatureListLoss, Shapes
from icd_mmrazor.models.losses.functional import unit_vectors

# of the student's vectors, so many more are candidates for those of the teacher
SPARE = 3
# singular values are equal, or 0, if their squares differ by less than this many rounding errors of the largest
ROUNDING = 100


@MODELS.register_module()
class KDSVDLoss(FeatureListLoss):
    """Self-supervised knowledge distillation using singular value decomposition (KD-SVD), ECCV 2018, arXiv 1807.06819.

    The map of an image is a matrix of pixels and channels, and is reduced to its ``k`` leading right singular vectors.
    Each of the teacher takes the one of the student's leading ``k + 3`` with the largest cosine, and gives it its sign
    and its share of the singular values. A kernel, ``exp(-(a - b)**2 / 8)``, between the components of the vectors of
    one map and those of the next describes the flow between them. The loss is the squared difference of the student's
    from the teacher's, summed over everything but the images.

    Four different losses have this name. With ``B`` images in a batch, they are:

    * HobbitLong/RepDistiller (b84f547), which is the one here;
    * megvii-research/mdistiller (a08d46f): ``vectors='width'``. It reshapes the map into rows of pixels, so that the
      vectors are over the width, and the sizes must be equal;
    * the author's code of 2019 (sseung0703/KD_methods_with_TF, 9fb5414): ``B`` times the value, and the gradient that
      its own SVD returns is twice as large as the true one, so ``2 B`` times the gradient;
    * the author's code of 2018 (sseung0703/SSKD_SVD, 59184b4): ``B / 2`` times the value for ``k=1``, from ``k + 1``
      candidates. A filter for infinities sets its gradient to 0 for maps of at least as many pixels as channels.

    A singular vector is only known up to its sign, on which the loss depends: here its largest component is positive.
    The published code leaves this to the library. For ``k=1`` after a ReLU all components of a vector have one sign,
    and the numbers agree if the library gives all maps the same one, as it nearly always does. Where singular values
    are equal, the vectors are undefined and the gradient is infinite: here the part of the gradient that turns one such
    vector into the other is left out, and vectors with the singular value 0 are left out, too. A dead channel or a dead
    map gives no NaN.

    Args:
        k: How many singular vectors of a map are compared.
        vectors: ``'channels'``, or ``'width'`` as in mdistiller.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        losses=dict(kdsvd=dict(
            loss=dict(type='KDSVDLoss'),
            inputs=dict(
                s_features=dict(network='student', feature=['maps']),
                t_features=dict(network='teacher', feature=['maps']))))
    """

    def __init__(self, k: int = 1, vectors: str = 'channels', loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.k = checks.positive_int(self, 'k', k)
        self.vectors = checks.one_of(self, 'vectors', vectors, ('channels', 'width'))

    def check_shapes(self, s_features: Shapes, t_features: Shapes) -> None:
        """Refuse maps that cannot be compared, given the shapes of both networks' maps, ``C x H x W``.

        Raises:
            SettingError: One is not a map, there are not two of each at least, the same number, or widths differ.
        """
        if any(len(shape) != 3 or 0 in shape for shape in (*s_features, *t_features)):
            raise SettingError(
                f'KDSVDLoss takes maps, images x channels x height x width; without the images, s_features are '
                f'{s_features}, t_features {t_features}. Record stages of the networks.'
            )
        if len(s_features) != len(t_features) or len(s_features) < 2:
            raise SettingError(
                f'KDSVDLoss compares each map with the next; the student has {len(s_features)}, the teacher '
                f'{len(t_features)}. Name the same number of both, two or more.'
            )
        dim, what = (0, 'channels') if self.vectors == 'channels' else (2, 'columns')
        student, teacher = ([shape[dim] for shape in shapes] for shapes in (s_features, t_features))
        different = [f'map {i}' for i, (s, t) in enumerate(zip(student, teacher, strict=True), start=1) if s != t]
        if different:
            raise SettingError(
                f'KDSVDLoss compares maps with the same number of {what}; {", ".join(different)} of the two networks '
                f"differ. The student's maps have {', '.join(map(str, student))} {what}, the teacher's "
                f'{", ".join(map(str, teacher))}. Use a pair of one family, or another method.'
            )

    def compare(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Compute the loss without its weight, a scalar, of maps ``B x C x H x W`` of both networks."""
        flows = []
        for below, above in itertools.pairwise(map(self._aligned, student, teacher)):
            s_flow, t_flow = (_kernel(*vectors) for vectors in zip(below, above, strict=True))
            flows.append((s_flow - t_flow).square().sum())
        return torch.stack(flows).sum() / len(student[0])

    def _aligned(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of the student's map and those of the teacher's, ``B x C x k``, one for the other."""
        with torch.no_grad():
            t_vectors, values = right_vectors(self._matrix(teacher), self.k)
            t_vectors, share = signed(t_vectors), unit_vectors(values)[:, None]
        s_vectors, _ = right_vectors(self._matrix(student), self.k + SPARE)
        cosines = s_vectors.detach().mT @ t_vectors
        best = cosines.abs().argmax(dim=1, keepdim=True)
        signs = cosines.gather(1, best).sign()
        chosen = s_vectors.gather(2, best.expand(-1, s_vectors.shape[1], -1))
        return chosen * signs * share, t_vectors * share

    def _matrix(self, feature: Tensor) -> Tensor:
        return feature.flatten(2).mT if self.vectors == 'channels' else feature.flatten(1, 2)


def _kernel(below: Tensor, above: Tensor) -> Tensor:
    """Return how near each component of a map's vectors is to each of the next map's, ``B x C x C' x k``."""
    return (-(below[:, :, None] - above[:, None]).square() / 8).exp()


def signed(vectors: Tensor) -> Tensor:
    """Give the vectors along dimension 1 the sign that makes their largest component positive."""
    return vectors * vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)).sign()


def right_vectors(matrices: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Compute the leading right singular vectors of matrices, ``B x M x N``.

    They are found as eigenvectors of the smaller Gram matrix, in a fraction of the time of an SVD. Those of the
    singular value 0 are set to 0.

    Args:
        matrices: The matrices; a NaN in one makes its vectors NaN.
        number: How many vectors, at most; there are no more than ``min(M, N)``.

    Returns:
        The vectors, ``B x N x number``, with gradients, and the singular values relative to the norm of the matrix,
        ``B x number``, the largest first.
    """
    # the vectors do not depend on the scale
    matrices = unit_vectors(matrices.flatten(1)).view_as(matrices)
    transposed = matrices.shape[2] > matrices.shape[1]
    gram = matrices @ matrices.mT if transposed else matrices.mT @ matrices
    vectors, values, tolerance = _eigenvectors(gram, number)
    if transposed:
        vectors = unit_vectors(matrices.mT @ vectors)
    return vectors * (values > tolerance)[:, None], values.clamp(min=0).sqrt()


def _eigenvectors(gram: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the leading eigenvectors of symmetric matrices, with a gradient that is finite for equal eigenvalues.

    Returns:
        The vectors, ``B x N x number``, their eigenvalues, ``B x number``, and the difference up to which eigenvalues
        count as equal, ``B x 1``.
    """
    with torch.no_grad():
        values, basis = torch.linalg.eigh(torch.where(gram.isfinite(), gram, 0))
        values, basis = values.flip(1), basis.flip(2)
        tolerance = ROUNDING * torch.finfo(gram.dtype).eps * values[:, :1].clamp(min=0)
        leading = values[:, :number]
        gaps = leading[:, None] - values[:, :, None]
        weights = 1 / torch.where(gaps.abs() > tolerance[:, None], gaps, math.inf)
        vectors = basis[:, :, :number]
    # 0, but its gradient is that of the vectors: how a small change of the matrix turns them towards the others
    change = basis.mT @ ((gram - gram.detach()) @ vectors)
    return vectors + basis @ (weights * change), leading, tolerance
