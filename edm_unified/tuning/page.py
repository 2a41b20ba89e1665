"""The page of a fit: its levels and weights, its error beside stock methods on the same noises, and samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from markupsafe import Markup

from edm_unified.compare.problem import Problem
from edm_unified.data.units import for_pictures
from edm_unified.recipe import Recipe
from edm_unified.report import pictured, samples_png
from edm_unified.report.draw import Palette, dress, legend_below, margins, svg
from edm_unified.report.plots import power_of_ten, value_ticks
from edm_unified.report.ranking import number
from edm_unified.report.templates import data_uri, document, part
from edm_unified.sampling.loop import sample
from edm_unified.sampling.solvers.fitted import Rows
from edm_unified.schedules import EDM
from edm_unified.tuning.of_recipe import session
from edm_unified.tuning.session import Fit, Tuning
from edm_unified.tuning.teacher import Teacher

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAGE = "tuning.html"
_WORDS = (
    "Noise levels and the weights of a linear multistep solver, fitted to one model from a few noises and the exact "
    "solutions of its probability-flow ODE from them. What is shown was measured on other noises. The stock methods "
    "are all deterministic ones of one evaluation a step, on six rules for the levels; the best of them, on these same "
    "held-out noises, is what the fit is compared with."
)
_LEGEND = {
    "fitted, best stock": "median over the noises of the distance to the exact solution, per √d",
    "gain": "the median of the stock method over that of the fit, and its 95 % interval (bootstrap, in pairs)",
    "used": "the fit where the interval is above 1, else the stock method",
}
_SHOWN = 16


def build(recipe: Recipe, problem: Problem, tuning: Tuning, teachers: tuple[Teacher, Teacher]) -> str:
    """One HTML document: no request leaves it, and it works without JavaScript."""
    sections = {
        "gain": ("Beside stock methods", _overview(tuning)),
        "errors": ("Error against evaluations", part(_PAGE, "drawn", [_errors(tuning)])),
        "levels": ("Noise levels", part(_PAGE, "drawn", [_levels(tuning)])),
        "weights": ("Weights", part(_PAGE, "tables", [_weights(fit) for fit in tuning.fits])),
        "samples": ("Samples", _samples(recipe, problem, tuning, teachers[1].ends)),
    }
    return document(
        f"Fitted solver: {recipe.title}", part(_PAGE, "intro", _WORDS, _facts(tuning, teachers)), sections, "gain",
        script=False,
    )  # fmt: skip


def _facts(tuning: Tuning, teachers: tuple[Teacher, Teacher]) -> dict[str, str]:
    first = tuning.fits[0]
    return {
        "Teacher": teachers[0].name,
        "Its error": f"below {number(teachers[0].error, 2)}: the distance to itself at half the steps",
        "Noises": f"{first.samples} of seed {first.seed}, and {len(teachers[1].ends)} held out",
        "Fitted in": f"{sum(fit.cpu_seconds for fit in tuning.fits):.0f} s of CPU time",
    }


def _overview(tuning: Tuning) -> Markup:
    head = ["evaluations", "fitted", "best stock", "gain", "stock method", "used"]
    rows = []
    for fit in tuning.fits:
        gain = fit.held_out
        shown = "–" if gain.value is None else f"{gain.value:.3g} ({gain.low:.3g} to {gain.high:.3g})"
        errors = [_error(fit.error.value), _error(fit.stock_error.value)]
        rows.append([str(fit.nfe), *errors, shown, fit.stock.name, "fit" if fit.better else "stock"])
    return part(_PAGE, "overview", head, rows, _LEGEND)


def _error(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.3g}"


def _errors(tuning: Tuning) -> tuple[Markup, str]:
    def draw(ax: Axes, palette: Palette) -> None:
        dress(ax, palette, "", "evaluations", "median endpoint error")
        for fit in tuning.fits:
            for _, rival in fit.others:
                ax.plot([fit.nfe], [rival], "x", color=palette.muted, markersize=5)
        for i, (name, of) in enumerate(_LINES.items()):
            shown = [(fit.nfe, value) for fit in tuning.fits if (value := of(fit)) is not None]
            ax.plot(*zip(*sorted(shown), strict=True), color=palette.line(i), marker="o", markersize=4, label=name)
        ax.set_yscale("log")
        value_ticks(ax, *ax.get_ylim())
        ax.set_xticks([fit.nfe for fit in tuning.fits])
        legend_below(ax, palette, 2)

    return _drawn(draw, "errors", "Error of the fits and of stock methods", bottom=0.8), (
        "The fit, the best stock method, and (crosses) its nearest rivals, all on the held-out noises."
    )


_LINES: dict[str, Callable[[Fit], float | None]] = {
    "fitted": lambda fit: fit.error.value,
    "best stock": lambda fit: fit.stock_error.value,
}


def _levels(tuning: Tuning) -> tuple[Markup, str]:
    def draw(ax: Axes, palette: Palette) -> None:
        from matplotlib.ticker import FuncFormatter

        dress(ax, palette, "", "σ", "evaluations")
        for i, fit in enumerate(tuning.fits):
            for sigmas, mark, colour in (
                (fit.stock.steps.levels(EDM()).tolist(), "|", palette.muted),
                (fit.sigmas, "o", palette.line(0)),
            ):
                ax.plot(sigmas[:-1], [i] * (len(sigmas) - 1), mark, color=colour, markersize=7 if mark == "|" else 4)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(power_of_ten))
        ax.set_yticks(range(len(tuning.fits)), [str(fit.nfe) for fit in tuning.fits])

    return _drawn(draw, "levels", "Noise levels of each fit"), (
        "Points: the levels at which D is evaluated. Strokes: those of the best stock method."
    )


def _drawn(draw: Callable[[Any, Palette], None], name: str, alt: str, bottom: float = 0.5) -> Markup:
    return svg(lambda canvas, palette: draw(margins(canvas, 0.7, bottom=bottom), palette), name, alt)


def _weights(fit: Fit) -> tuple[Sequence[str], list[list[str]], str]:
    levels, rows, _ = fit.chosen
    most = max(map(len, rows))
    head = ["step", "from σ", "to σ", "x", *(f"D_{{i−{j}}}" if j else "D_i" for j in range(most - 1))]
    head = [name.replace("{", "").replace("}", "") for name in head]
    return (
        head,
        [[str(i), f"{levels[i]:.4g}", f"{levels[i + 1]:.4g}", *_padded(rows, i, most)] for i in range(len(rows))],
        f"{fit.nfe} evaluations",
    )


def _padded(rows: Rows, i: int, most: int) -> list[str]:
    return [f"{weight:.4f}" for weight in rows[i]] + [""] * (most - len(rows[i]))


def _samples(recipe: Recipe, problem: Problem, tuning: Tuning, ends: torch.Tensor) -> Markup:
    """From the same noises: the teacher, and at the smallest budget the best stock method and the fit."""
    if not pictured(problem.shape):
        return Markup("")
    fit = min(tuning.fits, key=lambda one: one.nfe)
    exact = ends[:_SHOWN]
    own = session(recipe, problem, 2, len(exact), tuning.fits[0].seed)
    found = [("exact solutions", exact)]
    for name, settings in (
        (f"best stock method, {fit.nfe} evaluations", {"steps": fit.stock.steps, "solver": fit.stock.solver}),
        (f"fitted, {fit.nfe} evaluations", Tuning((fit,)).settings),
    ):
        x = sample(own.denoiser, own.held_out, cond=own.held_out_cond, **settings)
        found.append((f"{name}: RMS distance {float((x - exact).square().mean().sqrt()):.3g}", x))
    pictures = [(data_uri(_png(problem, x), "image/png"), words) for words, x in found]
    return part(_PAGE, "samples", "From the same held-out noises:", pictures)


def _png(problem: Problem, x: torch.Tensor) -> bytes:
    return samples_png(for_pictures(problem.dataset, x.cpu()).float().numpy(), None)
