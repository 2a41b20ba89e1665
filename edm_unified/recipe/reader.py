"""Read untrusted YAML: the result is plain data, or an error of one line with the file and the line number.

The dialect is YAML's core schema rather than PyYAML's YAML 1.1: ``1e-3`` is a number, ``no`` and ``on`` are text, and a
date is text. Anchors and aliases are refused (nine nested lists of them are a billion numbers), as are tags, duplicate
keys, keys that are not text, and files above a megabyte.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from edm_unified.data.recognise import not_a_recipe

MOST_BYTES = 1_000_000
MOST_DEPTH = 40


class RecipeError(ValueError):
    """A recipe that cannot be used; the message is one line that starts with the file."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the limits and the scalars of the module docstring."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _at(event, "anchors and aliases (& and *) are not read; write the value out")
        if getattr(event, "tag", None) is not None:
            raise _at(event, f"tags such as {event.tag} are not read; remove it")
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise _at(event, f"nested more than {MOST_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag != "tag:yaml.org,2002:str":
                raise _at(key_node, "a key must be plain text")
            if key_node.value in seen:
                raise _at(key_node, f"the key {key_node.value!r} is given twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _at(place: Any, problem: str) -> yaml.MarkedYAMLError:
    """A problem of ours at an event or a node."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


_SCALARS = {  # the core schema of YAML 1.2, section 10.3.2, less octal and hexadecimal
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
}
_Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
# PyYAML's own reads a leading 0 as octal
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def parse(text: str, label: str) -> Any:
    """Plain data from YAML ``text``; ``label`` starts the message of what goes wrong."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise RecipeError(f"{label}: {_line(error)}") from None
    except ValueError as error:  # a whole number of more than 4300 digits
        raise RecipeError(f"{label}: cannot be read: {str(error).splitlines()[0]}") from None


def _line(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"not YAML: a control character, U+{int(error.character):04X}, at position {error.position}"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or getattr(error, "context", None) or error).splitlines()[0]
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    ours = type(error) is yaml.MarkedYAMLError
    return f"{where}{problem}" if ours else f"{where}not YAML: {problem}"


def read(path: Path, label: str) -> dict[str, Any]:
    """The mapping in the file ``path``. Raises :class:`RecipeError` for anything else."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(f"{label}: no such file; `edm-unified list recipes` names the shipped ones") from None
    except IsADirectoryError:
        what = not_a_recipe(path, label) or f"{label}: is a directory; name a recipe file (.yaml) in it"
        raise RecipeError(what) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise RecipeError(f"{label}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    fault = not_a_recipe(path, label)
    if fault is not None:
        raise RecipeError(fault)
    if b"\0" in raw[:4096] and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):  # text of Windows has a mark before it
        raise RecipeError(f"{label}: is a binary file of a kind that is not known here, not a recipe; name a YAML file")
    if len(raw) > MOST_BYTES:
        raise RecipeError(f"{label}: larger than {MOST_BYTES // 1_000_000} MB; a recipe is a few lines of YAML")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecipeError(f"{label}: line {line}: not UTF-8 text; save the file as UTF-8") from None
    return parse_mapping(text, label)


def parse_mapping(text: str, label: str) -> dict[str, Any]:
    """As :func:`parse`; anything but a mapping is refused."""
    tree = parse(text, label)
    if tree is None:
        raise RecipeError(f"{label}: is empty; `edm-unified show edm` shows a complete recipe")
    if not isinstance(tree, dict):
        raise RecipeError(f"{label}: must be a mapping of keys to values, got {_what(tree)}")
    return tree


def _what(value: object) -> str:
    return "a list" if isinstance(value, list) else f"the single value {str(value)[:40]!r}"
