"""data_levels.png, the reasoning behind P_mean: ``python docs/images/draw_levels.py``."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from edm_unified import data
from edm_unified.data.suggest import errors, suggest
from edm_unified.data.survey import part, spectrum, survey


def main() -> None:
    plt.rcParams.update({"font.size": 8, "figure.dpi": 100})
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.9), layout="constrained", sharey=True)
    for axis, source in zip(axes, (data.PhotoPatches(), data.TwoDimensional("moons")), strict=True):
        dataset = source.load()
        found = suggest(dataset, survey(dataset))
        rows = data.batch(dataset, part(dataset, 4096))[0].double()
        variances = spectrum(rows)
        sigma, error = errors(rows.flatten(1), variances, found.sigma_min, found.sigma_max)
        variance = float(variances.mean())
        loss = np.minimum(error * (sigma**2 + variance) / (sigma**2 * variance), 1)
        density = (1 - loss) * error / sigma
        bump = np.exp(-0.5 * ((np.log(sigma) - found.P_mean) / found.P_std) ** 2)
        axis.semilogx(sigma, loss, label="L: loss of the best D known")
        axis.semilogx(sigma, error / variance, label="mmse/σ_d²")
        axis.semilogx(sigma, density / density.max(), linewidth=2, label="(1 − L) mmse/σ")
        axis.semilogx(sigma, bump, "k--", linewidth=0.9, label=f"suggested: {found.P_mean:.2f} ± {found.P_std:.1f}")
        axis.set(title=getattr(source, "name", source.kind), xlabel="σ", xlim=(None, 2 * math.ceil(sigma[-1])))
        axis.legend(fontsize=6, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    figure.savefig(Path(__file__).with_name("data_levels.png"))


if __name__ == "__main__":
    main()
