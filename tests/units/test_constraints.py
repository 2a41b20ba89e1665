"""Constraints stand in annotations: checked for Python users and recipes alike, and known to the JSON Schema."""

from __future__ import annotations

import dataclasses
import math
from math import inf
from typing import Annotated, Any

import pytest

from edm_unified.components.component import choice, component, count
from edm_unified.components.constraints import Constraint, constraints_of, whole
from edm_unified.recipe import codec
from edm_unified.recipe import schema as make_schema
from edm_unified.recipe.catalogue import FAMILIES
from edm_unified.sampling.levels import Karras

CLASSES = {
    f"{family}/{kind}": cls for family, union in FAMILIES.items() for kind, cls in codec.components(union).items()
}
SCHEMA = make_schema()
FIELDS = [
    (name, *found)
    for name, cls in CLASSES.items()
    for found in constraints_of(cls)
    if all(f.default is not dataclasses.MISSING for f in dataclasses.fields(cls))  # type: ignore[arg-type]
]
CONSTRAINED = [found for found in FIELDS if found[2].schema]
CHOICES = [(name, field) for name, field, constraint, _ in FIELDS if constraint.check is choice and field != "kind"]


def _beyond(constraint: Constraint) -> list[Any]:
    """Values just outside of what the schema says, on each side that it names."""
    found: list[Any] = [math.nan, math.inf, "7"]
    for name, bound in constraint.schema:
        up = name.lower().endswith("maximum")
        beyond = bound + (1 if up else -1) if constraint.check is count else math.nextafter(bound, inf if up else -inf)
        found.append(bound if name.startswith("exclusive") else beyond)
    return found


def test_there_are_some() -> None:
    assert {
        ("steps/karras", "rho"),
        ("steps/karras", "n"),
        ("renoising/churn", "S_churn"),
        ("schedules/vp", "beta_min"),
        ("networks/unet", "multipliers"),
        ("averages/power", "stds"),
        ("weights/sigmoid", "bias"),
    } <= {(name, field) for name, field, *_ in CONSTRAINED}


def test_what_the_schema_refuses_the_constructor_refuses_by_name() -> None:
    for name, field, constraint, of_items in CONSTRAINED:
        for value in _beyond(constraint):
            with pytest.raises(ValueError, match=rf"^{field}: must "):
                CLASSES[name](**{field: (value,) if of_items else value})
        bounds = dict(constraint.schema)
        parts = [part for part in SCHEMA["$defs"].values() if _kind(part) == name.partition("/")[2]]
        leaves = [_leaf(part["properties"].get(field, {}), of_items) for part in parts]
        assert any(bounds.items() <= leaf.items() for leaf in leaves), (name, field, bounds, leaves)


def test_a_word_that_is_no_choice_is_refused_by_name() -> None:
    assert len(CHOICES) > 5
    for name, field in CHOICES:
        with pytest.raises(ValueError, match=rf"^{field}: (unknown|must be one of [\d, ]+, got) 'no such word'"):
            CLASSES[name](**{field: "no such word"})


def test_items_and_single_values_of_one_field() -> None:
    @component
    class Sized:
        size: Annotated[int, whole(most=9)] | tuple[Annotated[int, whole(most=9)], ...] = 1

    assert (Sized(9).size, Sized((9, 1)).size) == (9, (9, 1))
    for wrong in (10, (1, 10)):
        with pytest.raises(ValueError, match=r"^size: must be a whole number from 1 to 9, got 10$"):
            Sized(wrong)


def _kind(part: dict[str, Any]) -> str:
    return str(part.get("properties", {}).get("kind", {}).get("const"))


def _leaf(part: dict[str, Any], of_items: bool) -> dict[str, Any]:
    leaf = next((one for one in part.get("anyOf", ()) if "type" in one and one["type"] != "null"), part)
    return dict(leaf.get("items", {})) if of_items else leaf


def test_a_recipe_gives_the_path_and_python_the_name() -> None:
    faults: list[codec.Fault] = []
    codec.decode(FAMILIES["steps"], {"kind": "karras", "rho": -1.0}, "sampler.steps", faults)
    assert faults == [codec.Fault("sampler.steps.rho", "must be positive and finite, got -1.0")]
    with pytest.raises(ValueError, match=r"^rho: must be positive and finite, got -1$"):
        Karras(rho=-1)
    with pytest.raises(ValueError, match=r"^sigma_min: must be below sigma_max"):  # what takes two fields comes after
        Karras(sigma_min=100.0)
