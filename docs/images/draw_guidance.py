"""guidance.png, one class of the fractal under guidance: ``python docs/images/draw_guidance.py``."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib import pyplot as plt

import edm_unified as edm
from edm_unified import data
from edm_unified.recipe.guidances import ClassifierFree
from edm_unified.sampling.levels import Karras

CHOICES = (
    (ClassifierFree(w=1.0), "the class alone: w = 1"),
    (ClassifierFree(w=3.0), "w = 3"),
    (ClassifierFree(w=3.0, low=0.05, high=0.5), "w = 3 for 0.05 < σ ≤ 0.5"),
)


def main() -> None:
    dataset = data.Fractal(samples=6000).load()
    D = dataset.exact()
    assert dataset.labels is not None
    noise, label = edm.unit_noise(2000, (2,), seed=0), torch.zeros(2000, dtype=torch.long)
    plt.rcParams.update({"font.size": 8, "figure.dpi": 100})
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.6), layout="constrained", sharex=True, sharey=True)
    for axis, (choice, title) in zip(axes, CHOICES, strict=True):
        x = edm.sample(choice.guided(D), noise, steps=Karras(n=64, sigma_max=5.0), cond={"label": label})
        for c, colour in ((1, "#d9d9d9"), (0, "#f3c49a")):
            rows = dataset.images[dataset.labels == c]
            axis.plot(*rows.T, ".", markersize=1.5, color=colour, markeredgewidth=0)
        axis.plot(*x.T, ".", markersize=1.8, color="#1f4e8c", markeredgewidth=0)
        axis.set(title=title, aspect="equal", xticks=[], yticks=[], xlim=(-1.7, 1.7), ylim=(-1.7, 1.7))
    figure.savefig(Path(__file__).with_name("guidance.png"))


if __name__ == "__main__":
    main()
