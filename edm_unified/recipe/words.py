"""Components and data from the words of a command line, and from the paths that stand for data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from edm_unified.components import paths, shipped
from edm_unified.components.component import shown
from edm_unified.data import AnyData, Arrays, Dataset
from edm_unified.data.recognise import not_a_recipe, recognised
from edm_unified.data.units import in_units_of
from edm_unified.recipe import codec
from edm_unified.recipe.codec import Fault
from edm_unified.recipe.reader import RecipeError


def parse_component(union: Any, text: str, what: str) -> Any:
    """A component from the command line: ``heun``, ``second_order:alpha=0.5`` or ``karras:n=10,rho=5``.

    ``union`` is one of the family unions, such as ``AnySolver``; ``what`` (``--solver``) starts the message of what is
    wrong. Values are YAML, so ``explicit:sigmas=[80, 1, 0]`` works; text is taken as it is written, with its commas and
    zeros: ``image_folder:path=a,b/007,size=8``. In quotes it may also have what looks like another parameter.
    """
    kind, _, rest = text.strip().partition(":")
    label = f"{what} {text}"
    value: dict[str, Any] = {"kind": kind.strip()}
    known = codec.parameters(codec.components(union)[kind.strip()]) if kind.strip() in codec.components(union) else {}
    texts = [name for name, hint in known.items() if str in codec.members(hint) or are_data(hint)]
    for item in _split(rest, texts):
        key, equals, number = item.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"{label}: {item.strip()!r} is not a parameter; write {kind}:name=value,name=value")
        if key.strip() in value:
            raise RecipeError(f"{label}: {key.strip()}: is given twice")
        value[key.strip()] = codec.from_words(known.get(key.strip(), Any), number, f"{label}: {key.strip()}")
    faults: list[Fault] = []
    found = codec.decode(union, spelled(union, value, label), "", faults)
    if faults:
        fault = faults[0]
        where = "" if fault.path in ("", "kind") else f"{fault.path}: "
        raise RecipeError(f"{label}: {where}{fault.message}")
    return found


def parse_data(text: str, what: str = "data") -> Any:
    """Data as a command line names them: in words, ``image_folder:path=pictures,size=64``, or by the path of a file or
    folder whose kind is told by its contents. Raises :class:`RecipeError` where that is neither.
    """
    word = text.partition(":")[0].strip()
    kinds = codec.components(AnyData)
    if word in kinds:
        return parse_component(AnyData, text, what)
    found = recognised(text)
    if found is not None:
        return found
    name = text if text.isprintable() else shown(text)
    try:
        place = paths.regular(paths.expanded(text, what), name)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    if place.is_dir() and not any(place.iterdir()):
        raise RecipeError(f"{name}: is an empty folder")
    if place.exists():
        fault = not_a_recipe(place, name) or f"{name}: is of no kind that is known here, not a recipe"
        raise RecipeError(fault.replace("not a recipe", "not data"))
    raise RecipeError(f"{name}: neither data nor a file{shipped.suggest(word, kinds, 'edm-unified list data')}")


def data_named(text: str, own: Dataset | None = None) -> Dataset:
    """The data that ``text`` names, in the scale of ``own``, which the denoiser is a model of, if there is such."""
    source = parse_data(text)
    if own is not None and getattr(source, "standardise", None) is not None:
        raise ValueError(f"{text}: standardise: the scale is that of the denoiser's own data; leave it out")
    try:
        dataset = source.load(own) if isinstance(source, Arrays) else source.load()
    except ValueError as error:
        raise ValueError(f"{text}: {str(error).removeprefix('path: ').removeprefix(text + ': ')}") from None
    return dataset if own is None else in_units_of(own, dataset, text)


def are_data(hint: Any) -> bool:
    """Whether components of that annotation are data, which a path may stand for."""
    kinds = codec.components(hint)
    return bool(kinds) and kinds.keys() <= codec.components(AnyData).keys()


def spelled(hint: Any, value: Any, label: str) -> Any:
    """Plain data for ``hint`` with the mapping that it stands for in the place of every path or words of data.

    Raises :class:`RecipeError`, begun with ``label`` and the place, where that names no data.
    """
    if not are_data(hint):
        return value
    if isinstance(value, str):
        try:
            return codec.encode(parse_data(value), True)
        except RecipeError as error:
            raise RecipeError(f"{label}: {str(error).removeprefix(f'{label}: ')}") from None
    kind = value.get("kind") if isinstance(value, dict) else None
    cls = codec.components(hint).get(kind) if isinstance(kind, str) else None
    if cls is None:
        return value  # not data; the codec says what is wrong
    inner = codec.parameters(cls)
    return {k: spelled(inner[k], v, f"{label}: {k}") if k in inner else v for k, v in value.items()}


def _split(text: str, texts: Sequence[str]) -> list[str]:
    """``text`` at its commas, but for those in brackets or quotes.

    In a value of ``texts``, the parameters that are text, a comma ends the value only where ``name=`` follows.
    """
    parts, depth, quote = [""], 0, ""
    for i, character in enumerate(text):
        opens = character in "\"'" and parts[-1].rstrip().endswith((*"=:[{,",) if depth else "=")
        quote = "" if character == quote else quote or (character if opens else "")
        depth += 0 if quote else (character in "[{") - (character in "]}" and depth > 0)
        key, _, value = parts[-1].partition("=")
        written = key.strip() in texts and not value.lstrip().startswith("{")
        ends = re.match(r"\s*\w+\s*=", text[i + 1 :]) if written else depth == 0
        if character == "," and not quote and ends:
            parts.append("")
            depth = 0
        else:
            parts[-1] += character
    return parts if text.strip() else []
