"""Options that several commands share, and what the commands make of them: a recipe, a device, threads."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from edm_unified.cli import own
from edm_unified.cli.parameters import PATH as PATH
from edm_unified.cli.parameters import NumbersType as NumbersType
from edm_unified.cli.parameters import Part as Part
from edm_unified.cli.parameters import PartType as PartType
from edm_unified.cli.parameters import SizesType as SizesType
from edm_unified.cli.parameters import SolversType, complete_recipe
from edm_unified.cli.parameters import complete_kind as complete_kind
from edm_unified.cli.progress import ProgressDisplay as ProgressDisplay
from edm_unified.cli.progress import progress as progress
from edm_unified.components import paths, shipped
from edm_unified.components.files import sweep
from edm_unified.components.output_kinds import check_outside_runs

if TYPE_CHECKING:
    import torch

    from edm_unified.recipe import Recipe

F = TypeVar("F", bound=Callable[..., Any])

recipe_argument = click.argument("recipe", shell_complete=complete_recipe)
device = click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, cuda:1, mps.")
dtype = click.option("--dtype", default="float64", show_default=True, type=click.Choice(["float64", "float32"]),
                     help="The precision of the state.")  # fmt: skip
quiet = click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
SMALL = 4096
"""Numbers in a sample below which one thread is the fastest, or nearly, for a closed form: see :func:`few_threads`."""
threads = click.option(
    "--threads",
    type=click.IntRange(1, 4096),
    help=f"CPU threads.  [default: all; 1 for a closed form of less than {SMALL:,} numbers, where more are no faster]",
)
sets = click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE",
                    help="Set any value of the recipe, e.g. sampler.steps.rho=5; may be repeated.")  # fmt: skip


def _part_options(command: F, **settings: Any) -> F:
    """An option for every part of a recipe that may be changed after training: those of the index, in its order."""
    for path, place in reversed(shipped.index()["places"].items()):
        if place["option"]:
            kind = SolversType(path) if settings.get("multiple") and path == "sampler.solver" else PartType(path)
            own: dict[str, Any] = {"help": settings.get("help", "{}").format(place["help"])}
            if place["joined"]:
                own |= {"multiple": True, "callback": partial(_joined, crossing=bool(settings.get("multiple")))}
            name = path.replace(".", "__")
            command = click.option(place["option"], name, type=kind, **settings | own)(command)
    return command


def _joined(context: click.Context, option: click.Parameter, given: tuple[Part, ...], crossing: bool) -> Any:
    """All that a repeated option was given as one value, with commas between; one to cross, or the only one."""
    if not given or context.resilient_parsing:
        return given if crossing else None
    texts = [part.text for part in given if part.value is not None]
    whole = Part(given[0].path, ",".join(texts) or None, ",".join(texts))
    return (whole,) if crossing else whole


def swaps(command: F) -> F:
    """The options that replace a part of a recipe; :func:`load` takes what they give."""
    steps = click.option("--steps", type=int, metavar="N", help="The number of steps.")
    return sets(steps(_part_options(command)))


def crossings(command: F) -> F:
    """The options of :func:`swaps` for a comparison, each of which may be given several times."""
    return _part_options(command, multiple=True)


def crossed(parts: Mapping[str, tuple[Part, ...]]) -> dict[str, tuple[Any, ...]]:
    """What the options of :func:`crossings` gave, as values by their paths; a set of solvers is all of them."""
    return {
        given[0].path: tuple(
            value for part in given for value in (part.value if isinstance(part.value, tuple) else (part.value,))
        )
        for given in parts.values()
        if given
    }


@contextmanager
def old_forms_noted() -> Iterator[None]:
    """A line on stderr for a file that is written in an old form."""
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FutureWarning)
        yield
    for warning in caught:
        click.echo(f"note: {warning.message}", err=True)


def load(name: str, overrides: Sequence[str] = (), steps: int | None = None, **parts: Part | None) -> Recipe:
    """The recipe ``name`` with the parts that the options of :func:`swaps` name in place of its own."""
    from edm_unified.recipe import Recipe, changed, loading

    with old_forms_noted():
        recipe = cast("Recipe", loading.load(Recipe, name, overrides, own.amend()))
    given = [part for part in parts.values() if part is not None]
    try:
        if given:
            recipe = changed(recipe, {part.path: _with_n(part, recipe) for part in given})
        if steps is not None:
            recipe = changed(recipe, {"sampler.steps": _count(recipe, steps)})
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return recipe


def _with_n(part: Part, recipe: Recipe) -> Any:
    """The value of ``part``; a rule for the levels takes the recipe's number of steps, unless it names one itself."""
    import dataclasses

    n = getattr(recipe.sampler.steps, "n", None)
    own = n is None or not hasattr(part.value, "n") or any(word.strip() == "n" for word in re.split("[:,=]", part.text))
    return part.value if own or part.path != "sampler.steps" else dataclasses.replace(part.value, n=n)


def _count(recipe: Recipe, n: int) -> Any:
    import dataclasses

    rule: Any = recipe.sampler.steps
    if not hasattr(rule, "n"):
        raise ValueError("--steps: a list of levels has its own length; choose a rule with --steps-rule, e.g. karras")
    try:
        return dataclasses.replace(rule, n=n)
    except ValueError as error:
        raise ValueError(f"--steps {n}: {str(error).removeprefix('n: ')}") from None


def check_file(path: Path, option: str) -> None:
    """Raise ``ValueError`` unless a file ``path`` can be written, before the work whose result it is to hold.

    What a kill left of an earlier try goes.
    """
    paths.regular(path, f"{option} {path}")
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a directory; name a file")
    if path.absolute().parent == Path("/dev"):  # /dev/stdout, a link: a file would take its place
        raise ValueError(f"{option} {path}: is a device; name a file")
    check_outside_runs(path, f"{option} {path}")
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{option} {path}: {folder} cannot be written to ({error.strerror}); name another") from None
    sweep(path.parent, path.name)


def torch_device(text: str) -> torch.device:
    """The device of that name. Raises ``ValueError``, with those of this machine, where it has none."""
    import torch

    try:
        found = torch.device(text)
    except RuntimeError:
        raise ValueError(f"--device {text}: no such kind of device; choose from {', '.join(_devices())}") from None
    try:
        there = torch.zeros(1, device=found).item() == 0  # computes: meta has shapes alone, and gives no number
    except Exception:  # each foreign backend fails in its own way, some by an import
        there = False
    if not there:
        raise ValueError(f"--device {text}: not available on this machine; choose from {', '.join(_devices())}")
    return found


def _devices() -> list[str]:
    """The devices of this machine by name."""
    import torch

    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None:
        return ["cpu"]
    numbered = [f"{kind.type}:{i}" for i in range(torch.accelerator.device_count())]
    return ["cpu", *(numbered if len(numbered) > 1 else [kind.type])]


def of_the_class(message: str) -> str:
    """What is wrong with the class, in the words of ``--class`` where that names it; empty for another message."""
    context, field = click.get_current_context(), "sampler.label"
    given = context.params.get(field.replace(".", "__"))
    if not isinstance(given, Part) or not message.startswith(f"{field}: "):
        return ""
    return f"--class {given.text}: {message.removeprefix(f'{field}: ').replace('leave it out', 'leave --class out')}"


@contextmanager
def few_threads(size: float, threads: int | None = None) -> Iterator[None]:
    """One thread for a closed form of ``size`` numbers where that is small, unless ``threads`` says how many.

    On a busy machine the threads of small operations wait for each other, and several take ten times as long as one.
    A network, whatever its samples, has work for all: its ``size`` is infinite.
    """
    import torch

    before = torch.get_num_threads()
    wanted = threads if threads is not None else 1 if size < SMALL else before
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def torch_dtype(text: str) -> torch.dtype:
    """The type of that name."""
    import torch

    return {"float64": torch.float64, "float32": torch.float32}[text]
