"""Optimizers: components that build torch's, in the fastest implementation that is right for the parameters.

The rate of a step is ``lr`` times the factor of a rule of :mod:`edm_unified.training.optimization.rates`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import Nonnegative, Positive, interval
from edm_unified.training.optimization.rates import AnyRate, Constant, CosineDecay, InverseSquareRoot

Decay = Annotated[float, interval(0, 1, "[)")]
"""What a running mean keeps of itself in a step."""


@component
class Adam:
    """Adam (Kingma & Ba 2015, Algorithm 1); ``weight_decay`` is added to the gradient, as L2 regularization.

    The defaults are those of EDM (NVlabs/edm, train.py). ``eps`` stands beside the gradient, which is that of a mean
    over the entries of a sample here and of a sum there: their 1e-8 is 3.255e-12 for 3 × 32 × 32. Half precision of the
    second moments needs a larger one; weights and moments are float32 here.
    """

    lr: Positive = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8
    weight_decay: Nonnegative = 0.0
    kind: Literal["adam"] = "adam"
    formulas: ClassVar[dict[str, str]] = {"step": "−lr · m̂/(√v̂ + eps), the gradient being g + weight_decay · w"}

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimizer of ``parameters``, in the fastest implementation that is right for them."""
        chosen = list(parameters)
        return torch.optim.Adam(chosen, **_settings(self), **_implementation(chosen))


@component
class AdamW:
    """Adam with decoupled decay, w ← (1 − lr · weight_decay) w (Loshchilov & Hutter 2019, Algorithm 2).

    The decay is on every parameter. DiT and SiT train with ``weight_decay`` 0.
    """

    lr: Positive = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8
    weight_decay: Nonnegative = 0.01
    kind: Literal["adamw"] = "adamw"
    formulas: ClassVar[dict[str, str]] = {"step": "−lr · (m̂/(√v̂ + eps) + weight_decay · w)"}

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimizer of ``parameters``, in the fastest implementation that is right for them."""
        chosen = list(parameters)
        return torch.optim.AdamW(chosen, **_settings(self), **_implementation(chosen))


AnyOptimizer = Adam | AdamW


def _settings(optimizer: Adam | AdamW) -> dict[str, Any]:
    return {
        "lr": optimizer.lr,
        "betas": (optimizer.beta1, optimizer.beta2),
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
    }


def _implementation(parameters: list[Tensor]) -> dict[str, Any]:
    """``fused`` where all of a step is one pass over the memory; otherwise torch's own choice.

    On a CPU the fused step goes through the memory of weight and gradient side by side without looking at their
    strides, which is wrong where these differ: so only for weights in plain row-major order.
    """
    if not all(p.is_floating_point() and p.device == parameters[0].device for p in parameters):
        return {}
    if parameters and parameters[0].device.type == "cuda":
        return {"fused": True}
    dense_on_cpu = all(p.device.type == "cpu" and p.is_contiguous() and not hasattr(p, "to_local") for p in parameters)
    return {"fused": True} if dense_on_cpu and parameters else {}


__all__ = ["Adam", "AdamW", "AnyOptimizer", "AnyRate", "Constant", "CosineDecay", "InverseSquareRoot"]
