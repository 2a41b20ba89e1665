"""One's own network as a denoiser, by its convention."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from edm_unified import schedules
from edm_unified.components.component import choice
from edm_unified.denoisers.denoiser import Preconditioned
from edm_unified.denoisers.preconditioning import EDM, AnyPreconditioning, OnSchedule, Preconditioning, Score
from edm_unified.interop.calls import Call
from edm_unified.schedules import AnySchedule, BetaTable, FlowMatching
from edm_unified.training.trained_denoiser import TrainedDenoiser

Target = Literal["epsilon", "v", "velocity", "score", "x0", "edm", "denoised"]
TARGETS = ("epsilon", "v", "velocity", "score", "x0", "edm", "denoised")
TIMES = {
    "t": ("t", False),
    "1-t": ("t", True),
    "index": ("index", False),
    "nearest_index": ("nearest_index", False),
    "sigma": ("sigma", False),
    "log_sigma": ("log_sigma", False),
}
_TIME = re.compile(r"(?:(?P<times>[0-9.e]+)\s*\*\s*)?\(?(?P<name>[a-z_1-]+?)\)?(?:\s*/\s*(?P<over>[0-9.e]+))?")


def wrap(
    network: Callable[..., Any],
    prediction: Target | None = None,
    *,
    schedule: AnySchedule | None = None,
    time: str | None = None,
    toward: Literal["noise", "data"] | None = None,
    sigma_data: float = 0.5,
    convention: Preconditioning | None = None,
    arguments: Sequence[str] | Mapping[str, str] | None = None,
    shape: Sequence[int] = (),
    classes: int = 0,
    label: str | None = None,
    null: int | None = None,
    cond: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> TrainedDenoiser:
    """A network of any library as the denoiser D(x, sigma, **cond), x = x_0 + σ n.

    ``prediction``: what it predicts.

    =============  ================================================  =======================  ====================
    prediction     its target, in x_t = s (x_0 + σ n)                schedule, if none given  time, if none given
    =============  ================================================  =======================  ====================
    ``epsilon``    n                                                 DDPM's table of betas    index, or t
    ``v``          (n − σ x_0)/√(1+σ²)                               DDPM's table of betas    index, or t
    ``x0``         x_0                                               DDPM's table of betas    index, or t
    ``velocity``   dx_t/d(its time)                                  flow matching            t
    ``score``      ∇ log p(x_t)                                      s = 1, σ = t             sigma
    ``edm``        F of EDM's preconditioning with ``sigma_data``    –                        log_sigma/4
    ``denoised``   it is D: sees x itself, is told σ, returns x_0    s = 1, σ = t             sigma
    =============  ================================================  =======================  ====================

    ``time``: what it is told. ``t`` of the schedule (0 are the data), ``1-t`` (1 are the data), ``index`` or
    ``nearest_index`` of a table of betas (the first gives fractions between the levels, the second whole numbers of
    type int64), ``sigma``, ``log_sigma``; with a factor, as in ``1000*t``, ``999*t``, ``log_sigma/4``.

    ``toward``: the sign of a velocity, ``noise`` for n − x_0 and ``data`` for x_0 − n. By default that of dx_t/dτ in
    the time τ that it is told: noise for t, data for 1-t. Lipman et al., torchcfm and SiT: ``time="1-t"``. diffusers:
    ``time="1000*t"``.

    ``convention``, a preconditioning, says all this in one. ``arguments``, ``label``, ``null`` and ``cond`` are those
    of :class:`~edm_unified.interop.calls.Call`: arguments by position or name, the argument of the ``classes``, and
    the class that stands for none (without it every call needs a class). ``shape`` of a sample, for commands.

    The network's own dtype and device are found; give ``dtype`` for a function without parameters, as a lambda around
    a float32 model is. Raises ``ValueError`` naming the argument that does not fit.
    """
    if (prediction is None) == (convention is None):
        raise ValueError(f"prediction: name one of {', '.join(TARGETS)}, or give a convention, but not both")
    row = convention if prediction is None else convention_of(prediction, schedule, time, toward, sigma_data)
    noise = getattr(row, "noise", getattr(row, "index", None))
    call = Call(
        network, arguments, label=label or ("label" if classes else None), null=null, cond=cond,
        integer=noise == "nearest_index",
    )  # fmt: skip
    return as_trained(call, row, tuple(shape), classes, optional=null is not None, dtype=dtype)  # type: ignore[arg-type]


def as_trained(
    call: torch.nn.Module,
    convention: Preconditioning,
    shape: tuple[int, ...],
    classes: int = 0,
    *,
    optional: bool = True,
    dtype: torch.dtype | None = None,
    **about: Any,
) -> TrainedDenoiser:
    """The denoiser, with what a checkpoint of ours says of one. ``optional``: there is an answer without a class."""
    known = {
        "shape": list(shape),
        "classes": classes,
        "class_counts": [1] * classes,
        "label_dropout": 1.0 if optional else 0.0,
        "used": {"sha256": ""},
    }
    return TrainedDenoiser(Preconditioned(call, convention, dtype), known | about)


def convention_of(
    prediction: Target,
    schedule: AnySchedule | None = None,
    time: str | None = None,
    toward: Literal["noise", "data"] | None = None,
    sigma_data: float = 0.5,
) -> AnyPreconditioning:
    """The row of the design table for what :func:`wrap` was told."""
    choice("prediction", prediction, TARGETS)
    if prediction != "velocity" and toward is not None:
        raise ValueError(f"toward: is the sign of a velocity, and this network predicts {prediction}; leave it out")
    if prediction == "edm":
        if schedule is not None or time not in (None, "log_sigma/4"):
            raise ValueError("time: EDM's networks are told ln(σ)/4, whatever the schedule; leave it out")
        return EDM(sigma_data)
    path = schedule if schedule is not None else _SCHEDULES[prediction]()
    usual = "sigma" if isinstance(path, schedules.EDM) else "index" if isinstance(path, BetaTable) else "t"
    told, backward, scale = parse_time(usual if time is None else time)
    target = "x0" if prediction == "denoised" else prediction
    if target == "score" and told == "sigma" and isinstance(path, schedules.EDM) and scale == 1:
        return Score(noise="sigma")
    way = ("data" if backward else "noise") if toward is None else toward
    sign = way if target == "velocity" else "noise"
    return OnSchedule(path, target, told, reversed=backward, toward=sign, scale=scale)  # type: ignore[arg-type]


_SCHEDULES: dict[str, type] = {
    "epsilon": BetaTable,
    "v": BetaTable,
    "x0": BetaTable,
    "velocity": FlowMatching,
    "score": schedules.EDM,
    "denoised": schedules.EDM,
}


def parse_time(text: str) -> tuple[str, bool, float]:
    """``1000*(1-t)`` → ("t", True, 1000.0): what is told, whether from the other end, and its factor."""
    found = _TIME.fullmatch(text.strip())
    if found is None or found["name"] not in TIMES:
        raise ValueError(
            f"time: must be one of {', '.join(TIMES)}, also with a factor, as in 1000*t or log_sigma/4; got {text!r}"
        )
    try:
        scale = float(found["times"] or 1) / float(found["over"] or 1)
    except (ValueError, ZeroDivisionError):
        scale = math.nan
    if not 0 < scale < math.inf:
        raise ValueError(f"time: the factor must be a positive number, such as 1000*t; got {text!r}")
    told, backward = TIMES[found["name"]]
    return told, backward, scale
