"""Law 1 for the published tables, the image programs' spacings, shifts, quantiles and densities.

``diffusers`` and scipy are the independent implementations; where neither has the rule, the formula is written out.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

import edm_unified as edm
from edm_unified import discretization
from edm_unified.components.shipped import kinds
from edm_unified.denoisers.preconditioning import IDDPM
from edm_unified.sampling.levels import (
    AlignYourSteps,
    BetaQuantiles,
    DensitySpaced,
    LogLinear,
    ResolutionShift,
    TableSubset,
    Tan,
    UniformTime,
)
from edm_unified.sampling.levels.tables import ALIGNED
from edm_unified.schedules import EDM, VP, BetaTable, FlowMatching


def test_the_command_line_finds_every_rule_in_the_sources() -> None:
    found = {member.__dataclass_fields__["kind"].default for member in discretization.AnySteps.__args__}  # type: ignore[union-attr]
    assert set(kinds("steps")) == found


# -- Align Your Steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "theirs"),
    [
        ("stable_diffusion_1_5", "StableDiffusionSigmas"),
        ("stable_diffusion_xl", "StableDiffusionXLSigmas"),
        ("stable_video_diffusion", "StableDiffusionVideoSigmas"),
    ],
)
def test_ten_steps_are_the_table_that_diffusers_ships(model: Any, theirs: str) -> None:
    tables = pytest.importorskip("diffusers.schedulers").AysSchedules
    assert AlignYourSteps(model=model).levels(EDM()).tolist() == tables[theirs]


@pytest.mark.parametrize("model", ALIGNED)
@pytest.mark.parametrize("n", [1, 3, 10, 17, 20, 40])
def test_other_numbers_of_steps_interpolate_ln_sigma(model: Any, n: int) -> None:
    """numpy's ``interp`` over the eleven published levels, the last of which then gives way to 0."""
    table = np.array(ALIGNED[model])
    expected = np.exp(np.interp(np.linspace(0, 1, n + 1), np.linspace(0, 1, 11), np.log(table)))
    levels = AlignYourSteps(n=n, model=model).levels(VP()).tolist()
    assert levels[:-1] == pytest.approx(expected[:-1], rel=1e-12)
    assert levels[-1] == 0
    if n % 10 == 0:  # the nodes are hit to the bit
        assert levels[: -1 : n // 10] == list(table[:-1])


# -- tables --------------------------------------------------------------------------------------------------------


def indices(steps: TableSubset, table: BetaTable) -> list[int]:
    place = {sigma: k for k, sigma in enumerate(table.sigmas.tolist())}
    return [place[sigma] for sigma in steps.levels(table).tolist()[:-1]]


def test_simple_and_sgm_uniform_are_those_of_the_image_programs() -> None:
    table = BetaTable()
    for n in range(1, 1001):
        simple = indices(TableSubset(n=n, spacing="simple"), table)
        assert simple == [1000 - (1 + int(x * 1000 / n + 1e-9)) for x in range(n)]
        uniform = indices(TableSubset(n=n, spacing="sgm_uniform"), table)
        assert uniform == [int(t + 1e-9) for t in np.linspace(999, 0, n, endpoint=False)]
        assert all(a > b for a, b in itertools.pairwise(uniform))


def test_edms_subset_of_iddpms_table() -> None:
    """u_j, j = ⌊j_0 + (M−1−j_0) i/(N−1) + ½⌋ with j_0 = 8 (Karras et al. 2022, Table 1); u_0 is the highest."""
    u, table = IDDPM().u[:-1], BetaTable(betas="cosine")
    for n in range(2, 993):
        steps = torch.arange(n)
        j = torch.div((8 + 0.5) * 2 * (n - 1) + 2 * 991 * steps, 2 * (n - 1), rounding_mode="floor").long()
        levels = TableSubset(n=n, spacing="edm", skip=8).levels(table)
        torch.testing.assert_close(levels[:-1], u[j], rtol=1e-12, atol=0)
    assert 80 < float(levels[0]) < 81
    # a half, in the middle of any odd number of levels, is where it parts from linspace
    ours, other = (TableSubset(n=3, spacing=s, skip=8).levels(table) for s in ("edm", "linspace"))
    assert ours[0] == other[0]
    assert ours[1] != other[1]


def test_a_skip_that_leaves_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^skip: 1000 leaves nothing of a table of 1000; lower skip"):
        TableSubset(n=1, skip=1000).levels(BetaTable())
    with pytest.raises(ValueError, match=r"^n: 993 steps out of a table of 992; lower n"):
        TableSubset(n=993, skip=8).levels(BetaTable())


@pytest.mark.parametrize("spacing", ["simple", "sgm_uniform"])
def test_an_offset_beyond_the_table_is_an_error(spacing: Any) -> None:
    with pytest.raises(ValueError, match=r"^offset: index 1000 is beyond the table"):
        TableSubset(n=4, spacing=spacing, offset=1).levels(BetaTable())


# -- shifted flows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shift_is_the_flows_own_and_scales_the_levels(shift: float) -> None:
    shifted = ResolutionShift(n=12, shift=shift).levels(EDM())
    assert torch.allclose(shifted, UniformTime(n=12).levels(FlowMatching(shift=shift)), rtol=1e-9)
    t = torch.arange(11, 0, -1, dtype=torch.float64) / 12
    assert torch.allclose(shifted[1:-1], shift * t / (1 - t), rtol=1e-4)  # t_0 is 1 − 1e-6, not 1
    assert shifted[0] == 1e6
    assert shifted[-1] == 0


def test_shift_as_in_diffusers() -> None:
    scheduler = pytest.importorskip("diffusers").FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 20, 20))
    t = scheduler.sigmas.double()[1:]
    assert torch.allclose(ResolutionShift(n=20).levels(EDM())[1:], t / (1 - t), rtol=1e-4)


# -- quantiles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 10, 25])
def test_beta_quantiles_as_in_diffusers(n: int) -> None:
    scheduler = pytest.importorskip("diffusers").EulerDiscreteScheduler(use_beta_sigmas=True)
    theirs = scheduler._convert_to_beta(torch.tensor([80.0, 0.002], dtype=torch.float64), n)
    assert BetaQuantiles(n=n).levels(EDM())[:-1].tolist() == pytest.approx(theirs, rel=1e-10)


@pytest.mark.parametrize("schedule", [EDM(), VP(), BetaTable(), FlowMatching()], ids=lambda s: s.kind)
@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.6), (0.5, 0.9), (2.0, 3.0)])
def test_beta_quantiles_are_quantiles_of_time(schedule: Any, alpha: float, beta: float) -> None:
    low, high = 0.02, 60.0
    levels = BetaQuantiles(n=21, sigma_min=low, sigma_max=high, alpha=alpha, beta=beta).levels(schedule)
    start, end = float(schedule.time(high)), float(schedule.time(low))
    place = (schedule.time(levels[:-1]) - end) / (start - end)
    probability = stats.beta.cdf(place.clamp(0, 1).numpy(), alpha, beta)
    assert probability == pytest.approx(np.linspace(1, 0, 21), abs=1e-7)


def test_beta_1_1_is_uniform() -> None:
    uniform = UniformTime(n=9, sigma_max=80.0, sigma_min=0.002).levels(VP())
    assert torch.allclose(BetaQuantiles(n=9, alpha=1.0, beta=1.0).levels(VP()), uniform, rtol=1e-9)


# -- densities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_every_step_has_the_same_share_of_the_density(n: int) -> None:
    nodes, density = (50.0, 9.0, 2.0, 0.4, 0.01), (0.2, 3.0, 1e-3, 7.0, 1.0)
    levels = DensitySpaced(n=n, sigmas=nodes, density=density).levels(EDM()).tolist()
    assert levels[0] == 50.0
    assert levels[-1] == 0.0
    if n == 1:
        return
    assert levels[-2] == 0.01
    x, q = np.log(nodes)[::-1], np.array(density)[::-1]

    def share(a: float, b: float) -> float:
        breaks = [p for p in x if math.log(b) < p < math.log(a)]
        return float(quad(lambda u: np.interp(u, x, q), math.log(b), math.log(a), points=breaks or None)[0])

    shares = [share(a, b) for a, b in itertools.pairwise(levels[:-1])]
    assert shares == pytest.approx([share(50.0, 0.01) / (n - 1)] * (n - 1), rel=1e-9)


def test_a_constant_density_is_log_linear_whatever_its_unit() -> None:
    for unit in (1e-50, 1.0, 1e50):
        flat = DensitySpaced(n=12, density=(unit, unit))
        assert torch.allclose(flat.levels(EDM()), LogLinear(n=12).levels(EDM()), rtol=1e-12)


def test_the_rescaled_entropy_of_a_gaussian_gives_tan() -> None:
    """mmse/σ = c² σ/(c² + σ²) per unit of ln σ, whose integral is c·arctan(σ/c)."""
    c = 0.5
    rule = DensitySpaced.of(lambda sigma: c**2 * sigma / (c**2 + sigma**2), n=15, nodes=4001)
    assert torch.allclose(rule.levels(EDM()), Tan(n=15, sigma_data=c).levels(EDM()), rtol=1e-5)


def test_density_takes_lists_arrays_and_tensors() -> None:
    forms = [tuple, list, np.array, torch.tensor]
    rules = [DensitySpaced(n=5, sigmas=form([8.0, 1.0, 0.5]), density=form([1.0, 2.0, 1.0])) for form in forms]
    assert len(set(rules)) == 1
    assert dataclasses.replace(rules[0], n=6).levels(EDM()).shape == (7,)


# -- a start below the start ---------------------------------------------------------------------------------------


def test_gaussian_jump_over_the_highest_levels() -> None:
    """Wang & Vastola 2024: above some level data look Gaussian, and a Gaussian's flow needs no evaluations.

    The jump is a change of the start: ``flow`` takes it down, and the walk begins there. At five evaluations that is
    nearer to the truth than five over the whole range; for Gaussian data it is exact.
    """
    noise = edm.unit_noise(200, (2,))
    means = torch.tensor([[-0.6, 0.2], [0.5, 0.4], [0.3, -0.7]], dtype=torch.float64)
    mixture = edm.exact.GaussianMixture([0.4, 0.3, 0.3], means, torch.full((3,), 0.02, dtype=torch.float64))
    centre = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64) @ means
    spread = means - centre
    covariance = 0.02 * torch.eye(2, dtype=torch.float64) + spread.T @ (
        torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64)[:, None] * spread
    )
    gaussian = edm.exact.Gaussian(centre, covariance)
    low = 4.0
    jumped = gaussian.flow(80 * noise, 80.0, low) / low
    assert torch.allclose(
        edm.reference(gaussian, jumped, sigma_max=low), edm.reference(gaussian, noise, sigma_max=80.0), atol=1e-8
    )
    truth = edm.reference(mixture, noise, sigma_max=80.0)

    def error(start: torch.Tensor, sigma_max: float) -> float:
        steps = LogLinear(n=5, sigma_max=sigma_max, sigma_min=0.05)
        x = edm.sample(mixture, start, steps=steps, solver=edm.solvers.DPMSolverPP2M())
        return float((x - truth).norm(dim=1).median())

    assert error(jumped, low) < 0.5 * error(noise, 80.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AlignYourSteps(n=0), "^n: "),
        (lambda: AlignYourSteps(model="stable_diffusion"), "^model: unknown .* did you mean 'stable_diffusion_"),
        (lambda: TableSubset(spacing="simpel"), "^spacing: unknown 'simpel'; did you mean 'simple'"),
        (lambda: ResolutionShift(shift=0.0), "^shift: must be positive"),
        (lambda: ResolutionShift(sigma_max=math.inf), "^sigma_max: must be positive and finite"),
        (lambda: BetaQuantiles(alpha=0.0), "^alpha: "),
        (lambda: BetaQuantiles(beta=-1.0), "^beta: "),
        (lambda: BetaQuantiles(sigma_min=3.0, sigma_max=2.0), "^sigma_min: must be below sigma_max"),
        (lambda: BetaQuantiles(n=999, alpha=0.01, beta=0.01).levels(EDM()), "^alpha, beta: the levels do not fall"),
        (lambda: DensitySpaced(density=(1.0, 0.0)), "^density: must be positive"),
        (lambda: DensitySpaced(density=(1.0, math.nan)), "^density: must be positive"),
        (lambda: DensitySpaced(density=(1.0,)), "^density: must have a value for each of sigmas, at least two, got 1"),
        (lambda: DensitySpaced(sigmas=(1.0, 2.0)), "^sigmas: must fall, but node 1"),
        (lambda: DensitySpaced(sigmas=(1.0, 0.0)), "^sigmas: must be positive"),
        (lambda: DensitySpaced.of(lambda sigma: 1.0, nodes=1), "^nodes: "),
        (lambda: DensitySpaced.of(lambda sigma: -sigma), "^density: "),
    ],
)
def test_bad_values_name_their_field(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
