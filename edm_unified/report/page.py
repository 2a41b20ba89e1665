"""The page: sections in reading order, each a function of the data that fills in a part of ``report.html``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from edm_unified.report import heat, images, noise_levels, panels
from edm_unified.report.data import Key, MethodView, ReportData, image_like, metric
from edm_unified.report.plots import names
from edm_unified.report.ranking import Table, summary, tabulate
from edm_unified.report.tables import as_csv, ranked_tables, winners
from edm_unified.report.templates import cited, data_uri, document, part

_CITATION = """@inproceedings{karras2022elucidating,
  title     = {Elucidating the Design Space of Diffusion-Based Generative Models},
  author    = {Tero Karras and Miika Aittala and Timo Aila and Samuli Laine},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022},
  note      = {arXiv:2206.00364}
}"""
_ORIGIN = {"data": "not from the model", "exact endpoints": "of the ODE, same noise"}


_NOTHING = Markup("")
_PAGE = "report.html"


def build(data: ReportData) -> str:
    """The report as one HTML document: no request leaves it, and the same data give the same bytes."""
    aggregated = tabulate(data)
    crowded = heat.is_crowded(aggregated)
    sections = {
        "summary": ("Summary", part(_PAGE, "summary", summary(aggregated), winners(aggregated))),
        "map": ("Heat map", heat.section_of(aggregated) if crowded else _NOTHING),
        "tables": ("Ranked tables", ranked_tables(aggregated)),
        "errors": ("Error against evaluations", _NOTHING if crowded else _errors(data, aggregated)),
        "sweep": (f"Error against {data.sweep}", _sweep(data, aggregated)),
        "samples": ("Samples", _NOTHING if crowded else _samples(data, aggregated)),
        "levels": ("Noise levels visited", _NOTHING if crowded else _levels(aggregated)),
        "schedules": ("Schedules", _schedules(aggregated)),
        "trajectories": ("Trajectories in one dimension", _trajectories(aggregated)),
        "methods": ("Methods", _recipes(aggregated) if crowded else _methods(aggregated)),
        "metrics": ("Metrics", _metrics(aggregated, bool(data.floors))),
        "reproduce": ("Reproduce and cite", _reproduce(data, aggregated)),
    }
    return document(data.title, part(_PAGE, "intro", data.description, _facts(data, aggregated)), sections, "summary")


def _facts(data: ReportData, t: Table) -> dict[str, str]:
    """What was compared, as a list of terms."""
    facts = dict(data.facts)
    facts.setdefault("Methods", str(len(t.methods)))
    facts.setdefault("Evaluations", ", ".join(map(str, t.budgets)))
    facts.setdefault(
        "Samples", _distinct([f"{int(r['samples']):,}" for r in data.records if r.get("samples") is not None])
    )
    facts.setdefault("Seeds", _distinct([str(r["seed"]) for r in data.records if r.get("seed") is not None]))
    runs = {r.get("cell"): float(r["seconds"]) for r in data.records if r.get("seconds") is not None}
    facts.setdefault("Sampling time", _duration(math.fsum(runs.values())) if runs else "")
    return {name: str(value) for name, value in facts.items() if value}


def _distinct(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.3g} s"


def _errors(data: ReportData, t: Table) -> Markup:
    if not t.metrics:
        return _NOTHING
    numbered = names(t.methods) != [m.label for m in t.methods]
    entries = [(i, str(i + 1) if numbered else "", m.label) for i, m in enumerate(t.methods)]
    drawn = [(drawing, name, metric(name)) for name, drawing in panels.error_panels(data, t).items()]
    return part(_PAGE, "errors", entries, drawn)


def _sweep(data: ReportData, t: Table) -> Markup:
    drawn = [(drawing, name, metric(name)) for name, drawing in panels.sweep_panels(data, t).items()]
    usual = f"{data.usual:g}" if math.isfinite(data.usual) else ""
    return part(_PAGE, "sweep", data.sweep, usual, drawn, data.sweep_notes) if drawn else _NOTHING


def _samples(data: ReportData, t: Table) -> Markup:
    shown = panels.pictures(data, t)
    if not shown:
        return _NOTHING
    limits = images.shared_frame(shown)
    cells = [_picture(data, t, *entry, limits, i, len(shown)) for i, entry in enumerate(shown)]
    budget = f"at most {t.grid_budget} evaluations" if t.grid_budget is not None else "the chosen budget"
    vectors = any(samples is not None and not image_like(samples) for _, _, samples in shown)
    return part(_PAGE, "samples", budget, vectors, cells)


def _picture(
    data: ReportData, t: Table, label: str, index: int, samples: Any, limits: Any, place: int, grids: int
) -> Markup:
    detail = panels.caption(data, t, label) if index >= 0 else _ORIGIN[label]
    alt = f"Samples of {label}" if index >= 0 else f"Samples: {label}"
    image = images.bitmap(samples, grids) if image_like(samples) else None
    drawing = None
    if samples is not None and image is None:
        drawing = panels.samples_svg(samples, limits, index, f"samples-{place}", alt)
    return part(_PAGE, "picture", label, index, detail, drawing, image, alt)


def _levels(t: Table) -> Markup:
    drawing = panels.levels_panel(t)
    if drawing is None:
        return _NOTHING
    far = any(x > noise_levels.MOST for m in t.methods for x in m.levels)
    return part(_PAGE, "levels", drawing, t.grid_budget, f"{noise_levels.MOST:g}" if far else "")


def _schedules(t: Table) -> Markup:
    drawn = panels.schedule_panels(t)
    if not drawn:
        return _NOTHING
    shown = panels.curves.drawn_schedules(t.methods)
    known = [(f.label, getattr(f.curve, "formulas", {})) for f in shown]
    stated = [(label, found["sigma"], found["s"]) for label, found in known if {"sigma", "s"} <= set(found)]
    return part(_PAGE, "schedules", [(f.index, f.label) for f in shown], *drawn, stated)


def _trajectories(t: Table) -> Markup:
    drawn = panels.trajectory_panels(t)
    return part(_PAGE, "trajectories", list(drawn.values())) if drawn else _NOTHING


def _methods(t: Table) -> Markup:
    rows = [_method(i, m) for i, m in enumerate(t.methods)]
    head = ["method", *Key._fields, "source", "recipe hash"]
    if all(m.label == m.key.recipe for m in t.methods):  # the label names the recipe
        head, rows = [head[0], *head[2:]], [[row[0], *row[2:]] for row in rows]
    return part(_PAGE, "methods", head, rows) if rows else _NOTHING


def _recipes(t: Table) -> Markup:
    """Of many methods, the recipes that they are made from, and what was put into them."""
    first = {m.key.recipe: m for m in reversed(t.methods)}
    rows = [
        [
            part(_PAGE, "recipe", name, m.title),
            m.problem,
            *(", ".join(_values(t, name, f)) for f in ("schedule", "steps", "solver")),
            cited(m.source),
        ]
        for name, m in reversed(first.items())
    ]
    return part(_PAGE, "recipes", ["recipe", "problem", "schedule", "levels", "solver", "source"], rows)


def _values(t: Table, recipe: str, name: str) -> list[str]:
    return list(dict.fromkeys(getattr(m.key, name) for m in t.methods if m.key.recipe == recipe))


def _method(index: int, m: MethodView) -> list[str]:
    return [part(_PAGE, "method", index, m), *m.key, cited(m.source), part(_PAGE, "code", m.hash)]


def _metrics(t: Table, floors: bool) -> Markup:
    if not t.metrics:
        return _NOTHING
    known = [(name, metric(name)) for name in t.metrics]
    return part(_PAGE, "metrics", known, [name for name, shown in known if shown.best], floors)


def _reproduce(data: ReportData, t: Table) -> Markup:
    numbers = data_uri(as_csv(t).encode(), "text/csv") if t.cells else ""
    return part(_PAGE, "reproduce", data.commands, list(data.environment.items()), numbers, _CITATION)
