"""What the losses with a memory of embeddings have in common."""

from mmengine.dist import get_world_size
from torch import Tensor

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.gather import batch_sizes, gather_rows


class MemoryLoss(FeatureLoss):
    """Base of a loss between two embeddings and a memory of other images' embeddings.

    Args:
        embed_dims: Width of the embeddings.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range.
    """

    same_width_by = 'LinearProjection'

    def __init__(self, embed_dims: int, loss_weight: float) -> None:
        super().__init__(loss_weight)
        self.embed_dims = self._count('embed_dims', embed_dims)

    def _check(self, s_feature: Tensor, t_feature: Tensor) -> None:
        super()._check(s_feature, t_feature)
        if s_feature.shape[1:] != (self.embed_dims,) or t_feature.shape[1:] != (self.embed_dims,):
            raise SettingError(
                f'{type(self).__name__} takes embeddings, images x embed_dims={self.embed_dims}: s_feature is '
                f'{tuple(s_feature.shape)}, t_feature {tuple(t_feature.shape)}. Give both a LinearProjection '
                f'connector with out_features={self.embed_dims}.'
            )

    def _count(self, name: str, value: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SettingError(f'{type(self).__name__}: {name}={value!r} must be a positive integer.')
        return value

    def _positive(self, name: str, value: float) -> float:
        if self._finite(name, value) <= 0:
            raise SettingError(f'{type(self).__name__}: {name}={value!r} must be more than 0.')
        return value


def of_all_ranks(*rows: Tensor) -> tuple[Tensor, ...]:
    """Gather what every rank has of a batch, without gradients.

    Args:
        *rows: Tensors with one row for each image of this rank; the ranks may have different numbers of images.

    Returns:
        Each with the rows of all ranks, in the order of the ranks: as one process with the whole batch has it.
    """
    rows = tuple(tensor.detach() for tensor in rows)
    if get_world_size() == 1:
        return rows
    sizes = batch_sizes(len(rows[0]), rows[0].device)
    return tuple(gather_rows(tensor, sizes) for tensor in rows)
