"""A made-up comparison of eleven methods, for the tests of the report: nothing in it was sampled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edm_unified import schedules
from edm_unified.report import Key, MethodView, ReportData

BUDGETS = (5, 8, 10, 20, 40)
ERRORS = ("error_median", "error_rms")
DISTANCES = ("sliced_wasserstein", "energy_distance", "frechet", "log_density_gap")

# label, schedule label, schedule, steps, solver, renoising, evaluations per step, order
_METHODS: tuple[tuple[str, str, Any, str, str, str, int, float], ...] = (
    ("ddpm", "beta_table(linear)", schedules.BetaTable(), "table_subset(leading)", "ddpm", "none", 1, 0.5),
    ("ddim", "beta_table(linear)", schedules.BetaTable(), "table_subset(leading)", "ddim", "none", 1, 1),
    ("iddpm", "cosine(s=0.008)", schedules.Cosine(), "table_subset", "ddpm", "none", 1, 0.6),
    ("vp", "vp(19.9, 0.1)", schedules.VP(), "uniform_time", "euler_maruyama", "none", 1, 0.5),
    ("subvp", "subvp(19.9, 0.1)", schedules.SubVP(), "uniform_time", "euler_maruyama", "none", 1, 0.55),
    ("ve", "geometric_ve", schedules.GeometricVE(), "log_linear", "euler_maruyama", "langevin(snr=0.16)", 1, 0.3),
    ("score_tutorial", "exponential_ve(25)", schedules.ExponentialVE(), "uniform_time", "euler", "none", 1, 0.7),
    ("v_prediction", "trigonometric", schedules.Trigonometric(), "uniform_time", "ddim", "none", 1, 1.1),
    ("flow_matching", "flow_matching(shift=1)", schedules.FlowMatching(), "uniform_time", "midpoint", "none", 2, 1.7),
    ("edm", "edm", schedules.EDM(), "karras(rho=7)", "heun", "none", 2, 2),
    ("edm_stochastic", "edm", schedules.EDM(), "karras(rho=7)", "heun", "churn(40)", 2, 1.2),
)
STOCHASTIC = {"ddpm", "iddpm", "vp", "subvp", "ve", "edm_stochastic"}


def records(seeds: int = 2) -> list[dict[str, Any]]:
    """One record per method, budget, seed and metric, errors falling as NFE^-order; ``ve`` diverges at 5."""
    rng = np.random.default_rng(0)
    rows = []
    for label, schedule, _, steps, solver, renoising, stages, order in _METHODS:
        for budget in BUDGETS:
            n = max(1, (budget + stages - 1) // stages)
            for seed in range(seeds):
                for name in (*ERRORS, *DISTANCES):
                    if name in ERRORS and label in STOCHASTIC:
                        continue
                    size = 1.5 * (budget / 4) ** -order * math.exp(0.1 * rng.normal())
                    if name in DISTANCES:
                        size = 0.04 * (1 + rng.random() * 0.2) + 0.6 * size
                    if name == "log_density_gap":
                        size *= -0.3 if label == "edm_stochastic" else 0.8
                    lost = label == "ve" and budget == 5
                    rows.append(
                        {
                            "recipe": label,
                            "schedule": schedule,
                            "steps": steps,
                            "solver": solver,
                            "renoising": renoising,
                            "budget": budget,
                            "nfe": stages * n - (stages - 1),
                            "n": n,
                            "seed": seed,
                            "samples": 1000,
                            "metric": name,
                            "value": None if lost else size,
                            "low": None if lost else size - 0.08 * abs(size),
                            "high": None if lost else size + 0.09 * abs(size),
                            "seconds": 0.4 + 0.01 * budget,
                            "hash": f"{len(label):012x}",
                            "cell": f"{label}-{budget}-{seed}",
                        }
                    )
    return rows


def walk(label: str, n: int = 10) -> list[float]:
    """Noise levels in the manner of the method: falls, with rises for churn and ancestral, repeats for ``ve``."""
    top = {"flow_matching": 1e3, "edm": 80, "edm_stochastic": 80, "ve": 50, "score_tutorial": 9.8}.get(label, 150)
    falls = [(top ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - top ** (1 / 7))) ** 7 for i in range(n)]
    if label in ("edm_stochastic", "ddpm", "iddpm"):
        falls = [x for level in falls for x in (level, 1.35 * level)]
    if label == "ve":
        falls = [x for level in falls for x in (level, level)]
    return [*falls, 0.0]


def methods() -> tuple[MethodView, ...]:
    return tuple(
        MethodView(
            key=Key(label, schedule, steps, solver, renoising),
            label=label,
            title=f"{label.replace('_', ' ')} as published",
            source="Karras et al. 2022, arXiv 2206.00364, Table 1",
            hash=f"{i + 1:012x}",
            levels=walk(label),
            curve=curve,
        )
        for i, (label, schedule, curve, steps, solver, renoising, _, _) in enumerate(_METHODS)
    )


def images(n: int = 64, shape: tuple[int, int, int] = (1, 8, 8), noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Soft strokes on black, with noise; row i is the same stroke whatever the noise."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    angle, offset = rng.uniform(0, np.pi, (n, channels, 1, 1)), rng.uniform(0.3, 0.7, (n, channels, 1, 1))
    ridge = np.exp(-(((x - offset) * np.cos(angle) + (y - offset) * np.sin(angle)) ** 2) / 0.02)
    return 2 * ridge - 1 + noise * np.random.default_rng(seed + 1).normal(size=ridge.shape)


def example(shape: tuple[int, ...] = (1, 8, 8), n: int = 64) -> ReportData:
    """The whole report; ``shape`` (d,) gives vectors instead of images."""

    def draw(noise: float, seed: int = 0) -> np.ndarray:
        if len(shape) == 3:
            return images(n, shape, noise, seed)  # type: ignore[arg-type]
        rng = np.random.default_rng(seed)
        return rng.choice([-1.0, 1.0], (n, *shape)) + (0.1 + noise) * rng.normal(size=(n, *shape))

    own = {m.label: draw(0.05 + 0.04 * i) for i, m in enumerate(methods())}
    return ReportData(
        title="Eleven methods on handwritten digits",
        description="Every published method of the recipes folder, on one denoiser whose marginals are known exactly.",
        records=records(),
        methods=methods(),
        facts={"Denoiser": "Gaussian mixture, 160 components, fitted", "Data": "digits: 1,797 images of 8 × 8"},
        samples={**own, "ve": None},
        reference_samples=draw(0.0),
        data_samples=draw(0.0, 5),
        grid_budget=10,
        floors={"sliced_wasserstein": (0.035, 0.033, 0.038), "energy_distance": (0.03, 0.02, 0.04)},
        environment={"edm_unified": "0.1.0", "torch": "2.6.0", "device": "cpu, 2 cores", "dtype": "float64"},
        commands=("pip install edm_unified", "edm-unified compare quickstart --nfe 5,8,10,20,40 --out runs/quickstart"),
    )


def crowded(count: int = 8) -> ReportData:
    """Methods with long names, errors over ten decades, long walks; 24: the most that figures with lines must hold."""
    rng = np.random.default_rng(1)
    rows, views = [], []
    for m in methods()[:count]:
        for k, solver in enumerate(("second_order(alpha=0.6666666)", "exponential_adams(order=3, eta=0)", "heun")):
            key = m.key._replace(solver=solver)
            label = f"{m.label} · {solver}"
            views.append(MethodView(key=key, label=label, levels=walk(m.label, 60), curve=m.curve))
            for budget in (3, 4, 5, 6, 7, 8, 9, 10, 20, 40, 80, 160):
                value = 5.0 * (budget / 3) ** -(1 + 2 * k) * math.exp(rng.normal())
                rows.append(
                    {
                        **key._asdict(),
                        "budget": budget,
                        "nfe": budget,
                        "n": budget,
                        "seed": 0,
                        "samples": 100,
                        "hash": "0" * 12,
                        "metric": "error_median",
                        "value": value,
                        "low": value / 2,
                        "high": value * 2,
                        "seconds": 0.1,
                        "cell": f"{label}{budget}",
                    }
                )
    return ReportData(title="A crowded report", records=rows, methods=views)
