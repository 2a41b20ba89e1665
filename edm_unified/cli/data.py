"""``edm-unified data``: what a data set is like, and which noise levels suit it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options
from edm_unified.components import shipped
from edm_unified.components.files import write_atomic

if TYPE_CHECKING:
    from edm_unified.data import AnyData, Dataset
    from edm_unified.data.suggest import Suggestion
    from edm_unified.data.survey import Survey

_INDENT = 13
_MOST_CLASSES = 12


def complete_data(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    kinds = [name for name in shipped.kinds("data") if name.startswith(incomplete)]
    return [*kinds, *options.complete_recipe(ctx, param, incomplete)]


@click.command(short_help="Describe data; suggest σ_min, σ_max, P_mean, P_std for them.")
@click.argument("data", shell_complete=complete_data)
@options.sets
@click.option("--samples", type=click.IntRange(4, 100_000_000), default=10_000, show_default=True,
              help="How many samples to look at; classes are counted over all.")  # fmt: skip
@click.option("--out", type=options.PATH, help="A PNG file for a picture of some samples.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the suggestion alone, as YAML to paste into a recipe.")
@options.quiet
def data(data: str, overrides: tuple[str, ...], samples: int, out: Path | None, as_yaml: bool, quiet: bool) -> None:
    """Print what DATA are like, what is wrong with them, and which noise levels suit them, with the reason for each.

    DATA is a file or folder, whose kind is told by its contents; data in words, kind:name=value,name=value; a recipe
    (a shipped name or a YAML file); or a run.

    \b
    edm-unified data digits
    edm-unified data photo_patches:size=64 --out patches.png
    edm-unified data image_folder:path=~/pictures,size=64 --yaml
    edm-unified data cifar10-32x32.zip
    """
    from edm_unified.data.suggest import suggest
    from edm_unified.data.survey import survey

    if out is not None:
        options.check_file(out, "--out")
    with options.progress(not quiet) as bar:
        bar.say("reading the data")
        source, dataset = source_of(data, overrides)
        written = _written(data, source)
        about = survey(dataset, samples)
        bar.say("trying noise levels")
        try:
            levels, reason = suggest(dataset, about), ""
        except ValueError as error:
            if as_yaml:
                raise
            levels, reason = None, str(error)
        if out is not None:
            write_atomic(out, _picture(dataset))
    if as_yaml:
        assert levels is not None
        click.echo(_snippet(data, levels), nl=False)
    elif not quiet:
        for line in _card(about, levels, reason, written):
            click.echo(line)
        if out is not None:
            click.echo(f"\npicture      {out}")


def source_of(text: str, overrides: tuple[str, ...] = ()) -> tuple[AnyData, Dataset]:
    """The data that ``text`` names, as a recipe says it, and loaded.

    Raises ``ValueError`` where it names neither data nor a recipe with data.
    """
    from edm_unified.recipe import RecipeError, codec, load_any, parse_data

    kinds = shipped.kinds("data")
    word = text.partition(":")[0].strip()
    label, source, found = text, None, _found(text)
    if word in kinds or found is not None:
        if overrides:
            raise ValueError(f"--set {overrides[0]}: {text} is no recipe; write {word}:name=value")
        source = parse_data(text) if found is None else found
        label = text if found is None else f"{source.kind}:{_field(source)}={text}"
    else:
        try:
            source = load_any(text, overrides).data
        except RecipeError as error:
            if "no such recipe" not in str(error):
                raise
            near = shipped.suggest(word, [*kinds, *shipped.recipe_names()], "edm-unified list data recipes")
            raise ValueError(f"{text}: neither data nor a recipe{near}") from None
        if source is None:
            raise ValueError(f"{text}: has no data; add data: {{kind: digits}}")
        label = f"{text}: data"
    try:
        return source, source.load()
    except ValueError as error:
        fault = codec.located(type(source), "", str(error))
        raise ValueError(f"{label}: {fault.path + ': ' if fault.path else ''}{fault.message}") from error


def _found(text: str) -> Any | None:
    """What reads the file or folder ``text``; None for data in words, a recipe or a run."""
    from edm_unified.data import recognised

    path = Path(text)
    known = text in shipped.recipe_names() or path.suffix in shipped.SUFFIXES or (path / "run.json").exists()
    return None if known or text.partition(":")[0].strip() in shipped.kinds("data") else recognised(text)


def _field(source: Any) -> str:
    """The field of data on a disk that says where they are."""
    return "path" if hasattr(source, "path") else "root"


def _written(text: str, source: Any) -> str:
    """How a recipe names data that were found by their path alone; nothing of others."""
    if _found(text) is None:
        return ""
    return f"data: {{kind: {source.kind}, {_field(source)}: {json.dumps(text, ensure_ascii=False)}}}"


def _card(about: Survey, levels: Suggestion | None, reason: str, written: str = "") -> list[str]:
    looked = "" if about.surveyed == about.n else f"; figures of {about.surveyed:,} of them"
    lines = [
        click.style(about.name, bold=True),
        *([_row("recipe", written)] if written else []),
        _row("samples", f"{about.n:,} of shape {'×'.join(map(str, about.shape))}{looked}"),
        _row("range", f"{about.low:.4g} to {about.high:.4g}"),
        _row("mean", _numbers(about.mean, about.shape)),
        _row("std", _numbers(about.std, about.shape) + f"   σ_data {about.sigma_data:.4g} over all"),
        _row("classes", _classes(about.counts)),
        *(
            _row(
                "condition",
                f"{kind} of shape {'×'.join(map(str, own.shape))}, {own.name}: {own.low:.4g} to "
                f"{own.high:.4g}, std {own.sigma_data:.4g}",
            )
            for kind, own in about.conditions.items()
        ),
        *(_row("note", text) for text in about.problems),
    ]
    if levels is None:
        lines.append(_row("note", f"no noise levels to suggest: {reason.removeprefix(about.name + ': ')}"))
    else:
        lines += ["", click.style("suggested", bold=True)]
        for name, reason in levels.reasons.items():
            lines.append(_row(f"  {name}", f"{getattr(levels, name):<8.3g} {reason}", 9))
    return lines


def _row(name: str, text: str, hang: int = 0) -> str:
    indent = " " * (_INDENT + hang)
    return textwrap.fill(text, 110, initial_indent=f"{name:<{_INDENT}}", subsequent_indent=indent)


def _numbers(values: tuple[float, ...], shape: tuple[int, ...]) -> str:
    shown = "  ".join(f"{value:.4g}" for value in values[:8])
    what = "" if len(values) < 2 else "per axis" if len(shape) == 1 else "per channel"
    return f"{shown}{'  …' if len(values) > 8 else ''}  {what}".rstrip()


def _classes(counts: dict[str, int]) -> str:
    if not counts:
        return "none"
    shown = [f"{name} ({n:,})" for name, n in list(counts.items())[:_MOST_CLASSES]]
    least, most = min(counts.values()), max(counts.values())
    rest = f", …; {least:,} to {most:,} samples each" if len(counts) > _MOST_CLASSES else ""
    return f"{len(counts)}: {', '.join(shown)}{rest}"


def _snippet(name: str, levels: Suggestion) -> str:
    sigma_data, low, high = (float(f"{v:.3g}") for v in (levels.sigma_data, levels.sigma_min, levels.sigma_max))
    return f"""# suggested by: edm-unified data {name} --yaml
preconditioning: {{kind: edm, sigma_data: {sigma_data}}}
objective:
  noise: {{kind: log_normal, P_mean: {levels.P_mean:.2f}, P_std: {levels.P_std:.2f}}}
  weight: {{kind: edm}}
sampler:
  steps: {{kind: karras, n: 18, sigma_min: {low}, sigma_max: {high}, rho: 7.0}}
  solver: {{kind: heun}}
"""


def _picture(dataset: Dataset) -> bytes:
    """Some samples: images as a grid, signals as curves, vectors as points in their first two coordinates."""
    from edm_unified.data import batch
    from edm_unified.data.survey import part
    from edm_unified.report import samples_png

    samples, labels = batch(dataset, part(dataset, 64 if len(dataset.shape) > 1 else 4096))
    try:
        return samples_png(samples, labels)
    except ValueError as error:
        raise ValueError(f"--out: {error}") from None
