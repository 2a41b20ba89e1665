"""Components of one's own for one call: what ``--plugin`` adds to the families, and takes away again.

The union that a field annotates is the registry of a family. A plugin widens unions while it is registered: whoever
asks a union for its members (:func:`widened`) gets those of the plugins too. Nothing is registered by a file of
recipes: code is imported only where a user names it, by ``--plugin`` or :func:`edm_unified.recipe.plugins.plugin`. A
recipe that uses a component of a plugin records the plugin's name and the SHA-256 of its file (:class:`PluginRecord`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin

from edm_unified.components.component import component


@component
class PluginRecord:
    """A plugin by its ``name``, as ``--plugin`` was given it, and the SHA-256 of its file; ``option``: or a network."""

    name: str
    sha256: str
    option: Literal["plugin", "network"] = "plugin"


@dataclass(frozen=True, eq=False)
class Plugin:
    """What a plugin adds. ``members``: a union's own members and the class that joins them; ``entries``: of the index
    of components, by ``family/kind``; ``metrics``: functions by name; ``objects``: what was found in the plugin, as it
    stands there, with the family of each."""

    record: PluginRecord
    members: tuple[tuple[frozenset[Any], type], ...] = ()
    entries: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    objects: tuple[tuple[str, Any], ...] = ()


class ChangedWarning(FutureWarning):
    """A plugin is not what it was when a recipe was written."""


ACTIVE: list[Plugin] = []
"""Those of this call, in the order in which they were named."""


def widened(members: tuple[Any, ...]) -> tuple[Any, ...]:
    """The alternatives of an annotation with those that plugins add to the unions among them."""
    if not ACTIVE:
        return members
    there = set(members)
    return (*members, *(cls for own, cls in _added() if own <= there and cls not in there))


def _added() -> Iterator[tuple[frozenset[Any], type]]:
    for plugin in ACTIVE:
        yield from plugin.members


def metrics() -> dict[str, Any]:
    """The metrics of plugins by name."""
    return {name: function for plugin in ACTIVE for name, function in plugin.metrics.items()}


METRICS_OF_A_COMPARISON = ("error_median", "error_rms", "sliced_wasserstein")
"""By these words the choice of the metrics is known, which plugins widen."""


def widened_words(words: tuple[Any, ...]) -> tuple[Any, ...]:
    """A choice of words with the metrics of plugins, where it is that of the metrics."""
    more = metrics()
    return (*words, *more) if more and set(METRICS_OF_A_COMPARISON) <= set(words) else words


def widened_leaf(hint: Any) -> Any:
    """An annotation without components, with :func:`widened_words` in the place of a choice of metrics."""
    origin, args = get_origin(hint), get_args(hint)
    if not ACTIVE or not args:
        return hint
    if origin is Literal:
        return Literal[widened_words(args)]
    inner = tuple(arg if arg is Ellipsis else widened_leaf(arg) for arg in args)
    if inner == args:
        return hint
    whole: Any = tuple if origin is tuple else Union
    return whole[inner]


def is_added(cls: type) -> bool:
    """Whether a plugin that is registered has that class."""
    return any(cls is one for _, one in _added())


def used_by(value: Any) -> tuple[PluginRecord, ...]:
    """The plugins whose components are in the tree ``value``, in the order in which they were named."""
    parts = list(_parts(value))
    return tuple(plugin.record for plugin in ACTIVE if any(_of(plugin, part) for part in parts))


def _of(plugin: Plugin, part: Any) -> bool:
    """Whether a component is one of a plugin; of a network of one's own, whether it names it."""
    known = any(type(part) is cls for _, cls in plugin.members)
    return known and (plugin.record.option == "plugin" or part.network == plugin.record.name)


def _parts(value: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield value
        for one in dataclasses.fields(value):
            yield from _parts(getattr(value, one.name, None))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _parts(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _parts(item)


def absent(records: Any) -> list[Mapping[str, Any]]:
    """Of ``records``, as a file has them, those that are not registered: neither by their name nor by their digest."""
    names = {plugin.record.name for plugin in ACTIVE}
    digests = {plugin.record.sha256 for plugin in ACTIVE}
    known = [record for record in records if isinstance(record, Mapping)] if isinstance(records, Sequence) else []
    return [record for record in known if record.get("name") not in names and record.get("sha256") not in digests]


def wanted(records: Any) -> str:
    """What to say where one of ``records`` is absent; nothing where none is."""
    missing = absent(records)
    if not missing:
        return ""
    name, digest = str(missing[0].get("name"))[:200], str(missing[0].get("sha256"))[:12]
    network = missing[0].get("option") == "network"
    what, option = ("network", "--network") if network else ("plugin", "--plugin")
    return f"needs the {what} {name} (SHA-256 {digest}…); give {option} {name}: no recipe or run imports code by itself"


def changed(records: Any) -> list[str]:
    """The names of those of ``records`` that are registered with another digest."""
    now = {plugin.record.name: plugin.record.sha256 for plugin in ACTIVE}
    digests = set(now.values())
    known = [record for record in records if isinstance(record, Mapping)] if isinstance(records, Sequence) else []
    return [str(r["name"]) for r in known if r.get("name") in now and r.get("sha256") not in digests]
