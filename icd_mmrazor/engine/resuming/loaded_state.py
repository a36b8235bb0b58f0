"""The weights of the resumed checkpoint, in modules that hooks replace."""

from collections.abc import Mapping

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from icd_mmrazor.engine.runs import counts_iterations, model_of


class LoadedState(Hook):
    """Fill modules that hooks replace when they get ready with their weights from the resumed checkpoint.

    The loss of ``SwitchRecipeHook`` may have some.
    """

    # after the hooks that replace them
    priority = 75

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        # what was loaded, and into which modules
        self._weights: Mapping[str, Tensor] = {}
        self._modules: dict[str, nn.Module] = {}
        self._within_epoch = False

    def before_run(self, runner: Runner) -> None:
        """Forget an earlier run."""
        self._reset()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the weights that are resumed."""
        meta = checkpoint.get('meta')
        if runner._resume and isinstance(meta, dict):
            self._weights, self._modules = checkpoint['state_dict'], dict(model_of(runner).named_modules())
            trained = meta.get('trained_of_epoch')
            self._within_epoch = type(trained) is int and trained > 0

    def before_train(self, runner: Runner) -> None:
        """Fill replaced modules; what is replaced once more at the start of a new epoch stays as it is."""
        if not (self._within_epoch or (counts_iterations(runner) and runner.iter)):
            self._fill_replaced_modules(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Fill modules that are replaced at the start of the epoch, within which the run is resumed."""
        self._fill_replaced_modules(runner)

    def _fill_replaced_modules(self, runner: Runner) -> None:
        modules = model_of(runner).named_modules() if self._modules else ()
        for name, module in modules:
            if self._modules.get(name) is module:
                continue
            for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                loaded = self._weights.get(f'{name}.{key}' if name else key)
                if isinstance(loaded, Tensor) and loaded.shape == tensor.shape:
                    tensor.data.copy_(loaded)
        self._weights, self._modules = {}, {}
