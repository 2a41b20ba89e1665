"""Figure of the weights of objectives over the log-SNR, p(λ) and w(λ), for several methods."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch

from edm_unified.recipe import Recipe
from edm_unified.report.draw import settings
from edm_unified.report.plots import power_of_ten
from edm_unified.training.objective.weighting import Weighting, on_grid, weighting


def figure(recipes: Mapping[str, Recipe]) -> bytes:
    """p(λ) and w(λ) of every recipe that has an objective, as a PNG; equal curves share a line.

    Raises ``ValueError`` where none has one.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    grid = torch.linspace(-16, 16, 641, dtype=torch.float64)
    names: dict[tuple[float, ...], list[str]] = {}
    found: dict[tuple[float, ...], Weighting] = {}
    for name, recipe in recipes.items():
        if recipe.objective is None:
            continue
        try:
            one = weighting(recipe.objective, recipe.schedule)
        except ValueError as error:
            raise ValueError(f"{name}: objective.{error}") from None
        key = tuple(round(value, 6) for value in on_grid(one, grid).tolist())
        names.setdefault(key, []).append(name)
        found[key] = one
    if not found:
        raise ValueError("none of these recipes has an objective; add objective: {noise: …, weight: …}")
    with settings():
        drawing = Figure(figsize=(7.5, 6.5), layout="constrained")
        top, bottom = drawing.subplots(2, sharex=True)
        for i, (key, one) in enumerate(found.items()):
            style = {"color": f"C{i % 10}", "linewidth": 1.3, "linestyle": ("-", "--", ":")[i // 10 % 3]}
            x = one.log_snr.numpy()
            top.plot(x, one.density.numpy(), label=", ".join(names[key]), **style)
            at_zero = float(on_grid(one, torch.zeros(1, dtype=torch.float64)))
            bottom.plot(x, (one.weight / (at_zero or 1.0)).numpy(), **style)
        top.set(ylabel="p(λ)", title="Where training looks, and what it weighs", ylim=(0, None))
        bottom.set(xlabel="λ = ln SNR = −2 ln σ", ylabel="w(λ)/w(0)", yscale="log", xlim=(-16, 16), ylim=(1e-4, 1e4))
        bottom.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
        for axes in (top, bottom):
            axes.grid(alpha=0.25, linewidth=0.5)
        drawing.legend(loc="outside lower center", ncols=2 if len(found) > 1 else 1, fontsize=8, frameon=False)
        buffer = io.BytesIO()
        drawing.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
