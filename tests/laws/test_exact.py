"""The exact denoisers against dense formulas, quadrature, brute force and each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edm_unified import exact
from edm_unified.denoisers.exact import mixture_sums

SIGMAS = [1e-5, 2e-3, 0.3, 4.0, 80.0, 1e6]
F64 = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=F64)


def spd(k: int, d: int, seed: int = 0) -> Tensor:
    a = randn(k, d, d, seed=seed)
    return a @ a.mT / d + 0.05 * torch.eye(d, dtype=F64)


def close(a: Tensor, b: Tensor, tol: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


def dense_mixture(w: Tensor, m: Tensor, C: Tensor, x: Tensor, s: float) -> tuple[Tensor, Tensor, Tensor]:
    """log p, D and score by the textbook formulas, one matrix solve for each component, no eigenvectors."""
    logits, means, scores = [], [], []
    for wk, mk, Ck in zip(w, m, C, strict=True):
        total = Ck + s * s * torch.eye(len(mk), dtype=F64)
        logits.append(wk.log() + torch.distributions.MultivariateNormal(mk, total).log_prob(x))
        solved = torch.linalg.solve(total, (x - mk).mT).mT
        means.append(mk + solved @ Ck)
        scores.append(-solved)
    stacked = torch.stack(logits, 1)
    r = stacked.softmax(1)[..., None]
    return stacked.logsumexp(1), (r * torch.stack(means, 1)).sum(1), (r * torch.stack(scores, 1)).sum(1)


K, d, R = 5, 4, 2
WEIGHTS, MEANS, LABELS = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15], dtype=F64), randn(K, d, seed=1), [0, 1, 0, 2, 1]
VARIANCES = 0.05 + torch.rand(K, d, generator=rng(2), dtype=F64)
FACTORS, FLOORS = randn(K, d, R, seed=3), 0.1 + torch.rand(K, generator=rng(4), dtype=F64)


def mixtures(**options: Any) -> dict[str, tuple[exact.GaussianMixture, Tensor]]:
    """One mixture of each form, with its dense covariances."""
    eye = torch.eye(d, dtype=F64)
    full, low = spd(K, d), FACTORS @ FACTORS.mT + FLOORS[:, None, None] * eye
    M, labels = exact.GaussianMixture, LABELS
    return {
        "isotropic": (M(WEIGHTS, MEANS, VARIANCES[:, 0], labels, **options), VARIANCES[:, 0, None, None] * eye),
        "diagonal": (M(WEIGHTS, MEANS, VARIANCES, labels, **options), torch.diag_embed(VARIANCES)),
        "full": (M(WEIGHTS, MEANS, full, labels, **options), full),
        "low-rank": (M.low_rank(WEIGHTS, MEANS, FACTORS, FLOORS, labels, **options), low),
    }


FORMS = list(mixtures())


def gaussians() -> dict[str, tuple[exact.Gaussian, Tensor]]:
    mean, eye = MEANS[0], torch.eye(d, dtype=F64)
    low = FACTORS[0] @ FACTORS[0].mT + 0.1 * eye
    return {
        "scalar": (exact.Gaussian(mean, 0.7), 0.7 * eye),
        "diagonal": (exact.Gaussian(mean, VARIANCES[0]), torch.diag(VARIANCES[0])),
        "full": (exact.Gaussian(mean, spd(1, d)[0]), spd(1, d)[0]),
        "low-rank": (exact.Gaussian.low_rank(mean, FACTORS[0], 0.1), low),
    }


def noisy(s: float, n: int = 6, seed: int = 7) -> Tensor:
    return randn(n, d, seed=seed) * math.sqrt(1 + s * s)


# -- closed formulas --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", list(gaussians()))
@pytest.mark.parametrize("s", SIGMAS)
def test_gaussian_is_the_dense_formula(form: str, s: float) -> None:
    G, C = gaussians()[form]
    x = noisy(s)
    log_p, D, score = dense_mixture(torch.ones(1, dtype=F64), G.mean[None], C[None], x, s)
    close(G(x, s), D)
    close(G.log_prob(x, s), log_p)
    close(G.score(x, s), score)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("s", SIGMAS)
def test_mixture_is_the_dense_formula(form: str, s: float) -> None:
    M, C = mixtures()[form]
    x = noisy(s)
    log_p, D, score = dense_mixture(WEIGHTS, MEANS, C, x, s)
    close(M(x, s), D)
    close(M.log_prob(x, s), log_p)
    close(M.score(x, s), score)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk_bytes", [1, 300, 1000])
def test_chunks_change_nothing(form: str, chunk_bytes: int) -> None:
    whole, parts = mixtures()[form][0], mixtures(chunk_bytes=chunk_bytes)[form][0]
    x, s = noisy(0.5, 11), torch.linspace(0.1, 3, 11, dtype=F64)
    for level in (0.5, s):
        close(parts(x, level), whole(x, level), 1e-13)
        close(parts.log_prob(x, level), whole.log_prob(x, level), 1e-13)
        close(parts.posterior(x, level).mean(), whole(x, level), 1e-12)


@pytest.mark.parametrize("name", [*FORMS, "gaussian", "empirical"])
def test_each_row_has_its_own_sigma_and_label(name: str) -> None:
    D = denoisers()[name]
    x, s = noisy(1.0), torch.tensor([0.2, 0.2, 3.0, 1e-3, 50.0, 1e5], dtype=F64)
    label = None if name == "gaussian" else torch.tensor([0, -1, 2, 1, 1, -1])
    for method in (D.__call__, D.log_prob, D.score):
        rows = [
            method(x[i : i + 1], float(s[i]), label=None if label is None else label[i : i + 1]) for i in range(len(x))
        ]
        close(method(x, s, label=label), torch.cat(rows))


@pytest.mark.parametrize("form", FORMS)
def test_a_class_is_the_mixture_of_its_components(form: str) -> None:
    M, C = mixtures()[form]
    x = noisy(0.4)
    for c in (0, 1, 2):
        own = torch.tensor(LABELS) == c
        log_p, D, _ = dense_mixture(WEIGHTS[own] / WEIGHTS[own].sum(), MEANS[own], C[own], x, 0.4)
        close(M(x, 0.4, label=torch.full((6,), c)), D)
        close(M.log_prob(x, 0.4, label=c), log_p)
        close(M.posterior(x, 0.4, label=c).mean(), D)
    close(M(x, 0.4, label=torch.full((6,), -1)), M(x, 0.4))


def test_mixture_of_one_is_the_gaussian() -> None:
    x, s = noisy(0.7), torch.tensor([1e-4, 0.01, 0.7, 3.0, 60.0, 1e6], dtype=F64)
    C = spd(1, d)
    one, G = exact.GaussianMixture([3.0], MEANS[:1], C), exact.Gaussian(MEANS[0], C[0])
    close(one(x, s), G(x, s), 1e-12)
    close(one.log_prob(x, s), G.log_prob(x, s), 1e-12)
    low = exact.GaussianMixture.low_rank([1.0], MEANS[:1], FACTORS[:1], 0.1)
    close(low.log_prob(x, s), gaussians()["low-rank"][0].log_prob(x, s), 1e-11)


def test_covariances_and_means_round_trip() -> None:
    for M, C in mixtures().values():
        close(M.covs if M.covs.ndim == 3 else torch.diag_embed(M.covs), C, 1e-12)
        close(M.means, MEANS, 1e-14)


def test_moments() -> None:
    mean = WEIGHTS @ MEANS
    for M, C in mixtures().values():
        between = MEANS - mean
        close(M.moments()[0], mean, 1e-14)
        close(M.moments()[1], torch.einsum("k,kij->ij", WEIGHTS, C + between[:, :, None] * between[:, None]), 1e-12)
    for G, C in gaussians().values():
        close(G.moments()[1], C, 1e-12)


# -- laws of probability ----------------------------------------------------------------------------------------------


def denoisers() -> dict[str, Any]:
    return {
        "gaussian": gaussians()["full"][0],
        **{name: M for name, (M, _) in mixtures().items()},
        "empirical": exact.Empirical(randn(9, d, seed=5), torch.arange(9) % 3),
    }


@pytest.mark.parametrize("name", list(denoisers()))
@pytest.mark.parametrize("s", [0.2, 2.0, 80.0])
def test_score_is_the_gradient_of_log_prob_and_tweedie_holds(name: str, s: float) -> None:
    D, x = denoisers()[name], noisy(s).requires_grad_()
    (gradient,) = torch.autograd.grad(D.log_prob(x, s).sum(), x)
    close(D.score(x, s), gradient, 1e-9)
    close(D(x, s), (x + s * s * gradient), 1e-9 * s * s + 1e-10)


@pytest.mark.parametrize("name", list(denoisers()))
def test_the_jacobian_of_D_is_the_posterior_covariance(name: str) -> None:
    """dD/dx = Cov[x_0 | x]/σ²: symmetric, and checked here by finite differences of D; also under torch.func."""
    D, x, s = denoisers()[name], noisy(0.5, 1), 0.5
    J = torch.autograd.functional.jacobian(lambda z: D(z, s)[0], x)[:, 0]
    close(J, J.mT, 1e-10)
    h = 1e-5 * torch.eye(d, dtype=F64)
    close(J, ((D(x + h, s) - D(x - h, s)) / 2e-5).mT, 1e-7)
    close(torch.func.jacrev(lambda z: D(z, s)[0])(x)[:, 0], J)
    _, forward = torch.func.jvp(lambda z: D(z, s), (x,), (torch.ones_like(x),))
    close(forward[0], J.sum(1))


@pytest.mark.parametrize("s", [0.0, 0.05, 1.0])
def test_log_prob_integrates_to_one_and_D_is_the_posterior_mean_by_quadrature(s: float) -> None:
    M = exact.GaussianMixture([0.2, 0.5, 0.3], [[-1.0], [0.3], [2.0]], [0.04, 0.2, 0.01])
    G = exact.Gaussian([0.3], 0.2)
    E = exact.Empirical(torch.tensor([[-1.0], [0.5], [0.6]], dtype=F64))
    grid = torch.linspace(-12, 12, 24001, dtype=F64)[:, None]
    for D in (M, G) if s == 0 else (M, G, E):
        close(torch.trapezoid(D.log_prob(grid, s).exp(), grid[:, 0]), torch.ones((), dtype=F64), 1e-9)
    if s > 0:
        x = torch.tensor([[-1.2], [0.1], [1.1], [3.0]], dtype=F64)
        likelihood = (-0.5 * ((x - grid.mT) / s).square()).exp()
        for D in (M, G):
            joint = likelihood * D.log_prob(grid, 0.0).exp()
            close(D(x, s), (joint @ grid) / joint.sum(1, keepdim=True), 1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_posterior(form: str) -> None:
    """Its mean is D, its covariance σ² dD/dx, and prior × likelihood = posterior × evidence at any point."""
    M, C = mixtures()[form]
    s, x = 0.6, noisy(0.6, 3)
    P = M.posterior(x, s)
    close(P.mean(), M(x, s))
    covs = P.covs if P.covs.ndim == 3 else torch.diag_embed(P.covs)
    close(covs, s * s * torch.linalg.solve(C + s * s * torch.eye(d, dtype=F64), C))
    for b in range(3):
        between = P.means[b] - P.mean()[b]
        total = (P.weights[b, :, None, None] * (covs + between[:, :, None] * between[:, None])).sum(0)
        J = torch.autograd.functional.jacobian(lambda z: M(z, s)[0], x[b : b + 1])[:, 0]
        close(total, s * s * J, 1e-9)
        at = randn(4, d, seed=b)
        likelihood = torch.distributions.Normal(at, s).log_prob(x[b]).sum(1)
        density = exact.GaussianMixture(P.weights[b], P.means[b], covs)
        close(M.log_prob(at, 0.0) + likelihood, density.log_prob(at, 0.0) + M.log_prob(x[b : b + 1], s), 1e-9)
    assert M.posterior(x, torch.tensor([0.1, 1.0, 2.0])).covs.shape[:2] == (3, K)


def test_flow_solves_the_ode() -> None:
    """d/dσ of the flow is (x − D)/σ, the flow is the identity at equal levels, and it composes."""
    for G, _ in gaussians().values():
        x, s, h = noisy(3.0), 1.3, 1e-5
        at = G.flow(x, 3.0, s)
        slope = (G.flow(x, 3.0, s + h) - G.flow(x, 3.0, s - h)) / (2 * h)
        close(slope, (at - G(at, s)) / s, 1e-8)
        close(G.flow(x, 3.0, 3.0), x, 1e-13)
        close(G.flow(at, s, 0.0), G.flow(x, 3.0, 0.0), 1e-12)


# -- the ends of the noise axis ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(denoisers()))
def test_at_zero_noise_D_returns_x(name: str) -> None:
    D, x = denoisers()[name], noisy(0.0)
    assert torch.equal(D(x, 0.0), x)
    mixed = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    out = D(x, mixed)
    assert torch.equal(out[::2], x[::2])
    close(out[1::2], D(x[1::2], 1.0))


@pytest.mark.parametrize("name", list(denoisers()))
def test_at_infinite_noise_D_is_the_mean_of_the_data(name: str) -> None:
    D = denoisers()[name]
    mean = {"gaussian": MEANS[0], "empirical": randn(9, d, seed=5).mean(0)}.get(name, WEIGHTS @ MEANS)
    close(D(torch.zeros(2, d, dtype=F64), 1e6), mean.expand(2, d), 1e-9)


def test_singular_data_have_a_denoiser_but_no_density_at_zero() -> None:
    """Points as a mixture of zero covariances are the empirical denoiser."""
    points = randn(7, d, seed=5)
    M, E = exact.GaussianMixture(torch.ones(7), points, torch.zeros(7)), exact.Empirical(points)
    x = points[:6] + 0.1 * randn(6, d, seed=6)
    for s in (1e-8, 1e-5, 0.2, 5.0, 1e6):
        close(M(x, s), E(x, s))
        torch.testing.assert_close(M.log_prob(x, s), E.log_prob(x, s), rtol=1e-10, atol=1e-9)
    assert torch.equal(M(x, 0.0), x)
    flat = torch.zeros(d, d, dtype=F64)
    flat[0, 0] = 1.0
    for D in (M, exact.Gaussian(points[0], flat), exact.GaussianMixture([1.0], points[:1], flat[None])):
        assert torch.isfinite(D(x, 0.0)).all()
        assert torch.isfinite(D(x, 1e-3)).all()
        with pytest.raises(ValueError, match=r"^sigma: .* zero variance"):
            D.log_prob(x, 0.0)


def test_an_offset_of_the_data_costs_no_digits() -> None:
    offset, x, s = 1e6, noisy(0.01), 0.01
    for name, (M, C) in mixtures().items():
        moved = (
            exact.GaussianMixture.low_rank(WEIGHTS, MEANS + offset, FACTORS, FLOORS)
            if name == "low-rank"
            else exact.GaussianMixture(WEIGHTS, MEANS + offset, C)
        )
        # The sum x + 1e6 itself is rounded to 1e-10.
        close(moved(x + offset, s) - offset, M(x, s), 1e-8)


# -- many components, float32, devices --------------------------------------------------------------------------------


def test_thousands_of_components_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    K, d, bound = 3000, 6, 200_000
    means, w = randn(K, d, seed=8), torch.rand(K, generator=rng(9), dtype=F64) + 0.1
    x = noisy(0.3, 40)[:, [0, 1, 2, 3, 0, 1]]
    low, floor = 0.3 * randn(K, d, 2, seed=1), torch.full((K,), 0.01, dtype=F64)
    full = low @ low.mT + 0.01 * torch.eye(d, dtype=F64)
    log_p, D, _ = dense_mixture(w / w.sum(), means, full, x, 0.3)

    largest = 0
    inner = mixture_sums._chunk

    def watched(c: Any, z: Tensor, *rest: Any) -> Any:
        nonlocal largest
        r = c.values.shape[1]
        largest = max(largest, 8 * len(z) * len(c.m) * r, 8 * len(c.m) * r * d)
        return inner(c, z, *rest)

    monkeypatch.setattr(mixture_sums, "_chunk", watched)
    for M in (
        exact.GaussianMixture(w, means, full, chunk_bytes=bound),
        exact.GaussianMixture.low_rank(w, means, low, floor, chunk_bytes=bound),
    ):
        close(M(x, 0.3), D)
        close(M.log_prob(x, 0.3), log_p)
    assert 0 < largest <= bound


@pytest.mark.parametrize("name", list(denoisers()))
def test_float32_in_float32_out_computed_in_float64(name: str) -> None:
    D, x = denoisers()[name], noisy(0.5).float()
    for method in (D.__call__, D.score):
        assert method(x, 0.5).dtype == torch.float32
        assert torch.equal(method(x, 0.5), method(x.double(), 0.5).float())
    assert D.log_prob(x, 0.5).dtype == F64
    copy = D.to("cpu")
    assert copy is not D
    assert torch.equal(copy(x, 0.5), D(x, 0.5))
    assert D(x[:0], 0.5).shape == (0, d)


def test_image_shapes_are_kept() -> None:
    means = randn(3, 2, 3, 2, seed=1)
    data = randn(10, 2, 3, 2, seed=2)
    for D in (
        exact.Gaussian(means[0], 1.0),
        exact.GaussianMixture([1, 1, 1], means, spd(3, 12)),
        exact.GaussianMixture.fit(data, 2),
        exact.Empirical(data),
    ):
        x = D.sample(4, seed=1, sigma=0.5)
        assert D.shape == (2, 3, 2)
        assert x.shape == D(x, 0.5).shape == D.score(x, 0.5).shape == (4, 2, 3, 2)
        assert D.log_prob(x, 0.5).shape == (4,)


# -- the empirical denoiser -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 2**26])
@pytest.mark.parametrize("s", [1e-7, 1e-4, 2e-3, 0.1, 3.0, 1e6])
def test_empirical_is_the_brute_force_softmax(chunk_bytes: int, s: float) -> None:
    data = randn(50, 8, seed=1)
    x = data[:5] + s * randn(5, 8, seed=2) + (1.0 if s < 1e-3 else 0.0) * randn(5, 8, seed=3)  # also off the data
    logits = -(x[:, None] - data).square().sum(-1) / (2 * s * s)
    E = exact.Empirical(data, chunk_bytes=chunk_bytes)
    close(E(x, s), logits.softmax(1) @ data)
    expected = logits.logsumexp(1) - math.log(50) - 4 * math.log(2 * math.pi * s * s)
    torch.testing.assert_close(E.log_prob(x, s), expected, rtol=1e-9, atol=1e-9)


def test_empirical_finds_the_nearest_point_where_products_would_not() -> None:
    """Two points 1e-9 apart beside one far away: the rounding of ‖x‖²+‖y‖²−2x·y exceeds the difference."""
    near = torch.tensor([[3.0, 4.0], [3.0 + 1e-9, 4.0], [-900.0, 50.0]], dtype=F64)
    for offset in (0.0, 1e3):
        points = near + offset
        torch.testing.assert_close(exact.Empirical(points)(points, 1e-10), points, rtol=0, atol=1e-12)


def test_empirical_classes_and_draws() -> None:
    data, labels = randn(30, 3, seed=1), torch.arange(30) % 3
    E = exact.Empirical(data.float(), labels)
    for c in range(3):
        drawn = E.sample(50, seed=c, label=c)
        assert (torch.cdist(drawn, data[labels == c].float().double()).min(1).values == 0).all()
        close(E(drawn + 0.1, 0.5, label=c), exact.Empirical(data[labels == c].float())(drawn + 0.1, 0.5), 1e-12)
    assert torch.equal(E.sample(9, seed=3, sigma=0.1), E.sample(9, seed=3, sigma=0.1))
    assert len(E.sample(3000, seed=0).unique(dim=0)) == 30


# -- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(denoisers()))
@pytest.mark.parametrize("s", [0.0, 1.5])
def test_draws_have_the_exact_moments(name: str, s: float) -> None:
    """Mean and covariance of 40,000 draws, each entry within 5 of its own standard errors of the exact one."""
    D, n = denoisers()[name], 40_000
    x = D.sample(n, seed=11, sigma=s)
    if name == "gaussian":
        mean, cov = MEANS[0], gaussians()["full"][1]
    elif name == "empirical":
        points = randn(9, d, seed=5)
        mean, cov = points.mean(0), points.mT.cov(correction=0)
    else:
        mean = WEIGHTS @ MEANS
        between = MEANS - mean
        cov = (WEIGHTS[:, None, None] * (mixtures()[name][1] + between[:, :, None] * between[:, None])).sum(0)
    cov = cov + s * s * torch.eye(d, dtype=F64)
    z = x - mean
    products = z[:, :, None] * z[:, None]
    assert (z.mean(0).abs() < 5 * z.std(0) / math.sqrt(n)).all()
    assert ((products.mean(0) - cov).abs() < 5 * products.std(0) / math.sqrt(n)).all()
    before = torch.get_rng_state()
    assert torch.equal(D.sample(5, seed=3, sigma=s), D.sample(5, seed=3, sigma=s))
    assert not torch.equal(D.sample(5, seed=3, sigma=s), D.sample(5, seed=4, sigma=s))
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_of_a_class_and_of_the_posterior() -> None:
    far = 100.0 * torch.arange(K, dtype=F64)[:, None].expand(K, d)
    for M in (
        exact.GaussianMixture(WEIGHTS, far, spd(K, d), LABELS),
        exact.GaussianMixture(WEIGHTS, far, VARIANCES, LABELS),
    ):
        label = torch.tensor([0, 1, 2, -1] * 50)
        k = (M.sample(200, seed=1, label=label)[:, 0] / 100).round().long()
        drawn = torch.tensor(LABELS)[k]
        assert torch.equal(drawn[label >= 0], label[label >= 0])
        assert len(drawn[label < 0].unique()) == 3
    n = 20_000
    for M, _ in mixtures().values():
        x = noisy(0.6, 1).expand(n, d)
        draws, D = M.posterior(x, 0.6).sample(seed=2), M(x[:1], 0.6)
        assert ((draws - D).mean(0).abs() < 5 * draws.std(0) / math.sqrt(n)).all()
        J = torch.autograd.functional.jacobian(lambda z, M=M: M(z, 0.6)[0], x[:1])[:, 0]
        products = (draws - D)[:, :, None] * (draws - D)[:, None]
        assert ((products.mean(0) - 0.36 * J).abs() < 5 * products.std(0) / math.sqrt(n)).all()


# -- fitting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["full", "diag", "isotropic"])
def test_fit_recovers_separated_components(covariance: str) -> None:
    truth = exact.GaussianMixture([0.3, 0.7], [[-3.0, 0.0], [3.0, 1.0]], [[0.5, 0.2], [0.3, 0.4]], [0, 1])
    n = 20_000
    label = (torch.rand(n, generator=rng(1)) < 0.7).long()
    data = truth.sample(n, seed=2, label=label)
    for fit in (
        exact.GaussianMixture.fit(data, 2, covariance=covariance, floor=1e-6),
        exact.GaussianMixture.fit(data, 1, label, covariance=covariance, floor=1e-6),
    ):
        order = fit.means[:, 0].argsort()
        close(fit.weights[order], truth.weights, 0.02)
        close(fit.means[order], truth.means, 0.03)
        if covariance != "isotropic":
            variances = fit.covs[order] if covariance == "diag" else fit.covs[order].diagonal(dim1=1, dim2=2)
            close(variances, truth.covs, 0.03)


@pytest.mark.parametrize("n", [12, 20, 60])
def test_few_samples_in_many_dimensions_are_fitted_as_densely(n: int) -> None:
    """scikit-learn's fit in all 20 dimensions, and the fit in those of the samples: D, density, draws, moments."""
    from sklearn.mixture import GaussianMixture as Fit

    d = 20
    data = randn(n, d, seed=1) * torch.linspace(1.5, 0.1, d, dtype=F64) + 2.0 * torch.arange(n)[:, None].remainder(2)
    fit = Fit(2, reg_covar=1e-2, max_iter=1000, random_state=np.random.RandomState(3)).fit(data.numpy())
    dense = exact.GaussianMixture(fit.weights_, fit.means_, fit.covariances_)
    M = exact.GaussianMixture.fit(data, 2, floor=1e-2, seed=3)
    x, more = randn(5, d, seed=5), randn(4, d, seed=6)
    close(M.covs, dense.covs, 1e-9)
    for s in (1e-3, 0.5, 50.0):
        close(M(x, s), dense(x, s), 1e-9)
        close(M.score(x, s), dense.score(x, s), 1e-8)
        close(M.log_prob(x, s), dense.log_prob(x, s), 1e-8)
        close(M.posterior(x, s).means, dense.posterior(x, s).means, 1e-9)
    close(M.log_prob(more), dense.log_prob(more), 1e-8)
    close(M.moments()[1], dense.moments()[1], 1e-9)
    draws = M.sample(4000, seed=1).mT.cov()
    assert float((draws - dense.moments()[1]).abs().max()) < 0.15 * float(draws.abs().max())


@pytest.mark.parametrize("n", [12, 60])
def test_a_fitted_rank_keeps_the_largest_directions_of_the_dense_covariance(n: int) -> None:
    data = randn(n, 20, seed=1) * torch.linspace(1.5, 0.1, 20, dtype=F64)
    full = exact.GaussianMixture.fit(data, 1, floor=1e-2).covs[0]
    values = torch.linalg.eigvalsh(exact.GaussianMixture.fit(data, 1, rank=3, floor=1e-2).covs[0])
    expected = torch.linalg.eigvalsh(full)
    expected = torch.cat([expected[:17].mean().expand(17), expected[17:]])
    close(values, expected, 1e-9)
    assert exact.GaussianMixture.fit(data, 1, rank=15, floor=1e-2)._c.values.shape[1] == min(15, n - 1)
    C = (data - data.mean(0)).mT @ (data - data.mean(0)) / n + 1e-3 * torch.eye(20, dtype=F64)
    close(exact.Gaussian.fit(data).moments()[1], C)
    close(exact.Gaussian.fit(data, rank=20).moments()[1], C)


def test_classes_of_few_and_of_many_samples_are_fitted_together() -> None:
    data, labels = randn(60, 20, seed=1), [0] * 10 + [1] * 50
    M = exact.GaussianMixture.fit(data, 1, labels, floor=1e-2)
    for c in (0, 1):
        own = data[torch.tensor(labels) == c]
        C = (own - own.mean(0)).mT @ (own - own.mean(0)) / len(own) + 1e-2 * torch.eye(20, dtype=F64)
        close(M.given(c).moments()[1], C, 1e-9)


def test_the_leading_directions_of_many_samples_are_those_of_a_full_decomposition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edm_unified.denoisers.exact import fit, principal

    data = randn(90, 70, seed=1) * torch.linspace(0, -4, 70, dtype=F64).exp()
    centred = data - data.mean(0)
    values, axes = principal.leading(centred, 3)
    monkeypatch.setattr(principal, "MOST_EXACT", 20)
    found, directions = principal.leading(centred, 3)
    close(found, values, 1e-9)
    close(directions.mT @ directions, axes.mT @ axes, 1e-5)  # of a variance the square
    monkeypatch.setattr(fit, "MOST_DIRECTIONS", 12)  # along 12 directions, with the mean variance of the 58 others
    C = exact.GaussianMixture.fit(data, 1, rank=2, floor=1e-2).covs[0]
    whole = torch.linalg.eigvalsh(centred.mT @ centred / 90) + 1e-2
    close(torch.linalg.eigvalsh(C), torch.cat([whole[:68].mean().expand(68), whole[68:]]), 1e-7)


@pytest.mark.parametrize("kind", ["mixture", "gaussian"])
def test_low_rank_moments_are_the_moments(kind: str) -> None:
    if kind == "gaussian":
        model: Any = exact.Gaussian.low_rank(randn(30), randn(30, 2), 0.3)
    else:
        model = exact.GaussianMixture.low_rank([0.3, 0.7], randn(2, 30), randn(2, 30, 3), torch.tensor([0.1, 0.4]))
    mean, F, floor = model.low_rank_moments()
    close(mean, model.moments()[0])
    close(F.mT @ F + floor * torch.eye(30, dtype=F64), model.moments()[1])


def test_fit_is_deterministic_local_and_truncates_by_rank() -> None:
    data = exact.Gaussian.low_rank(torch.zeros(6), randn(6, 2, seed=1), 0.01).sample(4000, seed=1)
    import numpy as np

    before = np.random.get_state()[1].copy()
    a, b = (exact.GaussianMixture.fit(data, 2, rank=2, floor=1e-6, seed=3) for _ in range(2))
    assert (np.random.get_state()[1] == before).all()
    assert torch.equal(a(data, 0.5), b(data, 0.5))
    full = exact.GaussianMixture.fit(data, 2, floor=1e-6, seed=3)
    # The trace is kept, and rank-2 data lose nothing but the spread of the four floor eigenvalues.
    close(a.covs.diagonal(dim1=1, dim2=2).sum(1), full.covs.diagonal(dim1=1, dim2=2).sum(1), 1e-10)
    close(a(data[:50], 0.5), full(data[:50], 0.5), 5e-3)
    assert "rank-2" in repr(a)


# -- bad input --------------------------------------------------------------------------------------------------------

X = torch.zeros(2, d, dtype=F64)
BAD: list[tuple[str, Callable[[], Any]]] = [
    ("^cov: must have shape", lambda: exact.Gaussian(MEANS[0], torch.ones(3))),
    ("^cov: must be symmetric", lambda: exact.Gaussian(torch.zeros(2), [[1.0, 0.5], [0.0, 1.0]])),
    ("^cov: must have no negative eigenvalue", lambda: exact.Gaussian(torch.zeros(2), [[1.0, 2.0], [2.0, 1.0]])),
    ("^cov: variances must not be negative", lambda: exact.Gaussian(torch.zeros(2), -1.0)),
    ("^mean: must be non-empty and finite", lambda: exact.Gaussian([math.nan], 1.0)),
    ("^factor: must have shape", lambda: exact.Gaussian.low_rank(torch.zeros(2), torch.ones(3, 1), 0.1)),
    ("^covs: must have shape", lambda: exact.GaussianMixture(WEIGHTS, MEANS, torch.ones(K, d + 1))),
    ("^covs: variances must not be negative", lambda: exact.GaussianMixture(WEIGHTS, MEANS, -torch.ones(K))),
    ("^weights: must be 5 positive", lambda: exact.GaussianMixture(WEIGHTS[:2], MEANS, torch.ones(K))),
    ("^weights: must be 5 positive", lambda: exact.GaussianMixture(0 * WEIGHTS, MEANS, torch.ones(K))),
    ("^labels: must be 5 whole", lambda: exact.GaussianMixture(WEIGHTS, MEANS, torch.ones(K), [0, 1])),
    ("^floor: must be positive", lambda: exact.GaussianMixture.low_rank(WEIGHTS, MEANS, FACTORS, 0.0)),
    ("^x: must be a tensor of shape \\(B, 4\\)", lambda: denoisers()["full"](torch.zeros(2, 5), 1.0)),
    ("^sigma: must have shape", lambda: denoisers()["full"](X, torch.ones(3))),
    ("^sigma: must be finite", lambda: denoisers()["full"](X, -1.0)),
    ("^sigma: must be finite", lambda: denoisers()["empirical"](X, math.nan)),
    ("^sigma: must be positive", lambda: denoisers()["empirical"].log_prob(X, 0.0)),
    ("^sigma: the posterior at sigma = 0", lambda: denoisers()["full"].posterior(X, 0.0)),
    (
        "^label: must be one of 0..2 or -1 for all, got 7",
        lambda: denoisers()["full"](X, 1.0, label=torch.tensor([0, 7])),
    ),
    ("^label: must be None or -1", lambda: denoisers()["gaussian"](X, 1.0, label=torch.tensor([0, 1]))),
    ("^label: must hold whole numbers", lambda: denoisers()["full"](X, 1.0, label=torch.tensor([0.5, 1]))),
    ("^label: must be one number or have shape", lambda: denoisers()["full"](X, 1.0, label=torch.tensor([0, 1, 2]))),
    ("^n: must be a whole number", lambda: denoisers()["full"].sample(-1)),
    ("^data: must be floating point", lambda: exact.Empirical(torch.zeros(3, 2, dtype=torch.uint8))),
    ("^data: must be finite", lambda: exact.Empirical(torch.tensor([[1.0, math.inf]]))),
    ("^data: must have shape", lambda: exact.Empirical(torch.zeros(0, 2))),
    ("^labels: must be 3 whole", lambda: exact.Empirical(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))),
    ("^components: class 1 has 2 samples", lambda: exact.GaussianMixture.fit(randn(9, 2), 3, [0] * 7 + [1] * 2)),
    ("^rank: must be from 1 to 2", lambda: exact.GaussianMixture.fit(randn(9, 2), 1, rank=3)),
    ("^covariance: must be one of", lambda: exact.GaussianMixture.fit(randn(9, 2), 1, covariance="round")),  # type: ignore[arg-type]
    ("^floor: must be positive", lambda: exact.GaussianMixture.fit(randn(9, 2), 1, floor=0.0)),
]


@pytest.mark.parametrize(("message", "act"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_one_line_naming_the_field(message: str, act: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)
