"""What a ``scheduler_config.json`` of diffusers says of the network that is used with it.

A scheduler there is a schedule, a parametrization, a choice of levels and a solver in one. Here the first three are
read; the solver is chosen anew. Conventions as measured on diffusers 0.42.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edm_unified.denoisers.preconditioning import EDM, OnSchedule, Preconditioning, Score, VPrediction
from edm_unified.sampling.levels import AnySteps, Karras, LogLinear, TableSubset, UniformTime
from edm_unified.schedules import EDM as _EDM_SCHEDULE
from edm_unified.schedules import AnySchedule, BetaTable, FlowMatching, Trigonometric


class ReadScheduler(NamedTuple):
    """The convention, whether the output's sign is turned, and the schedule and levels it was made for."""

    convention: Preconditioning
    negate: bool
    schedule: AnySchedule
    steps: AnySteps
    notes: tuple[str, ...] = ()


TABLES = (
    "DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "DDIMInverseScheduler",
    "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverMultistepInverseScheduler", "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler",
    "DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler", "LCMScheduler", "TCDScheduler",
    "RePaintScheduler",
)  # fmt: skip
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler",
         "LTXEulerAncestralRFScheduler")  # fmt: skip
NOT_GAUSSIAN = {
    "AmusedScheduler": "masks tokens",
    "VQDiffusionScheduler": "draws tokens from a discrete chain",
    "BlockRefinementScheduler": "masks tokens block by block",
    "DiscreteDDIMScheduler": "runs a discrete chain on tokens",
    "EntropyBoundScheduler": "unmasks tokens by their entropy",
}
"""Schedulers of what is no Gaussian diffusion of continuous data."""

NONE = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
"""In the place of a scheduler where the convention is given without one: for the levels."""


def read(config: Mapping[str, Any], fourier: bool = False, told_1000: bool = True) -> ReadScheduler:
    """What ``config`` says. ``fourier``: the network is diffusers' NCSN++, told σ and dividing by it. ``told_1000``: a
    flow is told 1000 t, as Stable Diffusion 3 is, and not t.

    Raises ``ValueError`` for a scheduler that is unknown or not Gaussian, and for values that are not.
    """
    name = str(config.get("_class_name", ""))
    if name in NOT_GAUSSIAN:
        raise ValueError(
            f"scheduler: {name} {NOT_GAUSSIAN[name]}: no Gaussian noise on continuous data, and so no denoiser D(x, σ)"
        )
    found = _READERS.get(name)
    if found is None:
        known = ", ".join(sorted(cut.removesuffix("Scheduler") for cut in _READERS))
        raise ValueError(f"scheduler: {name or 'without a name'} is not known; known are {known}; or give convention=")
    return found(config, fourier, told_1000)


def _number(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"scheduler: {name}: must be a number, got {str(value)[:40]!r}")
    return float(value)


def _count(config: Mapping[str, Any], name: str, default: int) -> int:
    value = _number(config, name, default)
    if value != int(value) or not 2 <= value <= 100_000:
        raise ValueError(f"scheduler: {name}: must be a whole number from 2 to 100,000, got {value:g}")
    return int(value)


def _flow(config: Mapping[str, Any], fourier: bool, told_1000: bool) -> ReadScheduler:
    shift = _number(config, "shift", _number(config, "flow_shift", 1.0))
    notes: tuple[str, ...] = ()
    if config.get("use_dynamic_shifting"):
        shift = math.exp(_number(config, "base_shift", 0.5))
        notes = ("its levels are shifted by the size of the image (use_dynamic_shifting); here by base_shift",)
    if config.get("invert_sigmas"):
        raise ValueError(
            "scheduler: invert_sigmas turns the time round in a way that differs by model; give convention="
        )
    scale = 1000.0 if told_1000 else 1.0
    row = OnSchedule(FlowMatching(), "velocity", "t", scale=scale)
    return ReadScheduler(row, False, FlowMatching(shift=shift), UniformTime(n=28), notes)


def _table(config: Mapping[str, Any], fourier: bool, told_1000: bool) -> ReadScheduler:
    prediction = config.get("prediction_type", "epsilon")
    if prediction == "flow_prediction":
        return _flow(config, fourier, told_1000)
    if config.get("timestep_type") == "continuous":
        return _continuous(config, prediction)
    targets = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
    if prediction not in targets:
        raise ValueError(
            f"scheduler: prediction_type: unknown {str(prediction)[:40]!r}; known are {', '.join(targets)}"
        )
    table = _betas(config)
    row = OnSchedule(table, targets[prediction], "index")  # type: ignore[arg-type]
    spacing = config.get("timestep_spacing", "leading")
    if spacing not in ("leading", "trailing", "linspace"):
        raise ValueError(f"scheduler: timestep_spacing: unknown {str(spacing)[:40]!r}")
    offset = int(_number(config, "steps_offset", 0)) if spacing == "leading" else 0
    n = min(20, len(table.sigmas))
    notes: tuple[str, ...] = ()
    if str(config.get("variance_type", "")).startswith("learned"):
        notes = ("its learned variances are dropped: D needs the mean alone",)
    return ReadScheduler(row, False, table, TableSubset(n=n, spacing=spacing, offset=offset), notes)


def _continuous(config: Mapping[str, Any], prediction: Any) -> ReadScheduler:
    """Euler's ``timestep_type: continuous``: told ln(σ)/4, in the state z/√(1+σ²)."""
    if prediction != "v_prediction":
        raise ValueError("scheduler: timestep_type continuous is that of v_prediction; give convention=")
    low, high = _number(config, "sigma_min", 0.002), _number(config, "sigma_max", 700.0)
    row = OnSchedule(Trigonometric(), "v", "log_sigma", scale=0.25)
    return ReadScheduler(row, False, _EDM_SCHEDULE(), Karras(n=25, sigma_min=low, sigma_max=high))


def _betas(config: Mapping[str, Any]) -> BetaTable:
    M = _count(config, "num_train_timesteps", 1000)
    kind, trained = config.get("beta_schedule", "linear"), config.get("trained_betas")
    start, end = _number(config, "beta_start", 1e-4), _number(config, "beta_end", 0.02)
    zero = bool(config.get("rescale_betas_zero_snr"))
    if trained is not None:
        if not isinstance(trained, (list, tuple)) or not 2 <= len(trained) <= 100_000:
            raise ValueError("scheduler: trained_betas: must be a list of 2 to 100,000 numbers")
        table = _checked(lambda: BetaTable(tuple(map(float, trained))))
    elif kind in _RULES:
        table = _checked(lambda: BetaTable(_RULES[kind], M, start, end))
    elif kind in _FORMULAS:
        table = _checked(lambda: BetaTable(tuple(_FORMULAS[kind](M, start, end).tolist())))
    else:
        known = ", ".join([*_RULES, *_FORMULAS])
        raise ValueError(
            f"scheduler: beta_schedule: unknown {str(kind)[:40]!r}; known are {known}; or give convention="
        )
    return BetaTable(tuple(_zero_terminal(table.table).tolist())) if zero else table


def _checked(make: Callable[[], BetaTable]) -> BetaTable:
    try:
        return make()
    except (ValueError, TypeError) as error:
        raise ValueError(f"scheduler: {error}") from None


_RULES: dict[Any, Any] = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_FORMULAS: dict[Any, Callable[[int, float, float], Tensor]] = {
    "sigmoid": lambda M, a, b: torch.sigmoid(torch.linspace(-6, 6, M, dtype=torch.float64)) * (b - a) + a,
    "exp": lambda M, a, b: torch.full((M,), -math.expm1(-12.0 / M), dtype=torch.float64),
}
"""Rules that have no name here."""


def _zero_terminal(betas: Tensor) -> Tensor:
    """``betas`` rescaled to zero terminal SNR (Lin et al. 2023, Algorithm 1): √ᾱ shifted to 0 at the end and scaled to
    what it was at the beginning. ᾱ_M is 2⁻²⁴, as in diffusers' Euler: σ_M = 4096 in place of infinity; but half of
    ᾱ_{M−1} where that is less, so that σ rises."""
    root = torch.cumprod(1 - betas, 0).sqrt()
    first, last = root[0], root[-1]
    alpha_bar = ((root - last) * first / (first - last)) ** 2
    alpha_bar[-1] = min(2.0**-24, 0.5 * float(alpha_bar[-2]))
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    return 1 - alpha_bar / before


def _edm(config: Mapping[str, Any], fourier: bool, told_1000: bool) -> ReadScheduler:
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(f"scheduler: prediction_type: unknown {str(prediction)[:40]!r} of an EDM scheduler")
    low, high = _number(config, "sigma_min", 0.002), _number(config, "sigma_max", 80.0)
    if config.get("sigma_schedule", "karras") == "exponential":
        steps: AnySteps = LogLinear(n=18, sigma_min=low, sigma_max=high)
    else:
        steps = Karras(n=18, sigma_min=low, sigma_max=high, rho=_number(config, "rho", 7.0))
    row = EDM(_number(config, "sigma_data", 0.5))
    return ReadScheduler(row, prediction == "v_prediction", _EDM_SCHEDULE(), steps)


def _cosine_dpm(config: Mapping[str, Any], fourier: bool, told_1000: bool) -> ReadScheduler:
    if config.get("prediction_type") != "v_prediction" or _number(config, "sigma_data", 1.0) != 1.0:
        raise ValueError(
            "scheduler: CosineDPMSolverMultistep is read with v_prediction and sigma_data 1; give convention="
        )
    low, high = _number(config, "sigma_min", 0.3), _number(config, "sigma_max", 500.0)
    return ReadScheduler(VPrediction(), False, _EDM_SCHEDULE(), LogLinear(n=25, sigma_min=low, sigma_max=high))


def _ve(config: Mapping[str, Any], fourier: bool, told_1000: bool) -> ReadScheduler:
    low, high = _number(config, "sigma_min", 0.01), _number(config, "sigma_max", 1348.0)
    if not fourier:
        raise ValueError(
            "scheduler: ScoreSdeVe is read with time_embedding_type fourier, which divides by σ; give convention="
        )
    return ReadScheduler(Score(noise="sigma"), False, _EDM_SCHEDULE(), LogLinear(n=50, sigma_min=low, sigma_max=high))


_READERS: dict[str, Callable[[Mapping[str, Any], bool, bool], ReadScheduler]] = {
    **dict.fromkeys(TABLES, _table),
    **dict.fromkeys(FLOWS, _flow),
    "EDMEulerScheduler": _edm,
    "EDMDPMSolverMultistepScheduler": _edm,
    "CosineDPMSolverMultistepScheduler": _cosine_dpm,
    "ScoreSdeVeScheduler": _ve,
}
