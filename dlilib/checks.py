"""Checks of arguments that several modules share; each refusal names the argument and its value."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Generator, Tensor


def check_option(name: str, value: object, options: Sequence[object]) -> None:
    """Raise ValueError unless the value is one of the options, of its very type."""
    kind = str if isinstance(value, str) else type(value)  # numpy has strings of its own
    if not any(type(option) is kind and value == option for option in options):
        raise ValueError(f"{name} must be one of {tuple(options)}, got {value!r}")


def check_number(
    name: str, value: object, low: float, high: float, *, open_end: bool = False
) -> None:
    """Raise ValueError unless the value is a number in [low, high], or [low, high) if open."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not low <= value <= high or (open_end and value == high):
        end = ")" if open_end or math.isinf(high) else "]"
        raise ValueError(f"{name} must lie in [{low}, {high}{end}, got {value!r}")


def is_count(value: object, low: int = 1) -> bool:
    """Whether a value is an integer, and not below `low`."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= low


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


def check_type(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    """Raise ValueError unless the value is an instance of a type, or of one of several."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        raise ValueError(f"{name} must be a {wanted}, got {described(value)}")


def check_rows(name: str, value: Any, count: int) -> Tensor:
    """Return indices of `count` images, each once: int64 (n,); ValueError if they are none."""
    try:
        rows = torch.as_tensor(list(value) if isinstance(value, range) else value, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a row of indices, got {described(value)}") from None
    integer = not rows.is_floating_point() and rows.dtype != torch.bool
    if rows.ndim != 1 or (len(rows) and not integer):
        raise ValueError(f"{name} must be a row of indices, got {rows.dtype} {tuple(rows.shape)}")
    rows = rows.long()
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        raise ValueError(
            f"{name} must index the {count} tiles, got {int(rows.min())}..{int(rows.max())}"
        )
    return torch.tensor(list(dict.fromkeys(rows.tolist())), dtype=torch.int64, device="cpu")


def described(value: Any) -> str:
    """What a message says of a value: a tensor's dtype and shape, else its type."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return type(value).__name__
