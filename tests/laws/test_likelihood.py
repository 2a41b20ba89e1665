"""Likelihoods against closed forms: the flow's to fourth order, the bound's terms one by one, and both against p."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import edm_unified as edm
from edm_unified import data, exact
from edm_unified import likelihood as lk
from edm_unified.data import BYTES
from edm_unified.likelihood.prior import FAR, prior_warning

LN2 = math.log(2)


def mixture_64d() -> exact.GaussianMixture:
    return data.RandomMixture(dimension=64, components=4, spread=0.45, scale=0.3).mixture()


def elementwise(x: Tensor, sigma: Tensor) -> Tensor:
    """A denoiser whose rows do not know of each other: no matrix products, whose rounding depends on the batch."""
    s2 = sigma.to(x.dtype).square()
    s2 = s2.view(-1, *[1] * (x.ndim - 1)) if s2.ndim else s2
    return torch.tanh(x / (0.3 + s2)) * 0.25 / (0.25 + s2) + 0.1 * x.roll(1, -1) / (1 + s2)


def test_the_mixture_in_64_dimensions_to_fourth_order(table: list[tuple[str, ...]]) -> None:
    D = mixture_64d()
    x = D.sample(3, seed=1)
    error = {}
    for steps in (64, 128):
        found = edm.log_likelihood(D, x, steps=steps, prior=D, trace="exact")
        assert found.nfe == 4 * steps
        error[steps] = float((found.nats - D.log_prob(x, 0.002)).abs().max()) / (64 * LN2)
        table.append(("RK4 on the 64-D mixture", str(steps), f"{error[steps]:.2e} bits/dim"))
    assert error[64] < 1e-4
    assert 3.5 < math.log2(error[64] / error[128]) < 4.7


def test_held_out_digits_under_their_mixture() -> None:
    images = data.Digits().load().images.double()
    D = exact.GaussianMixture.fit(images[:1500], 10, rank=16, floor=1e-2)
    x = images[1500:1504]
    found = edm.log_likelihood(D, x, tolerance=1e-6, prior=lk.prior_of(images[:1500]))
    truth = D.log_prob(x, 0.002)
    # the prior knows the first two moments on average: measured 1e-5 bits/dim
    assert float((found.nats - truth).abs().max()) / (64 * LN2) < 1e-4
    torch.testing.assert_close(found.bits_per_dim, -found.nats / (64 * LN2))
    assert float((D.log_prob(x, 0.002) - D.log_prob(x, 0.0)).abs().max()) / (64 * LN2) < 1e-3  # σ_min against clean


def test_a_gaussian_in_closed_form_and_the_error_of_the_prior() -> None:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(6, 6, dtype=torch.float64, generator=generator) / 3
    D = exact.Gaussian(torch.full((6,), 0.4), A @ A.mT + 0.05 * torch.eye(6))
    x = D.sample(20_000, seed=2)
    exactly = edm.log_likelihood(D, x[:4], steps=128, prior=D, sigma_max=8.0)
    torch.testing.assert_close(exactly.nats, D.log_prob(x[:4], 0.002), rtol=0, atol=2e-5)
    torch.testing.assert_close(exactly.latent, D.flow(x[:4], 0.002, 8.0), rtol=0, atol=2e-5)
    for sigma_max in (4.0, 8.0):
        z = D.sample(20_000, seed=3, sigma=sigma_max)
        for prior in (lk.isotropic((6,)), lk.prior_of(x)):
            C, m = D.moments()[1] + sigma_max**2 * torch.eye(6), D.mean - prior.mean
            tau2 = float(prior.variances[0]) + sigma_max**2
            kl = 0.5 * float((C / tau2).diagonal().sum() - 6 - torch.logdet(C / tau2) + m.square().sum() / tau2)
            errors = D.log_prob(z, sigma_max) - prior.log_prob(z, sigma_max)
            assert float(errors.mean()) == pytest.approx(kl, abs=0.01)
            assert float(errors.std()) == pytest.approx(lk.prior_spread(kl), rel=0.15)  # of single samples
            assert float(errors.abs().quantile(0.98)) < FAR * lk.prior_spread(kl)
            assert lk.prior_error(x, prior, sigma_max) == pytest.approx(kl, rel=0.15)  # leading order in 1/σ²


def test_the_warning_speaks_of_single_samples() -> None:
    """Where the mean over the data is harmless, 4e-4 bits/dim in 64 dimensions, and single samples are not."""
    kl = 4e-4 * 64 * LN2
    words = prior_warning(kl, 64, 20.0)
    assert words is not None
    assert f"about 0.0004 bits/dim on average and up to {3 * math.sqrt(2 * kl) / (64 * LN2):.2g} for single" in words
    for harmless in (1e-5 * kl, None, math.nan):
        assert prior_warning(harmless, 64, 20.0) is None


def test_hutchinson_is_unbiased_with_the_error_that_it_states() -> None:
    D = mixture_64d()
    x = D.sample(1, seed=4).expand(48, -1).contiguous()
    reference = edm.log_likelihood(D, x[:1], steps=16, prior=D, trace="exact").nats
    for probe in ("rademacher", "gaussian"):
        found = edm.log_likelihood(D, x, steps=16, prior=D, trace="hutchinson", probe=probe, probes=8)
        assert found.nfe == 4 * 16
        assert float(found.standard_error.std()) > 0  # the probes of each row are its own
        se = float(found.standard_error.square().mean().sqrt())
        assert abs(float(found.nats.mean() - reference)) < 4 * se / 48**0.5
        assert float(found.nats.std()) == pytest.approx(se, rel=0.35)  # χ² with 47 degrees of freedom: ± 10 % each
    one = edm.log_likelihood(D, x[:2], steps=4, prior=D, trace="hutchinson", probes=1)
    assert bool(one.standard_error.isnan().all())


@pytest.mark.parametrize("how", [{"steps": 6}, {"tolerance": 1e-4}])
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_a_value_does_not_depend_on_its_batch(how: dict[str, float], trace: str) -> None:
    x = edm.unit_noise(7, (2, 3), seed=1) * 0.5
    settings = {"trace": trace, "probes": 3, "sigma_max": 20.0, "seed": 5, **how}
    whole = edm.log_likelihood(elementwise, x, **settings)  # type: ignore[arg-type]
    for start, stop in ((0, 1), (3, 7)):
        part = edm.log_likelihood(elementwise, x[start:stop], first=start, **settings)  # type: ignore[arg-type]
        assert torch.equal(part.nats, whole.nats[start:stop])
        assert torch.equal(part.latent, whole.latent[start:stop])
        assert torch.equal(part.standard_error, whole.standard_error[start:stop])


def test_adaptive_and_fixed_steps_and_other_traces_agree() -> None:
    x = edm.unit_noise(3, (2, 3), seed=2) * 0.5
    fixed = edm.log_likelihood(elementwise, x, steps=256, trace="exact", sigma_max=20.0).nats
    adaptive = edm.log_likelihood(elementwise, x, tolerance=1e-8, trace="exact", sigma_max=20.0).nats
    torch.testing.assert_close(adaptive, fixed, rtol=0, atol=1e-5)
    # the Jacobian of a conservative or any other field: autograd's own trace at one level
    sigma = torch.tensor(0.7, dtype=torch.float64)
    state = x.clone().requires_grad_(True)
    out = elementwise(state, sigma)
    jacobian = torch.autograd.functional.jacobian(lambda z: elementwise(z, sigma), x[:1]).reshape(6, 6)
    from edm_unified.likelihood.trace import estimator

    assert float(estimator(x, "exact", "rademacher", 1, False, None, 0, 0).of(out, state)[0, 0]) == pytest.approx(
        float(jacobian.diagonal().sum()), rel=1e-12
    )


@pytest.mark.parametrize("how", [{"steps": 96}, {"tolerance": 1e-7}])
def test_decoding_gives_back_what_was_encoded(how: dict[str, float]) -> None:
    D = mixture_64d()
    x = D.sample(2, seed=6)
    latent = lk.encode(D, x, **how)  # type: ignore[arg-type]
    torch.testing.assert_close(lk.decode(D, latent, **how), x, rtol=0, atol=1e-4)  # type: ignore[arg-type]
    torch.testing.assert_close(latent / 80, edm.log_likelihood(D, x, **how).latent / 80, rtol=0, atol=1e-5)  # type: ignore[arg-type]


def test_the_bound_on_a_gaussian_term_by_term() -> None:
    """With the exact D and prior: L_T + L_∞ = KL(N(x, σ²) ‖ p(·; σ)) for every x, and bound = −E ln p(x + σn; σ)."""
    v, sigma = torch.tensor([0.5, 0.02, 1.5], dtype=torch.float64), 0.05
    D = exact.Gaussian(torch.tensor([0.3, -0.2, 1.0]), v)
    x = D.sample(40, seed=7)
    y2 = (x - D.mean).square()
    kl = 0.5 * (((v + sigma**2) / sigma**2).log() + (sigma**2 + y2) / (v + sigma**2) - 1).sum(1)
    cross = 0.5 * ((2 * math.pi * (v + sigma**2)).log() + (y2 + sigma**2) / (v + sigma**2)).sum(1)
    own = lk.variational_bound(D, x, sigma_min=sigma, prior=D, control=D, points=4, repeats=2)
    torch.testing.assert_close(own.prior + own.diffusion, kl)  # the control is D: nothing is left to chance
    torch.testing.assert_close(own.nats, cross)
    other = exact.Gaussian(torch.zeros(3), 0.4)
    for settings in ({}, {"control": other}, {"control": other, "sigma_data": None}):
        drawn = lk.variational_bound(D, x, sigma_min=sigma, prior=D, points=64, repeats=8, **settings)  # type: ignore[arg-type]
        z = (drawn.nats - cross) / drawn.standard_error
        assert abs(float(z.mean())) < 4 * 1.2 / 40**0.5  # t with 7 degrees of freedom has the std 1.18
        assert 0.7 < float(z.std()) < 2.0


def test_the_bound_of_a_table_is_that_of_its_chain_and_falls_to_the_continuum() -> None:
    D = exact.Gaussian(torch.zeros(2), 0.25)
    x = D.sample(30, seed=8)
    totals = []
    for steps in (10, 100, 1000):
        levels = torch.logspace(-1, 1.5, steps + 1).double()
        chain = lk.variational_bound(D, x, levels=levels.tolist(), prior=D, control=D, repeats=2)
        s2 = chain.curve[0].square()
        below = levels[:-1].square()
        # E ‖x − D‖² averaged over the data is d v σ²/(v+σ²); here over these x
        y2 = x.square().sum(1)[:, None]
        error = (2 * 0.25**2 * s2 + s2.square() * y2) / (0.25 + s2).square()
        terms = 0.5 * (1 / below - 1 / s2) * error
        torch.testing.assert_close(chain.diffusion, terms.sum(1))
        torch.testing.assert_close(chain.curve[1], terms.mean(0))
        assert chain.nfe == 2 * steps
        totals.append(float(chain.nats.mean()))
    continuum = lk.variational_bound(
        D, x, sigma_min=0.1, sigma_max=float(levels[-1]), prior=D, control=D, repeats=2, points=2
    )
    assert totals[0] > totals[1] > totals[2] > float(continuum.nats.mean())
    assert totals[2] - float(continuum.nats.mean()) < 0.02


def test_two_independent_estimates_agree_with_the_density_of_a_mixture() -> None:
    """To 1e-3 bits/dim; the bound from above, but for its stated Monte Carlo error."""
    generator = torch.Generator().manual_seed(1)
    d, K = 64, 3
    means = 0.35 * torch.randn(K, d, dtype=torch.float64, generator=generator)
    covs = 0.02 + 0.2 * torch.rand(K, d, dtype=torch.float64, generator=generator)
    D = exact.GaussianMixture([0.5, 0.3, 0.2], means, covs, labels=[0, 1, 2])
    prior = lk.prior_of(D.sample(4000, seed=1))
    bounds, truths, smooth, errors = [], [], [], []
    for k, count in enumerate((250, 150, 100)):
        x = D.sample(count, seed=9 + k, label=k)
        own = exact.Gaussian(means[k], covs[k])
        found = lk.variational_bound(
            D, x, prior=prior, control=own, sigma_data=2.0, points=384, repeats=2, first=1000 * k
        )
        bounds.append(found.nats)
        errors.append(found.standard_error)
        truths.append(-D.log_prob(x, 0.0))
        smooth.append(-D.log_prob(x, 0.002 * 2**0.5))
    bound, truth, model = (torch.cat(v) / (d * LN2) for v in (bounds, truths, smooth))
    gap = bound - truth
    se = float(gap.std()) / len(gap) ** 0.5
    assert se < 3.4e-4
    assert abs(float(gap.mean())) < 1e-3
    assert float((bound - model).mean()) > -3 * se  # bound ≥ −ln p(x; √2 σ_min)
    assert float(torch.cat(errors).square().mean().sqrt()) / (d * LN2) == pytest.approx(float(gap.std()), rel=0.25)
    x = D.sample(4, seed=20)
    flow = edm.log_likelihood(D, x, prior=prior, trace="exact")
    assert float((flow.nats - D.log_prob(x, 0.0)).abs().max()) / (d * LN2) < 1e-3


def test_the_trace_is_exact_where_that_is_cheap() -> None:
    """A closed form up to 128 dimensions; anything else up to as many dimensions as there are probes."""
    D = exact.Gaussian(torch.zeros(9), 0.25)
    x = D.sample(2, seed=1)

    def exactly(denoiser: object, **options: object) -> bool:
        found = edm.log_likelihood(denoiser, x, steps=2, prior=D, sigma_max=20.0, **options)
        return bool((found.standard_error == 0).all())

    def network(z: Tensor, sigma: Tensor) -> Tensor:  # the trace of a matrix with nothing on its diagonal but 0
        return D(z, sigma).roll(1, -1)

    assert exactly(D)
    assert not exactly(network)
    assert exactly(network, probes=9)
    assert exactly(network, trace="exact")


def test_signs_lose_nothing_to_a_multiple_of_the_identity() -> None:
    """So c_skip I, whose trace is known, is left in: it costs normals something, and signs not a digit."""
    from edm_unified.likelihood.trace import estimator

    x = edm.unit_noise(4, (12,), seed=3).requires_grad_(True)
    rest = torch.linspace(0, 1, 12, dtype=torch.float64)
    spread = {}
    for probe, c_skip in [(p, c) for p in ("rademacher", "gaussian") for c in (0.0, 0.7)]:
        out = torch.tanh(x.roll(1, -1) * rest) + rest * x + c_skip * x
        traces = estimator(x.detach(), "hutchinson", probe, 200, False, None, 0, 0).of(out, x)
        spread[probe, "with" if c_skip else "without"] = traces.std(1)
    torch.testing.assert_close(spread["rademacher", "with"], spread["rademacher", "without"], rtol=1e-9, atol=0)
    assert bool((spread["gaussian", "with"] > 1.3 * spread["gaussian", "without"]).all())
    assert bool((spread["rademacher", "with"] < spread["gaussian", "without"]).all())


def test_the_bound_in_float32_is_that_in_float64() -> None:
    D, seen = exact.Gaussian(torch.zeros(8), 0.25), set()
    x = D.sample(5, seed=2)

    def watched(z: Tensor, sigma: Tensor) -> Tensor:
        seen.add(z.dtype)
        return 0.9 * D(z, sigma)

    settings = {"prior": D, "control": D, "points": 8}
    narrow = lk.variational_bound(watched, x, dtype=torch.float32, **settings)
    assert seen == {torch.float32}
    assert narrow.nats.dtype == torch.float64
    torch.testing.assert_close(narrow.nats, lk.variational_bound(watched, x, **settings).nats, rtol=1e-5, atol=1e-3)


def test_a_wrong_denoiser_has_a_higher_bound() -> None:
    """The bound is one for any D: the further off, the higher, by the excess error over the log-SNR."""
    D = exact.Gaussian(torch.zeros(8), 0.25)
    wrong = exact.Gaussian(torch.zeros(8), 0.5)
    x = D.sample(2000, seed=10)
    right, worse = (
        lk.variational_bound(m, x, prior=D, control=D, points=32, repeats=2, sigma_max=20.0) for m in (D, wrong)
    )
    s2 = torch.logspace(math.log10(0.002), math.log10(20), 4001).double().square()
    # E‖D_w − D‖²/σ² = d (0.5/(0.5+s²) − 0.25/(0.25+s²))² (0.25 + s²)/s²
    excess = 8 * (0.5 / (0.5 + s2) - 0.25 / (0.25 + s2)).square() * (0.25 + s2) / s2
    expected = float(torch.trapezoid(excess, 0.5 * s2.log()))
    measured = worse.nats - right.nats
    assert expected > 0.1
    assert abs(float(measured.mean()) - expected) < 4 * float(measured.std()) / 2000**0.5


def test_bytes_and_their_offset() -> None:
    """P(b) of a Gaussian pixel by Φ, against the density with the offset, and the discretised decoder."""
    assert lk.offset() == pytest.approx(math.log2(127.5))
    raw = torch.arange(40, 216)[:, None].to(torch.uint8)
    D = exact.Gaussian([0.1], 0.16)
    model = stats.norm(0.1, math.sqrt(0.16 + 0.002**2))
    x = BYTES.to_unit(raw).double().numpy()
    P = torch.from_numpy(model.cdf(x + 1 / 255) - model.cdf(x - 1 / 255))[:, 0]
    bits = -P.log2()
    for noise in ("uniform", "truncated_normal"):
        total = torch.zeros(len(raw), dtype=torch.float64)
        for seed in range(8):
            spread = lk.dequantize(raw, noise, sigma_min=0.002, seed=seed)
            assert float((spread.x - BYTES.to_unit(raw).double()).abs().max()) <= 1 / 255 + 1e-9
            total += spread.bits_per_dim(D.log_prob(spread.x, 0.002)) / 8
        # a density that is nearly flat in the bin: the bound of both is nearly tight, E ln p moved by curvature alone,
        # but truncated normals leave the bin's ends thin, which costs KL(q ‖ uniform)
        cost = 0.0 if noise == "uniform" else -spread.entropy / LN2 - math.log2(127.5)
        assert cost >= 0
        assert abs(float((total - bits).mean()) - cost) < 2e-3
    assert -lk.dequantize(raw, "uniform").entropy / LN2 == pytest.approx(math.log2(127.5))


def test_the_discretised_decoder_by_quadrature() -> None:
    raw = torch.tensor([[0], [3], [100], [200], [255]], dtype=torch.uint8)
    x, D, s = BYTES.to_unit(raw).double(), exact.Gaussian([0.1], 0.16), 0.004
    nodes = torch.linspace(-6, 6, 241, dtype=torch.float64)
    weights = torch.exp(-0.5 * nodes.square())
    mean = D((x + s * nodes).reshape(-1, 1), s).reshape(5, -1)
    law = stats.norm(mean.numpy(), s)
    P = law.cdf(np.where(raw == 255, np.inf, x + 1 / 255)) - law.cdf(np.where(raw == 0, -np.inf, x - 1 / 255))
    expected = -(torch.from_numpy(P).log() * weights).sum(1) / weights.sum()
    found = lk.variational_bound(D, x, sigma_min=s, prior=D, control=D, decoder="discretized", points=2, repeats=1000)
    z = (found.reconstruction - expected) / found.standard_error
    assert float(z.abs().max()) < 4
    bits = -torch.from_numpy(
        np.log2(np.diff(stats.norm(0.1, 0.4).cdf([-10, *(np.arange(255) + 0.5 - 127.5) / 127.5, 10])))
    )
    assert bool((found.bits_per_dim[1:4] > bits[raw[1:4, 0].long()]).all())


def test_the_truncated_normal_has_the_entropy_it_states() -> None:
    raw = torch.full((4_000, 1), 100)
    for sigma in (0.001, 0.004, 0.02):
        found = lk.dequantize(raw, "truncated_normal", sigma_min=sigma)
        tau = 0.5 / (127.5 * sigma)
        law = stats.truncnorm(-tau, tau, scale=sigma)
        assert found.entropy == pytest.approx(float(law.entropy()), abs=1e-9)
        offsets = (found.x - BYTES.to_unit(raw).double())[:, 0]
        assert stats.kstest((offsets).numpy(), law.cdf).pvalue > 1e-3
    one = lk.dequantize(raw[:5], seed=3).x
    assert torch.equal(lk.dequantize(raw[2:5], seed=3, first=2).x, one[2:])


def test_what_cannot_go_on_says_so() -> None:
    big = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"exact in 3,072 dimensions takes 3,072 backward passes for each of 256 "
                                         r"evaluations, 786,432 in all; use trace=hutchinson"):  # fmt: skip
        edm.log_likelihood(elementwise, big, trace="exact")
    with pytest.raises(ValueError, match=r"whole numbers.*dequantize"):
        edm.log_likelihood(elementwise, big.to(torch.uint8))
    with pytest.raises(ValueError, match="256, outside the declared range 0 to 255"):
        lk.dequantize(torch.full((1, 2), 256))
    with pytest.raises(ValueError, match="must be whole numbers"):
        lk.dequantize(torch.full((1, 2), 0.5))
    with pytest.raises(ValueError, match="sigma_min: must be below sigma_max"):
        edm.log_likelihood(elementwise, big, sigma_min=100.0)
    x = edm.unit_noise(4, (3,))
    with pytest.raises(ValueError, match="no gradient"):
        edm.log_likelihood(torch.no_grad()(elementwise), x)
    bad = x.clone()
    bad[2, 0] = math.nan
    with pytest.raises(FloatingPointError, match="sample 2 of the batch"):
        edm.log_likelihood(elementwise, bad, steps=2)
    with pytest.warns(UserWarning, match=r"sigma_max: 1 is low for this prior, whose error is about .* bits/dim"):
        edm.log_likelihood(elementwise, x, sigma_max=1.0, steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edm.log_likelihood(elementwise, x, sigma_max=80.0, steps=4)
    with pytest.raises(ValueError, match="lies outside the 256 grey levels"):
        lk.variational_bound(elementwise, torch.full_like(x, 300.5 / 127.5), decoder="discretized", points=2)
    with pytest.raises(ValueError, match="lies between the grey levels"):
        lk.variational_bound(elementwise, torch.full_like(x, 0.3), decoder="discretized", points=2)


def test_a_bound_that_cannot_be_says_so() -> None:
    for wrong in ({"decoder_sigma": 0.01}, {"decoder": "discretized", "decoder_sigma": 0.0}, {"dtype": torch.int32}):
        with pytest.raises(ValueError, match=r"^(decoder_sigma|dtype): "):
            lk.variational_bound(exact.Gaussian([0.0], 1.0), torch.zeros(1, 1), **wrong)
    x = edm.unit_noise(3, (2,))
    for settings, message in (
        ({"levels": [0.5]}, "levels: must be two or more, positive and finite"),
        ({"levels": [0.0, 0.5]}, "levels: must be two or more, positive and finite"),
        ({"sigma_data": 0.0}, "sigma_data: must be positive"),
        ({"values": 1}, "values: must be a whole number from 2"),
    ):
        with pytest.raises(ValueError, match=message):
            lk.variational_bound(elementwise, x, points=2, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"denoiser: returned shape \(3, 1\) for x of shape \(3, 2\)"):
        lk.variational_bound(lambda x, sigma: x.mean(1, keepdim=True), x, points=2)
    bad = x.clone()
    bad[1, 0] = math.nan
    with pytest.raises(FloatingPointError, match="not finite for 1 of 3 samples, first for sample 1"):
        lk.variational_bound(elementwise, bad, points=2)
