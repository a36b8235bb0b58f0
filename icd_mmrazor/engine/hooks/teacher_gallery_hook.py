"""The teacher's gallery for a student that searches in it."""

import io
import math
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from icd_mmrazor.checkpoints.writing import write_checkpoint_file
from icd_mmrazor.engine.galleries import embedding_point, gallery_loader, teacher_gallery
from icd_mmrazor.engine.runs import model_of
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.student import GALLERY
from icd_mmrazor.models.networks.features import feature_shapes
from icd_mmrazor.models.networks.image_size import image_shape_seen
from icd_mmrazor.models.networks.retrieval import is_retriever


@HOOKS.register_module()
class TeacherGalleryHook(Hook):
    """Let the student of a distillation search in the teacher's embeddings of the gallery (EmbedDistill).

    The student is an ``ImageToImageRetriever``, whose ``prototype`` names the images. Before a training, a validation
    or a test, the teacher embeds them once, prepared in its own way. The student gets these embeddings instead of its
    own, and so does every module with a method ``set_gallery(embeddings)``, such as ``ScoreDistillationLoss``; a
    resumed run has them from its checkpoint. ``gallery.pth`` in the work folder holds them for the exported student.

    Without this hook, the student is symmetric: it embeds the gallery itself, and needs mmpretrain's
    ``PrepareProtoBeforeValLoopHook`` to do so again for each validation.

    Raises:
        SettingError: The student is not a retriever, its ``prototype`` does not name images, or its embeddings have
            another width than the teacher's.
        CheckpointError: The checkpoint that is resumed has a gallery of another number of images, or of another width.

    Config example::

        custom_hooks=[dict(type='TeacherGalleryHook')]
    """

    # before EMAHook copies the model, and before what validates when a training starts
    priority = 'HIGH'
    changes_training = True

    def before_run(self, runner: Runner) -> None:
        """Make room for the gallery, before a checkpoint is loaded."""
        algorithm = model_of(runner)
        student = getattr(algorithm, 'architecture', None)
        if student is None or not hasattr(algorithm, 'run_teacher') or not is_retriever(student):
            raise SettingError(
                f'TeacherGalleryHook: the model is a {type(algorithm).__name__}, its student a '
                f'{type(student).__name__}. It needs a FrozenTeacherDistill with an ImageToImageRetriever.'
            )
        if isinstance(student.prototype, Tensor):  # of an earlier run of this runner
            return
        loader = gallery_loader(student)
        shape, source = tuple(loader.dataset[0]['inputs'].shape), getattr(algorithm.distiller, 'teacher_source', None)
        own = _width(student, None, shape)
        width = _width(algorithm.teacher, source, image_shape_seen(algorithm.teacher, shape))
        if own != width:
            raise SettingError(
                f'TeacherGalleryHook: the student embeds queries {own} wide, and the teacher images {width} wide, so '
                f"they cannot be compared. End image_encoder of the student with dict(type='LinearNeck', "
                f'in_channels={own}, out_channels={width}, norm_cfg=None).'
            )
        for module in _keepers(algorithm):
            module.set_gallery(torch.zeros(len(loader.dataset), width))

    def before_train(self, runner: Runner) -> None:
        """Fill the gallery, unless it was in the checkpoint; write it for the exported student."""
        gallery = self._prepare(runner)
        if is_main_process():
            content = io.BytesIO()
            torch.save(gallery.cpu(), content)
            write_checkpoint_file(content.getvalue(), Path(runner.work_dir, GALLERY))

    def before_val(self, runner: Runner) -> None:
        """Fill the gallery for a validation."""
        self._prepare(runner)

    def before_test(self, runner: Runner) -> None:
        """Fill the gallery for a test."""
        self._prepare(runner)

    def _prepare(self, runner: Runner) -> Tensor:
        algorithm = model_of(runner)
        student, keepers = algorithm.architecture, _keepers(algorithm)
        if isinstance(student.prototype, Tensor):
            return student.prototype
        # zeros: there was none in a checkpoint
        gallery = next((module.gallery for module in keepers if module.gallery.any()), None)
        if gallery is None:
            gallery = teacher_gallery(algorithm, gallery_loader(student))
            for module in keepers:
                module.set_gallery(gallery)
            runner.logger.info(
                f'TeacherGalleryHook: the student searches among {len(gallery):,} images as the teacher embeds them, '
                f'{gallery.shape[1]} wide.'
            )
        student.prototype, student.prototype_inited = gallery.clone(), False
        return student.prototype


def _width(network: nn.Module, classifier: str | None, shape: tuple[int, ...]) -> int:
    return math.prod(feature_shapes(network, [embedding_point(network, classifier)], shape)[0])


def _keepers(algorithm: nn.Module) -> list[nn.Module]:
    return [module for module in algorithm.modules() if hasattr(module, 'set_gallery')]
