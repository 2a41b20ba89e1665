"""The page of a training run: its curves, the loss as a function of σ, samples on the way, and its recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from edm_unified.report import images
from edm_unified.report.data import image_like
from edm_unified.report.draw import Palette, dress, legend_below, margins, svg
from edm_unified.report.panels import samples_svg
from edm_unified.report.plots import power_of_ten, value_ticks
from edm_unified.report.templates import Picture, document, part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PAGE = "training.html"
_MOST_POINTS = 500
_MOST_PICTURES = 10
_UNITS = ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"))
_STAGES = 4
"""Stretches of the run whose loss is drawn against σ, each twice as long as the one before."""


def build(
    title: str,
    source: str,
    recipe: str,
    log: Sequence[dict[str, Any]],
    pictures: Sequence[Path],
    excess: Sequence[dict[str, Any]] = (),
    wanted: int = 0,
) -> str:
    """The page as one HTML document. ``log``: the lines of ``log.jsonl``; ``pictures``: ``.npy`` files of samples;
    ``excess``: the lines of ``excess.jsonl``, where the exact denoiser of the data is known; ``wanted``: the images
    that the training is to see, so that the page of a run that is under way, or was killed, says so.
    """
    sections = {
        "summary": ("Summary", _summary(log)),
        "curves": ("Curves", _curves(log)),
        "levels": ("Loss against the noise level", _levels(log)),
        "excess": ("Excess loss", _excess(excess)),
        "samples": ("Samples", _samples(pictures)),
        "recipe": ("Recipe", part(_PAGE, "recipe", recipe)),
    }
    intro = part(_PAGE, "intro", source, _facts(log), _unfinished(log, wanted))
    return document(title, intro, sections, "summary")


def _unfinished(log: Sequence[dict[str, Any]], wanted: int) -> str:
    seen = log[-1]["images"] if log else 0
    if seen >= wanted:
        return ""
    return (
        f"Not finished when this page was made: {seen:,} of {wanted:,} images were seen. The same command goes on, and "
        "writes the page anew."
    )


def _facts(log: Sequence[dict[str, Any]]) -> dict[str, str]:
    if not log:
        return {}
    last = log[-1]
    return {
        "Images shown": f"{last['images']:,}",
        "Steps": f"{last['step']:,}",
        "Time": _duration(last["seconds"]),
        "Images per second": f"{last['images_per_second']:,.{0 if last['images_per_second'] >= 100 else 1}f}",
    }


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def _summary(log: Sequence[dict[str, Any]]) -> Markup:
    tail = log[-max(1, len(log) // 10) :]
    finding = ""
    if log:
        mean = math.fsum(line["loss"] for line in tail) / len(tail)
        finding = (
            f"The loss is {mean:.4g} over the last {len(tail)} lines of the log of {len(log)}, and was "
            f"{log[0]['loss']:.4g} in the first."
        )
    rows = [
        [f"{line['images']:,}", f"{line['loss']:.5g}", _or_none(line["grad_norm"]), f"{line['rate']:.3g}"]
        for line in _thinned(log, 12)
    ]
    return part(_PAGE, "summary", finding, ["images", "loss", "norm of the gradient", "learning rate"], rows)


def _or_none(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _thinned(log: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the entries, evenly, with the last."""
    if len(log) <= most:
        return list(log)
    return [log[round(i * (len(log) - 1) / (most - 1))] for i in range(most)]


def _curves(log: Sequence[dict[str, Any]]) -> Markup:
    if len(log) < 2:
        return Markup("")
    wanted = {
        "loss": ("Loss", "Mean of λ ‖D − x_0‖² since the line before.", True),
        "grad_norm": ("Norm of the gradient", "Mean since the line before, before clipping.", True),
        "rate": ("Learning rate", "As the rule of the recipe sets it.", False),
        "images_per_second": ("Images per second", "Since the run was started or resumed.", False),
    }
    drawn = []
    for name, (title, caption, logarithmic) in wanted.items():
        points = [(line["images"], line[name]) for line in log if line[name] is not None]
        points = _thinned(points, _MOST_POINTS)
        if len(points) < 2:
            continue

        def draw(
            canvas: Figure, palette: Palette, points: Any = points, title: str = title, high: bool = logarithmic
        ) -> None:
            ax = margins(canvas, 0.62)
            dress(ax, palette, title)
            ax.plot(*zip(*points, strict=True), color=palette.line(0), linewidth=1.3)
            _axes(ax, [value for _, value in points], high)

        drawn.append((svg(draw, f"curve-{name}", f"{title} against images shown"), caption))
    return part(_PAGE, "panels", drawn)


def _axes(ax: Axes, values: Sequence[float], logarithmic: bool) -> None:
    from matplotlib.ticker import FuncFormatter

    if logarithmic and min(values) > 0:
        _logarithmic(ax, "y")
    elif min(values) >= 0:
        ax.set_ylim(bottom=0, top=1.05 * max(values) or 1)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _counted(ax, "images")


def _levels(log: Sequence[dict[str, Any]]) -> Markup:
    stages = [stage for stage in _stages(log) if stage[1]]
    if not stages:
        return Markup("")

    def loss(canvas: Figure, palette: Palette) -> None:
        ax = margins(canvas, 0.62, bottom=0.86)
        dress(ax, palette, "Weighted loss", "σ", "")
        for i, (label, bins) in enumerate(stages):
            sigmas = sorted(bins)
            ax.plot(
                sigmas, [bins[s][0] / bins[s][1] for s in sigmas], "o-", markersize=2.6, linewidth=1.2,
                color=palette.line(i), label=label,
            )  # fmt: skip
        _logarithmic(ax, "x")
        if all(total > 0 for _, bins in stages for total, _ in bins.values()):
            _logarithmic(ax, "y")
        legend_below(ax, palette)

    def share(canvas: Figure, palette: Palette) -> None:
        ax = margins(canvas, 0.62)
        dress(ax, palette, "Where the samples were", "σ", "")
        bins = stages[-1][1]
        number = sum(count for _, count in bins.values())
        sigmas = sorted(bins)
        ax.plot(sigmas, [bins[s][1] / number for s in sigmas], "o-", markersize=2.6, color=palette.line(0))
        _logarithmic(ax, "x")
        ax.set_ylim(bottom=0)

    captions = (
        "λ(σ) ‖D − x_0‖² by noise level, in bins of a quarter of a decade, over stretches of the run. Where a curve "
        "still falls from one stretch to the next there is more to be learnt.",
        "The share of samples in each bin over the last stretch: p(σ).",
    )
    drawn = [svg(loss, "levels-loss", "Loss against the noise level"), svg(share, "levels-share", "Share of samples")]
    return part(_PAGE, "panels", list(zip(drawn, captions, strict=True)))


def _excess(lines: Sequence[dict[str, Any]]) -> Markup:
    if not lines:
        return Markup("")
    worst = max(lines, key=lambda line: line["relative"])

    def draw(canvas: Figure, palette: Palette) -> None:
        ax = margins(canvas, 0.62, bottom=0.68)
        dress(ax, palette, "Share of the variance to be explained", "σ", "")
        sigmas = [line["sigma"] for line in lines]
        bound = [1 - line["irreducible"] / line["to_explain"] for line in lines]
        kept = [(sigma, share) for sigma, share in zip(sigmas, bound, strict=True) if share > 0]
        ax.plot(*zip(*kept, strict=True), "--", color=palette.line(1), linewidth=1, label="untrained") if kept else None
        ax.plot(sigmas, [line["relative"] for line in lines], "o-", markersize=2.6, linewidth=1.2,
                color=palette.line(0), label="trained")  # fmt: skip
        _logarithmic(ax, "x")
        _logarithmic(ax, "y")
        legend_below(ax, palette)

    words = (
        "E ‖D − D*‖² / E ‖x_0 − c_skip z‖², over the levels that p(σ) covers: the exact denoiser D* of these data is "
        "known, and this is what was not learnt. Dashed: the same of a network that returns 0."
    )
    finding = (
        f"The excess is at most {worst['relative']:.2%} of the variance to be explained, at σ = {worst['sigma']:.3g}, "
        f"after {lines[-1]['images']:,} images."
    )
    return part(_PAGE, "panels", [(svg(draw, "excess", "Excess loss against the noise level"), words)], finding)


def _logarithmic(ax: Axes, axis: str) -> None:
    """Of what is drawn so far, in plain letters: matplotlib's own are TeX, which an SVG of text shows as it is."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    ax.set(**{f"{axis}scale": "log"})
    if axis == "y":
        low, high = ax.get_ylim()
        value_ticks(ax, low, high)
        if 10**0.5 < high / low <= 10:  # of 1, 2, 5 there would be two
            first = math.floor(math.log10(low))
            ticks = [digit * 10.0**e for e in (first, first + 1) for digit in (1, 1.5, 2, 3, 4, 6, 8)]
            ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        return
    ax.xaxis.set_major_formatter(FuncFormatter(power_of_ten))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _counted(ax: Axes, what: str) -> None:
    """The horizontal axis counts from 0, in thousands or millions: a run has up to ten digits of images."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.set_xlim(left=0)
    most = ax.get_xlim()[1]
    unit, word = next((pair for pair in _UNITS if most >= 2 * pair[0]), (1.0, ""))
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}"))
    ax.set_xlabel(f"{word} {what}".strip())


def _stages(log: Sequence[dict[str, Any]]) -> list[tuple[str, dict[float, tuple[float, int]]]]:
    """(words, {σ: (sum of losses, samples)}) for stretches of the run that double in length."""
    if not log:
        return []
    edges = [log[-1]["images"] / 2**i for i in range(_STAGES, 0, -1)] + [log[-1]["images"]]
    found = []
    for low, high in zip([0, *edges[:-1]], edges, strict=True):
        bins: dict[float, tuple[float, int]] = {}
        for line in log:
            if low < line["images"] <= high:
                for sigma, loss, number in line["bins"]:
                    total, count = bins.get(sigma, (0.0, 0))
                    bins[sigma] = (total + loss * number, count + number)
        found.append((f"to {_compact(high)} images", bins))
    return found


def _compact(count: float) -> str:
    """A count in at most six letters: 99,999, 128k, 51.2M, 1.02B."""
    if count < 1e5:
        return f"{count:,.0f}"
    unit, letter = next(pair for pair in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if count >= pair[0])
    return f"{count / unit:.3g}{letter}"


def _samples(pictures: Sequence[Path]) -> Markup:
    ours = [path for path in pictures if path.stem.isdigit()]
    shown = [(int(path.stem), np.load(path, allow_pickle=False)) for path in _thinned(ours, _MOST_PICTURES)]
    shown = [(at, array) for at, array in shown if np.isfinite(array).all()]
    if not shown:
        return Markup("")
    last = shown[-1][1]
    limits = (0.0, 1.0, 0.0, 1.0) if image_like(last) else images.frame(last)
    drawn: list[tuple[str, Markup | None, Picture | None]] = []
    for at, array in shown:
        if image_like(array):
            drawn.append((f"{at:,}", None, images.bitmap(array, len(shown))))
        else:
            drawing = samples_svg(array, limits, 0, f"samples-{at}", f"Samples after {at:,} images")
            drawn.append((f"{at:,}", drawing, None))
    return part(_PAGE, "samples", drawn)
