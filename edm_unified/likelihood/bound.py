"""The variational bound: −ln p(x) ≤ L_T + (sum or integral of the denoising error) + L_0, in nats.

The noising x → z_1 → … → z_N at levels σ_1 < … < σ_N is undone by p(z_i | z_j) = q(z_i | z_j, D(z_j; σ_j)), i < j
neighbours. Jensen's inequality gives (Ho et al. 2020, Eq. 5; Kingma et al. 2021, sections 4 and 5)

    L_T      = KL( N(x, σ_N² I) ‖ N(μ, C + σ_N² I) )                       the prior, in closed form
    L_{i}    = ½ (1/σ_i² − 1/σ_j²) E ‖x − D(x + σ_j n; σ_j)‖²              a step of the chain
    L_∞      = ∫ E ‖x − D(x + σn; σ)‖²/σ² d ln σ                           all steps, as N → ∞
    L_0      = −E ln p(x | z_1)                                            the decoder

With the exact D and prior, L_T + L_∞ = KL( N(x, σ_min² I) ‖ p(·; σ_min) ) for *every* x: the identity of information
and denoising error (Guo et al. 2005; Kong et al. 2023). Hence, with the Gaussian decoder N(x; z_1, σ_min² I),

    bound(x) = −E_n ln p(x + σ_min n; σ_min) ≥ −ln p(x; √2 σ_min),

while :func:`~edm_unified.likelihood.log_likelihood` gives ln p(x; σ_min): all three meet as σ_min → 0. The discretised
decoder is of bytes: its bound is on −ln P of the whole numbers, and needs no dequantisation and no offset.

**Variance.** Noise levels are stratified, and drawn uniformly in ln(σ²/(σ²+v)), in proportion to what the error of a
Gaussian of variance v contributes. Moreover, the error of a Gaussian's denoiser, whose mean and integral over ln σ are
closed formulas, is subtracted under the same noise (``control``): only the difference is estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edm_unified.components.component import choice, count, positive
from edm_unified.data import BYTES, Scaling
from edm_unified.denoisers import exact
from edm_unified.denoisers.denoiser import Counted, Denoiser, InOwnType, check_range, estimate
from edm_unified.denoisers.parametrization import along
from edm_unified.likelihood.decoder import Decoder, decoded
from edm_unified.likelihood.flow import refuse_gradient
from edm_unified.likelihood.prior import check_levels, isotropic
from edm_unified.sampling.by_sample import row_sum
from edm_unified.sampling.dynamics import checked_anchor
from edm_unified.sampling.streams import NoiseStreams, Purpose


class Bound(NamedTuple):
    """Each (B,) in nats, float64; their sum is ``nats``, an upper bound on −ln p(x)."""

    nats: Float[Tensor, " B"]
    standard_error: Float[Tensor, " B"]
    prior: Float[Tensor, " B"]
    """L_T."""
    diffusion: Float[Tensor, " B"]
    """The sum of the L_i, or L_∞."""
    reconstruction: Float[Tensor, " B"]
    """L_0."""
    curve: tuple[Tensor, Tensor]
    """Levels σ, and the mean over the batch of what each contributes: of L_i for a chain (at σ_j), of the integrand
    E‖x − D‖²/σ² (nats per unit of ln σ) for the continuum."""
    nfe: int
    dimensions: int

    @property
    def bits_per_dim(self) -> Float[Tensor, " B"]:
        return self.nats / (self.dimensions * math.log(2))


def variational_bound(
    denoiser: Denoiser,
    x: Float[Tensor, "B *shape"],
    *,
    levels: Sequence[float] | None = None,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    points: int = 64,
    repeats: int = 4,
    prior: exact.Gaussian | None = None,
    control: exact.Gaussian | None = None,
    sigma_data: float | None = 0.5,
    decoder: Decoder = "gaussian",
    decoder_sigma: float | None = None,
    scaling: Scaling = BYTES,
    values: int = 256,
    lowest: int = 0,
    seed: int = 0,
    first: int = 0,
    dtype: torch.dtype = torch.float64,
    cond: Mapping[str, object] | None = None,
    anchor: Float[Tensor, "B *shape"] | None = None,
) -> Bound:
    """The bound for each row of x (B, *shape), clean data in the units of D.

    ``levels``: those of a chain, such as the σ_k of a table of betas (ends included), or None for the continuum from
    ``sigma_min`` to ``sigma_max`` by ``points`` strata. Either is done ``repeats`` times with fresh noise, from which
    comes the standard error. ``prior``: N(μ, C) whose noisy version stands at the top; None is N(0, 0), and with an
    ``anchor`` y it is that of x − y. ``control``: a Gaussian like the data, for less variance; any is unbiased.
    ``sigma_data``: √v of the importance sampling, None for levels uniform in ln σ. ``decoder``: ``gaussian`` for real
    data, ``discretized`` for images of ``values`` grey levels from ``lowest`` on (Ho et al. 2020, Eq. 13, with mean D
    and variance σ_1²). ``decoder_sigma`` is another standard deviation for the latter: √β̃_2 of the chain (0.0074 for
    DDPM's table, where σ_1 is 0.01) gives the L_0 of the codes of Ho et al. and of Nichol & Dhariwal. Row i has the
    noise of sample ``first + i`` of ``seed``. ``dtype`` is that of the noisy samples, as in :func:`log_likelihood`; the
    sums are float64.

    Raises ``ValueError`` for integers, levels outside the range of D, or too few; ``FloatingPointError`` for NaN.
    """
    choice("decoder", decoder, ("gaussian", "discretized"))
    count("points", points)
    count("repeats", repeats)
    count("values", values, least=2)
    if sigma_data is not None:
        positive("sigma_data", sigma_data)
    if decoder_sigma is not None:
        positive("decoder_sigma", decoder_sigma)
        if decoder == "gaussian":
            raise ValueError("decoder_sigma: belongs to the discretized decoder; the gaussian one has σ_1")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype: must be a floating-point type, got {dtype}")
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
        got = f"{x.dtype} of {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x: must be floating point, (B, *shape), in the units of the denoiser, got {got}")
    chain = None if levels is None else torch.as_tensor(sorted(map(float, levels)), dtype=torch.float64)
    if chain is None:
        low, high = sigma_min, sigma_max
        check_levels(low, high)
    elif len(chain) < 2 or not (0 < float(chain[0]) < float(chain[-1]) < math.inf):
        raise ValueError(f"levels: must be two or more, positive and finite, got {chain.tolist()[:4]}")
    else:
        low, high = float(chain[0]), float(chain[-1])
    refuse_gradient("variational_bound", x)
    check_range(denoiser, torch.tensor([low, high], dtype=torch.float64))
    prior = isotropic(x.shape[1:]).to(x.device) if prior is None else prior
    x, counted, kwargs = x.double(), Counted(InOwnType(denoiser)), dict(cond or {})
    clean, randn = x.to(dtype), NoiseStreams(seed, first, x.shape, dtype, x.device, purpose=Purpose.BOUND_NOISE)

    def error(sigma: Tensor) -> Tensor:
        """‖x − D‖²/σ² under fresh noise, less that of the control; σ () or (B,), on the device of x."""
        z = clean + along(sigma, clean) * randn()
        out = _squared(estimate(counted, z, sigma, kwargs) - clean)
        if control is not None:
            out = out - _squared(control(z, sigma) - clean)
        return out / sigma.square()

    with torch.no_grad():
        top = _prior_term(x if anchor is None else x - checked_anchor(anchor, x), prior, high)
        if chain is None:
            drawn = _continuum(error, x, low, high, points, repeats, sigma_data, seed, first)
            known = top.new_zeros(()) if control is None else _integral(x, control, high) - _integral(x, control, low)
            curve = drawn.curve if control is None else _with_control(drawn.curve, x, control)
        else:
            half = 0.5 * (chain[1:].square() / chain[:-1].square() - 1)  # ½ (1/σ_i² − 1/σ_j²) σ_j²
            there = chain[1:].to(x.device)
            terms = torch.stack([torch.stack([error(s) for s in there], 1) for _ in range(repeats)])
            drawn = _DrawnSums(
                torch.stack([row_sum(term * half.to(x.device)) for term in terms]),
                (chain[1:], terms.mean((0, 1)).cpu()),
            )
            known, curve = top.new_zeros(()), (chain[1:], half * drawn.curve[1])
            if control is not None:
                expected = torch.stack([_expected(x, control, float(s)) for s in chain[1:]], 1)
                known = row_sum(expected * half.to(x.device))
                curve = (chain[1:], curve[1] + half * expected.mean(0).cpu())
        diffusion = drawn.sums.mean(0) + known
        std = low if decoder_sigma is None else decoder_sigma
        last = decoded(counted, clean, low, std, decoder, scaling, values, lowest, repeats, randn, kwargs)
    spread = drawn.sums + last
    se = spread.std(0) / repeats**0.5 if repeats > 1 else torch.full_like(top, math.nan)
    nats = top + diffusion + last.mean(0)
    if not bool(torch.isfinite(nats).all()):
        bad = (~torch.isfinite(nats)).nonzero().flatten().tolist()
        raise FloatingPointError(
            f"variational_bound: not finite for {len(bad)} of {len(x)} samples, first for sample {bad[0]} of the batch;"
            " x or the output of the denoiser holds NaN"
        )
    return Bound(nats, se, top, diffusion, last.mean(0), curve, counted.nfe, x[0].numel())


def _squared(x: Tensor) -> Tensor:
    return row_sum(x.double().square())


class _DrawnSums(NamedTuple):
    sums: Tensor  # (repeats, B)
    curve: tuple[Tensor, Tensor]


def _continuum(
    error: Callable[[Tensor], Tensor],
    x: Tensor,
    low: float,
    high: float,
    points: int,
    repeats: int,
    sigma_data: float | None,
    seed: int,
    first: int,
) -> _DrawnSums:
    """∫ error d ln σ, by one level in each of ``points`` strata of equal probability, for each sample its own."""
    place = NoiseStreams(
        seed, first, (len(x), points), torch.float64, torch.device("cpu"), purpose=Purpose.BOUND_LEVELS
    )
    sums, seen = [], []
    for _ in range(repeats):
        u = (torch.arange(points) + torch.special.ndtr(place())) / points  # (B, points)
        sigma, inverse_density = _levels(u, low, high, sigma_data)
        values = torch.stack([error(level) for level in sigma.to(x.device).unbind(1)], 1)
        sums.append(row_sum(values * inverse_density.to(x.device)) / points)
        seen.append((sigma.log().mean(0), values.mean(0).cpu()))
    levels = torch.stack([s for s, _ in seen]).mean(0).exp()
    return _DrawnSums(torch.stack(sums), (levels, torch.stack([v for _, v in seen]).mean(0)))


def _levels(u: Tensor, low: float, high: float, sigma_data: float | None) -> tuple[Tensor, Tensor]:
    """σ at the share u of the proposal, and 1/density in ln σ there."""
    if sigma_data is None:
        span = math.log(high / low)
        return torch.exp(math.log(low) + u * span), torch.full_like(u, span)
    v = sigma_data**2
    a, b = (0.5 * math.log(s * s / (s * s + v)) for s in (low, high))
    r = torch.exp(2 * (a + u * (b - a)))  # σ²/(σ²+v)
    s2 = v * r / (1 - r)
    return s2.sqrt(), (b - a) * (v + s2) / v


def _expected(x: Tensor, g: exact.Gaussian, sigma: float) -> Tensor:
    """E ‖x − D_g(x + σn; σ)‖²/σ² = Σ (λ²+σ²y²)/(λ+σ²)², λ and y along the axes of g."""
    s2 = sigma * sigma
    variances = g.variances.to(x.device)
    return (variances / (variances + s2)).square().sum() + s2 * row_sum(g.score(x, sigma).square())


def _integral(x: Tensor, g: exact.Gaussian, sigma: float) -> Tensor:
    """The antiderivative of :func:`_expected` in ln σ: ½ Σ [ ln(σ²/(λ+σ²)) + λ/(λ+σ²) − y²/(λ+σ²) ]."""
    s2, variances = sigma * sigma, g.variances.to(x.device)
    return 0.5 * ((s2 / (variances + s2)).log() + variances / (variances + s2)).sum() - 0.5 * _form(x, g, sigma)


def _form(x: Tensor, g: exact.Gaussian, sigma: float) -> Tensor:
    """(x−μ)ᵀ (C+σ²I)⁻¹ (x−μ)."""
    return -row_sum((x - g.mean.to(x.device)) * g.score(x, sigma))


def _prior_term(x: Tensor, prior: exact.Gaussian, sigma: float) -> Tensor:
    s2, variances = sigma * sigma, prior.variances.to(x.device)
    spread = ((variances + s2) / s2).log() + s2 / (variances + s2) - 1
    return 0.5 * (spread.sum() + _form(x, prior, sigma))


def _with_control(curve: tuple[Tensor, Tensor], x: Tensor, g: exact.Gaussian) -> tuple[Tensor, Tensor]:
    levels, values = curve
    return levels, values + torch.stack([_expected(x, g, s).mean() for s in levels.tolist()]).cpu()
