"""``edm-unified certify``: measure what the names of solvers promise."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options, own, terminal
from edm_unified.components import paths, shipped

if TYPE_CHECKING:
    from edm_unified.certify import Certificate

MARKS = ("<!-- certificates: written by edm-unified certify -->", "<!-- end of certificates -->")
"""Between these lines of a Markdown file ``--into`` writes."""


@click.command(short_help="Measure orders, noise, NFE and identities of solvers.")
@click.argument("solvers", nargs=-1, metavar="[SOLVER]...", shell_complete=options.complete_kind("solvers"))
@click.option("--html", type=options.PATH, metavar="FILE", help="Write a page with log-log plots.")
@click.option("--into", type=options.PATH, metavar="FILE",
              help="Write this run's table between the marks of a Markdown file, for what stands there, as in "
              "docs/certificates.md.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per solver, and nothing else.")
@options.quiet
def certify(
    solvers: tuple[str, ...],
    html: Path | None,
    into: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Certify every SOLVER (a kind, with parameters after a colon, or the YAML file of a recipe, as of a fitted
    solver), or all of them at several settings; with --plugin, those of the plugin.

    The exit code is 1 if a certificate fails.

    \b
    edm-unified certify heun dpmpp_2m
    edm-unified certify second_order:alpha=0.5 ddim:eta=1 --html certificates.html
    edm-unified certify --plugin mylab.solvers:Mine
    """
    if into is not None:  # both before the work
        _split(into)
        options.check_file(into, "--into")
    if html is not None:
        options.check_file(html, "--html")
    import torch

    chosen = _chosen(solvers)
    from edm_unified import certify as certifying

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the states are small: more threads wait for each other
    try:
        with options.progress(not (quiet or as_json)) as bar:
            certified = certifying.certificates(chosen, bar.update)
            if html is not None:
                bar.say("writing the page")
                _write(html, certifying.build(certified))
    finally:
        torch.set_num_threads(threads)
    whole = not (solvers or own.of_family("solvers"))
    if into is not None:
        before, after = _split(into)
        _write(into, f"{before}{MARKS[0]}\n\n{certifying.markdown(certified, certifying.pairs())}\n{MARKS[1]}{after}")
    if as_json:
        for certificate in certified:
            click.echo(json.dumps(certificate.as_json()))
    elif not quiet:
        _print(certified, whole)
    if not (all(c.passed for c in certified) and (not whole or all(pair.holds for pair in certifying.pairs()))):
        raise click.exceptions.Exit(1)


def _chosen(names: Sequence[str]) -> list[Any]:
    """The solvers that are named, those of plugins among them, or all of the plugins, or all there are."""
    from edm_unified.certify import every
    from edm_unified.recipe import parse_component
    from edm_unified.sampling.solvers import AnySolver

    added = own.of_family("solvers")
    if not names:
        return [_at_its_defaults(found) for found in added] or every()
    named: list[Any] = [
        _of_recipe(name) if name.lower().endswith(shipped.SUFFIXES) else parse_component(AnySolver, name, "certify")
        for name in dict.fromkeys(names)
    ]
    if idle := [solver.kind for solver in named if getattr(solver, "order", None) == 0]:
        raise ValueError(f"certify: {idle[0]} solves nothing, so that there is nothing to measure; leave it out")
    return named + [_at_its_defaults(found) for found in added if not _among(found, named)]


def _of_recipe(name: str) -> Any:
    """The solver of a recipe."""
    from edm_unified.recipe import Recipe

    return Recipe.load(name).sampler.solver


def _among(found: Any, named: Sequence[Any]) -> bool:
    return isinstance(found, type) and any(isinstance(one, found) for one in named)


def _at_its_defaults(found: Any) -> Any:
    """A solver of a plugin: an object as it is, a class with its defaults."""
    if not isinstance(found, type):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:  # whatever a foreign class raises is one line here
        raise ValueError(
            f"certify: {found.__name__}: {error}; name it by its kind, with its parameters: kind:name=value"
        ) from error


def _split(path: Path) -> tuple[str, str]:
    """What stands before and after the marks."""
    try:
        content = paths.regular(path, f"--into {path}").read_text("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"--into {path}: is not UTF-8 text; name a Markdown file") from None
    before, begin, rest = content.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise ValueError(f"--into {path}: has no lines {MARKS[0]!r} and {MARKS[1]!r} to write between")
    return before, after


def _write(path: Path, content: str) -> None:
    from edm_unified.components.files import write_atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def _print(certified: list[Certificate], whole: bool) -> None:
    """On a terminal a table in colours; elsewhere the same as Markdown."""
    from edm_unified import certify as certifying
    from edm_unified.certify import table

    if not sys.stdout.isatty():
        click.echo(certifying.markdown(certified, certifying.pairs() if whole else ()), nl=False)
        return
    from rich.table import Table
    from rich.text import Text

    console = terminal.console(highlight=False)
    rows = [table.cells(certificate) for certificate in certified]
    shown = _fitting(table.HEAD, rows, console.width)
    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for i in shown:
        grid.add_column(table.HEAD[i], justify="left" if i < 2 else "right", no_wrap=True)
    for certificate, row in zip(certified, rows, strict=True):
        style = "green" if certificate.passed else "bold red"
        grid.add_row(*(Text(row[i], style=style if i == 1 else "") for i in shown))
    console.print(grid)
    if hidden := [name for i, name in enumerate(table.HEAD) if i not in shown]:
        console.print(Text(f"No room for {', '.join(hidden)}: see --json or --html.", style="dim"))
    for line in table.notes(certified):
        console.print(Text(line, style="red" if line.startswith("FAILS") else "dim"))


_LEAST_WANTED = ("20", "40", "80", "std error 10", "schedule", "local", "error/Heun", "plain start", "weak")
"""Columns that a narrow terminal goes without, first to last."""


def _fitting(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The columns that fit in ``width``."""
    widths = [1 + max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    shown = list(range(len(head)))
    for name in _LEAST_WANTED:
        if sum(widths[i] for i in shown) <= width:
            break
        shown.remove(head.index(name))
    return shown
