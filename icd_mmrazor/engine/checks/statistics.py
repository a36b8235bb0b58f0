"""Running statistics of BatchNorm against the length of a training."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from icd_mmrazor.engine.runs import model_of

# torch's default, with which the statistics soon follow the weights
COMMON_MOMENTUM = 0.1
# how often the iterations that are averaged over must fit into a training
TIMES = 20


class StatisticsCheck(Hook):
    """Warn of a training that is too short for the running statistics of the student's BatchNorm.

    With ``momentum=0.01``, as in mmpretrain's MobileNetV3, they average 100 iterations, and begin with a mean of 0
    and a variance of 1. After a few hundred iterations they still do not fit the weights, and the student seems to have
    learnt nothing.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the student; weights that were trained before bring their statistics."""
        model = model_of(runner)
        norms = [
            module
            for module in getattr(model, 'architecture', model).modules()
            if isinstance(module, _BatchNorm) and module.momentum and module.track_running_stats
        ]
        if not norms or any(norm.num_batches_tracked for norm in norms):
            return
        momentum = min(norm.momentum for norm in norms)
        if momentum < COMMON_MOMENTUM and runner.max_iters * momentum < TIMES:
            runner.logger.warning(
                f"The running statistics of the student's BatchNorm are averages over about {round(1 / momentum)} "
                f'iterations (momentum={momentum}), and this training has {runner.max_iters}: the validation will be '
                f'worse than the student. Set norm_cfg=dict(type="BN", momentum={COMMON_MOMENTUM}) in its backbone '
                f'(bn_momentum={COMMON_MOMENTUM} for a network of timm), or train longer.'
            )
