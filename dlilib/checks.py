"""Checks of arguments that several modules share; each refusal names the argument and its value."""

import math
from collections.abc import Sequence

from torch import Generator


def check_option(name: str, value: object, options: Sequence[object]) -> None:
    """Raise ValueError unless the value is one of the options."""
    if isinstance(value, list | dict | set) or value not in options:
        raise ValueError(f"{name} must be one of {tuple(options)}, got {value!r}")


def check_number(
    name: str, value: object, low: float, high: float, *, open_end: bool = False
) -> None:
    """Raise ValueError unless the value is a number in [low, high], or [low, high) if open."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or (open_end and value == high):
        end = ")" if open_end or math.isinf(high) else "]"
        raise ValueError(f"{name} must lie in [{low}, {high}{end}, got {value!r}")


def check_generator(generator: object) -> None:
    """Raise ValueError unless it is a torch.Generator on the CPU, or None."""
    if generator is None:
        return
    if not isinstance(generator, Generator):
        raise ValueError(
            f"generator must be a torch.Generator or None, got {generator!r}: seed one by "
            "torch.Generator().manual_seed(...)"
        )
    if generator.device.type != "cpu":
        raise ValueError(f"generator must be on the CPU, got one on {generator.device}")
