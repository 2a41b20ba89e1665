"""Cross-references of docstrings, for the site: ``:class:`~edm_unified.schedules.EDM` `` becomes a link.

A Griffe extension (.mkdocs.yml names it). A role's target is looked for as a full path, then in the object itself, its
class, its module and the packages around it. What is found is linked to where the API pages have it; what is not in
the package is a mistake in the docstring, and the build says where.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from griffe import Alias, Extension, Module, Object, get_logger

logger = get_logger("edm_unified.roles")
ROLE = re.compile(r":(?:class|func|mod|data|meth|attr):`(~?)([\w.]+)`")
TABLE = re.compile(r"(?m)^={3,}[ =]*\n.+\n={3,}[ =]*\n(?:(?!===).+\n)+={3,}[ =]*(?:\n|\Z)")


def _objects(parent: Object | Alias) -> Iterator[Object]:
    for member in parent.members.values():
        if not member.is_alias:
            yield member  # type: ignore[misc]
            yield from _objects(member)


def _target(name: str, obj: Object, package: Module) -> Object | Alias | None:
    """The object that ``name`` means where ``obj`` says it."""
    if name.startswith(f"{package.name}."):
        return _inside(name.split(".")[1:], package)
    name = name.removeprefix(".")
    scope: Any = obj
    while scope is not None:
        found = _inside(name.split("."), scope)
        if found is not None:
            return found
        scope = scope.parent
    return None


def _inside(parts: list[str], scope: Object | Alias) -> Object | Alias | None:
    found: Object | Alias = scope
    for part in parts:
        try:
            if part not in found.members:
                return None
            found = found.members[part]
            if found.is_alias:
                found = found.final_target  # type: ignore[union-attr]
        except Exception:  # an import of something outside the package
            return None
    return found


def _rendered(obj: Object | Alias) -> bool:
    """Whether the API pages have a place for it: what is private or says nothing of itself has none."""
    private = any(part.startswith("_") for part in obj.path.split("."))
    return not private and (obj.has_docstring or obj.is_module or obj.is_class)


class Roles(Extension):
    """Turn the roles of every docstring of the package into links, and its simple tables into preformatted text."""

    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        """Rewrite the docstrings once the whole package is known."""
        for obj in [pkg, *_objects(pkg)]:
            if obj.is_module:
                obj.exports = None  # what a package re-exports stands once, in the module that defines it
            if obj.docstring is not None:
                obj.docstring.value = self._linked(obj.docstring.value, obj, pkg)

    def _linked(self, text: str, obj: Object, package: Module) -> str:
        def plain(match: re.Match[str]) -> str:
            return match[2].rpartition(".")[2] if match[1] else match[2]

        def link(match: re.Match[str]) -> str:
            found = _target(match[2], obj, package)
            if found is None:
                logger.warning("%s: %s is not in the package", obj.path, match[0])
            if found is None or not _rendered(found):
                return f"`{plain(match)}`"
            return f"[`{plain(match)}`][{found.path}]"

        return ROLE.sub(link, TABLE.sub(_table, text))


def _table(match: re.Match[str]) -> str:
    """A simple table of reStructuredText as one of Markdown: a line of = above the head, below it, and at the end."""
    rule, head, _, *rows = match[0].splitlines()
    starts = [column.start() for column in re.finditer("=+", rule)]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    cells = [[line[a:b].strip().replace("|", r"\|") for a, b in spans] for line in [head, *rows[:-1]]]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join(["", lines[0], "|" + "---|" * len(spans), *lines[1:], "", ""])
