"""Laws of preconditioning and parametrization, over the unions; oracles are the definitions, not the code."""

from __future__ import annotations

import math
import re
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from scipy.integrate import quad
from torch import Tensor

from edm_unified import parametrization, schedules
from edm_unified import preconditioning as pre
from edm_unified.denoisers.denoiser import Preconditioned

ROWS = [row() for row in get_args(pre.AnyPreconditioning)]
FORMS = [form() for form in get_args(parametrization.AnyParametrization)]
ids = lambda row: row.kind  # noqa: E731


def log_uniform(n: int, low: float, high: float, seed: int = 0) -> Tensor:
    u = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.exp(math.log(low) + u * math.log(high / low))


def draws(n: int, d: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, n, d, dtype=torch.float64, generator=g)
    return x0, noise


# --- variances: closed forms for data of std σ_d ---------------------------------------------------------------------


def variances(row: pre.Preconditioning, sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """Var[c_in z] and Var[(x_0 − c_skip z)/c_out] for independent x_0 of variance σ_d² and unit n."""
    c_skip = row.c_skip(sigma)
    entering = row.c_in(sigma) ** 2 * (sigma_data**2 + sigma**2)
    target = ((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * sigma**2) / row.c_out(sigma) ** 2
    return entering, target


@pytest.mark.parametrize("sigma_data", [0.1, 0.5, 1.0, 7.0])
def test_edm_keeps_input_and_target_at_unit_variance(sigma_data):
    sigma = log_uniform(500, 1e-3, 1e4)
    for variance in variances(pre.EDM(sigma_data), sigma, sigma_data):
        torch.testing.assert_close(variance, torch.ones_like(sigma), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_edm_amplifies_the_error_of_F_as_little_as_possible(sigma_data):
    """c_skip minimizes |c_out| among all that give a target of unit variance (EDM appendix B.6)."""
    sigma = log_uniform(20, 1e-2, 1e2)[:, None]
    skip = torch.linspace(-0.5, 1.5, 4001, dtype=torch.float64)
    c_out = torch.sqrt(skip**2 * sigma**2 + (1 - skip) ** 2 * sigma_data**2)
    row = pre.EDM(sigma_data)
    assert (row.c_out(sigma) <= c_out.min(1, keepdim=True).values * (1 + 1e-12)).all()
    torch.testing.assert_close(row.c_skip(sigma)[:, 0], skip[c_out.argmin(1)], rtol=0, atol=6e-4)


# For data of unit variance: what enters F, and the variance of its target (None: as the paper leaves it)
UNIT_DATA = {
    "edm": (None, None),
    "vp": (lambda s: 1 + 0 * s, lambda s: 1 + 0 * s),
    "subvp": (lambda s: 1 + 0 * s, lambda s: 1 + 0 * s),
    "ve": (lambda s: 1 + s**2, lambda s: 1 + 0 * s),
    "score": (lambda s: 1 + s**2, lambda s: 1 / s**2),
    "ddpm": (lambda s: 1 + 0 * s, lambda s: 1 + 0 * s),
    "iddpm": (lambda s: 1 + 0 * s, lambda s: 1 + 0 * s),
    "v_prediction": (lambda s: 1 + 0 * s, lambda s: 1 + 0 * s),
    "flow_matching": (lambda s: (1 / (1 + s)) ** 2 + (s / (1 + s)) ** 2, lambda s: 2 + 0 * s),
    "data_prediction": (lambda s: 1 + 0 * s, lambda s: 1 + 0 * s),
    "consistency": (None, None),
    "on_schedule": (lambda s: (1 / (1 + s)) ** 2 + (s / (1 + s)) ** 2, lambda s: 2 + 0 * s),
}


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_variances_for_unit_data(row):
    sigma = log_uniform(300, 1e-2, 1e3)
    for got, expected in zip(variances(row, sigma, 1.0), UNIT_DATA[row.kind], strict=True):
        if expected is not None:
            torch.testing.assert_close(got, expected(sigma), rtol=1e-12, atol=0)


def test_subvp_state_is_what_the_sde_shows_its_network():
    """c_in z = x_t, whose variance for unit data is e^{−B} + (1 − e^{−B})² (Song et al. 2021, section 3.4)."""
    row, t = pre.SubVP(input="state"), torch.linspace(0.01, 1, 50, dtype=torch.float64)
    B = 0.5 * 19.9 * t**2 + 0.1 * t
    sigma = (1 - torch.exp(-B)) / torch.exp(-0.5 * B)
    torch.testing.assert_close(row.c_in(sigma), torch.exp(-0.5 * B), rtol=1e-12, atol=0)
    variance = variances(row, sigma, 1.0)[0]
    torch.testing.assert_close(variance, torch.exp(-B) + (1 - torch.exp(-B)) ** 2, rtol=1e-12, atol=0)
    assert (variance < variances(pre.VP(), sigma, 1.0)[0]).all()


def test_edm_with_unit_data_is_v_prediction_with_the_sign_turned():
    sigma = log_uniform(100, 1e-3, 1e4)
    edm, v = pre.EDM(sigma_data=1.0), pre.VPrediction()
    torch.testing.assert_close(edm.c_skip(sigma), v.c_skip(sigma), rtol=1e-14, atol=0)
    torch.testing.assert_close(edm.c_out(sigma), -v.c_out(sigma), rtol=1e-14, atol=0)
    torch.testing.assert_close(edm.c_in(sigma), v.c_in(sigma), rtol=1e-14, atol=0)


# --- network outputs and D -------------------------------------------------------------------------------------------

TARGETS = {  # the definitions, in trigonometric terms where the paper has them
    "x0": lambda x0, n, s: x0,
    "epsilon": lambda x0, n, s: n,
    "score": lambda x0, n, s: -n / s,
    "v": lambda x0, n, s: torch.cos(torch.atan(s)) * n - torch.sin(torch.atan(s)) * x0,
    "velocity": lambda x0, n, s: n - x0,
}


@pytest.mark.parametrize("form", FORMS, ids=ids)
def test_every_form_of_one_denoiser_gives_one_D(form):
    x0, n = draws(4000)
    sigma = log_uniform(4000, 1e-3, 1e6)
    s = sigma[:, None]
    x = x0 + s * n
    output = TARGETS[form.kind](x0, n, s)
    got = form.denoised(output, x, sigma)
    # z itself is rounded to ulp(σ): ε and score add terms of that size, the others do not
    scale = x.abs() + x0.abs() if form.kind in ("epsilon", "score") else 1 + x0.abs()
    assert ((got - x0).abs() <= 1e-12 * scale).all()


@pytest.mark.parametrize("form", FORMS, ids=ids)
def test_output_and_denoised_undo_each_other(form):
    x0, n = draws(4000, seed=2)
    sigma = log_uniform(4000, 1e-3, 1e6, seed=2)
    s = sigma[:, None]
    x = x0 + s * n
    output = TARGETS[form.kind](x0, n, s)
    back = form.output(form.denoised(output, x, sigma), x, sigma)
    assert ((back - output).abs() <= 1e-12 * (1 + 1 / s * (form.kind == "score")) * (1 + n.abs() + x0.abs())).all()
    denoised = form.denoised(form.output(x0, x, sigma), x, sigma)
    assert ((denoised - x0).abs() <= 1e-12 * (x.abs() + x0.abs())).all()


@pytest.mark.parametrize("form", FORMS, ids=ids)
def test_forms_broadcast_one_level_and_one_per_sample(form):
    x0, n = draws(4)
    one = form.denoised(n, x0, 0.7)
    torch.testing.assert_close(form.denoised(n, x0, torch.tensor(0.7, dtype=torch.float64)), one, rtol=0, atol=0)
    per = form.denoised(n, x0, torch.full((4,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(per, one, rtol=1e-15, atol=1e-16)
    assert form.denoised(n.float(), x0.float(), torch.full((4,), 0.7)).dtype == torch.float32
    with pytest.raises(ValueError, match=r"^sigma: must have shape \(\) or \(4,\).*got \(3,\)"):
        form.denoised(n, x0, torch.ones(3))


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_preconditioned_target_of_a_gaussian_gives_back_its_D(row):
    """F := (D − c_skip z)/c_out of a known D, behind the row's own c_in, is D again, for () and (B,) levels."""
    g = torch.Generator().manual_seed(3)
    root = torch.randn(5, 5, dtype=torch.float64, generator=g)
    cov, mean = root @ root.T + 0.1 * torch.eye(5), torch.randn(5, dtype=torch.float64, generator=g)
    x = torch.randn(16, 5, dtype=torch.float64, generator=g) * 3
    levels = log_uniform(16, 0.02, 9.0)

    def exact(x: Tensor, sigma: Tensor) -> Tensor:
        noisy = cov + sigma.reshape(-1, 1, 1) ** 2 * torch.eye(5, dtype=torch.float64)
        return mean + (cov @ torch.linalg.solve(noisy, (x - mean)[..., None])).squeeze(-1)

    for sigma in (levels, levels[3]):
        s = sigma.reshape(-1, 1)

        def network(inputs: Tensor, c_noise: Tensor, sigma: Tensor = sigma, s: Tensor = s) -> Tensor:
            torch.testing.assert_close(c_noise, row.c_noise(sigma).expand(16), rtol=0, atol=0)
            z = inputs / row.c_in(s)
            return (exact(z, sigma) - row.c_skip(s) * z) / row.c_out(s)

        D = Preconditioned(network, row)
        torch.testing.assert_close(D(x, sigma), exact(x, sigma), rtol=1e-12, atol=1e-12)


PATHS = [schedules.FlowMatching(), schedules.VP(), schedules.SubVP(), schedules.EDM(), schedules.Cosine(),
         schedules.Trigonometric(), schedules.ExponentialVE(), schedules.BetaTable()]  # fmt: skip


@pytest.mark.parametrize("schedule", PATHS, ids=ids)
@pytest.mark.parametrize("predicts", ["epsilon", "v", "velocity", "score", "x0"])
def test_every_target_in_the_state_of_a_schedule_gives_x_0(schedule, predicts):
    """The targets by their definitions in x_t = α x_0 + β n; α' and β' by differences of s and sσ."""
    x0, n = draws(200)
    sigma = log_uniform(200, 0.05, 5.0)
    t = schedule.time(sigma)
    alpha, beta = schedule.s(t)[:, None], (schedule.s(t) * schedule.sigma(t))[:, None]
    h = 1e-5 * t
    moved = [(schedule.s(u)[:, None], (schedule.s(u) * schedule.sigma(u))[:, None]) for u in (t + h, t - h)]
    rate = [(up - down) / (2 * h[:, None]) for up, down in zip(*moved, strict=True)]
    target = {
        "epsilon": n,
        "v": alpha * n - beta * x0,
        "velocity": rate[0] * x0 + rate[1] * n,
        "score": -n / beta,
        "x0": x0,
    }[predicts]
    for toward in ("noise", "data") if predicts == "velocity" else ("noise",):
        row = pre.OnSchedule(schedule, predicts, toward=toward)
        seen = -target if toward == "data" else target
        D = Preconditioned(lambda x, t, seen=seen: seen, row)(x0 + sigma[:, None] * n, sigma)
        torch.testing.assert_close(D, x0, rtol=0, atol=2e-8 if predicts == "velocity" else 1e-11)


def test_what_is_told_on_a_schedule():
    sigma = log_uniform(50, 0.05, 5.0)
    table = schedules.BetaTable()
    told = lambda schedule, **more: pre.OnSchedule(schedule, "epsilon", **more).c_noise(sigma)  # noqa: E731
    flow = schedules.FlowMatching()
    torch.testing.assert_close(told(flow, reversed=True), 1 / (1 + sigma), rtol=1e-12, atol=0)
    torch.testing.assert_close(told(flow, scale=1000.0), 1000 * sigma / (1 + sigma), rtol=1e-12, atol=0)
    assert torch.equal(told(table, noise="index"), pre.DDPM().c_noise(sigma))
    assert torch.equal(told(table, noise="nearest_index"), pre.DDPM(index="nearest").c_noise(sigma))
    assert torch.equal(
        told(table, noise="nearest_index", reversed=True), 999 - pre.DDPM(index="nearest").c_noise(sigma)
    )
    torch.testing.assert_close(
        told(schedules.EDM(), noise="log_sigma", scale=0.25), sigma.log() / 4, rtol=1e-12, atol=0
    )
    for wrong, why in (
        ({"noise": "index"}, "^noise: index is that of a table; FlowMatching has none"),
        ({"noise": "sigma", "reversed": True}, "^reversed: sigma has no other direction"),
        ({"predicts": "v", "toward": "data"}, "^toward: is of a velocity"),
        ({"schedule": schedules.EDM(), "reversed": True}, "^reversed: the time of EDM has no end"),
    ):
        with pytest.raises(ValueError, match=why):
            pre.OnSchedule(**wrong)


# --- c_noise against independent formulas ----------------------------------------------------------------------------


@pytest.mark.parametrize(("beta_d", "beta_min", "M"), [(19.9, 0.1, 1000), (3.0, 0.5, 11)])
def test_vp_and_subvp_tell_the_time(beta_d, beta_min, M):
    t = torch.linspace(1e-5, 1, 200, dtype=torch.float64)
    integral = torch.tensor([quad(lambda r: beta_d * r + beta_min, 0, float(end))[0] for end in t], dtype=torch.float64)
    s = torch.exp(-0.5 * integral)
    vp = torch.sqrt(-torch.expm1(-integral)) / s  # std √(1 − e^{−B}) of x_t, over s
    subvp = -torch.expm1(-integral) / s  # std 1 − e^{−B}
    torch.testing.assert_close(pre.VP(beta_d, beta_min, M).c_noise(vp), (M - 1) * t, rtol=1e-11, atol=0)
    torch.testing.assert_close(pre.SubVP(beta_d, beta_min, M).c_noise(subvp), (M - 1) * t, rtol=1e-11, atol=0)
    assert pre.VP(beta_d, beta_min, M).sigma_min == pytest.approx(float(vp[0]), rel=1e-11)
    assert pre.VP(beta_d, beta_min, M).sigma_max == pytest.approx(float(vp[-1]), rel=1e-11)
    assert pre.SubVP(beta_d, beta_min, M).sigma_min == pytest.approx(float(subvp[0]), rel=1e-11)


def test_closed_forms_of_c_noise():
    sigma = log_uniform(50, 1e-3, 1e5)
    torch.testing.assert_close(torch.exp(4 * pre.EDM().c_noise(sigma)), sigma, rtol=1e-12, atol=0)
    torch.testing.assert_close(2 * torch.exp(pre.VE().c_noise(sigma)), sigma, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.exp(pre.Score().c_noise(sigma)), sigma, rtol=1e-12, atol=0)
    torch.testing.assert_close(pre.Score(noise="sigma").c_noise(sigma), sigma, rtol=0, atol=0)
    t = pre.FlowMatching().c_noise(sigma)
    torch.testing.assert_close(sigma * (1 - t), t, rtol=1e-9, atol=1e-9)
    for row in (pre.VPrediction(), pre.DataPrediction()):
        angle = row.c_noise(sigma) * math.pi / 2
        torch.testing.assert_close(torch.sin(angle), sigma * torch.cos(angle), rtol=1e-9, atol=1e-12)


def test_tutorial_score_is_told_the_time_of_its_sde():
    row = pre.Score(noise="time", base=25.0)
    for sigma in (0.01, 0.5, 3.0, 9.0):
        variance, _ = quad(lambda t: 25.0 ** (2 * t), 0, float(row.c_noise(sigma)), epsabs=1e-14)
        assert variance == pytest.approx(sigma**2, rel=1e-10)


TABLES = [
    pre.DDPM(),
    pre.DDPM(betas="scaled_linear", beta_start=0.00085, beta_end=0.012),
    pre.DDPM(betas="cosine"),
    pre.DDPM(num_steps=7),
    pre.DDPM(betas=(0.1, 0.05, 0.5, 0.9)),
]


@pytest.mark.parametrize("row", TABLES, ids=lambda row: f"{row.betas}-{row.num_steps}")
def test_ddpm_counts_the_levels_of_its_table(row):
    betas = schedules.beta_table(row.betas, row.num_steps, row.beta_start, row.beta_end).tolist()
    alpha_bar, levels = np.longdouble(1), []
    for beta in betas:  # the textbook's product
        alpha_bar *= 1 - np.longdouble(beta)
        levels.append(float(np.sqrt((1 - alpha_bar) / alpha_bar)))
    sigma = torch.tensor(levels, dtype=torch.float64)
    k = torch.arange(len(levels), dtype=torch.float64)
    torch.testing.assert_close(row.sigmas, sigma, rtol=1e-12, atol=0)
    assert torch.equal(row.c_noise(row.sigmas), k)
    assert [float(row.c_noise(level)) for level in row.sigmas.tolist()[:50]] == k[:50].tolist()
    between = torch.sqrt(sigma[1:] * sigma[:-1])
    torch.testing.assert_close(row.c_noise(between), k[:-1] + 0.5, rtol=0, atol=1e-6)
    nearest = pre.DDPM(row.betas, row.num_steps, row.beta_start, row.beta_end, index="nearest")
    assert torch.equal(nearest.c_noise(sigma[1:] * (sigma[:-1] / sigma[1:]) ** 0.4), k[1:])
    assert torch.equal(nearest.c_noise(sigma[1:] * (sigma[:-1] / sigma[1:]) ** 0.6), k[:-1])
    assert (row.sigma_min, row.sigma_max) == (float(row.sigmas[0]), float(row.sigmas[-1]))
    assert torch.equal(row.c_noise(torch.tensor([1e-9, 1e9])), k[[0, -1]])


@pytest.mark.parametrize("row", [pre.IDDPM(), pre.IDDPM(C_1=0.1, C_2=0.05, M=20)], ids=["published", "small"])
def test_iddpm_index_against_the_recursion(row):
    alpha_bar = lambda j: np.sin(np.longdouble(np.pi) / 2 * j / (row.M * (row.C_2 + 1))) ** 2  # noqa: E731
    u = [np.longdouble(0)]
    for j in range(row.M, 0, -1):
        u.insert(0, np.sqrt((u[0] ** 2 + 1) / max(alpha_bar(j - 1) / alpha_bar(j), np.longdouble(row.C_1)) - 1))
    table = torch.tensor([float(level) for level in u], dtype=torch.float64)
    torch.testing.assert_close(row.u, table, rtol=1e-10, atol=0)

    sigma = log_uniform(3000, row.sigma_min, row.sigma_max)
    brute = row.M - 1 - (table[:-1, None] - sigma).abs().argmin(0)
    assert torch.equal(row.c_noise(sigma), brute.to(torch.float64))
    assert torch.equal(row.c_noise(table[:-1]), torch.arange(row.M - 1, -1, -1, dtype=torch.float64))
    assert float(row.c_noise(row.sigma_min / 100)) == 0  # and not −1


def test_iddpm_and_the_cosine_table_of_betas_are_one():
    assert torch.equal(pre.IDDPM().u[:-1].flip(0), pre.DDPM(betas="cosine").sigmas)


# --- every row -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_coefficients_are_float64_of_the_shape_of_sigma(row):
    for name in ("c_skip", "c_out", "c_in", "c_noise"):
        c = getattr(row, name)
        assert c(0.5).dtype == torch.float64
        assert c(0.5).shape == ()
        assert c(torch.full((3,), 0.5)).dtype == torch.float64
        torch.testing.assert_close(c(torch.full((3,), 0.5)), c(0.5).expand(3), rtol=1e-14, atol=0)


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_a_perfect_network_is_left_alone_where_there_is_no_noise(row):
    """As σ → 0, D → z for any F of order one: c_skip → 1 and c_out → 0, or F carries the data itself."""
    lowest = row.sigma_min if row.kind == "consistency" else 1e-9
    c_skip, c_out = row.c_skip(lowest), row.c_out(lowest)
    if row.kind == "data_prediction":
        assert (float(c_skip), float(c_out)) == (0, 1)
    else:
        assert float(c_skip) == pytest.approx(1, abs=1e-8)
        assert abs(float(c_out)) < 2e-9


@pytest.mark.parametrize("union", [pre.AnyPreconditioning, parametrization.AnyParametrization], ids=["rows", "forms"])
def test_a_kind_is_enough_to_name_one(union):
    members = get_args(union)
    kinds = [member().kind for member in members]
    assert len(set(kinds)) == len(kinds)
    for member, kind in zip(members, kinds, strict=True):
        assert TypeAdapter(union).validate_python({"kind": kind}) == member()


def evaluate(formula: str, **values: Tensor | float) -> Tensor:
    """The value of a printed formula: √, ², −, ln, arctan and juxtaposition."""
    code = formula.split("  (")[0].replace("−", "-").replace("σ_d", "d").replace("σ", "x").replace("²", "**2")
    code = code.replace("√(", "sqrt(").replace("ln(", "log(").replace("π", "pi")
    code = re.sub(r"\s*([-+/])\s*", r"\1", code).replace(" ", "*")
    names = {"sqrt": torch.sqrt, "log": torch.log, "arctan": torch.atan, "pi": math.pi}
    return torch.as_tensor(eval(code, {"__builtins__": {}}, names | values), dtype=torch.float64)


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_printed_formulas_are_the_ones_computed(row):
    sigma = log_uniform(20, 0.05, 9.0)
    told = ("c_noise",) if row.kind in ("edm", "ve", "v_prediction", "flow_matching", "data_prediction") else ()
    for name in ("c_skip", "c_out", "c_in", *told) if row.kind != "on_schedule" else ():  # which has a case for each
        value = evaluate(row.formulas[name], x=sigma, d=0.5, m=0.002).expand(20)
        torch.testing.assert_close(getattr(row, name)(sigma), value, rtol=1e-12, atol=1e-15)
    assert set(row.formulas) == {"c_skip", "c_out", "c_in", "c_noise"}


@pytest.mark.parametrize("form", FORMS, ids=ids)
def test_printed_forms_are_the_ones_computed(form):
    x0, n = draws(6)
    sigma = log_uniform(6, 0.05, 9.0)[:, None]
    target = (
        evaluate(form.formulas["F"].replace("x_0", "y"), x=sigma, n=n, y=x0) if form.kind != "score" else -n / sigma
    )
    torch.testing.assert_close(target, TARGETS[form.kind](x0, n, sigma), rtol=1e-12, atol=1e-14)
    denoised = evaluate(form.formulas["D"], x=sigma, z=x0 + sigma * n, F=target)
    torch.testing.assert_close(denoised, x0, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pre.EDM(sigma_data=0), r"^sigma_data: must be positive"),
        (lambda: pre.EDM(sigma_data=math.nan), r"^sigma_data: must be positive"),
        (lambda: pre.VP(beta_min=-1), r"^beta_min: "),
        (lambda: pre.VP(M=1), r"^M: must be a whole number from 2"),
        (lambda: pre.SubVP(epsilon_t=2.0), r"^epsilon_t: must be below t_max"),
        (lambda: pre.SubVP(input="x"), r"^input: unknown 'x'; must be one of unit_variance, state"),
        (lambda: pre.VE(sigma_min=3, sigma_max=2), r"^sigma_min: must be below sigma_max"),
        (lambda: pre.Score(base=1.0), r"^base: must lie in \(1, 1e\+50\]"),
        (lambda: pre.Score(noise="t"), r"^noise: unknown 't'; must be one of log_sigma, sigma, time"),
        (lambda: pre.DDPM(num_steps=0), r"^num_steps: "),
        (lambda: pre.DDPM(num_steps=1), r"^betas: must have at least 2 steps"),
        (lambda: pre.DDPM(betas=(0.1, 1.5)), r"^betas: "),
        (lambda: pre.DDPM(index="floor"), r"^index: unknown 'floor'; must be one of log_linear, nearest"),
        (lambda: pre.IDDPM(M=1), r"^M: "),
        (lambda: pre.IDDPM(C_1=2.0), r"^C_1: must lie in \[1e-50, 1\), got 2"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
