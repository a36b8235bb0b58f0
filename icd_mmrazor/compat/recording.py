"""mmrazor's recorders, made to keep copies of what was computed by the modules that are there."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmengine.utils import apply_to
from mmrazor.models.task_modules import recorder as recorders
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def record_what_modules_compute() -> None:
    """Let recorders keep copies, taken before anything else can change them.

    Where: mmrazor 1.0.0, all recorders: they keep the tensors themselves, and inputs after the module or function has
    run. An activation or a sum that works in place changes the record.
    """

    def reset_data_buffer(self: BaseRecorder) -> None:
        self._data_buffer = Records()

    def of_function(self: Any, origin_func: Callable, data_buffer: list) -> Callable:  # noqa: ARG001
        return _recording_inputs(origin_func, data_buffer)

    def of_method(self: Any, orgin_method: Callable, data_buffer: list) -> Callable:  # noqa: ARG001
        return _recording_inputs(orgin_method, data_buffer, skipped=1)

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


class Records(list):
    """The buffer of a recorder, which copies what is appended: what follows in the network may work in place."""

    def append(self, record: Any) -> None:
        """Keep a copy of a tensor, or of lists, tuples and dicts of them; anything else is kept itself."""
        super().append(_copied(record))


def map_tensors(function: Callable[[Tensor], Tensor], record: Any) -> Any:
    """Apply a function to the tensors in nested lists, tuples and dicts; parameters stay what they are.

    Returns:
        The same nesting, of new tensors.
    """
    return apply_to(record, lambda value: isinstance(value, Tensor) and not isinstance(value, nn.Parameter), function)


def _copied(record: Any) -> Any:
    """Copy tensors. Gradients flow through, and dense ones become contiguous: losses view maps as rows."""

    def clone(tensor: Tensor) -> Tensor:
        dense = tensor.layout is torch.strided
        return tensor.clone(memory_format=torch.contiguous_format) if dense else tensor.clone()

    return map_tensors(clone, record)


def follow_modules(recorders: Iterable[Any]) -> None:
    """Let recorders of modules watch those that have their names now, if others have replaced those watched.

    Raises:
        AssertionError: No module has a name any more.
    """
    for recorder in recorders:
        if hasattr(recorder, 'hooked'):
            recorder.hooked.follow()


class HookedModule:
    """A hook on the module that has a name in a network.

    Args:
        network: The network.
        name: The module's name in it.
        register: Registers the hook of a module, and returns its handle. A method, so that in a copy of the network the
            copied hooks belong to a copy of its owner.

    Raises:
        AssertionError: No module has the name.
    """

    def __init__(self, network: nn.Module, name: str, register: Callable[[nn.Module], RemovableHandle]) -> None:
        self.network, self.name, self.register = network, name, register
        self._module: nn.Module | None = None
        self._handle: RemovableHandle | None = None
        self.follow()

    def follow(self) -> None:
        """Hook the module that has the name now, if it is not the same as before."""
        try:
            module = self.network.get_submodule(self.name)
        except AttributeError:
            # mmrazor's own words
            raise AssertionError(f'"{self.name}" is not in the model.') from None
        if module is not self._module:
            self.remove()
            self._module, self._handle = module, self.register(module)

    def remove(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()


def _recording_inputs(function: Callable, records: list, skipped: int = 0) -> Callable:
    """Wrap a function so that each call records its inputs, as they were before it, without the ``skipped`` first.

    Those by position come first, then those by name in the function's order.
    """
    names = inspect.signature(function).parameters

    @functools.wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        inputs = _copied([*args[skipped:], *(kwargs[name] for name in names if name in kwargs)])
        outputs = function(*args, **kwargs)
        list.append(records, inputs)
        return outputs

    return recorded
