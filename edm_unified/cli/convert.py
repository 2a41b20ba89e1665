"""``edm-unified convert``: a checkpoint of another library as a network of ours, once."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from edm_unified.cli import options


@click.command(short_help="Write a checkpoint of another library as a network of ours.")
@click.argument("source", type=options.PATH)
@click.argument("out", type=options.PATH)
@click.option("--shape", metavar="C,H,W", help="The shape of a sample, where the file does not say it.")
@click.option("--convention", metavar="KIND[:FIELD=VALUE,...]",
              help="The preconditioning, in place of what is recognised, e.g. ddpm:betas=cosine.")  # fmt: skip
@click.option("--field", "fields", multiple=True, metavar="NAME=VALUE",
              help="What the file does not say of the network, e.g. heads=1; may be repeated.")  # fmt: skip
@options.quiet
def convert(
    source: Path, out: Path, shape: str | None, convention: str | None, fields: tuple[str, ...], quiet: bool
) -> None:
    """Write the network in SOURCE, a file of weights or a pickle of NVIDIA's, to the folder OUT.

    OUT has the weights as safetensors, with the network, its convention and its levels in the header, and a recipe.
    Every command takes OUT from then on; nothing has to be said again. OUT must not be there, or be empty.

    \b
    edm-unified convert network-snapshot.pkl network
    edm-unified convert 64x64_diffusion.pt adm64 --shape 3,64,64 --convention ddpm:betas=cosine
    edm-unified sample network --solver dpmpp_2m --steps 10
    """
    from edm_unified import interop
    from edm_unified.interop import converted
    from edm_unified.recipe import sources

    found = interop.recognise(
        source,
        shape=() if shape is None else _shape(shape),
        convention=None if convention is None else sources.convention(convention),
        fields=dict(_field(word) for word in fields),
    )
    with options.progress(not quiet) as bar:
        bar.say(f"reading {found.what}")
        converted.write(found, out, lambda made: sources.text(made, str(out)))
    if not quiet:
        size = (out / converted.WEIGHTS).stat().st_size
        click.echo(f"{out}: {found.network}, {size / 1e6:,.1f} MB of weights, and a recipe")
        for note in found.notes:
            click.echo(f"  note: {note}")
        name = shlex.quote(str(out))
        click.echo(f"  sample it: edm-unified sample {name}   what it is: edm-unified inspect {name}")


def _shape(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(side) for side in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < side <= 100_000 for side in found) or len(found) > 4:
        raise ValueError(f"--shape: must be whole numbers with commas between, such as 3,32,32; got {text!r}")
    return found


def _field(text: str) -> tuple[str, object]:
    import yaml

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"--field: must be NAME=VALUE, such as heads=1; got {text!r}")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"--field: {value!r} cannot be read; write NAME=VALUE, such as heads=1") from None
