"""Random numbers that building a teacher takes from torch's generator, so that a run without it takes as many."""

import torch
from torch import Tensor

# numbers of 32 bits in a state of the generator, a Mersenne twister; they come 24 bytes after its start
STATE, START = 624, 24
CHUNK = 2**24


def draws_between(before: Tensor, after: Tensor, limit: int = 2**34) -> int | None:
    """Return how many numbers of 32 bits were drawn between two states of torch's generator on the CPU.

    Args:
        before: The earlier state, from ``torch.get_rng_state``.
        after: The later one.
        limit: How many to look for.

    Returns:
        None if something else happened: another seed, or more.
    """
    generator, state = torch.Generator(), slice(START, START + 8 * STATE)
    generator.set_state(before)
    number = (_position(after) - _position(before)) % STATE
    advance(number, generator)
    while not torch.equal(generator.get_state()[state], after[state]):
        if number > limit:
            return None
        number += STATE
        advance(STATE, generator)
    expected = torch.Generator().set_state(after)
    # half of a pair of normal numbers may be left
    same = torch.equal(torch.randn(3, generator=generator), torch.randn(3, generator=expected))
    return number if same else None


def advance(number: int, generator: torch.Generator = torch.default_generator) -> None:
    """Draw so many numbers of 32 bits from a generator."""
    while number > 0:
        torch.empty(min(number, CHUNK), dtype=torch.uint8).random_(generator=generator)
        number -= CHUNK


def _position(state: Tensor) -> int:
    left = int(state[8:12].view(torch.int32))
    return STATE + 1 - left
