"""Cost of a distillation, measured on a few steps."""

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.configuration.batch_size import tell_losses
from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.configuration.image_size import tell_distillers
from icd_mmrazor.datasets.first_image import shape_of_first_image
from icd_mmrazor.machine import cores
from icd_mmrazor.models.networks.classifier_layer import number_of_channels, number_of_classes
from icd_mmrazor.models.networks.resolve import network_config
from icd_mmrazor.workflow.networks import silent

STEPS = 2
IMAGES = 24
# what an optimizer keeps for each weight
STATES = {'SGD': 1, 'RMSprop': 1}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a step takes.

    Args:
        step: Seconds of a step of the distillation, without the reading of images.
        alone: Seconds of a step of the student alone.
        teacher: Seconds that the teacher takes for a batch.
        reading: Seconds to read and augment an image, in one process.
        memory: Bytes of weights, gradients, states of the optimizer and activations.
        trained: The number of parameters of connectors and losses that are trained with the student.
        teacher_parameters: The number of the teacher's parameters, with the classifier that it distils with.
        initial_epochs: Epochs of an initial stage, in which the student is not trained by its labels.
        device: ``'cpu'``, ``'cuda'``, ...
        teacher_size: Height and width of the images that the teacher gets.
        change: How the distiller changes the student, with its parameters then; empty if it does not.
    """

    step: float
    alone: float
    teacher: float
    reading: float
    memory: int
    trained: int
    teacher_parameters: int
    initial_epochs: int
    device: str
    teacher_size: tuple[int, int]
    change: str = ''

    def with_reading(self, seconds: float, images: int, workers: int) -> float:
        """Return the seconds of a step, its images read by some processes: at the same time on another device."""
        reading = images * self.reading / max(1, min(workers, cores()))
        return max(seconds, reading) if self.device != 'cpu' else seconds + reading


def measure(
    cfg: Config, batch_size: int, image_size: int, images: int, published_size: tuple[int, int] | None = None
) -> Cost:
    """Measure some steps of a distillation on random images; its teacher's weights are read if they are a file here.

    Args:
        cfg: Its config.
        batch_size: Images in a batch.
        image_size: Their height and width.
        images: The number of training images, for losses with a memory of them.
        published_size: Height and width of the images that the teacher's weights were published for, to which the run
            will resize them; None if it takes any.

    Raises:
        SettingError: Networks, losses and settings do not fit together.
        CheckpointError: The weights do not fit the teacher.
    """
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.random.fork_rng(), silent():
        tell_distillers(cfg, shape_of_first_image)
        tell_losses(cfg)
        with explained_settings():
            algorithm = MODELS.build(_without_missing_weights(cfg, published_size))
            _check_training(cfg, algorithm)
            reading = _seconds_of_reading(cfg)
        device = get_device()
        algorithm = algorithm.to(device).train()
        if getattr(algorithm.distiller, 'initial_epochs', 0):
            algorithm.distiller.set_stage('main')
        student = algorithm.architecture
        classes, shape = number_of_classes(student) or 1, (number_of_channels(student), image_size, image_size)
        for module in algorithm.modules():
            if hasattr(module, 'set_dataset'):
                module.set_dataset(torch.arange(images) % classes)
        inputs = [torch.randint(256, shape, dtype=torch.uint8) for _ in range(batch_size)]
        samples = [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i % classes) for i in range(batch_size)]

        def batch() -> dict[str, Any]:
            data = dict(inputs=[*inputs], data_samples=copy.deepcopy(samples))
            return algorithm.data_preprocessor(data, True)

        def step(network: nn.Module) -> None:
            loss, _ = algorithm.parse_losses(network(**batch(), mode='loss'))
            if loss.requires_grad:
                loss.backward()

        saved = SavedBytes()
        with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
            step(algorithm)
        return Cost(
            step=_seconds(lambda: step(algorithm)),
            alone=_seconds(lambda: step(student)),
            teacher=_seconds(lambda: algorithm.run_teacher(*batch().values())),
            reading=reading,
            memory=saved.bytes + _bytes_of_weights(algorithm, cfg),
            trained=sum(p.numel() for p in algorithm.distiller.parameters() if p.requires_grad),
            teacher_parameters=sum(p.numel() for p in algorithm.teacher.parameters()),
            initial_epochs=getattr(algorithm.distiller, 'initial_epochs', 0),
            device=device,
            teacher_size=tuple(algorithm.teacher_view(batch()['inputs']).shape[-2:]),
            change=_change_of(student),
        )


def _change_of(student: nn.Module) -> str:
    change = getattr(student, 'change', '')
    return change and f'{change}: {sum(p.numel() for p in student.parameters()):,} in all'


def _without_missing_weights(cfg: Config, size: tuple[int, int] | None) -> ConfigDict:
    """Return the config of a distillation whose teacher has no weights unless they are a file here."""
    model = copy.deepcopy(cfg.model)
    model.setdefault('data_preprocessor', cfg.data_preprocessor)
    preprocessor = model.get('teacher_preprocessor', 'auto')
    if size and preprocessor != 'student':  # random weights are published for no size
        told = preprocessor if isinstance(preprocessor, Mapping) else {}
        model.teacher_preprocessor = {'size': list(size), **told}
    model.teacher = network_config(model.teacher, 'model.teacher')
    for settings in (model, model.teacher) if model.teacher.type == 'TeacherProbe' else (model,):
        if not Path(settings.get('teacher_ckpt') or '').is_file():
            settings.update(random_teacher=True, teacher_ckpt=None)
    return model


def _check_training(cfg: Config, algorithm: nn.Module) -> None:
    """Build what a training would build only when its turn comes, which refuses wrong settings."""
    build_optim_wrapper(algorithm, copy.deepcopy(cfg.optim_wrapper))
    settings = {**copy.deepcopy(cfg.train_dataloader), 'num_workers': 0, 'persistent_workers': False}
    # without a seed, a sampler would ask the other processes for one
    loader = Runner.build_dataloader(settings, seed=0)
    Runner.build_train_loop(SimpleNamespace(_train_dataloader=loader, visualizer=SimpleNamespace()), cfg.train_cfg)


def _seconds_of_reading(cfg: Config) -> float:
    settings = copy.deepcopy(cfg.train_dataloader.dataset)
    dataset = DATASETS.build(settings)
    number = min(IMAGES, len(dataset))
    start = time.perf_counter()
    for index in range(number):
        dataset[index * len(dataset) // number]
    return (time.perf_counter() - start) / number


def _seconds(run: Callable[[], None]) -> float:
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def _bytes_of_weights(algorithm: nn.Module, cfg: Config) -> int:
    trained = sum(p.numel() * p.element_size() for p in algorithm.parameters() if p.requires_grad)
    teacher = sum(p.numel() * p.element_size() for p in algorithm.teacher.parameters())
    states = STATES.get(cfg.optim_wrapper.optimizer.type, 2)
    return trained * (2 + states) + teacher


class SavedBytes:
    """Counts the bytes of the activations that a backward pass needs, each storage once."""

    def __init__(self) -> None:
        self.bytes, self._seen = 0, set()

    def __call__(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd saves, and return it as it is."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor
