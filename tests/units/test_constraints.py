"""Constraints stand in annotations: checked for Python users and recipes alike, and known to the JSON Schema."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from edm_unified.components import constraints
from edm_unified.recipe import codec
from edm_unified.recipe import schema as make_schema
from edm_unified.recipe.catalogue import FAMILIES
from edm_unified.sampling.levels import Karras

CLASSES = {
    f"{family}/{kind}": cls for family, union in FAMILIES.items() for kind, cls in codec.components(union).items()
}
SCHEMA = make_schema()
CONSTRAINED = [
    (name, field, constraint)
    for name, cls in CLASSES.items()
    for field, constraint in constraints._constraints(cls)
    if all(f.default is not dataclasses.MISSING for f in dataclasses.fields(cls))  # type: ignore[arg-type]
]


def _beyond(constraint: constraints.Constraint) -> list[Any]:
    """Values just outside of what the schema says, on each side that it names."""
    bounds = dict(constraint.schema)
    found: list[Any] = [bounds["exclusiveMinimum"]] if "exclusiveMinimum" in bounds else []
    found += [bounds["minimum"] - 1] if "minimum" in bounds else []
    found += [bounds["maximum"] + 1] if "maximum" in bounds else []
    return [*found, math.nan, math.inf, "7"]


def test_there_are_some() -> None:
    assert {
        ("steps/karras", "rho"),
        ("steps/karras", "n"),
        ("renoising/churn", "S_churn"),
        ("schedules/vp", "beta_min"),
    } <= {(name, field) for name, field, _ in CONSTRAINED}


@pytest.mark.parametrize(("name", "field", "constraint"), CONSTRAINED, ids=lambda part: str(part)[:24])
def test_what_the_schema_refuses_the_constructor_refuses_by_name(
    name: str, field: str, constraint: constraints.Constraint
) -> None:
    for value in _beyond(constraint):
        with pytest.raises(ValueError, match=rf"^{field}: must be "):
            CLASSES[name](**{field: value})
    bounds = dict(constraint.schema)
    parts = [part for part in SCHEMA["$defs"].values() if _kind(part) == name.partition("/")[2]]
    assert any(bounds.items() <= _leaf(part["properties"].get(field, {})).items() for part in parts)


def _kind(part: dict[str, Any]) -> str:
    return str(part.get("properties", {}).get("kind", {}).get("const"))


def _leaf(part: dict[str, Any]) -> dict[str, Any]:
    return next((one for one in part.get("anyOf", ()) if "type" in one and one["type"] != "null"), part)


def test_a_recipe_gives_the_path_and_python_the_name() -> None:
    faults: list[codec.Fault] = []
    codec.decode(FAMILIES["steps"], {"kind": "karras", "rho": -1.0}, "sampler.steps", faults)
    assert faults == [codec.Fault("sampler.steps.rho", "must be positive and finite, got -1.0")]
    with pytest.raises(ValueError, match=r"^rho: must be positive and finite, got -1$"):
        Karras(rho=-1)
    with pytest.raises(ValueError, match=r"^sigma_min: must be below sigma_max"):  # what takes two fields comes after
        Karras(sigma_min=100.0)
