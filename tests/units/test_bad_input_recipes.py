"""Files that were named in a recipe's place, and recipes that were damaged: each is one line that names the file."""

from __future__ import annotations

import io
import pickle
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from edm_unified.components import shipped
from edm_unified.recipe import RecipeError, load_any

pytestmark = pytest.mark.usefixtures("empty_folder")


def _made(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (
            _made(lambda buffer: zipfile.ZipFile(buffer, "w").writestr("a", "b")),
            "a zip archive, not a recipe; unpack it",
        ),
        (_made(lambda buffer: torch.save({}, buffer)), "a file of torch.save, not a recipe; as data it is looked at"),
        (_made(lambda buffer: np.save(buffer, np.zeros(3))), "a NumPy array, not a recipe; it is data: try"),
        (pickle.dumps([1]), "a Python pickle, not a recipe, and is not opened"),
        (save({"x": torch.zeros(3)}), "a safetensors file, not a recipe; as data it is looked at"),
        (b"\x89PNG\r\n\x1a\n" + bytes(2_000_000), "a PNG image, not a recipe; name the folder that it lies in"),
        (b"<!DOCTYPE html><html></html>", "a web page, not a recipe; name a YAML file"),
        (bytes(range(256)), "a binary file of a kind that is not known here, not a recipe"),
    ],
)
def test_a_file_of_another_kind_is_told_apart(content: bytes, kind: str) -> None:
    Path("x.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match=f"^x.yaml: is {re.escape(kind)}"):
        load_any("x.yaml")


def _flipped(text: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(text)
    for _ in range(draw.choice([1, 20])):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def _cut(text: bytes, draw: random.Random) -> bytes:
    return text[: draw.randrange(len(text))]


def _line(text: bytes, draw: random.Random) -> bytes:
    """A line twice, without, or with a tab before it."""
    lines = text.split(b"\n")
    at = draw.randrange(len(lines))
    lines[at : at + 1] = draw.choice([[lines[at]] * 2, [], [b"\t" + lines[at]]])
    return b"\n".join(lines)


def _value(text: bytes, draw: random.Random) -> bytes:
    place = draw.choice(list(re.finditer(rb": ([^\n{}]+)", text)))
    wrong = [b"null", b"[]", b"{}", b"true", b"-1", b".nan", b"-.inf", b"0", b"1e400", b"'x'", b"[1, 2]", b"1e-320"]
    wrong += [b"&a 1", b"*a", b"!!python/object/apply:os.system [ls]", b"9" * 5000, b"9" * 300, b'"\\ud800"', b"\0"]
    return text[: place.start(1)] + draw.choice(wrong) + text[place.end(1) :]


@pytest.mark.parametrize("damage", [_flipped, _cut, _line, _value])
def test_a_damaged_recipe_is_one_line_or_still_a_recipe(damage: Callable[[bytes, random.Random], bytes]) -> None:
    draw, said = random.Random(7), []
    names = [name for name in shipped.recipe_names() if "atlas" not in name]
    for _ in range(15):
        text = (shipped.recipes_folder() / f"{draw.choice(names)}.yaml").read_bytes()
        Path("x.yaml").write_bytes(damage(text, draw))
        try:
            load_any("x.yaml").dump()
        except RecipeError as error:
            said.append(str(error))
    assert said
    assert all(line.startswith("x.yaml: ") and line.isprintable() and len(line) < 500 for line in said), said
