"""The state of the resumed checkpoint, protected from hooks."""

from collections.abc import Mapping

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from icd_mmrazor.engine.runs import counts_iterations, model_of, optimizers_of


class LoadedState(Hook):
    """Keep what was loaded from a checkpoint as it was, whatever other hooks do when they get ready.

    A module that a hook replaces (the loss of ``SwitchRecipeHook``) gets its weights from the checkpoint; a learning
    rate that a hook sets at the start of an epoch (``SimSiamHook``) is not set again within one.
    """

    # after the hooks that set them
    priority = 75

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        # what was loaded, and into which modules
        self._weights: Mapping[str, Tensor] = {}
        self._modules: dict[str, nn.Module] = {}
        # whether the checkpoint lies within an epoch, and the learning rates there
        self._within_epoch = False
        self._rates: list[tuple[dict, float]] = []

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
        """Fill replaced modules, unless they are replaced once more when the epoch starts."""
        if counts_iterations(runner):
            self._within_epoch = runner.iter > 0
        if self._within_epoch:
            groups = [group for wrapper in optimizers_of(runner) for group in wrapper.optimizer.param_groups]
            self._rates = [(group, group['lr']) for group in groups]
        else:
            self._fill_replaced_modules(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Fill replaced modules and restore the learning rates."""
        self._fill_replaced_modules(runner)
        for group, rate in self._rates:
            group['lr'] = rate
        self._rates = []

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
