"""mmrazor's recorders: copies of what was computed, of the modules that are there."""

from collections.abc import Callable
from typing import Any

import torch
from mmrazor.models.task_modules import recorder as recorders
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder

from icd_mmrazor.compat.recording import HookedModule, Records, follow_modules, recording_inputs


def record_what_modules_compute() -> None:
    """Let recorders keep copies, taken before anything else can change them.

    Where: mmrazor 1.0.0, all recorders: they keep the tensors themselves, and inputs after the module or function has
    run. An activation or a sum that works in place changes the record.
    """

    def reset_data_buffer(self: BaseRecorder) -> None:
        self._data_buffer = Records()

    def of_function(self: Any, origin_func: Callable, data_buffer: list) -> Callable:  # noqa: ARG001
        return recording_inputs(origin_func, data_buffer)

    def of_method(self: Any, orgin_method: Callable, data_buffer: list) -> Callable:  # noqa: ARG001
        return recording_inputs(orgin_method, data_buffer, skipped=1)

    BaseRecorder.reset_data_buffer = reset_data_buffer
    recorders.FunctionInputsRecorder.func_record_wrapper = of_function
    recorders.MethodInputsRecorder.method_record_wrapper = of_method


def record_what_is_there() -> None:
    """Let recorders find the module or parameter of their name whenever they start to record.

    Where: mmrazor 1.0.0, recorders of modules and parameters: they look for it once, while the algorithm is built;
    mmengine's ``Runner`` replaces batch norms later (``sync_bn``). Inputs are recorded before a module can change them.
    """
    outputs, inputs = recorders.ModuleOutputsRecorder, recorders.ModuleInputsRecorder
    parameter = recorders.ParameterRecorder
    enter_module, enter_parameter = outputs.__enter__, parameter.__enter__
    prepare_parameter = parameter.prepare_from_model

    def prepare_from_model(self: Any, model: Any = None) -> None:
        assert model is not None, 'model can not be None.'
        if hasattr(self, 'hooked'):
            self.hooked.remove()
        self.hooked = HookedModule(model, self.source, self.register)

    def enter(self: Any) -> None:
        enter_module(self)
        # a compiled graph has its modules from the start
        if not torch.compiler.is_compiling():
            follow_modules([self])

    def forward_pre_hook(self: Any, module: Any, inputs: tuple) -> None:  # noqa: ARG001
        if self.recording:
            self.data_buffer.append(inputs)

    def prepare_from_model_of_parameter(self: Any, model: Any = None) -> None:
        prepare_parameter(self, model)
        self.model = model

    def enter_parameter_of_now(self: Any) -> None:
        enter_parameter(self)
        self.data_buffer[:] = [self.model.get_parameter(self.source)]

    outputs.prepare_from_model, outputs.__enter__ = prepare_from_model, enter
    outputs.register = lambda self, module: module.register_forward_hook(self.forward_hook)
    inputs.register = lambda self, module: module.register_forward_pre_hook(self.forward_pre_hook)
    inputs.forward_pre_hook = forward_pre_hook
    parameter.prepare_from_model, parameter.__enter__ = prepare_from_model_of_parameter, enter_parameter_of_now
