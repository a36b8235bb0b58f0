"""The records of mmrazor's recorders: copies of tensors, hooks that follow replaced modules."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Records(list):
    """The buffer of a recorder, which copies what is appended: what follows in the network may work in place."""

    def append(self, record: Any) -> None:
        """Keep a copy of a tensor, or of lists, tuples and dicts of them; anything else is kept itself."""
        super().append(copy_tensors(record))


def map_tensors(function: Callable[[Tensor], Tensor], record: Any) -> Any:
    """Apply a function to the tensors in lists, tuples and dicts; parameters stay what they are.

    Args:
        function: Takes and returns a tensor.
        record: Any nesting of them.

    Returns:
        The same nesting, of new tensors.
    """
    if isinstance(record, Tensor):
        return record if isinstance(record, nn.Parameter) else function(record)
    if type(record) in (list, tuple):
        return type(record)(map_tensors(function, value) for value in record)
    if isinstance(record, tuple) and hasattr(record, '_make'):
        return record._make(map_tensors(function, value) for value in record)
    if isinstance(record, dict):
        # keeps the class: networks of Hugging Face give dicts of their own
        mapped = copy.copy(record)
        for name, value in record.items():
            mapped[name] = map_tensors(function, value)
        return mapped
    return record


def copy_tensors(record: Any) -> Any:
    """Copy the tensors of a record; gradients flow through, and the layout is contiguous: losses view maps as rows."""
    return map_tensors(_copied, record)


def _copied(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        return tensor.clone()
    return tensor.clone(memory_format=torch.contiguous_format)


def follow_modules(recorders: Iterable[Any]) -> None:
    """Let recorders watch the modules that have their names now, if others have replaced those watched.

    Args:
        recorders: mmrazor's recorders, prepared; those of functions, methods and parameters are left alone.

    Raises:
        AssertionError: No module has a name any more.
    """
    for recorder in recorders:
        hooked = getattr(recorder, 'hooked', None)
        if hooked is not None:
            hooked.follow()


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


def recording_inputs(function: Callable, records: list, skipped: int = 0) -> Callable:
    """Wrap a function so that what it is called with is recorded, as it was before the call.

    Args:
        function: The function.
        records: The inputs of each call are appended: positional ones, then those by name in the function's order.
        skipped: How many positional ones are left out: 1 for a method.

    Returns:
        The wrapped function.
    """
    names = inspect.signature(function).parameters

    @functools.wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        inputs = copy_tensors([*args[skipped:], *(kwargs[name] for name in names if name in kwargs)])
        outputs = function(*args, **kwargs)
        list.append(records, inputs)
        return outputs

    return recorded
