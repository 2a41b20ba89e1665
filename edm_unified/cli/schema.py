"""``edm-unified schema``: the JSON Schema of recipes."""

from __future__ import annotations

import click

from edm_unified.components import shipped


@click.command(short_help="Print the JSON Schema of recipes, for editors.")
def schema() -> None:
    """Print the JSON Schema of recipes and comparisons, for editors.

    \b
    edm-unified schema > recipe.schema.json
    then, as the first line of a recipe, for the YAML language server (VS Code, Neovim, Emacs):
    # yaml-language-server: $schema=recipe.schema.json
    """
    click.echo(shipped.schema(), nl=False)
