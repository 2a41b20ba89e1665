"""The φ-functions of exponential integrators (Hochbruck & Ostermann 2010, Eq. 2.10), and integrals made of them.

φ_0(z) = e^z,   φ_{k+1}(z) = (φ_k(z) − 1/k!)/z,   ∫_0^1 H e^{−H(1−v)} v^k dv = k! H φ_{k+1}(−H).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edm_unified.sampling.by_sample import each


def phi(k: int, z: Any) -> Any:
    """φ_k(z) in float64, of a number or of each sample's."""
    return each(lambda z: phis(k, z)[k], z) if isinstance(z, Tensor) else phis(k, z)[k]


def phis(k: int, z: float) -> list[float]:
    """φ_0(z) … φ_k(z): where |z| < 1 the series of the last and the recursion down, beyond it the recursion up.

    Each way the recursion multiplies an error by less than one.
    """
    if abs(z) >= 1:
        values = [math.exp(z)]
        for i in range(k):
            values.append((values[-1] - 1 / math.factorial(i)) / z)
        return values
    term = total = 1 / math.factorial(k)
    j = k
    while abs(term) > 1e-18 * total:
        j += 1
        term *= z / j
        total += term
    values = [total]
    for i in reversed(range(k)):
        values.append(z * values[-1] + 1 / math.factorial(i))
    return values[::-1]


def weights_of_moments(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The w with Σ_j w_j v_j^k = M_k for k < len(nodes): ∫ ℓ_j of the Lagrange basis on ``nodes``.

    Björck & Pereyra 1970 (Golub & Van Loan 2013, Algorithm 4.6.2).
    """
    last = len(nodes) - 1
    w = list(moments[: last + 1])
    for k in range(last):
        for i in range(last, k, -1):
            w[i] -= nodes[k] * w[i - 1]
    for k in range(last - 1, -1, -1):
        for i in range(k + 1, last + 1):
            w[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, last):
            w[i] -= w[i + 1]
    return w


def lagrange_weights(H: float, nodes: Sequence[float]) -> list[float]:
    """∫_0^1 H e^{−H(1−v)} ℓ_j(v) dv for the Lagrange basis ℓ_j on ``nodes``.

    They are the w with Σ_j w_j v_j^k = ∫_0^1 H e^{−H(1−v)} v^k dv.
    """
    moments = [math.factorial(k) * H * value for k, value in enumerate(phis(len(nodes), -H)[1:])]
    return weights_of_moments(nodes, moments)
