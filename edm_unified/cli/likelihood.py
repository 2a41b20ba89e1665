"""``edm-unified likelihood``: how probable data are under a denoiser."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options, own
from edm_unified.cli.likelihood_report import contents, report, row
from edm_unified.components.component import MOST, MOST_SAMPLES, MOST_SEED
from edm_unified.components.files import write_atomic

if TYPE_CHECKING:
    import torch

    from edm_unified.data import Dataset
    from edm_unified.likelihood.rows import LikelihoodJob
    from edm_unified.recipe import Recipe


TOLERANCE = 1e-5
"""A digits U-Net takes 133 evaluations and is right to 1e-4 bits/dim. Unlikely samples take more, where 64 equal steps
were up to 3.4 bits/dim off and did not show it."""


@click.command(short_help="The likelihood of data: nats and bits/dim, by the ODE or a bound.")
@options.recipe_argument
@click.argument("data", required=False)
@options.swaps
@own.network()
@click.option(
    "--n", type=click.IntRange(1, MOST_SAMPLES), default=64, show_default=True, help="How many samples, from --first."
)
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The first of them.")
@click.option("--bound", is_flag=True, help="The variational bound, from the denoising error, instead of the ODE.")
@click.option("--dequantize", type=click.Choice(["uniform", "truncated_normal", "none"]),
              help="Spread whole numbers over their bins; none: their density as points.")  # fmt: skip
@click.option("--ode", is_flag=True, help="Though the recipe's sampler is stochastic, follow the ODE of its denoiser.")
@click.option("--conditional", is_flag=True, help="Condition every sample on its own class.")
@click.option(
    "--tolerance", type=float, help=f"Of adaptive steps, each sample's own  [default: {TOLERANCE:g}, or --rk4-steps]"
)
@click.option("--rk4-steps", type=click.IntRange(1, 100_000), help="Equal steps in ln σ instead, of 4 evaluations.")
@click.option(
    "--trace",
    type=click.Choice(["auto", "exact", "hutchinson"]),
    default="auto",
    show_default=True,
    help="auto: exact for a closed form up to 128 dimensions, and for a network up to as many as --probes.",
)
@click.option("--probe", type=click.Choice(["rademacher", "gaussian"]), default="rademacher", show_default=True)
@click.option(
    "--probes", type=click.IntRange(1, 100_000), default=8, show_default=True, help="Of the hutchinson trace."
)
@click.option("--points", type=click.IntRange(1, MOST), default=64, show_default=True,
              help="Noise levels of --bound, four times each.")  # fmt: skip
@click.option("--sigma-min", type=float, help="Where the ODE begins  [default: the recipe's lowest level above 0]")
@click.option("--sigma-max", type=float, help="Where it ends  [default: the recipe's highest level]")
@click.option("--prior", type=click.Choice(["data", "zero"]), default="data", show_default=True,
              help="At sigma_max: with the mean and variance of the data, or N(0, sigma_max²).")  # fmt: skip
@click.option("--encode", "check", is_flag=True, help="Encode and decode too, and print the largest difference.")
@click.option("--seed", type=click.IntRange(0, MOST_SEED), default=0, show_default=True, help="Of probes and noise.")
@click.option("--batch", type=click.IntRange(1, MOST), default=64, show_default=True, help="Samples at a time.")
@click.option("--out", type=options.PATH, help="A .npy or .jsonl file for the value of every sample.")
@options.device
@options.dtype
@options.quiet
def likelihood(
    recipe: str,
    data: str | None,
    overrides: tuple[str, ...],
    n: int,
    first: int,
    bound: bool,
    dequantize: str | None,
    ode: bool,
    conditional: bool,
    rk4_steps: int | None,
    tolerance: float | None,
    trace: str,
    probe: str,
    probes: int,
    points: int,
    sigma_min: float | None,
    sigma_max: float | None,
    prior: str,
    check: bool,
    seed: int,
    batch: int,
    out: Path | None,
    device: str,
    dtype: str,
    quiet: bool,
    **swaps: Any,
) -> None:
    """Print the mean log-likelihood of DATA under the denoiser of RECIPE, with standard errors.

    RECIPE is a shipped name, a YAML file or the directory of a run. DATA is another data set, in words
    (kind:name=value) or a file or folder; without it, the recipe's own are taken. DATA are brought to the scale of the
    recipe's own, by black and white where both say what that is, else as numbers in the same unit.

    \b
    edm-unified likelihood edm --dequantize uniform
    edm-unified likelihood edm --dequantize none --bound
    edm-unified likelihood edm eight.npy --trace hutchinson --out nats.jsonl
    """
    import torch

    from edm_unified.data.kept import measure
    from edm_unified.data.units import difference
    from edm_unified.likelihood.prior import prior_error
    from edm_unified.likelihood.rows import moments_of
    from edm_unified.likelihood.rows import rows as computed
    from edm_unified.recipe import condition_files
    from edm_unified.recipe.words import data_named

    _check_options(bound, check)
    if out is not None and out.suffix not in (".npy", ".jsonl"):
        raise ValueError(f"--out: {out} must end in .npy or .jsonl")
    if out is not None:
        options.check_file(out, "--out")
    found = options.load(recipe, overrides, **swaps)
    if not (ode or bound):
        _check_deterministic(recipe, found)
    where, precision = options.torch_device(device), options.torch_dtype(dtype)
    with options.progress(not quiet) as bar:
        bar.say("making the denoiser")
        try:
            built, own = found.build()
        except ValueError as error:
            raise ValueError(f"{recipe}: {error}") from None
        own = replace(own, measured=measure(own)) if len(own) else own
        dataset = own if data is None else data_named(data, own if len(own) else None)
        if not len(dataset):
            raise ValueError(f"{recipe}: data: missing; name some, as in --set 'data={{kind: digits}}', or by --data")
        own = own if len(own) else replace(dataset, measured=measure(dataset))  # a checkpoint without data of its own
        _check_data(dataset, dequantize, data or recipe, first)
        dataset, classes = _classes(built, own, dataset, conditional, found.sampler.label, data or recipe)
        asked = dataset.part(torch.arange(first, min(first + n, len(dataset)))) if dataset.conditions else dataset
        conditions = condition_files.given(found.sampler.cond, built, dataset=asked)
        job = _job(
            found, own, bound, (sigma_min, sigma_max), rk4_steps,
            TOLERANCE if tolerance is None and rk4_steps is None else tolerance, (trace, probe, probes), points, prior,
            dequantize if dequantize != "none" and dataset.in_whole_numbers else None, seed, classes, conditions, where,
            precision,
        )  # fmt: skip
        denoiser: Any = built.to(where) if hasattr(built, "to") else built
        rows = computed(denoiser, dataset, job, first, min(n, len(dataset) - first), batch, check, bar.update)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, contents(rows, dataset.shape, out.suffix, first))
    off = None if bound else prior_error(moments_of(own), job.prior, job.sigma_max)
    unlike = None if data is None else difference(own, dataset)
    for note in (*([unlike] if unlike else []), *_notes(found, own, job, prior, off), *rows.notes):
        click.echo(f"warning: {note}", err=True)
    if not quiet:
        for line in report(recipe, dataset, job, rows, off):
            click.echo(line)
        if out is not None:
            click.echo(row("written", str(out)))


def _check_options(bound: bool, check: bool) -> None:
    """Raise ``ValueError`` for an option that the chosen estimate would not look at."""
    context = click.get_current_context()

    def given(name: str) -> bool:
        return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE

    idle = ("ode", "trace", "probe", "probes", *(() if check else ("rk4_steps", "tolerance"))) if bound else ("points",)
    for name in idle:
        if given(name):
            remedy = "it belongs to the ODE; leave out --bound" if bound else "it belongs to --bound; add that"
            raise ValueError(f"--{name.replace('_', '-')}: {remedy}")
    if given("sampler__guidance"):
        raise ValueError("--guidance: a likelihood is that of D as it is, without guidance; leave it out")
    if given("rk4_steps") and given("tolerance"):
        raise ValueError("--rk4-steps: are of one length, those of --tolerance are not; leave one of the two out")
    if context.params["trace"] == "exact" and (given("probe") or given("probes")):
        raise ValueError("--trace exact: has no probes; leave --probe and --probes out")


def _check_deterministic(name: str, recipe: Recipe) -> None:
    for part_name, part in recipe.sampler.stochastic_parts().items():
        raise ValueError(
            f"{name}: sampler.{part_name}: {part.kind} is stochastic, and what it draws has no density that could be "
            "followed; take the ODE of its denoiser with --ode, or the variational bound with --bound"
        )


def _classes(
    denoiser: Any, own: Dataset, dataset: Dataset, conditional: bool, named: str | int | None, name: str
) -> tuple[Dataset, bool]:
    """The data with the classes of the denoiser, matched by name, and whether every sample is conditioned on its own.

    ``named``: the class that all are conditioned on instead. Raises ``ValueError`` where it cannot be.
    """
    from edm_unified.data.classes import matched
    from edm_unified.recipe import conditions

    known, needed = conditions.names_of(denoiser, own), getattr(denoiser, "needs_label", False)
    label = conditions.label_of(named, denoiser, own, "--class")
    if label is not None and not (isinstance(label, int) and label == -1):
        if conditional:
            raise ValueError("--class: all samples are conditioned on it, not on their own; leave --conditional out")
        if not known:
            raise ValueError("--class: this denoiser has no classes; leave it out")
        return replace(dataset, labels=conditions.rows(label, len(dataset)), class_names=known), True
    if not (conditional or needed):
        return dataset, False
    if getattr(denoiser, "classes", None) == 0:
        raise ValueError("--conditional: this network was trained without classes; leave it out")
    if dataset.labels is None:
        needs = "--conditional needs" if conditional else "this network needs, as it has no answer without one"
        raise ValueError(f"{name}: {dataset.name} have no classes, which {needs}")
    return matched(dataset, known, name), True


def _notes(recipe: Recipe, own: Dataset, job: LikelihoodJob, prior: str, error: float | None) -> list[str]:
    """What of the recipe is no part of a likelihood, and how far off the prior is."""
    from edm_unified.likelihood.prior import prior_warning

    notes = [
        f"sampler.{name}: is no part of a likelihood, which is that of D as it is"
        for name in ("guidance", "threshold")
        if getattr(recipe.sampler, name) is not None
    ]
    words = prior_warning(error, math.prod(own.shape), job.sigma_max)
    if words is not None:
        notes.append(words.replace("sigma_max", "--sigma-max") + (", or take --prior data" if prior == "zero" else ""))
    return notes


def _check_data(dataset: Dataset, dequantize: str | None, name: str, first: int) -> None:
    if first >= len(dataset):
        raise ValueError(f"--first: {first} is beyond the {len(dataset):,} samples of {dataset.name}")
    if dequantize is None and dataset.in_whole_numbers:
        raise ValueError(
            f"{name}: {dataset.name} are whole numbers, which have no density; spread them over their bins with "
            "--dequantize uniform or truncated_normal, take their density as points with --dequantize none"
        )
    if dequantize not in (None, "none") and not dataset.in_whole_numbers:
        raise ValueError(f"--dequantize: {dataset.name} are no whole numbers; leave it out")


def _job(
    recipe: Recipe,
    own: Dataset,
    bound: bool,
    sigmas: tuple[float | None, float | None],
    steps: int | None,
    tolerance: float | None,
    trace: tuple[str, str, int],
    points: int,
    prior: str,
    noise: str | None,
    seed: int,
    conditional: bool,
    conditions: Any,
    device: torch.device,
    dtype: torch.dtype,
) -> LikelihoodJob:
    from edm_unified import likelihood as lk
    from edm_unified.likelihood.prior import gaussian_of
    from edm_unified.likelihood.rows import LikelihoodJob, moments_of

    levels = sorted(sigma for sigma in recipe.levels if sigma > 0)
    low, high = (given if given is not None else at for given, at in zip(sigmas, (levels[0], levels[-1]), strict=True))
    moments = moments_of(own)
    anchor = recipe.sampler.anchor  # then the prior is N(y, σ²) whatever the data are
    at_top = lk.prior_of(moments) if prior == "data" and anchor is None else lk.isotropic(own.shape)
    control = None
    if bound:
        control = gaussian_of(moments).to(device)
    return LikelihoodJob(
        bound, low, high, steps or 1, tolerance, *trace, points, at_top.to(device), control, noise, seed, conditional,
        conditions, anchor, device, dtype,
    )  # fmt: skip
