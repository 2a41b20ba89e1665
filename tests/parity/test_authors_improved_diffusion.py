"""The chains, samplers and bounds of openai/improved-diffusion beside ours.

It ports those of hojonathanho/diffusion, which need TensorFlow 1 and were read. Its coefficients are rounded to float32
where they are used; here that rounding is taken out, so that what is left is the arithmetic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from authors_repos import NOISE, Seen, clone, difference, double, drawn, golden, importable, loaded, ours, place, some
from torch import Tensor

import edm_unified as edm
from edm_unified import likelihood, solvers
from edm_unified.sampling.levels import TableSubset
from edm_unified.schedules import BetaTable

REPOSITORY, DDIM = "openai/improved-diffusion", "ermongroup/ddim"
gd, respace, their_losses = loaded(
    REPOSITORY,
    *(f"improved_diffusion.{name}" for name in ("gaussian_diffusion", "respace", "losses")),
    stubs=("mpi4py", "blobfile"),
)

ROUNDING = 1e-11


def unrounded(array: Any, timesteps: Tensor, shape: Any) -> Tensor:
    """Their look-up in a table, without the rounding to float32."""
    return torch.from_numpy(array)[timesteps].reshape(-1, *[1] * (len(shape) - 1)).expand(shape)


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if place(REPOSITORY) is not None:
        monkeypatch.setattr(gd, "_extract_into_tensor", unrounded)
    with double():
        yield


def chain(betas: Any, steps: Any, var: str = "FIXED_SMALL") -> Any:
    return respace.SpacedDiffusion(
        use_timesteps=steps, betas=np.asarray(betas), model_mean_type=gd.ModelMeanType.EPSILON,
        model_var_type=gd.ModelVarType[var], loss_type=gd.LossType.MSE,
    )  # fmt: skip


@golden(REPOSITORY)
def named_betas(name: str, M: int) -> Tensor:
    """Every (M/100)-th, and the last."""
    return torch.from_numpy(gd.get_named_beta_schedule(name, M))[[*range(0, M, max(1, M // 100)), -1]]


def same_of(table: Tensor) -> np.ndarray:
    return table[[*range(0, len(table), max(1, len(table) // 100)), -1]].numpy()


@golden(REPOSITORY)
def timesteps(M: int, kept: Any) -> Tensor:
    """The indices that they keep, from the top."""
    return torch.tensor(sorted(respace.space_timesteps(M, kept), reverse=True))


def network(schedule: BetaTable, denoiser: Any) -> Any:
    """ε of the scaled state, told the index in the whole table."""
    sigmas = schedule.sigmas

    def output(x: Tensor, t: Tensor) -> Tensor:
        sigma = sigmas[t[0]]
        z = x * torch.sqrt(1 + sigma**2)
        return (z - denoiser(z, sigma)) / sigma

    return output


@pytest.mark.parametrize("M", [100, 1000, 4000])
def test_betas(M: int) -> None:

    @golden(REPOSITORY)
    def cosine_sigmas() -> Tensor:
        return torch.from_numpy(np.sqrt(1 / np.cumprod(1 - gd.get_named_beta_schedule("cosine", M)) - 1)[:: M // 50])

    linear = BetaTable(num_steps=M, beta_start=0.1 / M, beta_end=20 / M)  # the ends move with M
    assert np.allclose(same_of(linear.table), named_betas("linear", M), rtol=1e-12, atol=0)
    cosine = BetaTable(betas="cosine", num_steps=M)
    theirs = named_betas("cosine", M)
    assert np.allclose(same_of(cosine.table), theirs, rtol=1e-9, atol=0)
    assert theirs[-1] == cosine.table[-1] == 0.999
    assert np.allclose(cosine.sigmas[:: M // 50].numpy(), cosine_sigmas(), rtol=1e-8, atol=0)


def test_respacing() -> None:
    """A number is "linspace", rounded half to even as theirs; "ddimN" is "leading" where N divides M."""
    for M in (1000, 4000):
        table = BetaTable(num_steps=M, beta_end=20 / M)
        for n in (2, 10, 20, 25, 50, 100, 200, 250, 500, M // 2, M):
            theirs = timesteps(M, [n]).long()
            assert torch.equal(TableSubset(n=n, spacing="linspace").levels(table)[:-1], table.sigmas[theirs])
            ddim = timesteps(M, f"ddim{n}").long()
            assert torch.equal(TableSubset(n=n, spacing="leading").levels(table)[:-1], table.sigmas[ddim])
    assert timesteps(1000, [1]).tolist() == [0]  # of one step they keep the lowest level, and we the highest
    assert float(timesteps(1000, "ddim30").max()) == 986  # a stride of 34, and ours ⌊1000/30⌋ = 33


def test_respacing_that_they_refuse() -> None:
    with pytest.raises(ValueError, match="integer stride"):
        respace.space_timesteps(1000, "ddim400")


def test_respacing_adds_up_a_rounded_stride() -> None:
    """So that an index which lies halfway between two may be the other one: for 283 of the 999 numbers of steps."""
    others = 0
    for n in range(2, 1001):
        theirs = sorted(respace.space_timesteps(1000, [n]))
        places = [Fraction(999 * i, n - 1) for i in range(n)]
        differ = [place for place, k in zip(places, theirs, strict=True) if round(place) != k]
        assert all(place.denominator == 2 for place in differ)
        others += bool(differ)
    assert others == 283


def spaced(betas: str, n: int) -> tuple[BetaTable, Any, list[float]]:
    schedule = BetaTable(betas=betas, num_steps=1000)  # type: ignore[arg-type]
    steps = range(1000) if n == 1000 else timesteps(1000, [n]).long().tolist()
    return schedule, set(steps), [*schedule.sigmas[sorted(steps, reverse=True)].tolist(), 0.0]


@pytest.mark.parametrize("betas", ["linear", "cosine"])
@pytest.mark.parametrize(("variance", "var"), [("small", "FIXED_SMALL"), ("large", "FIXED_LARGE")])
@pytest.mark.parametrize("n", [20, 1000])
def test_ancestral_sampling(betas: str, variance: str, var: str, n: int) -> None:
    """Every state at which the network is asked, and the end, without their clipping of D."""
    schedule, steps, levels = spaced(betas, n)
    mine = Seen()

    @golden(REPOSITORY)
    def sample() -> tuple[Tensor, list[Tensor]]:
        theirs = Seen()
        torch.manual_seed(0)
        x = chain(schedule.table, steps, var).p_sample_loop(
            network(schedule, theirs), tuple(NOISE.shape), noise=NOISE, clip_denoised=False, device="cpu"
        )
        assert len(theirs.states) == n
        return x, some(theirs.states)

    x, states = sample()
    out = ours(solvers.DDPM(variance=variance), levels, schedule, drawn(), mine, start=NOISE * math.hypot(1, levels[0]))
    assert len(mine.states) == n
    scale = some([math.hypot(1, sigma) for sigma in levels[:-1]])  # the state is 20,000 at the top of the cosine table
    gaps = [difference(a / s, b / s) for a, b, s in zip(some(mine.states), states, scale, strict=True)]
    assert max(gaps) < 1e-10
    assert difference(out, x) < 1e-10


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("betas", ["linear", "cosine"])
def test_ddim(betas: str, eta: float) -> None:
    schedule, steps, levels = spaced(betas, 20)

    @golden(REPOSITORY)
    def sample() -> Tensor:
        torch.manual_seed(0)
        return chain(schedule.table, steps).ddim_sample_loop(
            network(schedule, Seen()), tuple(NOISE.shape), noise=NOISE, clip_denoised=False, device="cpu", eta=eta
        )

    x = sample()
    start = NOISE * math.hypot(1, levels[0])
    assert difference(ours(solvers.DDIM(eta=eta), levels, schedule, drawn(), start=start), x) < 1e-10


def test_ddim_in_reverse() -> None:
    """Euler in σ upwards. It asks the network at the level that it leaves; its last step goes to ᾱ = 0."""
    schedule, steps, levels = spaced("linear", 20)
    rising = levels[-2::-1]

    @golden(REPOSITORY)
    def rise() -> tuple[Tensor, Tensor]:
        theirs, x = chain(schedule.table, steps), NOISE / math.hypot(1, rising[0])
        for i in range(20):
            before, t = x, torch.full((len(x),), i)
            x = theirs.ddim_reverse_sample(network(schedule, Seen()), x, t, clip_denoised=False)["sample"]
        return before, x

    (x, last), z = rise(), NOISE
    for a, b in itertools.pairwise(rising):
        z = z + (b - a) * (z - Seen()(z, a)) / a
    assert difference(x * math.hypot(1, rising[-1]), z) < ROUNDING
    assert difference(last, (z - Seen()(z, rising[-1])) / rising[-1]) < 1e-9  # ε, a state without data


def test_learned_range_at_its_ends_is_small_and_large() -> None:
    schedule, steps, levels = spaced("linear", 20)

    @golden(REPOSITORY)
    def variance(v: float) -> Tensor:
        def output(x: Tensor, t: Tensor) -> Tensor:
            return torch.cat([network(schedule, Seen())(x, t), torch.full_like(x, v)], 1)

        out = chain(schedule.table, steps, "LEARNED_RANGE").p_mean_variance(output, NOISE, torch.full((3,), 7))
        return out["variance"][0, 0, 0, 0]

    a, b = levels[-9], levels[-8]
    s_a, s_b = 1 / math.hypot(1, a), 1 / math.hypot(1, b)
    small = s_b * b / a * math.sqrt(a**2 - b**2)
    large = s_a * math.sqrt(a**2 - b**2)
    assert math.sqrt(variance(-1.0)) == pytest.approx(small, rel=1e-9)
    assert math.sqrt(variance(1.0)) == pytest.approx(large, rel=1e-9)


def bytes_like() -> Tensor:
    """Grey levels, both ends among them, in [−1, 1]."""
    raw = (127.5 + 60 * NOISE).round().clamp(0, 255)
    raw[0, 0, 0] = torch.tensor([0.0, 255.0])
    return raw / 127.5 - 1


@pytest.mark.parametrize("exact_normal", [True, False])
@pytest.mark.parametrize("n", [25, 1000])
def test_bound(n: int, exact_normal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """L_T, every L_{t−1} and L_0 under the same noise; fixed small variance, whose decoder has √β̃_2.

    Their Φ is an approximation by a tanh, which moves L_0 a little; with Φ in its place the two bounds are one number.
    """
    schedule, steps, levels = spaced("linear", n)
    x0 = bytes_like()

    @golden(REPOSITORY)
    def bound() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
        """L_T; the sum of all but L_0 for each sample; the mean of twenty of them; L_0; the whole; √β̃_2."""
        if exact_normal:
            monkeypatch.setattr(their_losses, "approx_standard_normal_cdf", torch.special.ndtr)
        diffusion = chain(schedule.table, steps)
        torch.manual_seed(0)
        found = diffusion.calc_bpd_loop(network(schedule, Seen()), x0, clip_denoised=False)
        middle = found["vb"][:, :-1]
        last = math.sqrt(diffusion.posterior_variance[1])
        curve = torch.stack(some(list(middle.mean(0).flip(0))))
        return found["prior_bpd"], middle.sum(1), curve, found["vb"][:, -1], found["total_bpd"], last

    prior, middle, curve, first, total, decoder_sigma = bound()
    noises = iter(())

    def fresh() -> Tensor:
        return next(noises)

    torch.manual_seed(0)
    drawn_there = [torch.randn_like(x0) for _ in range(n)]  # from the top of the chain to its bottom
    monkeypatch.setattr("edm_unified.likelihood.bound.NoiseStreams", lambda *_, **__: fresh)
    noises = iter([*reversed(drawn_there[:-1]), drawn_there[-1]])  # ours asks from the bottom, and L_0 last
    found = likelihood.variational_bound(
        Seen(), x0, levels=levels[:-1], repeats=1, prior=likelihood.isotropic(x0.shape[1:], variance=1.0),
        decoder="discretized", decoder_sigma=decoder_sigma,
    )  # fmt: skip
    bits = 1 / (x0[0].numel() * math.log(2))
    assert torch.allclose(found.prior * bits, prior, rtol=1e-9)
    assert torch.allclose(found.diffusion * bits, middle, rtol=1e-8)
    assert torch.allclose(torch.stack(some(list(found.curve[1] * bits))), curve, rtol=1e-7)
    gap = found.reconstruction * bits - first
    if exact_normal:
        assert float(gap.abs().max()) < 1e-9
        assert torch.allclose(found.bits_per_dim, total, rtol=1e-9)
    else:
        assert 1e-6 < float(gap.abs().max()) < 5e-3


def test_the_decoder_has_not_the_variance_of_the_lowest_level() -> None:
    """Ho et al. 2020, Eq. 13, says σ_1; the code has √β̃_2 in either of the fixed variances."""
    schedule = BetaTable()

    @golden(REPOSITORY)
    def std(var: str) -> float:
        diffusion, lowest = chain(schedule.table, range(1000), var), torch.zeros(3, dtype=torch.long)
        out = diffusion.p_mean_variance(network(schedule, Seen()), NOISE, lowest)
        return float(torch.exp(0.5 * out["log_variance"])[0, 0, 0, 0])

    for var in ("FIXED_SMALL", "FIXED_LARGE"):
        assert std(var) == pytest.approx(0.0074, abs=5e-5)
    assert float(schedule.sigmas[0]) == pytest.approx(0.0100005, rel=1e-6)


def test_the_recipes_tables_are_theirs() -> None:
    for name, betas in (("ddpm", "linear"), ("ddim", "linear"), ("iddpm", "cosine")):
        assert np.allclose(same_of(edm.Recipe.load(name).schedule.table), named_betas(betas, 1000), rtol=1e-9, atol=0)


# -- DDIM --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ermongroup_ddim(eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own loop, on their uniform subset: "leading". It asks for a GPU by name, and is given none."""
    schedule = BetaTable()
    steps = range(0, 1000, 1000 // 50)
    levels = TableSubset(n=50, spacing="leading").levels(schedule).tolist()
    assert levels[:-1] == schedule.sigmas[list(steps)].flip(0).tolist()

    @golden(DDIM)
    def sample() -> Tensor:
        with importable(clone(DDIM)) as load:
            denoising = load("functions.denoising")
        to = Tensor.to
        monkeypatch.setattr(Tensor, "to", lambda x, *where, **how: x if where == ("cuda",) else to(x, *where, **how))
        torch.manual_seed(0)
        told = network(schedule, Seen())
        xs, _ = denoising.generalized_steps(NOISE, steps, lambda x, t: told(x, t.long()), schedule.table, eta=eta)
        return xs[-1]

    x = sample()
    start = NOISE * math.hypot(1, levels[0])
    assert difference(ours(solvers.DDIM(eta=eta), levels, schedule, drawn(), start=start), x) < ROUNDING
