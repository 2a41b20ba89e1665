"""Types of values on the command line, with their completion: paths, parts of a recipe, lists of numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from edm_unified.components import paths, shipped
from edm_unified.components.component import MOST, shown


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


def complete_kind(family: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """The kinds of a family, on the Tab key."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(kind) for kind in shipped.kinds(family) if kind.startswith(incomplete)]

    return complete


class Part(NamedTuple):
    """What an option puts into the place of a recipe's own: ``value`` at ``path``. ``text`` is how it was written."""

    path: str
    value: Any
    text: str


class PartType(click.ParamType):
    """The value of an option that replaces a part of a recipe, by the annotation of that part: a component
    (``second_order:alpha=0.5``), one of some words, or any other value as YAML; ``none`` where the part may be absent.
    """

    def __init__(self, path: str) -> None:
        place = shipped.index()["places"][path]
        self.path, self.option, self.family, self.optional = path, place["option"], place["family"], place["optional"]
        self.words: list[str] = place["words"]
        self.name = "kind" if self.family else "|".join(self.words) or "value"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name if self.words else self.name.upper()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises ``ValueError``, and not click's ``BadParameter``: the message is the one that a recipe gives."""
        if isinstance(value, Part) or (
            ctx is not None and ctx.resilient_parsing
        ):  # the Tab key does not wait for torch
            return value
        if self.optional and value.strip() == "none":
            return Part(self.path, None, value)
        return Part(self.path, self.decoded(value), value)

    def decoded(self, text: str) -> Any:
        from edm_unified.recipe import codec, parse_component
        from edm_unified.recipe.catalogue import field_at

        hint = field_at(self.path).hint
        if self.family:
            return parse_component(hint, text, self.option)
        return codec.checked(hint, codec.from_words(hint, text, f"{self.option} {text}"), f"{self.option} {text}")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        known = [
            *self.words,
            *(shipped.kinds(self.family) if self.family else ()),
            *(["none"] if self.optional else ()),
        ]
        return [CompletionItem(word) for word in known if word.startswith(incomplete)]


class SolversType(PartType):
    """A solver, or one of the sets of them that a comparison can name; the value is a tuple of solvers."""

    def decoded(self, text: str) -> Any:
        from edm_unified.compare.sets import solver_set

        name: Any = text.strip()
        return solver_set(name) if name in shipped.SOLVER_SETS else (super().decoded(text),)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        sets = [CompletionItem(name, help=words) for name, words in shipped.SOLVER_SETS.items()]
        return [item for item in sets if item.value.startswith(incomplete)] + super().shell_complete(
            ctx, param, incomplete
        )


class NumbersType(click.ParamType):
    """Whole numbers with commas between, each from ``least`` to ``most``, each once: ``5,10,20``."""

    def __init__(self, least: int, most: int = MOST, name: str = "N,N,...") -> None:
        self.least, self.most, self.name = least, most, name

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        numbers = _whole_numbers(value)
        if numbers is None:
            self.fail(f"must be whole numbers with commas between, such as 5,10,20; got {value!r}", param, ctx)
        if wrong := [n for n in numbers if not self.least <= n <= self.most]:
            self.fail(f"must be from {self.least} to {self.most:,}, got {shown(wrong[0])}", param, ctx)
        return tuple(dict.fromkeys(numbers))


class SizesType(click.ParamType):
    """The shape of a sample: ``3,32,32``."""

    name = "C,H,W"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        sizes = value if isinstance(value, tuple) else _whole_numbers(value)
        if not sizes or min(sizes) < 1:
            self.fail(f"must be sizes with commas between, such as 3,32,32; got {value!r}", param, ctx)
        return sizes


def _whole_numbers(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        return None
