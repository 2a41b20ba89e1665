"""The page: sections in reading order, each a function of the data that returns HTML, or nothing if it has none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edm_unified.report import heat, images, panels, walks
from edm_unified.report.data import Key, MethodView, ReportData, image_like, metric
from edm_unified.report.markup import cited, data_uri, document, figure, formula, lines, swatch, table, text
from edm_unified.report.plots import names
from edm_unified.report.ranking import Table, summary, tabulate
from edm_unified.report.tables import as_csv, ranked_tables, winners

_CITATION = """@inproceedings{karras2022elucidating,
  title     = {Elucidating the Design Space of Diffusion-Based Generative Models},
  author    = {Tero Karras and Miika Aittala and Timo Aila and Samuli Laine},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022},
  note      = {arXiv:2206.00364}
}"""
_ORIGIN = {"data": "not from the model", "exact endpoints": "of the ODE, same noise"}


def build(data: ReportData) -> str:
    """The report as one HTML document: no request leaves it, and the same data give the same bytes."""
    aggregated = tabulate(data)
    crowded = heat.is_crowded(aggregated)
    sections = {
        "summary": ("Summary", _summary(data, aggregated)),
        "map": ("Heat map", heat.section_of(aggregated) if crowded else ""),
        "tables": ("Ranked tables", ranked_tables(aggregated)),
        "errors": ("Error against evaluations", "" if crowded else _errors(data, aggregated)),
        "samples": ("Samples", "" if crowded else _samples(data, aggregated)),
        "levels": ("Noise levels visited", "" if crowded else _levels(aggregated)),
        "schedules": ("Schedules", _schedules(aggregated)),
        "trajectories": ("Trajectories in one dimension", _trajectories(aggregated)),
        "methods": ("Methods", _recipes(aggregated) if crowded else _methods(aggregated)),
        "metrics": ("Metrics", _metrics(aggregated, bool(data.floors))),
        "reproduce": ("Reproduce and cite", _reproduce(data, aggregated)),
    }
    return document(data.title, lines(data.description) + _facts(data, aggregated), sections)


def _facts(data: ReportData, t: Table) -> str:
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
    items = "".join(f"<div><dt>{text(k)}</dt><dd>{cited(str(v))}</dd></div>" for k, v in facts.items() if v)
    return f'<dl class="facts">{items}</dl>'


def _distinct(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.3g} s"


def _summary(data: ReportData, t: Table) -> str:
    prose = f'<p class="finding">{" ".join(text(s) for s in summary(t))}</p>'
    return prose + winners(t)


def _legend(t: Table) -> str:
    """One entry per method; with JavaScript each is a button that picks the method out in every figure."""
    numbered = names(t.methods) != [m.label for m in t.methods]
    items = "".join(
        f'<li data-method="{i}">{swatch(i)} {f"<b>{i + 1}</b> " if numbered else ""}{text(m.label)}</li>'
        for i, m in enumerate(t.methods)
    )
    return f'<ul class="legend" aria-label="Methods">{items}</ul>'


def _errors(data: ReportData, t: Table) -> str:
    if not t.metrics:
        return ""
    drawn = panels.error_panels(data, t)
    intro = (
        "<p>Both axes are logarithmic; down is better. Bands are 95&nbsp;% bootstrap intervals; a cross at the upper "
        "edge is a run that diverged, and a line that leaves through it is off the scale; a value at the lower edge "
        "is there or below.</p>"
    )
    plots = "".join(figure(drawing, _explain(name)) for name, drawing in drawn.items())
    return f'{intro}{_legend(t)}<div class="panels">{plots}</div>'


def _explain(name: str) -> str:
    shown = metric(name)
    return f'<a href="#metric-{text(name)}">{text(shown.title)}</a>: {text(shown.words)}' if shown.words else text(name)


def _samples(data: ReportData, t: Table) -> str:
    shown = panels.pictures(data, t)
    if not shown:
        return ""
    vectors = [samples for _, _, samples in shown if samples is not None and not image_like(samples)]
    limits = images.shared_frame(shown)
    cells = "".join(_picture(data, t, *entry, limits, i, len(shown)) for i, entry in enumerate(shown))
    budget = f"at most {t.grid_budget} evaluations" if t.grid_budget is not None else "the chosen budget"
    place = "The same place in every grid started" if not vectors else "All clouds started"
    return (
        f"<p>Drawn with {budget}. {place} from the same noise, so a deterministic method is right when it equals the "
        "exact endpoints; a stochastic one is right when it could be mistaken for the data.</p>"
        f'<div class="pictures">{cells}</div>'
    )


def _picture(
    data: ReportData, t: Table, label: str, index: int, samples: Any, limits: Any, place: int, grids: int
) -> str:
    title = f"{swatch(index) + ' ' if index >= 0 else ''}<b>{text(label)}</b>"
    detail = panels.caption(data, t, label) if index >= 0 else _ORIGIN[label]
    caption = title + (f"<br>{text(detail)}" if detail else "")
    alt = text(f"Samples of {label}" if index >= 0 else f"Samples: {label}")
    if samples is None:
        return figure('<p class="diverged">diverged</p>', caption)
    if not image_like(samples):
        return figure(panels.samples_svg(samples, limits, index, f"samples-{place}", alt), caption)
    small = images.thumbnails(samples, grids)
    tiled = images.mosaic(small, images.columns_for(len(small), *small.shape[2:]))
    height, width = tiled.shape[:2]
    zoom = max(1, round(216 / width))  # whole multiples keep pixels square
    source = data_uri(images.encode(tiled), "image/png")
    return figure(f'<img src="{source}" alt="{alt}" width="{width * zoom}" height="{height * zoom}">', caption)


def _levels(t: Table) -> str:
    drawing = panels.levels_panel(t)
    if not drawing:
        return ""
    budget = f" at {t.grid_budget} evaluations" if t.grid_budget is not None else ""
    far = any(x > walks.MOST for m in t.methods for x in m.levels)
    beyond = f"; an arrow at the left: a level above {walks.MOST:g}" if far else ""
    return (
        "<p>Sampling is a walk on the noise axis. A fall is solved, a rise is noised, a repeat is corrected.</p>"
        + figure(
            drawing, f"The walk of each method{budget}. Dots: levels; arcs: rises; rings: repeats{beyond}.", "tall"
        )
    )


def _schedules(t: Table) -> str:
    drawn = panels.schedule_panels(t)
    if not drawn:
        return ""
    entries = "".join(
        f'<li data-method="{f.index}">{swatch(f.index)} {text(f.label)}</li>' for f in panels.curves.families(t.methods)
    )
    words = (
        "The noise level, relative to the data. An axis without end is cut where its walk starts.",
        formula("x_t = s (x_0 + σ n), with n standard normal."),
    )
    plots = "".join(figure(drawing, caption) for drawing, caption in zip(drawn, words, strict=True))
    plots += _formulas(t)
    return (
        f"<p>A schedule is two functions of time: {formula('p(x_t | x_0) = N( s(t) x_0, s(t)² σ(t)² I )')}.</p>"
        f'<ul class="legend lines">{entries}</ul><div class="panels">{plots}</div>'
    )


def _formulas(t: Table) -> str:
    """s and σ of each schedule that states them."""
    stated = [(f.label, getattr(f.curve, "formulas", {})) for f in panels.curves.families(t.methods)]
    items = "".join(
        f"<div><dt>{text(label)}</dt><dd>{formula('σ = ' + known['sigma'] + ';  s = ' + known['s'])}</dd></div>"
        for label, known in stated
        if {"sigma", "s"} <= set(known)
    )
    return f'<dl class="formulas">{items}</dl>' if items else ""


def _trajectories(t: Table) -> str:
    drawn = panels.trajectory_panels(t)
    if not drawn:
        return ""
    plots = "".join(figure(drawing, "") for drawing in drawn.values()).replace("<figcaption></figcaption>", "")
    return (
        "<p>One flow under every schedule (as in Karras et al. 2022, Fig. 3): two normal modes at ±1, each of "
        "standard deviation 0.15. In z = x/s and σ all these curves are the same; the schedule only bends them, and a "
        "solver that steps in t sees the bends. Sampling runs from right to left. Shade: marginal density; along the "
        "top: σ.</p>"
        f'<div class="panels">{plots}</div>'
    )


def _methods(t: Table) -> str:
    rows = [_method(i, m) for i, m in enumerate(t.methods)]
    head = ["method", *Key._fields, "source", "recipe hash"]
    if all(m.label == m.key.recipe for m in t.methods):  # the recipe is told by the label
        head, rows = [head[0], *head[2:]], [[row[0], *row[2:]] for row in rows]
    return table(head, rows, "What each method is, and where it is from", "cards") if rows else ""


def _recipes(t: Table) -> str:
    """Of many methods, the recipes that they are made from, and what was put into them."""
    first = {m.key.recipe: m for m in reversed(t.methods)}
    rows = [
        [
            f"{text(name)}<small>{text(m.title)}</small>",
            text(m.problem),
            *(", ".join(text(v) for v in _values(t, name, f)) for f in ("schedule", "steps", "solver")),
            cited(m.source),
        ]
        for name, m in reversed(first.items())
    ]
    head = ["recipe", "problem", "schedule", "levels", "solver", "source"]
    note = "<p>The hash of each resolved recipe is in the CSV file below.</p>"
    return table(head, rows, "The recipes, and the parts that they were crossed with", "cards") + note


def _values(t: Table, recipe: str, name: str) -> list[str]:
    return list(dict.fromkeys(getattr(m.key, name) for m in t.methods if m.key.recipe == recipe))


def _method(index: int, m: MethodView) -> list[str]:
    title = f"<small>{text(m.title)}</small>" if m.title else ""
    name = f'<span id="method-{index}">{swatch(index)} {text(m.label)}</span>{title}'
    return [name, *map(text, m.key), cited(m.source), f"<code>{text(m.hash)}</code>" if m.hash else ""]


def _metrics(t: Table, floors: bool) -> str:
    items = "".join(
        f'<div id="metric-{text(name)}"><dt>{text(metric(name).title)} <code>{text(name)}</code></dt>'
        f'<dd><span class="formula">{formula(metric(name).formula)}</span> {text(metric(name).words)}</dd></div>'
        for name in t.metrics
    )
    note = (
        f"<p>Smaller is better{_but_for(t.metrics)}. Intervals are 95&nbsp;% bootstrap intervals over samples; several "
        "seeds are averaged and their intervals combined as those of independent estimates. Distances between finitely "
        "many samples are not zero even for exact samples: only equal numbers of samples can be compared"
        f"{', and the level of the exact endpoints is drawn where it is known' if floors else ''}.</p>"
    )
    return f'<dl class="metrics">{items}</dl>{note}' if items else ""


def _but_for(names: Sequence[str]) -> str:
    shares = [name for name in names if metric(name).best]
    return f", but for {' and '.join(shares)}, which are best at 1" if shares else " in all of them"


def _reproduce(data: ReportData, t: Table) -> str:
    commands = "".join(f"<pre><code>{text(command)}</code></pre>" for command in data.commands)
    rows = [[text(k), text(v)] for k, v in data.environment.items()]
    environment = table(["item", "value"], rows, "Versions and machine of this run", "environment") if rows else ""
    link = data_uri(as_csv(t).encode(), "text/csv")
    numbers = f'<p><a download="results.csv" href="{link}">All numbers of this page as CSV</a></p>' if t.cells else ""
    return (
        (f"<h3>Commands</h3>{commands}" if commands else "")
        + (f"<h3>Environment</h3>{environment}" if environment else "")
        + (f"<h3>Data</h3>{numbers}" if numbers else "")
        + f"<h3>Citation</h3><p>The method:</p><pre><code>{text(_CITATION)}</code></pre>"
        "<p>The software: see CITATION.cff. The single methods: the sources in the table above.</p>"
    )
