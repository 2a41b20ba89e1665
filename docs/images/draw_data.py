"""The pictures of docs/data.md that no command makes: ``python docs/images/draw_data.py``."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from torchvision.utils import make_grid, save_image

from edm_unified import data
from edm_unified.training import augment

HERE = Path(__file__).parent


def planar() -> None:
    """Six sets in the plane, classes by colour."""
    sets = [data.Fractal(samples=20000)]
    sets += [
        data.TwoDimensional(shape) for shape in ("moons", "swiss_roll", "checkerboard", "spirals", "eight_gaussians")
    ]
    mpl.rcParams.update({"font.size": 8, "figure.dpi": 100})
    figure, axes = plt.subplots(2, 3, figsize=(6.3, 4.4), layout="constrained")
    for axis, chosen in zip(axes.flat, sets, strict=True):
        found = chosen.load()
        colours = None if found.labels is None else found.labels[:8000]
        palette = None if colours is None else "coolwarm"
        axis.scatter(*found.images[:8000].T, s=0.4, linewidths=0, c=colours, cmap=palette)
        axis.set(title=found.name, xticks=[], yticks=[], aspect="equal")
    figure.savefig(HERE / "data_planar.png")


def augmented() -> None:
    """Two photographs as they were, and under each transformation of EDM's augmentation alone, then under all."""
    images = data.PhotoPatches(size=96, stride=96).load().images
    chosen = torch.stack([images[14], images[len(images) // 2 + 9]])
    names = ("x_flip", "y_flip", "scaling", "rotation", "anisotropy", "translation")
    # what is done where all is allowed; the two flips, scaling, rotation, the stretch's angle and size, the shift
    uniforms = torch.tensor([0.0] * 6 + [0.9, 0.9, 0.9, 0.58, 0.7, 0.99, 0.9, 0.2] + [0.0], dtype=torch.float64)
    columns = [chosen]
    for wanted in [*([name] for name in names), names]:
        rule = augment.EDM(p=1.0, **{name: name in wanted for name in names})
        columns.append(rule.transform(chosen, uniforms.expand(2, -1))[0])
    grid = make_grid(torch.stack(columns, 1).flatten(0, 1), nrow=len(columns), padding=1, pad_value=1.0)
    save_image((grid + 1) / 2, HERE / "data_augment.png")


if __name__ == "__main__":
    planar()
    augmented()
