"""Vision networks of Hugging Face as backbones."""

import importlib
from typing import Any

from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import CheckpointError, SettingError

# names of the parameters that hold the tokens before those of the patches, one each but for registers
EXTRA_TOKENS = ('cls_token', 'class_embedding', 'distillation_token', 'register_tokens')


@MODELS.register_module()
class HuggingFaceBackbone(BaseModule):
    """A vision network of Hugging Face's ``transformers`` without a classifier.

    Of a network for images and text (CLIP, SigLIP) it is the image tower. A masked autoencoder sees all patches.
    Nothing but weights is loaded: code that comes with a model is not run.

    Args:
        model_name: A name on the hub, or a folder that ``save_pretrained`` wrote.
        pretrained: Whether to load the published weights.
        init_cfg: Same as in mmengine's ``BaseModule``.
        **kwargs: Settings of the config to change.

    Raises:
        SettingError: The network does not take images.
        CheckpointError: The published weights do not fill the network.

    Config example::

        teacher=dict(type='ImageClassifier', backbone=dict(
            type='HuggingFaceBackbone', model_name='facebook/dinov2-small', pretrained=True))
    """

    def __init__(self, model_name: str, pretrained: bool = False, init_cfg: dict | None = None, **kwargs: Any) -> None:
        super().__init__(init_cfg)
        transformers = importlib.import_module('transformers')
        config = transformers.AutoConfig.from_pretrained(model_name, **kwargs)
        cls, options = transformers.AutoModel, {}
        if config.model_type == 'vit_mae':  # whose own class leaves patches out, at random
            cls, options = transformers.ViTModel, {'add_pooling_layer': False}
            config = transformers.ViTConfig(**{k: v for k, v in config.to_dict().items() if k != 'model_type'})
        if pretrained:
            model, report = cls.from_pretrained(model_name, config=config, output_loading_info=True, **options)
        elif options:
            model, report = cls(config, **options), {}
        else:
            model, report = cls.from_config(config), {}
        # of two towers
        model = getattr(model, 'vision_model', model)
        if getattr(model, 'main_input_name', None) != 'pixel_values':
            raise SettingError(
                f'HuggingFaceBackbone: {model_name!r} is a {type(model).__name__}, not a vision network.'
            )
        # a layer on the class token that many publish untrained
        pooler = getattr(model, 'pooler', None)
        self.untrained_pooler = isinstance(getattr(pooler, 'dense', None), nn.Linear)
        missing = [name for name in report.get('missing_keys', ()) if 'pooler' not in name and 'text_model' not in name]
        if missing:
            raise CheckpointError(
                f'HuggingFaceBackbone: the published weights of {model_name!r} lack {len(missing)} of '
                f'{type(model).__name__}, for example {sorted(missing)[0]}. Use another network.'
            )
        self.model = model
        self.num_extra_tokens = _extra_tokens(model)

    def init_weights(self) -> None:
        """Keep the weights: they have been loaded or drawn."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``last_hidden_state`` (tokens or map) and, if it is trained, ``pooler_output`` for images."""
        output = self.model(pixel_values=images)
        names = ['last_hidden_state', *([] if self.untrained_pooler else ['pooler_output'])]
        return {name: output[name] for name in names if output.get(name) is not None}


def _extra_tokens(model: nn.Module) -> int | None:
    sizes = {name.rpartition('.')[2]: parameter.shape for name, parameter in model.named_parameters()}
    tokens = [name for name in EXTRA_TOKENS if name in sizes]
    # a convolutional network has none; a transformer may have no such token either
    return sum(sizes[name][1] if name == 'register_tokens' else 1 for name in tokens) if tokens else None
