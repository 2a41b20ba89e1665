"""The denoiser: the one function that training produces and sampling consumes.

    D(z, σ) = argmin E ‖D − x_0‖² = E[x_0 | z],   z = x_0 + σ n,   so that   ∇ log p(z; σ) = (D − z)/σ².

Any callable ``D(x, sigma, **cond)`` is one; nothing has to be subclassed. ``x`` is z, of shape (B, *); ``sigma`` is a
tensor of shape () or (B,); the result has x's shape. :class:`Preconditioned` makes one of a network,
:class:`Counted` counts its evaluations, and :func:`check_range` says in one line when a walk leaves the noise levels
that a network knows.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edm_unified.denoisers.parametrization import along
from edm_unified.denoisers.preconditioning import Preconditioning
from edm_unified.schedules.base import float64


class Denoiser(Protocol):
    """Anything that estimates x_0 from z = x_0 + σ n: ``D(x, sigma, **cond)``."""

    def __call__(
        self, x: Float[Tensor, "B *shape"], sigma: Float[Tensor, ""] | Float[Tensor, " B"], **cond: Any
    ) -> Float[Tensor, "B *shape"]: ...


class OutputError(ValueError):
    """A denoiser returned something that is not an estimate of x_0, or changed what it was given."""


def estimate(denoiser: Denoiser, x: Tensor, sigma: Tensor, cond: Mapping[str, object]) -> Tensor:
    """D(x; σ) in the dtype of x, of a denoiser that may be anybody's.

    Raises :class:`OutputError` where it returns another shape, which might broadcast, or complex numbers, or has
    written into x or σ, which are the run's. Writing is seen by torch's counter of versions; what goes past it
    (``x.data``, ``x.numpy()``) is not seen. Inference tensors have no counter: D gets copies.
    """
    # the loop comes through here at every evaluation: what is as it should be asks for four numbers and one shape
    try:
        x_version, sigma_version = x._version, sigma._version
    except RuntimeError:
        out = denoiser(x.clone(), sigma.clone(), **cond)
    else:
        out = denoiser(x, sigma, **cond)
        if x._version != x_version or sigma._version != sigma_version:
            name = "x" if x._version != x_version else "sigma"
            raise OutputError(
                f"denoiser: wrote into its input {name}{_at(sigma)}, which the run still needs; compute a new tensor, "
                "as in x = c_in * x in place of x *= c_in"
            )
    if not isinstance(out, Tensor) or out.shape != x.shape:
        got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise _refused(got, x, sigma)
    if out.dtype == x.dtype:
        return out
    if out.is_complex():
        raise _refused(f"complex numbers, {out.dtype},", x, sigma)
    return out.to(x.dtype)


def _refused(got: str, x: Tensor, sigma: Tensor) -> OutputError:
    return OutputError(
        f"denoiser: returned {got} for x of shape {tuple(x.shape)}{_at(sigma)}; "
        "D(x, sigma) must return an estimate of x_0, real and in the shape of x"
    )


def _at(sigma: Tensor) -> str:
    """Where on the noise axis, as far as it is one place."""
    return f" at sigma = {float(sigma):.6g}" if sigma.ndim == 0 else ""


class Preconditioned(nn.Module):
    """D(z; σ) = c_skip(σ) z + c_out(σ) F( c_in(σ) z ; c_noise(σ) ) (Karras et al. 2022, Eq. 7).

    ``network`` is an ``nn.Module`` or any callable ``F(input (B, *), noise (B,), **cond) -> (B, *)``. This class is
    itself a module, so that ``.to()``, ``.parameters()``, ``.state_dict()`` and an optimizer reach the network: it is
    the thing that is trained, averaged, saved and sampled from.

    It alone broadcasts σ and casts. Coefficients are float64; the input is c_in z in x's dtype, then cast to the
    device and dtype of the network's first parameter (a callable without parameters has no dtype of its own and gets
    x's, unless ``dtype`` says otherwise); the sum is in x's dtype, on x's device. c_noise keeps at least float32 when
    the network is in half precision: the step index 999 does not exist in bfloat16.

    Raises ``ValueError`` for a σ that is neither () nor (B,), an x that is not floating point, and an output that has
    not x's shape.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        preconditioning: Preconditioning,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not callable(network):
            raise ValueError(f"network: must be callable as network(x, c_noise, **cond), got {type(network).__name__}")
        self.network = network
        self.preconditioning = preconditioning
        self.dtype = dtype

    @property
    def sigma_min(self) -> float:
        """The lowest σ that the network was made for."""
        return self.preconditioning.sigma_min

    @property
    def sigma_max(self) -> float:
        """The highest σ that the network was made for."""
        return self.preconditioning.sigma_max

    def forward(self, x: Float[Tensor, "B *shape"], sigma: float | Tensor, **cond: Any) -> Float[Tensor, "B *shape"]:
        if not x.is_floating_point():
            raise ValueError(f"x: must be floating point, got {x.dtype}; convert images to float in [-1, 1]")
        sigma = float64(sigma)
        c = self.preconditioning
        weight = _first_parameter(self.network)
        device = x.device if weight is None else weight.device
        dtype = self.dtype or (x.dtype if weight is None else weight.dtype)

        network_in = (along(c.c_in(sigma), x) * x).to(device=device, dtype=dtype)
        # non_blocking: a 0-d σ on the CPU reaches the device without waiting for it
        c_noise = c.c_noise(sigma).to(device=device, dtype=torch.promote_types(dtype, torch.float32), non_blocking=True)
        output = self.network(network_in, c_noise.expand(len(x)), **cond)

        if not isinstance(output, Tensor) or output.shape != x.shape:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"network: must return a tensor of its input's shape {tuple(x.shape)}, got {got}")
        return along(c.c_skip(sigma), x) * x + along(c.c_out(sigma), x) * output.to(device=x.device, dtype=x.dtype)


class DenoiserWrapper:
    """Base of denoisers that wrap another one, ``denoiser``, and support the same range of noise levels."""

    __slots__ = ()
    denoiser: Denoiser

    @property
    def sigma_min(self) -> float:
        """The lowest σ that the inner denoiser is to be used at."""
        return supported_range(self.denoiser)[0]

    @property
    def sigma_max(self) -> float:
        """The highest σ that the inner denoiser is to be used at."""
        return supported_range(self.denoiser)[1]


class Counted(DenoiserWrapper):
    """``denoiser``, counting its calls in ``nfe``: the number of function evaluations, whatever the batch.

    Put it around the whole denoiser for evaluations of D, or around the network's denoiser *inside* a guidance for
    evaluations of the network.
    """

    __slots__ = ("denoiser", "nfe")

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.nfe = 0

    def __call__(self, x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        out = self.denoiser(x, sigma, **cond)
        self.nfe += 1
        return out

    def sharing_count(self, denoiser: Denoiser) -> Denoiser:
        """Another denoiser, whose calls are counted here as well."""
        return _SharedCount(denoiser, self)


class InOwnType(DenoiserWrapper):
    """``denoiser``, which is given x and σ in float32 from where on it does not take them in float64.

    A model of somebody else's has weights in float32 and no cast of its own, and torch refuses to multiply them with
    the float64 in which walks are kept. What comes back is in the type of x. Where float32 is refused too, so is the
    run.
    """

    __slots__ = ("_narrow", "denoiser")

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self._narrow = False

    def __call__(self, x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        if not self._narrow:
            try:
                return self.denoiser(x, sigma, **cond)
            except RuntimeError as error:
                if not _of_types(error) or torch.float64 not in (x.dtype, sigma.dtype):
                    raise
                first = error
            try:
                out = self.denoiser(x.float(), sigma.float(), **cond)
            except RuntimeError as error:
                if not _of_types(error):
                    raise
                raise OutputError(
                    f"denoiser: takes x and sigma neither in {x.dtype} nor in float32 ({str(first).splitlines()[0]}); "
                    "cast them in it to the type of its weights, and its output back"
                ) from None
            self._narrow = True
        else:
            out = self.denoiser(x.float(), sigma.float(), **cond)
        return out.to(x.dtype) if isinstance(out, Tensor) else out


def _of_types(error: RuntimeError) -> bool:
    """Whether torch says that two tensors, such as x and a weight, are not of one type."""
    return re.search("dtype|scalar type|type .*should be the same", str(error)) is not None


class _SharedCount(DenoiserWrapper):
    __slots__ = ("counted", "denoiser")

    def __init__(self, denoiser: Denoiser, counted: Counted) -> None:
        self.denoiser, self.counted = denoiser, counted

    def __call__(self, x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        self.counted.nfe += 1
        return self.denoiser(x, sigma, **cond)


def supported_range(denoiser: object) -> tuple[float, float]:
    """The σ between which ``denoiser`` is to be used, (0, ∞) if it has no ``sigma_min`` and ``sigma_max``."""
    return float(getattr(denoiser, "sigma_min", 0.0)), float(getattr(denoiser, "sigma_max", math.inf))


def check_range(denoiser: object, sigmas: Tensor, tolerance: float = 1e-6) -> None:
    """Raise ``ValueError`` if ``denoiser`` does not support one of the noise levels ``sigmas`` (float64, on the CPU).

    Called once per walk with all of its levels, not at every evaluation, where it would cost a synchronization. A
    level of 0 is the end of a walk, where D is not evaluated, and passes. ``tolerance`` is relative: it forgives a
    range that was computed in float32.
    """
    low, high = supported_range(denoiser)
    if low <= 0 and high == math.inf:
        return
    visited = sigmas[sigmas > 0]
    if visited.numel() == 0:
        return
    least, most = float(visited.min()), float(visited.max())
    if most > high * (1 + tolerance):
        raise ValueError(f"sigma_max: the network supports σ up to {high:.6g}, got {most:.6g}; start at {high:.6g}")
    if least < low * (1 - tolerance):
        raise ValueError(f"sigma_min: the network supports σ down to {low:.6g}, got {least:.6g}; end at {low:.6g}")


def _first_parameter(network: object) -> Tensor | None:
    """The tensor whose dtype and device the network's input must have: a parameter, or else a floating-point buffer."""
    if not isinstance(network, nn.Module):
        return None
    tensors = itertools.chain(network.parameters(), network.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)
