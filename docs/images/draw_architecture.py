"""architecture.png, the floors as the tests hold them: ``python docs/images/draw_architecture.py``."""

from __future__ import annotations

import ast
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parents[2]
SAID = {
    "components": "checked frozen dataclass, files",
    "schedules": "s(t), σ(t)",
    "denoisers.parametrization": "ε, v, velocity, score, x₀ ↔ D",
    "denoisers.preconditioning": "c_skip, c_out, c_in, c_noise",
    "denoisers": "protocol, exact, guidance",
    "data": "samples, classes",
    "networks": "F",
    "sampling": "levels, streams",
    "sampling.solvers": "one step",
    "sampling.correctors": "Langevin",
    "sampling.renoising": "rises, repeats",
    "sampling.last_step": "the fall to 0",
    "sampling.loop": "the loop",
    "sampling.reference": "exact flow",
    "training": "objective, runs",
    "likelihood": "densities",
    "metrics": "distances",
    "interop": "other libraries",
    "recipe": "YAML ↔ tree of components",
    "compare": "cells",
    "report": "figures, pages",
    "certify": "measured claims",
    "tuning": "fitted solvers",
    "cli": "commands",
}
PATH = [
    "cli",
    "compare",
    "report",
    "recipe",
    "metrics",
    "sampling.loop",
    "sampling.reference",
    "sampling.renoising",
    "sampling.last_step",
    "sampling.solvers",
    "sampling",
    "denoisers",
    "data",
    "schedules",
]
"""What `edm-unified compare edm --solver heun` passes through."""


def floors() -> list[list[str]]:
    """The floors that tests/laws/test_floors.py holds the imports to, from the ground up."""
    tree = ast.parse((ROOT / "tests/laws/test_floors.py").read_text("utf-8"))
    value = next(n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "FLOORS")
    return [sorted(names - {"__main__"}, key=list(SAID).index) for names in ast.literal_eval(value)]


def main() -> None:
    plt.rcParams.update({"font.size": 8, "figure.dpi": 130})
    figure, axis = plt.subplots(figsize=(7.6, 5.4), layout="constrained")
    for height, names in enumerate(floors()):
        width = 10 / len(names)
        for i, name in enumerate(names):
            on_path = name in PATH
            box = FancyBboxPatch(
                (i * width + 0.08, height + 0.1),
                width - 0.16,
                0.76,
                boxstyle="round,pad=0.02,rounding_size=0.08",
                facecolor="#cfe3f5" if on_path else "#f2f2f2",
                edgecolor="#1f5f99" if on_path else "#999999",
            )
            axis.add_patch(box)
            middle = (i + 0.5) * width
            axis.text(middle, height + 0.6, name, ha="center", va="center", weight="bold", color="black")
            axis.text(middle, height + 0.32, SAID[name], ha="center", va="center", fontsize=6.5, color="#333333")
    axis.annotate(
        "imports go down", (10.25, 0.3), (10.25, len(floors()) - 0.2), rotation=90, va="top", ha="center",
        arrowprops={"arrowstyle": "->", "color": "#555555"}, color="#555555",
    )  # fmt: skip
    axis.set(xlim=(0, 10.5), ylim=(0, len(floors())))
    axis.axis("off")
    axis.set_title("Packages on their floors. Blue: where `edm-unified compare edm --solver heun` passes", fontsize=8)
    figure.savefig(Path(__file__).with_name("architecture.png"))


if __name__ == "__main__":
    main()
