"""Export of a student that torchvision has, too, as weights for torchvision."""

from collections.abc import Callable, Mapping
from typing import Any

import torchvision
from mmpretrain.models.backbones import MobileNetV2, MobileNetV3, ResNet, ResNeXt, ShuffleNetV2
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.content import Content, images_note, state_data
from icd_mmrazor.export.running import verify
from icd_mmrazor.export.trained import TrainedStudent

TOLERANCE = 1e-5  # of the largest logit
REMEDY = 'Export it --to torchscript, pt2, onnx or safetensors.'

# from a backbone and its config to the name and the settings of torchvision's function for it
FAMILIES: dict[type[nn.Module], Callable[[Any, Mapping[str, Any]], tuple[str, dict[str, Any]]]] = {
    ResNet: lambda net, _: (f'resnet{net.depth}', {}),
    ResNeXt: lambda net, _: (f'resnet{net.depth}', dict(groups=net.groups, width_per_group=net.width_per_group)),
    MobileNetV2: lambda net, _: ('mobilenet_v2', {} if net.widen_factor == 1 else dict(width_mult=net.widen_factor)),
    MobileNetV3: lambda net, _: (f'mobilenet_v3_{net.arch}', {}),
    ShuffleNetV2: lambda _, cfg: (f'shufflenet_v2_x{float(cfg.get("widen_factor", 1))}'.replace('.', '_'), {}),
}


def torchvision_settings(student: TrainedStudent) -> tuple[str, dict[str, Any]]:
    """Return the name of torchvision's function that makes a student's network, and its arguments.

    Raises:
        SettingError: torchvision does not have such a network.
    """
    # a derived class may be another network: ResNet_CIFAR
    backbone = getattr(student.model, 'backbone', None)
    family = FAMILIES.get(type(backbone))
    known = ', '.join(cls.__name__ for cls in FAMILIES)
    if family is None:
        raise SettingError(
            f'--to torchvision: the student ({student.kind}) is not one of the networks that mmpretrain and '
            f'torchvision share: {known}. {REMEDY}'
        )
    name, settings = family(backbone, student.cfg.model.backbone)
    if not hasattr(torchvision.models, name):
        raise SettingError(f'--to torchvision: torchvision has no {name}. {REMEDY}')
    return name, {**settings, 'num_classes': student.model.head.num_classes}


def as_torchvision(student: TrainedStudent, size: tuple[int, int]) -> Content:
    """Export a student to a plain state dict of torchvision, loaded into its network, with the same logits.

    Both networks define their layers in the same order, under other names: weights are matched by order, and the
    match is right if all shapes and the logits are equal.

    Args:
        student: The student.
        size: Height and width of the images that are compared.

    Returns:
        The content of the file.

    Raises:
        SettingError: torchvision does not have this network, or has it in another form.
        UserError: The logits differ.
    """
    name, settings = torchvision_settings(student)
    network = torchvision.models.get_model(name, weights=None, **settings).eval()
    own, theirs = student.model.state_dict(), network.state_dict()
    pairs = zip(own.items(), theirs.items(), strict=False)
    other = [f'{mine} {tuple(w.shape)}' for (mine, w), (_, v) in pairs if w.shape != v.shape]
    if other or len(own) != len(theirs):
        found = f'from {other[0]} on' if other else f'in the number of tensors, {len(own)} and {len(theirs)}'
        raise SettingError(f"--to torchvision: the student differs from torchvision's {name} {found}. {REMEDY}")
    weights = {new: weight.clone() for new, weight in zip(theirs, own.values(), strict=True)}
    network.load_state_dict(weights, strict=True)
    difference = verify('torchvision', network, student.logits(), (student.channels, *size), TOLERANCE, REMEDY)
    return Content(state_data(weights), images_note(student.channels, size, difference))
