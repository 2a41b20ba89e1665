"""A printed step on tensors: what :mod:`~edm_unified.sampling.solvers.printed` is on symbols, for adaptive methods.

Numbers of samples, (B,), are in float64 on the CPU; :func:`~edm_unified.sampling.by_sample.along` takes them to the
state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from edm_unified.sampling.by_sample import along


class States:
    """States of a batch, (B, *), with the arithmetic of a :class:`~edm_unified.sampling.solvers.printed.Form`.

    Numbers of samples, (B,), stay in float64 until they meet it.
    """

    __slots__ = ("x",)

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __add__(self, other: States) -> States:
        return States(self.x + other.x)

    def __sub__(self, other: States) -> States:
        return States(self.x - other.x)

    def __mul__(self, factor: Any) -> States:
        return States(self.x * (along(factor, self.x) if isinstance(factor, Tensor) else factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> States:
        return States(self.x / (along(divisor, self.x) if isinstance(divisor, Tensor) else divisor))


class SampleLevels(NamedTuple):
    """A level for each sample: σ and u = ln(a/σ), how far below the start of the fall it is; both (B,)."""

    sigma: Tensor
    u: Tensor


class Trial:
    """A step of all samples, tried: what :class:`~edm_unified.sampling.solvers.printed.Step` is on symbols."""

    def __init__(
        self,
        evaluate: Callable[[Tensor, Tensor], Tensor],
        place: Callable[[Tensor], SampleLevels],
        D: Tensor,
        noise: Tensor | None,
        a: SampleLevels,
        b: SampleLevels,
    ) -> None:
        self._evaluate, self._place, self._D, self._noise, self._a, self._b = evaluate, place, D, noise, a, b
        self.h = b.u - a.u
        """The length of the step in λ = −ln σ, (B,)."""
        self.evaluations = 0
        """Beyond the one at the start of the step."""
        self.at_end: Tensor | None = None
        """D at the end of the step, where the method knows it."""

    def denoise(self, x: States, level: SampleLevels) -> States:
        """D(x; σ)."""
        if level is self._a:
            return States(self._D)
        self.evaluations += 1
        return States(self._evaluate(x.x, level.sigma))

    def ahead(self, x: States) -> States:
        """D(x; σ) at the end of the step, x being the result: it is the next one's output at its start."""
        D = self.denoise(x, self._b)
        self.at_end = D.x
        return D

    def noise(self) -> States:
        """That of the step, of a method that has one."""
        assert self._noise is not None
        return States(self._noise)

    def in_log_sigma(self, c: float) -> SampleLevels:
        """The level at the part c of the way in ln σ."""
        return self._place(self._a.u + c * self.h) if c < 1 else self._b
