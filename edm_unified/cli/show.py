"""``edm-unified show``: the design card of a method."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options, own
from edm_unified.cli.drawing import SYMBOLS, curve
from edm_unified.cli.listing import is_component, near_component, pages
from edm_unified.components import shipped

if TYPE_CHECKING:
    from torch import Tensor

    from edm_unified.data import Dataset
    from edm_unified.recipe import Recipe

_INDENT = 18


@click.command(short_help="Print the design card of a method: formulas, levels, NFE.")
@options.recipe_argument
@options.swaps
@own.network(weights=False)
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the resolved recipe as YAML, every field spelled out.")
@click.option(
    "--density",
    type=click.Choice(["entropy", "rescaled_entropy"]),
    help="Print levels by equal shares of this, measured on the denoiser, as YAML for sampler.steps.",
)
@click.option("--weights", type=options.PATH, metavar="FILE",
              help="Draw p and w over the log-SNR, of one recipe or all of a comparison, as a PNG.")  # fmt: skip
def show(
    recipe: str, as_yaml: bool, density: str | None, weights: Path | None, overrides: tuple[str, ...], **swaps: Any
) -> None:
    """Print what RECIPE is made of: its formulas, the noise levels it visits, its evaluations, and σ(t).

    RECIPE is a shipped name (edm-unified list recipes) or a YAML file; a comparison has a card of its own. The kind of
    a component (heun) that is no recipe's name shows the page of that component.
    """
    width = min(shutil.get_terminal_size().columns, 120)
    plain = not (overrides or as_yaml or density or weights or own.amend()) and all(
        value is None for value in swaps.values()
    )
    if plain and (known := shipped.card(recipe)) is not None:
        for line in _card(known, width):
            click.echo(line)
        return
    is_recipe = recipe in shipped.recipe_names() or Path(recipe).exists()
    if plain and is_component(recipe) and not is_recipe:
        for line in pages(recipe, width):
            click.echo(line)
        return
    if not is_recipe and recipe.isidentifier() and (near := near_component(recipe)):
        raise ValueError(f"{recipe}: no such recipe or component{near}")
    from edm_unified.recipe import Recipe, load_any
    from edm_unified.recipe.card import card

    swapped = any(value is not None for value in swaps.values())
    with options.old_forms_noted():
        found = options.load(recipe, overrides, **swaps) if swapped else load_any(recipe, overrides, own.amend())
    if density is not None:
        if not isinstance(found, Recipe):
            raise ValueError(f"--density: {recipe} is a comparison; name one recipe")
        click.echo(_density(found, density))
        return
    if weights is not None:
        from edm_unified.cli.weights import draw

        draw(recipe, found, weights)
        click.echo(str(weights))
        return
    if as_yaml:
        click.echo(found.dump(), nl=False)
        return
    for line in _card(card(found, recipe), width):
        click.echo(line)


def _samples(dataset: Dataset, most: int) -> Tensor:
    """Samples of the data as a network sees them: of a run those that it keeps, as often as makes 512."""
    if dataset.measured is None:
        return dataset.images[:most]
    kept = dataset.scaling.to_unit(dataset.measured.some)[:most]
    return kept.repeat(-(-512 // len(kept)), *[1] * (kept.ndim - 1))


def _density(recipe: Recipe, density: Any) -> str:
    """The rule ``density_spaced`` over the range and number of the recipe's levels, four digits to a number."""
    from edm_unified.sampling.levels import measured_density

    built: Any = recipe.build()
    denoiser, dataset = built
    draw = getattr(denoiser, "sample", None)
    x0 = draw(2048) if draw is not None else _samples(dataset, 2048)
    levels = sorted({sigma for sigma in recipe.levels if sigma > 0})
    if len(levels) < 2:
        raise ValueError("--density: the recipe has one level above zero; take more steps")
    rule = measured_density(denoiser, x0, density, n=len(levels), sigma_min=levels[0], sigma_max=levels[-1])
    numbers = {name: ", ".join(f"{value:.4g}" for value in getattr(rule, name)) for name in ("sigmas", "density")}
    return f"kind: {rule.kind}\nn: {rule.n}\nsigmas: [{numbers['sigmas']}]\ndensity: [{numbers['density']}]"


def _card(card: dict[str, Any], width: int) -> Iterator[str]:
    """The card in lines; see :mod:`edm_unified.recipe.card`."""
    yield click.style(card["title"], bold=True)
    yield from textwrap.wrap(card["text"], width, break_on_hyphens=False)
    yield ""
    for part in card["parts"]:
        if not part:
            yield ""
            continue
        name, words, rows, summary = part
        yield _line(name, words, width)
        for symbol, formula in rows:
            yield _line(f"  {SYMBOLS.get(symbol, symbol)}", formula, width, style=None)
        if summary:
            yield _line("", summary, width, style=None)
    if "walk" in card:
        yield ""
        for name, words in card["below"]:
            yield _line(name, words, width)
        walk = card["walk"]
        shown = walk_text(walk["words"], walk["count"], 3 * (width - _INDENT))
        yield _line("walk", walk["before"] + shown + walk["legend"], width)
    yield _line("hash", card["hash"], width)
    if "plot" in card:
        plot = card["plot"]
        yield ""
        yield click.style("σ against t", bold=True) + "  (● the levels of the walk)"
        marks = [(t, log_sigma) for t, log_sigma in plot["marks"]]
        yield from curve(plot["t"], plot["log_sigma"], marks, min(width, 100), height=12)


def _line(name: str, text: str, width: int, style: str | None = "cyan") -> str:
    """``name`` in a column of its own, ``text`` wrapped beside it."""
    longer = max(0, len(name) + 2 - _INDENT)  # a name that reaches into the column beside it
    room = max(width - _INDENT, 20)
    wrapped = textwrap.wrap(text, room, break_on_hyphens=False, initial_indent=" " * longer) or [""]
    head = f"{name:<{_INDENT}}" if not longer else f"{name}  "
    head = click.style(head, fg=style) if style else head
    return "\n".join([head + wrapped[0][longer:], *(" " * _INDENT + line for line in wrapped[1:])])


def walk_text(words: Sequence[str], count: int, room: int) -> str:
    """The levels in order; the middle is left out where ``count`` of them take more than ``room`` characters."""
    if len(words) == count and len("  ".join(words)) <= room:
        return "  ".join(words)
    keep = max(2, room // 18)  # a word and its gap take about nine characters, and there are two ends
    head, tail = "  ".join(words[:keep]), "  ".join(words[-keep:])
    return f"{head}  …  {tail}   ({count} levels)"
