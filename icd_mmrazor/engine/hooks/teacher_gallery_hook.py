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
from icd_mmrazor.engine.galleries import gallery_loader, has_teacher_gallery, keep_teacher_gallery, teacher_gallery
from icd_mmrazor.engine.runs import is_training, model_of
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.student import GALLERY
from icd_mmrazor.models.algorithms.predictions import pooled_point
from icd_mmrazor.models.networks.features import feature_shapes
from icd_mmrazor.models.networks.image_size import image_shape_seen
from icd_mmrazor.models.networks.retrieval import is_retriever


@HOOKS.register_module()
class TeacherGalleryHook(Hook):
    """Let the student of a distillation search in the teacher's embeddings of the gallery (EmbedDistill).

    The student is an ``ImageToImageRetriever``, whose ``prototype`` names the images. Before a training, a validation
    or a test, the teacher embeds them once, prepared in its own way. The student gets these embeddings instead of its
    own, and so does every module with a method ``set_gallery(embeddings)``, such as ``ScoreDistillationLoss``. A
    training that is resumed takes them from its checkpoint, if such a module keeps them as a buffer ``gallery``; a test
    or ``load_from`` has them embedded again, since teacher and images may be others. ``gallery.pth`` in the work folder
    holds them for the exported student.

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
        if has_teacher_gallery(student):  # of an earlier run of this runner
            return
        loader = gallery_loader(student)
        shape, source = tuple(loader.dataset[0]['inputs'].shape), getattr(algorithm.distiller, 'teacher_source', None)
        own = _width(student, None, shape)
        width = _width(algorithm.teacher, source, image_shape_seen(algorithm.teacher, shape))
        if own != width:
            raise SettingError(
                f"TeacherGalleryHook: the student's embeddings have {own} dimensions, the teacher's {width}, so they "
                "cannot be compared. End image_encoder of the student with dict(type='LinearNeck', "
                f'in_channels={own}, out_channels={width}, norm_cfg=None).'
            )
        for module in _keepers(algorithm).values():
            module.set_gallery(torch.zeros(len(loader.dataset), width))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Leave out the gallery of a checkpoint unless a training is resumed: it may be of other images or teachers."""
        if runner._resume and is_training(runner):
            return
        # mmpretrain's EMAHook loads the averaged weights, or exchanges both
        for weights in (checkpoint.get('state_dict', checkpoint), checkpoint.get('ema_state_dict', {})):
            for name, module in _keepers(model_of(runner)).items():
                for key in {f'{name}.gallery', f'module.{name}.gallery'} & weights.keys():
                    weights[key] = module.gallery

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
        student, keepers = algorithm.architecture, _keepers(algorithm).values()
        if has_teacher_gallery(student):
            return student.prototype
        stored = (getattr(module, 'gallery', None) for module in keepers)
        # zeros: no training was resumed
        gallery = next((each for each in stored if isinstance(each, Tensor) and each.any()), None)
        if gallery is None:
            gallery = teacher_gallery(algorithm, gallery_loader(student))
            runner.logger.info(
                f'TeacherGalleryHook: the student searches among {len(gallery):,} images as the teacher embeds them, '
                f'{gallery.shape[1]} wide.'
            )
        for module in keepers:
            module.set_gallery(gallery)
        keep_teacher_gallery(student, gallery.clone())
        return student.prototype


def _width(network: nn.Module, classifier: str | None, shape: tuple[int, ...]) -> int:
    return math.prod(feature_shapes(network, [pooled_point(network, classifier)], shape)[0])


def _keepers(algorithm: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in algorithm.named_modules() if hasattr(module, 'set_gallery')}
