"""Tableaus of exponential Runge–Kutta methods: entries a_ij(z), b_j(z) made of φ-functions.

Σ_j a_ij = c_i φ_1(c_i z) and Σ_j b_j = φ_1(z) in all of them; at z = 0 each is a classical tableau. The stiff order
conditions ask in addition that Σ_j b_j c_j^{k−1}/(k−1)! = φ_k(z) for k = 2, 3, … (Hochbruck & Ostermann 2005, Table 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edm_unified.sampling.solvers.phi import phi, phis

Row = tuple[float, ...]


class Scheme(NamedTuple):
    """A tableau: the places c_i, of which the first is 0, and z ↦ (rows a_ij(z), weights b_j(z))."""

    nodes: Row
    weights: Callable[[float], tuple[tuple[Row, ...], Row]]


def one_stage() -> Scheme:
    """DDIM: order 1."""
    return Scheme((0.0,), lambda z: (((),), (phi(1, z),)))


def two_stages(c: float) -> Scheme:
    """Order 2 with weights of φ_1 alone: b = φ_1 (1 − 1/2c, 1/2c)."""

    def weights(z: float) -> tuple[tuple[Row, ...], Row]:
        whole = phi(1, z)
        return ((), (c * phi(1, c * z),)), (whole * (1 - 0.5 / c), whole * 0.5 / c)

    return Scheme((0.0, c), weights)


def two_stages_stiff(c: float) -> Scheme:
    """Order 2 in the stiff sense too: b_2 = φ_2/c, b_1 = φ_1 − b_2 (Hochbruck & Ostermann 2010, section 2.3)."""

    def weights(z: float) -> tuple[tuple[Row, ...], Row]:
        _, whole, second = phis(2, z)
        return ((), (c * phi(1, c * z),)), (whole - second / c, second / c)

    return Scheme((0.0, c), weights)


def three_stages(c: float) -> Scheme:
    """Order 3: c_3 = ⅔, b = (φ_1 − 3/2 φ_2, 0, 3/2 φ_2) (Hochbruck & Ostermann 2005, section 5.2)."""

    def weights(z: float) -> tuple[tuple[Row, ...], Row]:
        _, whole, second = phis(2, z)
        _, third_1, third_2 = phis(2, 2 / 3 * z)
        a32 = 4 / (9 * c) * third_2
        return ((), (c * phi(1, c * z),), (2 / 3 * third_1 - a32, a32)), (whole - 1.5 * second, 0.0, 1.5 * second)

    return Scheme((0.0, c, 2 / 3), weights)


def _krogstad(z: float) -> tuple[tuple[Row, ...], Row]:
    _, half_1, half_2 = phis(2, z / 2)
    _, one, two, three = phis(3, z)
    rows = (), (half_1 / 2,), (half_1 / 2 - half_2, half_2), (one - 2 * two, 0.0, 2 * two)
    middle = 2 * two - 4 * three
    return rows, (one - 3 * two + 4 * three, middle, middle, 4 * three - two)


def _hochbruck_ostermann(z: float) -> tuple[tuple[Row, ...], Row]:
    _, half_1, half_2, half_3 = phis(3, z / 2)
    _, one, two, three = phis(3, z)
    a52 = half_2 / 2 - three + two / 4 - half_3 / 2
    a54 = half_2 / 4 - a52
    rows = (
        (),
        (half_1 / 2,),
        (half_1 / 2 - half_2, half_2),
        (one - 2 * two, two, two),
        (half_1 / 2 - 2 * a52 - a54, a52, a52, a54),
    )
    return rows, (one - 3 * two + 4 * three, 0.0, 0.0, 4 * three - two, 4 * two - 8 * three)


KROGSTAD = Scheme((0.0, 0.5, 0.5, 1.0), _krogstad)
HOCHBRUCK_OSTERMANN = Scheme((0.0, 0.5, 0.5, 1.0, 0.5), _hochbruck_ostermann)
