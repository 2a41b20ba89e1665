"""``edm-unified tune``: a solver fitted to the model of a recipe or a run."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options
from edm_unified.components import paths
from edm_unified.components.component import MOST_SAMPLES, MOST_SEED
from edm_unified.components.files import write_atomic

if TYPE_CHECKING:
    from edm_unified.compare import Settings
    from edm_unified.compare.problem import Problem
    from edm_unified.recipe import Recipe
    from edm_unified.tuning import Fit, Tuning
    from edm_unified.tuning.teacher import Teacher


_TEACHING = 0.1
"""The share of the work that is the teacher's, about; for the progress."""


@click.command(short_help="Fit a solver to a model: levels and weights for a few evaluations.")
@options.recipe_argument
@options.swaps
@click.option("--nfe", type=options.NumbersType(least=1), default="5,6,8,10", show_default=True,
              help="Budgets: evaluations of the denoiser.")  # fmt: skip
@click.option("--samples", type=click.IntRange(2, MOST_SAMPLES), default=32, show_default=True,
              help="Noises that are fitted on.")  # fmt: skip
@click.option("--held-out", type=click.IntRange(8, MOST_SAMPLES), default=96, show_default=True,
              help="Other noises, which decide whether the fit is better than the best stock method.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, MOST_SEED - 2_000_000), default=0, show_default=True,
              help="Of the noises.")  # fmt: skip
@click.option("--told", is_flag=True, help="Fit the level that D is told, too, in place of that of x.")
@click.option("--out", type=options.PATH, metavar="FILE.yaml",
              help="The recipe; FILE.html and FILE.npz stand beside it.  [default: edm-tune/RECIPE.yaml]")  # fmt: skip
@click.option("--fresh", is_flag=True, help="Start over instead of continuing what is there.")
@options.threads
@options.device
@options.quiet
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per budget, and nothing else.")
def tune(
    recipe: str,
    overrides: tuple[str, ...],
    nfe: tuple[int, ...],
    samples: int,
    held_out: int,
    seed: int,
    told: bool,
    out: Path | None,
    fresh: bool,
    threads: int | None,
    device: str,
    quiet: bool,
    as_json: bool,
    **swaps: Any,
) -> None:
    """Fit noise levels and the weights of a linear multistep solver to the model of RECIPE, for each budget.

    RECIPE is a shipped name, a YAML file or the directory of a run. D is only called. What is written is a recipe with
    the fitted solver in it, for `sample`, `compare` and `certify`. At a budget where the fit is not better than the
    best stock method on held-out noises beyond its interval, the stock method's levels and weights stand in it. The
    same command again continues an interrupted one.

    \b
    edm-unified tune edm --nfe 5,8 --out fitted.yaml
    edm-unified sample fitted.yaml --steps 5
    edm-unified compare edm fitted.yaml --nfe 5,8
    """
    from edm_unified import compare as comparing
    from edm_unified.tuning import of_recipe, page

    found = options.load(recipe, overrides, **swaps)
    file = out or Path("edm-tune") / f"{paths.short_name(recipe)}.yaml"
    try:
        of_recipe.check_recipe(found)
    except ValueError as error:
        raise ValueError(f"{recipe}: {error}") from None
    _check_out(file)
    settings = comparing.Settings(options.torch_device(device))
    with options.progress(not (quiet or as_json)) as bar:
        bar.say("making the denoiser")
        problem = comparing.Problems(settings).of(found)
        try:
            problem.check(found.sampler)
        except ValueError as error:
            raise ValueError(options.of_the_class(str(error)) or f"{recipe}: {error}") from None
        size = math.inf if problem.learnt else math.prod(problem.shape)
        with options.few_threads(size, threads):
            tuning, teachers = _fitted(
                recipe, found, problem, settings, nfe, samples, held_out, seed, told, file, fresh, bar
            )
            other = _transfer(found, problem, tuning, bar)
            bar.say("writing the page")
            document = page.build(found, problem, tuning, teachers)
    written = of_recipe.as_text(of_recipe.tuned(found, tuning), tuning)
    write_atomic(file, written)
    write_atomic(file.with_suffix(".html"), document)
    if as_json:
        for fit in tuning.fits:
            click.echo(json.dumps(_record(fit) | {"transfer": other.get(fit.nfe)}))
    elif not quiet:
        _print(tuning, other, teachers, file)


def _fitted(
    name: str,
    recipe: Recipe,
    problem: Problem,
    settings: Settings,
    nfe: tuple[int, ...],
    samples: int,
    held_out: int,
    seed: int,
    told: bool,
    file: Path,
    fresh: bool,
    bar: options.ProgressDisplay,
) -> tuple[Tuning, tuple[Teacher, Teacher]]:
    """The fits of all budgets: those that are kept beside ``file``, and the others, each kept when it is done."""
    from edm_unified import __version__
    from edm_unified.compare.plan import digest, without_paths
    from edm_unified.tuning import Tuning, kept, of_recipe
    from edm_unified.tuning.session import TEACHING

    own = dataclasses.replace(recipe, title="", source="")
    key = digest([without_paths(own).hash, problem.fingerprint, samples, held_out, seed, told, __version__])
    state = file.with_suffix(".npz")
    teachers, done = (None, []) if fresh else kept.load(state, key, settings.device)
    finished, todo = {fit.nfe: fit for fit in done}, [one for one in nfe if one not in {fit.nfe for fit in done}]
    tell = lambda what, share: bar.update(_TEACHING * share if what == TEACHING else share, 1.0, what)  # noqa: E731
    session = of_recipe.session(recipe, problem, samples, held_out, seed, told, teachers, tell)
    try:
        session.check(nfe)
        if teachers is None:
            bar.say("the teacher")
            kept.save(_made(state), key, session.teachers, [])
        for i, one in enumerate(todo):
            finished[one] = session.fit(one, (_TEACHING + (1 - _TEACHING) * i / len(todo), (1 - _TEACHING) / len(todo)))
            kept.save(state, key, session.teachers, list(finished.values()))
    except (ValueError, FloatingPointError) as error:
        words = str(error).replace("nfe: ", "--nfe: ", 1) if str(error).startswith("nfe: ") else str(error)
        words = words.replace("samples: ", "--samples: ", 1) if words.startswith("samples: ") else words
        raise type(error)(f"{name}: {words}") from None
    return Tuning(tuple(finished[one] for one in nfe)), session.teachers


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _check_out(file: Path) -> None:
    """Raise ``ValueError`` unless a fitted recipe may be written there: over nothing, or over one of ours."""
    if file.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--out {file}: must end in .yaml; it will be a recipe")
    for suffix in (file.suffix, ".html", ".npz"):
        options.check_file(file.with_suffix(suffix), "--out")
    if file.exists() and not file.read_bytes()[:200].startswith(b"# Written by edm-unified tune"):
        raise ValueError(f"--out {file}: is there already and was not written by tune; name another file")
    if not file.exists() and file.with_suffix(".html").exists():
        raise ValueError(f"--out {file}: {file.with_suffix('.html')} is there already, where the page would be")


def _transfer(recipe: Recipe, problem: Problem, tuning: Tuning, bar: options.ProgressDisplay) -> dict[int, Any]:
    """Of a guided recipe, the gains at another weight: one further from 1 by as much again."""
    from edm_unified.tuning import of_recipe

    w = getattr(recipe.sampler.guidance, "w", None)
    if w is None:
        return {}
    other = 2 * w - 1 if w != 1 else 2.0
    bar.say(f"the fits at w = {other:g}")
    found = of_recipe.transfer(recipe, problem, tuning, other, 32)
    return {
        nfe: {"w": other, "gain": gain._asdict(), "error": error.value, "stock_error": stock.value}
        for nfe, (gain, error, stock) in found.items()
    }


def _record(fit: Fit) -> dict[str, Any]:
    """One fit as plain data."""
    return {
        "nfe": fit.nfe,
        "better": fit.better,
        "gain": fit.held_out._asdict(),
        "error": fit.error._asdict(),
        "stock_error": fit.stock_error._asdict(),
        "rms": fit.rms[0],
        "stock_rms": fit.rms[1],
        "stock": fit.stock.name,
        "sigmas": fit.sigmas,
        "weights": fit.weights,
        "told": fit.told,
        "start": fit.start,
        "iterations": fit.iterations,
        "evaluations": fit.evaluations,
        "cpu_seconds": round(fit.cpu_seconds, 2),
        "teacher": fit.teacher,
        "model": fit.model,
        "seed": fit.seed,
        "samples": fit.samples,
    }


def _print(tuning: Tuning, other: dict[int, Any], teachers: tuple[Teacher, Teacher], file: Path) -> None:
    from edm_unified.tuning.of_recipe import in_words

    click.echo(f"teacher: {teachers[0].name}; its own error is below {teachers[0].error:.2g}")
    click.echo("median error on held-out noises, beside the best stock method:")
    for fit in tuning.fits:
        click.echo(in_words(fit))
        if fit.nfe in other:
            found = other[fit.nfe]
            gain = found["gain"]
            words = "diverged" if gain["value"] is None else f"{gain['value']:.3g} times less"
            click.echo(f"     at w = {found['w']:g}, to which it was not fitted: {words}")
    click.echo(f"recipe: {file}\npage: {file.with_suffix('.html')}")
