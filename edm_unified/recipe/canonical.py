"""The canonical form of a recipe or a comparison: its YAML with every field spelled out, and the hash that names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import yaml

from edm_unified.recipe import codec

T = TypeVar("T")


class _Dumper(yaml.SafeDumper):
    """Lists on one line, the rest as blocks; text is never folded."""


_Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]  # anchors would not be read back


def canonical(value: T) -> T:
    """``value`` as a file would give it, with no int for a float. Raises ``ValueError`` for what no file can say."""
    return cast("T", codec.checked(type(value), codec.encode(value), type(value).__name__))


def dump(value: object) -> str:
    """``value`` as canonical YAML with every field spelled out."""
    tree = codec.encode(canonical(value))
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)


def hash_of(value: object, without: tuple[str, ...]) -> str:
    """12 hexadecimal digits of the canonical form of ``value``, leaving out the fields ``without``."""
    return digest(codec.encode(canonical(value), brief=True), without)


def digest(tree: Mapping[str, Any], without: tuple[str, ...]) -> str:
    """12 hexadecimal digits of plain data, leaving out the keys ``without``."""
    tree = {key: item for key, item in tree.items() if key not in without}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]
