"""``edm-unified list``: every component that a recipe or an option can name."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from typing import Any

import click

from edm_unified.components import shipped

FAMILIES = ("recipes", *shipped.FAMILIES)


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [family for family in FAMILIES if family.startswith(incomplete)]


@click.command("list", short_help="Name every schedule, solver, ... with its parameters, and the recipes.")
@click.argument("families", nargs=-1, metavar="[FAMILY]...", shell_complete=_complete)
def list_components(families: tuple[str, ...]) -> None:
    """Name every component with its parameters and their defaults, and the shipped recipes.

    \b
    FAMILY is any of: recipes, schedules, steps, solvers, renoising, correctors, analytic_starts, guidances,
    thresholds, preconditioning, noise, weights, matching, uncertainty, data, denoisers, networks, optimizers,
    rates, averages, augmentations. Without it, all are listed.
    """
    for family in families:
        if family not in FAMILIES:
            raise ValueError(f"list: no family {family!r}{shipped.suggest(family, FAMILIES)}")
    width = min(shutil.get_terminal_size().columns, 110)
    for i, family in enumerate(families or FAMILIES):
        if i:
            click.echo()
        click.secho(f"{family}  ({_WHERE[family]})", bold=True)
        for line in _recipes(width) if family == "recipes" else _components(family, width):
            click.echo(line)


_WHERE = {
    "recipes": "edm-unified show NAME",
    "schedules": "schedule:",
    "steps": "sampler.steps:",
    "solvers": "sampler.solver:",
    "renoising": "sampler.renoising:",
    "correctors": "sampler.corrector:",
    "analytic_starts": "sampler.analytic_start:",
    "guidances": "sampler.guidance:",
    "thresholds": "sampler.threshold:",
    "preconditioning": "preconditioning:",
    "noise": "objective.noise:",
    "weights": "objective.weight:",
    "matching": "objective.matching:",
    "uncertainty": "objective.uncertainty:",
    "data": "data:",
    "denoisers": "denoiser:",
    "networks": "network:",
    "optimizers": "training.optimizer:",
    "rates": "training.rate:",
    "averages": "training.ema:",
    "augmentations": "training.augment:",
}
"""The place of a family in a recipe."""


def _recipes(width: int) -> list[str]:
    titles = shipped.titles()
    return [f"  {name:<{max(map(len, titles))}}  {title}" for name, title in titles.items()]


def _components(family: str, width: int) -> list[str]:
    from edm_unified.recipe import codec
    from edm_unified.recipe.catalogue import FAMILIES as UNIONS
    from edm_unified.recipe.catalogue import summary

    lines = []
    for kind, cls in codec.components(UNIONS[family]).items():
        head = click.style(f"  {kind}", fg="cyan") + "  " + ", ".join(_parameters(cls))
        lines.append(head.rstrip())
        lines += textwrap.wrap(summary(cls), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines


def _parameters(cls: Any) -> list[str]:
    fields = [field for field in dataclasses.fields(cls) if field.name != "kind"]
    return [f.name if f.default is dataclasses.MISSING else f"{f.name}={_default(f.default)}" for f in fields]


def _default(value: Any) -> str:
    if hasattr(value, "kind"):
        return f"{{kind: {value.kind}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(_default([*v] if hasattr(v, '_fields') else v) for v in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
