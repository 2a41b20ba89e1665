"""``edm-unified schema``: the JSON Schema of recipes."""

from __future__ import annotations

import json

import click

from edm_unified.components import plugins, shipped


@click.command(short_help="Print the JSON Schema of recipes, for editors.")
def schema() -> None:
    """Print the JSON Schema of recipes and comparisons, for editors.

    \b
    edm-unified schema > recipe.schema.json
    then, as the first line of a recipe, for the YAML language server (VS Code, Neovim, Emacs):
    # yaml-language-server: $schema=recipe.schema.json
    """
    if not plugins.ACTIVE:
        click.echo(shipped.schema(), nl=False)
        return
    from edm_unified.recipe.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
