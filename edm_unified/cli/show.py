"""``edm-unified show``: the design card of a method."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options
from edm_unified.components import shipped

if TYPE_CHECKING:
    from edm_unified.recipe import Comparison, Recipe

_INDENT = 18
_SYMBOLS = {
    "s": "s(t)",
    "sigma": "σ(t)",
    "f": "f(t) = s'/s",
    "g": "g(t)",
    "time": "σ⁻¹",
    "p": "p(σ)",
    "lambda": "λ(σ)",
    "levels": "levels",
    "walk": "walk",
    "corrector": "step size",
    "D": "D",
}
_LAST = {
    "denoise": "denoise: D of the last level above 0",
    "stop": "stop: x as it is at the last level, with its noise",
}


@click.command(short_help="Print the design card of a method: formulas, levels, NFE.")
@options.recipe_argument
@options.swaps
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the resolved recipe as YAML, every field spelled out.")
@click.option(
    "--density",
    type=click.Choice(["entropy", "rescaled_entropy"]),
    help="Print levels by equal shares of this, measured on the denoiser, as YAML for sampler.steps.",
)
@click.option("--weights", type=options.PATH, metavar="FILE",
              help="Draw p and w over the log-SNR, of one recipe or all of a comparison, as a PNG.")  # fmt: skip
def show(
    recipe: str, as_yaml: bool, density: str | None, weights: Path | None, overrides: tuple[str, ...], **swaps: Any
) -> None:
    """Print what RECIPE is made of: its formulas, the noise levels it visits, its evaluations, and σ(t).

    RECIPE is a shipped name (edm-unified list recipes) or a YAML file; a comparison has a card of its own.
    """
    from edm_unified.recipe import Recipe, load_any

    swapped = any(value is not None for value in swaps.values())
    found = options.load(recipe, overrides, **swaps) if swapped else load_any(recipe, overrides)
    if density is not None:
        if not isinstance(found, Recipe):
            raise ValueError(f"--density: {recipe} is a comparison; name one recipe")
        click.echo(_density(found, density))
        return
    if weights is not None:
        from edm_unified.cli.weights import draw

        draw(recipe, found, weights)
        click.echo(str(weights))
        return
    if as_yaml:
        click.echo(found.dump(), nl=False)
        return
    width = min(shutil.get_terminal_size().columns, 120)
    for line in _card(found, width) if isinstance(found, Recipe) else _comparison_card(recipe, found, width):
        click.echo(line)


def _density(recipe: Recipe, density: Any) -> str:
    """The rule ``density_spaced`` over the range and number of the recipe's levels, four digits to a number."""
    from edm_unified.sampling.levels import measured_density

    built: Any = recipe.build()
    denoiser, dataset = built
    draw = getattr(denoiser, "sample", None)
    x0 = draw(2048) if draw is not None else dataset.images[:2048]
    levels = sorted({sigma for sigma in recipe.levels if sigma > 0})
    if len(levels) < 2:
        raise ValueError("--density: the recipe has one level above zero; take more steps")
    rule = measured_density(denoiser, x0, density, n=len(levels), sigma_min=levels[0], sigma_max=levels[-1])
    numbers = {name: ", ".join(f"{value:.4g}" for value in getattr(rule, name)) for name in ("sigmas", "density")}
    return f"kind: {rule.kind}\nn: {rule.n}\nsigmas: [{numbers['sigmas']}]\ndensity: [{numbers['density']}]"


def _card(recipe: Recipe, width: int) -> Iterator[str]:
    from edm_unified.cli.weights import sparkline

    sampler = recipe.sampler
    if getattr(sampler.solver, "adaptive", False):
        nfe = "as many evaluations of D as its tolerance asks for, over"
    else:
        nfe = f"{sampler.nfe(recipe.schedule)} evaluations of D in"
    random = sampler.solver.stochastic or sampler.renoising is not None or sampler.corrector is not None
    falls = sum(b < a for a, b in pairwise(recipe.levels))

    yield from _heading(recipe.title, recipe.source, width)
    yield from _section("schedule", recipe.schedule, width)
    yield from _section("preconditioning", recipe.preconditioning, width)
    if recipe.objective is not None:
        yield from _section("noise in training", recipe.objective.noise, width)
        yield from _section("weight", recipe.objective.weight, width)
        if note := recipe.objective.note(recipe.preconditioning):
            yield _line("note", note, width)
        if (line := sparkline(recipe)) is not None:
            yield _line("  w(ln SNR)", line, width, style=None)
        if recipe.objective.matching.kind != "denoising":
            yield from _section("matching", recipe.objective.matching, width)
        yield from _section("uncertainty", recipe.objective.uncertainty, width)
    yield from _section("network", recipe.network, width)
    yield from _section("steps", sampler.steps, width)
    yield from _section("solver", sampler.solver, width)
    yield from _section("renoising", sampler.renoising, width)
    yield from _section("corrector", sampler.corrector, width)
    yield from _section("analytic_start", sampler.analytic_start, width)
    yield from _section("guidance", sampler.guidance, width)
    yield from _section("threshold", sampler.threshold, width)
    if sampler.last != "solver":
        yield _line("last", _LAST[sampler.last], width)
    yield from _section("denoiser", recipe.denoiser, width)
    yield from _section("data", recipe.data, width)
    yield ""
    yield _line("NFE", f"{nfe} {falls} steps, {'stochastic' if random else 'deterministic'}", width)
    if note := sampler.shortfall(recipe.schedule):
        yield _line("note", note, width)
    yield _line("walk", _jump(recipe) + walk_text(recipe.levels, 3 * (width - _INDENT)) + _legend(recipe.levels), width)
    yield _line("hash", recipe.hash, width)
    yield ""
    yield click.style("σ against t", bold=True) + "  (● the levels of the walk)"
    yield from _plot(recipe, width)


def _heading(title: str, text: str, width: int) -> Iterator[str]:
    yield click.style(title, bold=True)
    yield from textwrap.wrap(text, width, break_on_hyphens=False)
    yield ""


def _line(name: str, text: str, width: int, style: str | None = "cyan") -> str:
    """``name`` in a column of its own, ``text`` wrapped beside it."""
    longer = max(0, len(name) + 2 - _INDENT)  # a name that reaches into the column beside it
    room = max(width - _INDENT, 20)
    wrapped = textwrap.wrap(text, room, break_on_hyphens=False, initial_indent=" " * longer) or [""]
    head = f"{name:<{_INDENT}}" if not longer else f"{name}  "
    head = click.style(head, fg=style) if style else head
    return "\n".join([head + wrapped[0][longer:], *(" " * _INDENT + line for line in wrapped[1:])])


def _section(name: str, component: Any, width: int) -> Iterator[str]:
    """A component with its parameters, then its formulas, or the sentence that says what it is."""
    if component is None:
        return
    from edm_unified.recipe.catalogue import summary

    yield _line(name, describe(component), width)
    formulas = getattr(component, "formulas", {})
    for symbol, formula in formulas.items():
        yield _line(f"  {_SYMBOLS.get(symbol, symbol)}", formula, width, style=None)
    if not formulas:
        yield _line("", summary(type(component)), width, style=None)


def describe(component: Any) -> str:
    """``karras  n 18, sigma_min 0.002, sigma_max 80, rho 7``: the kind and every parameter that is set."""
    import dataclasses

    fields = [(f.name, getattr(component, f.name)) for f in dataclasses.fields(component) if f.name != "kind"]
    given = ", ".join(f"{name} {_value(value)}" for name, value in fields if value is not None)
    return f"{component.kind}  {given}".rstrip()


def _value(value: Any) -> str:
    if hasattr(value, "kind"):
        return f"({describe(value)})"
    if isinstance(value, tuple):
        shown = [_value(item) for item in value[:6]] + ([f"… {len(value)} in all"] if len(value) > 6 else [])
        return f"[{', '.join(shown)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def walk_text(levels: Sequence[float], room: int) -> str:
    """The levels in order, ``^`` before a rise and ``=`` before a repeat; the middle is left out if too long."""
    words = [f"{levels[0]:.3g}"]
    for a, b in pairwise(levels):
        words.append(("^" if b > a else "=" if b == a else "") + f"{b:.3g}")
    if len("  ".join(words)) <= room:
        return "  ".join(words)
    keep = max(2, room // 18)  # a word and its gap take about nine characters, and there are two ends
    head, tail = "  ".join(words[:keep]), "  ".join(words[-keep:])
    return f"{head}  …  {tail}   ({len(levels)} levels)"


def _jump(recipe: Recipe) -> str:
    """``80 → `` where the walk begins below the highest of the steps' levels."""
    from edm_unified.sampling.loop import levels_of

    highest = levels_of(recipe.sampler.steps, recipe.schedule)[0]
    return f"{highest:.3g} → " if recipe.levels[0] < highest else ""


def _legend(levels: Sequence[float]) -> str:
    pairs = list(pairwise(levels))
    notes = ["^ rises by fresh noise"] if any(b > a for a, b in pairs) else []
    notes += ["= is a corrector's step"] if any(a == b for a, b in pairs) else []
    return f"   ({', '.join(notes)})" if notes else ""


def _plot(recipe: Recipe, width: int) -> Iterator[str]:
    import torch

    from edm_unified.cli.drawing import curve

    levels = torch.tensor(sorted({sigma for sigma in recipe.levels if sigma > 0}), dtype=torch.float64)
    times = recipe.schedule.time(levels)
    columns = min(width, 100)
    # evenly in t as it is drawn, and evenly in log σ, so that neither a steep nor a flat stretch is coarse
    low, high = float(levels[0].log()), float(levels[-1].log())
    even = torch.linspace(float(times[0]), float(times[-1]), 4 * columns, dtype=torch.float64)
    t = torch.cat([even, recipe.schedule.time(torch.linspace(low, high, 4 * columns, dtype=torch.float64).exp())])
    t = t.clamp(times[0], times[-1]).sort().values
    log_sigma = recipe.schedule.sigma(t).clamp(levels[0], levels[-1]).log10()
    marks = list(zip(times.tolist(), levels.log10().tolist(), strict=True)) if len(levels) <= 64 else []
    yield from curve(t.tolist(), log_sigma.tolist(), marks, columns, height=12)


def _comparison_card(file: str, comparison: Comparison, width: int) -> Iterator[str]:
    from edm_unified.compare import label
    from edm_unified.recipe import Recipe

    yield from _heading(comparison.title, comparison.description, width)
    for name in comparison.recipes:
        where = shipped.beside(file, name)
        if shipped.is_absent_run(where):
            yield _line(name, " a run, not trained yet", width)
            continue
        recipe = Recipe.load(where)
        sampler = recipe.sampler
        parts = (
            recipe.schedule,
            sampler.steps,
            sampler.solver,
            sampler.renoising,
            sampler.corrector,
            sampler.analytic_start,
            sampler.guidance,
        )
        yield _line(name, " · ".join(part.kind for part in parts if part is not None), width)
    yield ""
    if comparison.solver_set is not None:
        yield _line("solver_set", f"{comparison.solver_set}: {shipped.SOLVER_SETS[comparison.solver_set]}", width)
    for name in ("schedules", "steps_rules", "solvers", "analytic_starts", "guidances"):
        if values := getattr(comparison, name):
            yield _line(name, ", ".join("none" if value is None else label(value) for value in values), width)
    yield from _section("data", comparison.data, width)
    yield from _section("denoiser", comparison.denoiser, width)
    yield _line("NFE", ", ".join(map(str, comparison.nfe)), width)
    yield _line("samples", f"{comparison.samples} for each of the seeds {', '.join(map(str, comparison.seeds))}", width)
    yield _line("metrics", ", ".join(comparison.metrics), width)
    yield _line("hash", comparison.hash, width)
