"""``edm-unified list``: every component that a recipe or an option can name, and the page of one of them."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

import click

from edm_unified.cli.drawing import SYMBOLS
from edm_unified.components import shipped


def _names() -> list[str]:
    """What ``list`` lists."""
    return ["recipes", *shipped.families(), "metrics"]


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    known = [*_names(), *dict.fromkeys(name.partition("/")[2] for name in shipped.index()["components"])]
    return [name for name in known if name.startswith(incomplete)]


class _Listing(click.Command):
    """A command whose help names the families, as the index has them."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(f"The families: {', '.join(_names())}.")


@click.command(
    "list", cls=_Listing, short_help="Name every schedule, solver, ... with its parameters, and the recipes."
)
@click.argument("names", nargs=-1, metavar="[FAMILY|KIND]...", shell_complete=_complete)
def list_components(names: tuple[str, ...]) -> None:
    """Name every component with its parameters and their defaults, and the shipped recipes.

    A FAMILY, such as solvers, lists its components; a KIND, such as heun, prints the page of that component. Without
    any, all families are listed.
    """
    known = _names()
    for name in names:
        if name not in known and not is_component(name):
            kinds = [one.partition("/")[2] for one in shipped.index()["components"]]
            near = shipped.suggest(name, [*known, *kinds], "edm-unified list")
            near = (
                near if near.startswith("; did you mean") else f"; choose from {', '.join(known)}, or a kind of these"
            )
            raise ValueError(f"list: no family {name!r}{near}")
    width = min(shutil.get_terminal_size().columns, 110)
    for i, name in enumerate(names or known):
        if i:
            click.echo()
        for line in _family(name, width) if name in known else pages(name, width):
            click.echo(line)


def _family(name: str, width: int) -> Iterator[str]:
    if name == "recipes":
        yield click.style("recipes  (edm-unified show NAME)", bold=True)
        titles = shipped.titles()
        longest = max(map(len, titles))
        for recipe, title in titles.items():
            yield from _hung(f"  {recipe:<{longest}}  ", title, width)
        return
    if name == "metrics":
        yield click.style("metrics  (metrics: and rank_by: of a comparison)", bold=True)
        for metric, text in shipped.index()["metrics"].items():
            yield click.style(f"  {metric}", fg="cyan")
            yield from _wrapped(text[0].rstrip(":"), width, 6)
        return
    yield click.style(f"{name}  ({shipped.families()[name]['path']}:)", bold=True)
    for kind, item in shipped.members(name).items():
        given = ", ".join("=".join((field, *rest)) for field, (_, *rest) in item["parameters"].items())
        yield from _hung(f"  {kind}  ", given, width, hang=6)
        yield from _wrapped(item["text"][0].rstrip(":") if item["text"] else "", width, 6)


def is_component(kind: str) -> bool:
    """Whether there is a component of that kind, or a metric of that name."""
    return bool(_found(kind))


def near_component(name: str) -> str:
    """``; did you mean 'heun'?`` where ``name`` is nearly the kind of a component and not nearly a recipe's name."""
    if shipped.suggest(name, shipped.recipe_names(), "list").startswith("; did you mean"):
        return ""
    kinds = [one.partition("/")[2] for one in shipped.index()["components"]]
    near = shipped.suggest(name, kinds, "list")
    return near if near.startswith("; did you mean") else ""


def pages(kind: str, width: int) -> Iterator[str]:
    """The page of every component of that kind: ``edm`` is a schedule, a preconditioning and a weight."""
    for i, (family, item) in enumerate(_found(kind)):
        if i:
            yield ""
        yield from _page(kind, family, item, width)


def _found(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Every family with a component of that kind, and the component."""
    parts = ((name.partition("/"), item) for name, item in shipped.index()["components"].items())
    found = [(family, item) for (family, _, own), item in parts if own == kind]
    if kind in shipped.index()["metrics"]:
        found.append(("metrics", {"text": shipped.index()["metrics"][kind], "formulas": {}, "parameters": {}}))
    return found


def _page(kind: str, family: str, item: dict[str, Any], width: int) -> Iterator[str]:
    """What there is to say about a component: where it goes, what it is, its formulas, its parameters."""
    yield click.style(kind, bold=True) + f"  ({family})"
    if family == "metrics":
        yield f"  metrics: [{kind}], rank_by: {kind}, in a comparison"
    else:
        place = shipped.families()[family]
        example = (
            f"{{kind: {kind}}}"
            if all(len(rest) == 2 for rest in item["parameters"].values())
            else f"{{kind: {kind}, …}}"
        )
        option = f", or {place['option']} {kind}" if place["option"] else ""
        yield f"  {place['path']}: {example}{option}"
    for paragraph in item["text"]:
        yield ""
        yield from (
            textwrap.indent(paragraph, "  ").splitlines() if paragraph[:1] == " " else _wrapped(paragraph, width, 2)
        )
    if item["formulas"]:
        yield ""
        for symbol, formula in item["formulas"].items():
            head = f"  {SYMBOLS.get(symbol, symbol):<16}"
            yield from textwrap.wrap(head + formula, width, subsequent_indent=" " * 18, break_on_hyphens=False)
    if item["parameters"]:
        yield ""
        longest = max(map(len, item["parameters"]))
        for name, (words, *rest) in item["parameters"].items():
            shown = f"default {rest[0]}" if rest else "to be given"
            head = f"  {name:<{longest}}  "
            lines = textwrap.wrap(f"{words}; {shown}", max(width - len(head), 20), break_on_hyphens=False)
            yield click.style(head, fg="cyan") + lines[0]
            yield from (" " * len(head) + line for line in lines[1:])


def _hung(head: str, text: str, width: int, hang: int | None = None) -> Iterator[str]:
    """``head`` in colour and ``text`` beside it; further lines are indented by ``hang``, the length of the head."""
    indent = len(head) if hang is None else hang
    lines = textwrap.wrap(head + text, width, subsequent_indent=" " * indent, break_on_hyphens=False)
    first, *more = lines or [head]
    yield click.style(first[: len(head)], fg="cyan") + first[len(head) :]
    yield from more


def _wrapped(text: str, width: int, indent: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=" " * indent, subsequent_indent=" " * indent)
