"""Every field of every component, given what it is not: a fault that names the path, or a component; never a crash."""

from __future__ import annotations

import dataclasses
import itertools
import math
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from command_line import run

from edm_unified.components.component import MOST, MOST_SAMPLES, MOST_SEED, positive, shown
from edm_unified.recipe import Comparison, Recipe, codec

WRONG: list[Any] = [
    *("text", "", "3", "~nobody-here/x", "a\0b", "\ud800", None, True, math.nan, math.inf, -1, 0, 0.5, 3.0, 1e300),
    *(1e-300, 10**30, 10**400, [], [1], [None], [[1]], ["a", "b"], [1.0, math.nan], {}, {"kind": 3}, {"a": 1}),
]


def below(hint: Any) -> Iterator[type]:
    """The components that an annotation names, at any depth."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    elif get_origin(hint) in (Union, types.UnionType, tuple, Annotated):
        for part in get_args(hint):
            yield from below(part)


def everything() -> list[type]:
    found: dict[type, None] = {}
    waiting: list[type] = [Recipe, Comparison]
    while waiting:
        cls = waiting.pop()
        if cls not in found:
            found[cls] = None
            for hint in codec.parameters(cls).values():
                waiting += below(hint)
    return list(found)


def least(cls: type) -> dict[str, Any]:
    """A mapping that makes one: what has no default gets the first of a few values that its annotation takes."""
    tree: dict[str, Any] = {"kind": codec.kind_of(cls)} if codec.has_kind(cls) else {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if dataclasses.MISSING is field.default and dataclasses.MISSING is field.default_factory:
            hint = codec.parameters(cls)[field.name]
            first = next(iter(codec.components(hint).values()), None)
            trials = ["x", 8, 0.5, ["edm"], [2.0, 1.0], [10.0, 0.0], [[10.0, 0.0]], "MNIST"]
            trials += [least(first)] if first else []
            tree[field.name] = next(value for value in trials if not faults_of(hint, value))
    return tree


def faults_of(hint: Any, value: Any) -> list[codec.Fault]:
    faults: list[codec.Fault] = []
    codec.decode(hint, value, "at", faults)
    return faults


def test_a_wrong_value_of_any_field_is_a_fault_and_no_crash() -> None:
    components = everything()
    assert len(components) > 100
    for cls in components:
        tree = least(cls)
        for name, value in itertools.product(codec.parameters(cls), WRONG):
            for path, message in faults_of(cls, tree | {name: value}):
                assert path.startswith("at"), (cls, name, value)
                assert message.isprintable(), (cls, name, value)
                assert len(message) < 500, (cls, name, value)


CHOICES = [
    (Literal[1, 3], "3", "must be one of 1, 3, got '3'; remove the quotes"),
    (Literal[1, 3], "RGB", "must be one of 1, 3, got 'RGB'"),
    (Literal[1, 3], True, "must be one of 1, 3, got true"),
    (Literal[1, 3], 3.0, "must be one of 1, 3, got 3.0"),
    (Literal[1, 3], None, "must be one of 1, 3, got null"),
    (Literal["auto"] | int, "5", "must be one of auto or a whole number, got '5'; remove the quotes"),
    (Literal["auto"] | int, "aut", "unknown 'aut'; did you mean 'auto'?"),
    (Literal["uniform", "normal"] | None, "q", "unknown 'q'; choose from uniform, normal"),
    (Literal["a", 2], "q", "must be one of a, 2, got 'q'"),
    (Literal[1.5, 2.5] | None, "1.5", "must be one of 1.5, 2.5 or null, got '1.5'; remove the quotes"),
]


def test_a_choice_among_numbers_takes_numbers() -> None:
    for hint, value, message in CHOICES:
        assert faults_of(hint, value) == [("at", message)]


def test_values_in_messages_are_short() -> None:
    assert shown(10**5000) == "a number of thousands of digits"
    assert len(shown([1] * 500)) == 60
    for wrong in (10**400, -(10**5000), True, math.nan, "3"):
        with pytest.raises(ValueError, match=r"^x: must be positive and finite, got .{1,60}$"):
            positive("x", wrong)


def test_arithmetic_that_fails_names_the_place() -> None:
    code, _, err = run("show", "edm", "--set", "sampler.steps.rho=1e-300")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("Error: edm: sampler.steps")


@pytest.mark.parametrize(
    ("arguments", "most"),
    [
        (["sample", "edm", "--n"], MOST_SAMPLES),
        (["sample", "edm", "--batch"], MOST),
        (["sample", "edm", "--seed"], MOST_SEED),
        (["compare", "edm", "--samples"], MOST_SAMPLES),
        (["compare", "edm", "--nfe"], MOST),
        (["compare", "edm", "--seeds"], MOST_SEED),
    ],
)
def test_the_limit_of_an_option_is_that_of_the_check_behind_it(arguments: list[str], most: int) -> None:
    code, _, err = run(*arguments, most + 1)
    assert code == 2
    assert str(most) in err.replace(",", "")
    name = {"--samples": "samples", "--nfe": "nfe", "--seeds": "seeds"}.get(arguments[-1])
    if name is not None:
        value = most if name == "samples" else (most,)
        assert getattr(Comparison(title="", recipes=("edm",), **{name: value}), name) == value
