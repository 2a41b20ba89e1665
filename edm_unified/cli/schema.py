"""``edm-unified schema``: the JSON Schema of recipes."""

from __future__ import annotations

import json

import click


@click.command(short_help="Print the JSON Schema of recipes, for editors.")
def schema() -> None:
    """Print the JSON Schema of recipes and comparisons, for editors.

    \b
    edm-unified schema > recipe.schema.json
    then, as the first line of a recipe, for the YAML language server (VS Code, Neovim, Emacs):
    # yaml-language-server: $schema=recipe.schema.json
    """
    from edm_unified.recipe import schema as make

    click.echo(json.dumps(make(), indent=2, ensure_ascii=False))
