"""Options that several commands share: their names, their completion, and what they become."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from click.shell_completion import CompletionItem

from edm_unified.components import paths, shipped

if TYPE_CHECKING:
    import torch

    from edm_unified.recipe import Recipe

F = TypeVar("F", bound=Callable[..., Any])


class UserPath(click.ParamType):
    """A path as users write it: ``~`` is the home folder also where no shell has seen it, as in ``--out=~/runs``."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        try:
            return paths.expanded(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


PATH = UserPath()


def complete_recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shipped recipes by name, and files."""
    titles = shipped.titles()
    named = [CompletionItem(name, help=title) for name, title in titles.items() if name.startswith(incomplete)]
    return named or [CompletionItem(incomplete, type="file")]


def _complete(family: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(kind) for kind in shipped.kinds(family) if kind.startswith(incomplete)]

    return complete


complete_solver = _complete("solvers")


def complete_solvers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Solvers, and the sets of them that a comparison can name."""
    sets = [
        CompletionItem(name, help=words) for name, words in shipped.SOLVER_SETS.items() if name.startswith(incomplete)
    ]
    return sets + complete_solver(ctx, param, incomplete)


complete_schedule = _complete("schedules")
complete_steps = _complete("steps")
complete_renoising = _complete("renoising")
complete_analytic_start = _complete("analytic_starts")
complete_guidance = _complete("guidances")

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


def swaps(command: F) -> F:
    """The options that replace a part of a recipe; :func:`load` takes what they give."""
    for option in (
        sets,
        click.option("--steps", type=int, metavar="N", help="The number of steps."),
        click.option("--steps-rule", metavar="KIND", shell_complete=complete_steps,
                     help="Another rule for the noise levels, e.g. karras or log_linear:sigma_max=100"),
        click.option("--schedule", metavar="KIND", shell_complete=complete_schedule,
                     help="Another schedule, e.g. vp or flow_matching:shift=3, over the same range of noise levels."),
        click.option("--analytic-start", metavar="KIND", shell_complete=complete_analytic_start,
                     help="The highest levels without the network, e.g. gaussian_jump:sigma=20, or none."),
        click.option("--guidance", metavar="KIND", shell_complete=complete_guidance,
                     help="Lean on the class, e.g. classifier_free:w=2, or away from a lesser network, "
                     "autoguidance:w=2,guide=RUN, or none."),
        click.option("--solver", metavar="KIND", shell_complete=complete_solver,
                     help="Another solver, e.g. heun or second_order:alpha=0.5"),
    ):  # fmt: skip
        command = option(command)
    return command


def load(
    name: str,
    overrides: Sequence[str] = (),
    solver: str | None = None,
    schedule: str | None = None,
    steps_rule: str | None = None,
    steps: int | None = None,
    analytic_start: str | None = None,
    guidance: str | None = None,
) -> Recipe:
    """The recipe ``name`` with the parts that the options of :func:`swaps` name in place of its own."""
    from edm_unified.recipe import Recipe, parse_component, replace
    from edm_unified.sampling.levels import AnySteps
    from edm_unified.sampling.solvers import AnySolver
    from edm_unified.schedules import AnySchedule

    recipe = Recipe.load(name, overrides)
    parts: dict[str, Any] = {}
    if solver is not None:
        parts["solver"] = parse_component(AnySolver, solver, "--solver")
    if schedule is not None:
        parts["schedule"] = parse_component(AnySchedule, schedule, "--schedule")
    if analytic_start is not None:
        parts["analytic_start"] = parse_analytic_start(analytic_start)
    if guidance is not None:
        parts["guidance"] = parse_guidance(guidance)
    if steps_rule is not None:
        parts["steps"] = _with_n(parse_component(AnySteps, steps_rule, "--steps-rule"), recipe, steps_rule)
    try:
        recipe = replace(recipe, **parts) if parts else recipe
        if steps is not None:
            recipe = replace(recipe, steps=_count(recipe, steps))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return recipe


def parse_analytic_start(text: str) -> Any:
    """What --analytic-start says: an analytic start, or None for ``none``."""
    from edm_unified.recipe import parse_component
    from edm_unified.sampling.analytic_starts import AnyAnalyticStart

    return None if text.strip() == "none" else parse_component(AnyAnalyticStart, text, "--analytic-start")


def parse_guidance(text: str) -> Any:
    """What --guidance says: a guidance, or None for ``none``."""
    from edm_unified.recipe import parse_component
    from edm_unified.recipe.guidances import AnyGuidance

    return None if text.strip() == "none" else parse_component(AnyGuidance, text, "--guidance")


def _with_n(rule: Any, recipe: Recipe, text: str) -> Any:
    """``rule`` with as many steps as the recipe had, unless it names a number itself."""
    import dataclasses

    n = getattr(recipe.sampler.steps, "n", None)
    names_n = any(part.strip() == "n" for part in re.split("[:,=]", text))
    return rule if n is None or names_n or not hasattr(rule, "n") else dataclasses.replace(rule, n=n)


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
    """Raise ``ValueError`` unless a file ``path`` can be written, before the work whose result it is to hold."""
    paths.regular(path, f"{option} {path}")
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a directory; name a file")
    if path.absolute().parent == Path("/dev"):  # /dev/stdout, a link: a file would take its place
        raise ValueError(f"{option} {path}: is a device; name a file")
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{option} {path}: {folder} cannot be written to ({error.strerror}); name another") from None


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


class Progress(Protocol):
    """Where a command reports how far it has come."""

    def update(self, done: float, total: float, text: str) -> None: ...

    def say(self, text: str) -> None: ...


class Silent:
    """Reports nothing."""

    def update(self, done: float, total: float, text: str) -> None:
        return

    def say(self, text: str) -> None:
        return


class Lines:
    """A line every ten seconds, for logs; the first after one second."""

    def __init__(self) -> None:
        self._began = self._next = time.monotonic()
        self._next += 1

    def update(self, done: float, total: float, text: str) -> None:
        now = time.monotonic()
        if now < self._next or not total:
            return
        self._next = now + 10
        left = f", {_clock((now - self._began) * (total - done) / done)} left" if done else ""
        click.echo(f"{100 * done / total:3.0f} %  {text}{left}", err=True)

    def say(self, text: str) -> None:
        click.echo(text, err=True)
        self._began = time.monotonic()


class Bar:
    """A bar that redraws itself, on a terminal."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._task = bar, bar.add_task("", total=None)

    def update(self, done: float, total: float, text: str) -> None:
        self._bar.update(self._task, completed=done, total=total, description=text)

    def say(self, text: str) -> None:
        self._bar.update(self._task, description=text)


@contextmanager
def progress(talk: bool) -> Iterator[Progress]:
    """A bar where stderr is a terminal, lines where it is not, and nothing at all unless ``talk``."""
    if not talk:
        yield Silent()
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        from rich import progress as rich
        from rich.console import Console

        columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.TaskProgressColumn())
        left = rich.TimeRemainingColumn(elapsed_when_finished=True)
        with rich.Progress(*columns, left, console=Console(stderr=True), transient=True) as bar:
            yield Bar(bar)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
