"""``edm-unified ema``: post-hoc EMA, averages of the weights of any length after the training."""

from __future__ import annotations

from pathlib import Path

import click

from edm_unified.cli import options


def _widths(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in value.split(","))
    except ValueError:
        found = ()
    if not found:
        raise click.BadParameter(f"must be numbers with commas between, such as 0.05,0.10; got {value!r}")
    return found


@click.command(short_help="Put averages of any length together, after the training.")
@click.argument("run", type=options.PATH)
@click.option("--std", "stds", required=True, callback=_widths, metavar="S,S,...",
              help="Standard deviations of the averages, as shares of the training's length, up to 0.288.")  # fmt: skip
@options.quiet
def ema(run: Path, stds: tuple[float, ...], quiet: bool) -> None:
    """Write power-function averages of the weights of RUN, which was trained with `ema: {kind: power}`.

    They are put together from its snapshots (Karras et al. 2024, section 3.2) and written beside the newest
    checkpoint. Choose one with --set denoiser.ema=0.15 or `edm_unified.load(RUN, ema=0.15)`; without, the first that
    the training made is used. A length whose profile would be more than 10 % off is refused.

    \b
    edm-unified ema run --std 0.05,0.10,0.15
    edm-unified sample run --set denoiser.ema=0.15
    """
    from edm_unified.training.runs import posthoc

    with options.progress(not quiet) as bar:
        made = posthoc.write(
            run, stds, lambda done, total: bar.update(done, total, f"snapshot {done} of {total}"), bar.say
        )
    if not quiet:
        for average in made:
            click.echo(
                f"  {average.file}  std {average.std:g} after {average.images:,} images; "
                f"profile to {100 * average.mismatch:.2g} %"
            )
