"""The design card of a recipe or a comparison as plain data: what ``edm-unified show`` prints, and has ready for
the shipped ones.

    {"title", "text", "hash", "parts": [[name, words, [[symbol, formula], …], summary], …], "below": [[name, words], …],
     "walk": {"before", "words", "count", "legend"}, "plot": {"t", "log_sigma", "marks"}}

A comparison has ``parts`` alone. The numbers are rounded to what can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch

from edm_unified.components import shipped
from edm_unified.recipe import by_path, codec
from edm_unified.recipe.catalogue import recipe_fields, summary
from edm_unified.recipe.comparison import Comparison
from edm_unified.recipe.labels import describe, words_of
from edm_unified.recipe.loading import load_any
from edm_unified.recipe.tree import Recipe, Sampler
from edm_unified.sampling.loop import levels_of
from edm_unified.training.objective.weighting import on_grid, weighting

_LAST = {
    "denoise": "denoise: D of the last level above 0",
    "stop": "stop: x as it is at the last level, with its noise",
}
_ORDER = ("schedule", "preconditioning", "objective", "network", "sampler", "denoiser", "data")
_NAMES = {"objective.noise": "noise in training"}
_BLOCKS = "▁▂▃▄▅▆▇█"
_REACH = 10.0  # ln SNR from −10 to 10: σ from 148 to 0.0067
_DECADES = 3.0
_POINTS = 40
MOST_WORDS = 100
"""Levels of a walk that a card holds; of a longer one it holds the ends."""


def card(found: Recipe | Comparison, file: str = "") -> dict[str, Any]:
    """The card of ``found``; ``file`` is where a comparison was found, beside which its recipes may be."""
    return _recipe(found) if isinstance(found, Recipe) else _comparison(found, file)


def _recipe(recipe: Recipe) -> dict[str, Any]:
    sampler = recipe.sampler
    if getattr(sampler.solver, "adaptive", False):
        nfe = "as many evaluations of D as its tolerance asks for, over"
    else:
        nfe = f"{sampler.nfe(recipe.schedule)} evaluations of D in"
    random = sampler.solver.stochastic or sampler.renoising is not None or sampler.corrector is not None
    falls = sum(b < a for a, b in pairwise(recipe.levels))
    below = [["NFE", f"{nfe} {falls} steps, {'stochastic' if random else 'deterministic'}"]]
    if note := sampler.shortfall(recipe.schedule):
        below.append(["note", note])
    return {
        "title": recipe.title,
        "text": recipe.source,
        "hash": recipe.hash,
        "parts": list(_parts(recipe)),
        "below": below,
        "walk": _walk(recipe),
        "plot": _plot(recipe),
    }


def _parts(recipe: Recipe) -> Iterator[list[Any]]:
    """Every component of the recipe, with what there is to say beside it; training has a page of its own."""
    found = [field for field in recipe_fields() if not field.path.startswith("training.")]
    for field in sorted(found, key=lambda field: _ORDER.index(field.path.partition(".")[0])):
        value = by_path.get(recipe, field.path)
        name = _NAMES.get(field.path, field.path.rpartition(".")[2])
        if field.family is None:
            if field.path == "sampler.label" and value is not None:
                yield ["class", str(value), [], ""]
            elif field.path == "sampler.cond" and value is not None:
                yield ["cond", str(value), [], ""]
            elif value in _LAST:
                yield [name, _LAST[value], [], ""]
            continue
        if value is None or (field.path, value.kind) == ("objective.matching", "denoising"):
            continue
        part = _part(name, value)
        if field.path != "objective.weight" or recipe.objective is None:
            yield part
            continue
        if (line := _sparkline(recipe)) is not None:
            part[2].append(["w(ln SNR)", line])
        yield part
        if note := recipe.objective.note(recipe.preconditioning):
            yield ["note", note, [], ""]


def _part(name: str, component: Any) -> list[Any]:
    formulas = [[symbol, formula] for symbol, formula in getattr(component, "formulas", {}).items()]
    return [name, describe(component), formulas, "" if formulas else summary(type(component))]


def _sparkline(recipe: Recipe, columns: int = 41) -> str | None:
    """w from high noise to low in blocks, three decades high, ``·`` where it is less or nothing, and where it peaks.

    None where the training has a single noise level, which has no density.
    """
    assert recipe.objective is not None
    if recipe.objective.noise.kind == "one_level":
        return None
    grid = torch.linspace(-_REACH, _REACH, columns, dtype=torch.float64)
    w = on_grid(weighting(recipe.objective, recipe.schedule), grid)
    if not float(w.max()) > 0:
        return "nothing between −10 and 10"
    heights = (1 + (w / w.max()).log10() / _DECADES) * len(_BLOCKS)
    shown = "".join(_BLOCKS[min(math.floor(h), 7)] if h >= 0 else "·" for h in heights.tolist())
    peak = float(grid[w.argmax()])
    return f"{shown}  from −10 to 10, three decades high; largest at {peak:.1f}, where σ = {math.exp(-peak / 2):.3g}"


def _walk(recipe: Recipe) -> dict[str, Any]:
    """The levels as words, ``^`` before a rise and ``=`` before a repeat; of a long walk, both ends."""
    levels = recipe.levels
    pairs = list(pairwise(levels))
    words = [f"{levels[0]:.3g}", *(("^" if b > a else "=" if b == a else "") + f"{b:.3g}" for a, b in pairs)]
    notes = ["^ rises by fresh noise"] if any(b > a for a, b in pairs) else []
    notes += ["= is a corrector's step"] if any(a == b for a, b in pairs) else []
    highest = levels_of(recipe.sampler.steps, recipe.schedule)[0]
    return {
        "before": f"{highest:.3g} → " if levels[0] < highest else "",
        "words": words if len(words) <= MOST_WORDS else words[: MOST_WORDS // 4] + words[-MOST_WORDS // 4 :],
        "count": len(words),
        "legend": f"   ({', '.join(notes)})" if notes else "",
    }


def _plot(recipe: Recipe) -> dict[str, Any]:
    """log₁₀ σ against t, and the levels of a walk of at most 64 on it."""
    levels = torch.tensor(sorted({sigma for sigma in recipe.levels if sigma > 0}), dtype=torch.float64)
    times = recipe.schedule.time(levels)
    # evenly in t as it is drawn, and evenly in log σ, so that neither a steep nor a flat stretch is coarse
    low, high = float(levels[0].log()), float(levels[-1].log())
    even = torch.linspace(float(times[0]), float(times[-1]), _POINTS, dtype=torch.float64)
    t = torch.cat([even, recipe.schedule.time(torch.linspace(low, high, _POINTS, dtype=torch.float64).exp())])
    t = t.clamp(times[0], times[-1]).sort().values
    log_sigma = recipe.schedule.sigma(t).clamp(levels[0], levels[-1]).log10()
    marks = list(zip(_rounded(times), _rounded(levels.log10()), strict=True)) if len(levels) <= 64 else []
    return {"t": _rounded(t), "log_sigma": _rounded(log_sigma), "marks": [list(mark) for mark in marks]}


def _rounded(values: torch.Tensor) -> list[float]:
    """Five digits of each: the terminal has 200 dots in a line."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def _comparison(comparison: Comparison, file: str) -> dict[str, Any]:
    parts: list[list[Any]] = []
    for name in comparison.recipes:
        where = shipped.relative_to(file, name)
        if shipped.is_absent_run(where):
            parts.append([name, " a run, not trained yet", [], ""])
            continue
        recipe = load_any(where)
        assert isinstance(recipe, Recipe)
        sampler = recipe.sampler
        named = (getattr(sampler, field) for field in codec.parameters(Sampler))
        words = " · ".join(part.kind for part in (recipe.schedule, *named) if hasattr(part, "kind"))
        parts.append([name, words, [], ""])
    parts.append([])
    if comparison.solver_set is not None:
        words = f"{comparison.solver_set}: {shipped.SOLVER_SETS[comparison.solver_set]}"
        parts.append(["solver_set", words, [], ""])
    for path, values in comparison.cross.items():
        words = ", ".join("none" if value is None else words_of(value) for value in values)
        parts.append([path, words, [], ""])
    parts += [_part(name, part) for name in ("data", "denoiser") if (part := getattr(comparison, name)) is not None]
    seeds = ", ".join(map(str, comparison.seeds))
    parts.append(["NFE", ", ".join(map(str, comparison.nfe)), [], ""])
    parts.append(["samples", f"{comparison.samples} for each of the seeds {seeds}", [], ""])
    parts.append(["metrics", ", ".join(comparison.metrics), [], ""])
    return {"title": comparison.title, "text": comparison.description, "hash": comparison.hash, "parts": parts}
