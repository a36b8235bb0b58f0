"""A test of a student, from the config that a tool has read."""

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import load_strictly, weights_of
from icd_mmrazor.datasets.class_names import check_class_names, choice_in, class_names
from icd_mmrazor.datasets.labels import datasets_in_use, images_are_gray
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.plain_test import needs_distillation
from icd_mmrazor.launch.runner import ToolRunner
from icd_mmrazor.launch.views import show_views, shown_model
from icd_mmrazor.models.networks.preparation import (
    preparation_by,
    preparation_of_checkpoint,
    refuse_other_order,
    source_of_images,
)
from icd_mmrazor.models.networks.student import student_of


def prepare(cfg: Config, views: bool) -> None:
    """Reduce the config of a run to what its test needs: the student alone, unless a metric needs its teacher.

    Args:
        cfg: The config, from ``load_config``, which is changed.
        views: Whether the scores of several views of each image are averaged (test-time augmentation).

    Raises:
        SettingError: A metric needs the teacher, which sees one view.
    """
    if not needs_distillation(cfg.test_evaluator):
        cfg.model = student_of(cfg)
    elif views:
        raise SettingError(
            '--tta: a metric of test_evaluator compares the student with its teacher. Leave out one of them.'
        )
    if views:
        show_views(cfg)
    # the weights are loaded strictly by test; mmengine would load others over them
    cfg.load_from, cfg.resume = None, False


def test(cfg: Config, file: str, views: bool) -> tuple[Runner, dict]:
    """Test the weights in a checkpoint, of a distillation or of a plain network; return the runner and the metrics.

    Args:
        cfg: The config, from :func:`prepare`.
        file: The checkpoint.
        views: As in :func:`prepare`.

    Raises:
        CheckpointError: The checkpoint cannot be read, or does not fit the config.
    """
    checkpoint = read_checkpoint(file)
    weights = weights_of(checkpoint, file)
    runner = ToolRunner.from_cfg(cfg)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if views:
        model = shown_model(model, runner.test_dataloader.dataset)
    trained, source = preparation_of_checkpoint(checkpoint), source_of_images(cfg, ('test',))
    if source is not None:
        used, dataset = preparation_by(model.data_preprocessor, source), runner.test_dataloader.dataset
        refuse_other_order('the network', trained, used, lambda: images_are_gray(dataset), 'this test')
    what = f'checkpoint {file}'
    load_strictly(getattr(model, 'architecture', model), weights, what)
    if change := getattr(getattr(model, 'architecture', model), 'change', ''):
        runner.logger.info(f'The network is {change}.')
    names = class_names(checkpoint.get('meta'))
    check_class_names(what, names, datasets_in_use(runner), choice_in(cfg), runner.logger.warning)
    return runner, runner.test()
