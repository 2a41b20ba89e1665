"""Arithmetic that is the same, to the last bit, whatever batch a sample stands in.

+, −, ×, / and √ are rounded correctly by IEEE 754, whoever computes them. Two things are not. A vectorised power,
logarithm or exponential may round otherwise in the entries that do not fill a register, so that a number's last bit
depends on its place: :func:`each` computes such functions one number at a time. And a sum depends on its order, which
torch chooses by the shape of the whole batch: :func:`row_sum` has an order of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def each(function: Callable[..., float], *values: Tensor) -> Tensor:
    """``function`` of the numbers of each sample, computed by Python: (B,), … to (B,) in float64 on the CPU."""
    return torch.tensor(list(map(function, *(value.tolist() for value in values))), dtype=torch.float64)


def exp(z: Any) -> Any:
    """e^z of a number, or of each sample's."""
    return each(math.exp, z) if isinstance(z, Tensor) else math.exp(z)


def expm1(z: Any) -> Any:
    """e^z − 1 of a number, or of each sample's."""
    return each(math.expm1, z) if isinstance(z, Tensor) else math.expm1(z)


def along(values: Tensor, x: Tensor) -> Tensor:
    """(B,) as (B, 1, …) on the device of x; numbers in x's dtype."""
    values = values if values.dtype == torch.bool else values.to(x.dtype)
    return values.to(x.device).view(-1, *[1] * (x.ndim - 1))


def row_sum(x: Tensor) -> Tensor:
    """The sum of each row of (B, *) over all its entries, (B,) in x's dtype: halves are added to halves.

    The order depends on the size of a row alone, on a CPU and on a GPU, and the error grows with the logarithm of it.
    """
    rows = x.flatten(1) if x.ndim > 1 else x[:, None]
    while rows.shape[1] > 1:
        rows = functional.pad(rows, (0, rows.shape[1] % 2))
        half = rows.shape[1] // 2
        rows = rows[:, :half] + rows[:, half:]
    return rows.sum(1)
