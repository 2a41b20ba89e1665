"""Files as other libraries write them: their names and shapes with weights that are a function of the name, and D.

With the authors' code (:mod:`authors_repos`) the network is made by it, filled, and asked for D at ten levels. What it
was told and gave is kept in ``golden_files.json.gz`` (``make_golden.py``): the names and shapes, the few tensors that
are no weights, and D. From these the same file is written where their code is not, and D is compared.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import pickle
import sys
import types
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from authors_repos import place
from torch import Tensor, nn

GOLDEN = Path(__file__).with_name("golden_files.json.gz")
LEVELS = torch.logspace(-1.5, 1.6, 10, dtype=torch.float64)
"""One sample is at each."""
KEPT = 24
"""Numbers of D that are kept of each sample, of all evenly."""
made: dict[str, Any] = {}
"""What their code gave in this process."""


class Case(NamedTuple):
    """A file of a library: where its code is, the shape and classes of samples, how the weights are saved to a file,
    what ``edm.load`` is told, and ``theirs``: the module of the weights, and its D(x, sigma, label) in float32.
    """

    repository: str
    shape: tuple[int, ...]
    theirs: Callable[[], tuple[nn.Module, Callable[..., Tensor]]]
    save: Callable[[dict[str, Tensor], Path], Path]
    asked: Mapping[str, Any] = types.MappingProxyType({})
    label: tuple[int, ...] | None = None
    constant: Callable[[str], bool] = lambda name: False
    """Whether a tensor of that name is kept as it is."""
    needs: tuple[str, ...] = ()
    close: float = 1e-5
    """Of x, and of σ where that is above 1: theirs has times and angles in float32."""


def uniform(name: str, count: int) -> np.ndarray:
    """``count`` numbers in [−1, 1), a function of the name: the mixing of splitmix64 on a counter."""
    with np.errstate(over="ignore"):
        z = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 20)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A weight of the size that a trained one has: of a layer over √fan-in, of a norm about 1, of a bias about 0."""
    value = torch.from_numpy(uniform(name, math.prod(shape))).reshape(shape) * 3**0.5
    if len(shape) > 1 and "gamma" not in name and not name.endswith(".g"):
        value = value * math.prod(shape[1:]) ** -0.5
    else:
        value = 0.1 * value + (0.0 if name.endswith(("bias", ".b")) else 1.0)
    return value.float()


def noisy(shape: tuple[int, ...]) -> Tensor:
    x = torch.from_numpy(uniform("x", len(LEVELS) * math.prod(shape))).reshape(len(LEVELS), *shape)
    return x * (1 + LEVELS**2).sqrt().view(-1, *[1] * len(shape))


def told(case: Case) -> dict[str, Any]:
    return {} if case.label is None else {"label": torch.tensor(case.label).repeat(len(LEVELS) // len(case.label))}


def reference(name: str, case: Case) -> tuple[dict[str, Tensor], Tensor]:
    """The weights of a case, and D at the levels: of their code where it is, else as they were kept; or a skip."""
    if place(case.repository) is not None:
        for package in case.needs:
            pytest.importorskip(package)
        module, D = case.theirs()
        state = module.state_dict()
        weights = {
            key: tensor if case.constant(key) or not tensor.is_floating_point() else weight(key, tuple(tensor.shape))
            for key, tensor in state.items()
        }
        module.load_state_dict(weights)
        module.eval()
        with torch.no_grad():
            numbers = picked(D(noisy(case.shape), LEVELS, **told(case)))
        forms = {
            key: tensor.tolist()
            if case.constant(key) or not tensor.is_floating_point()
            else {"shape": list(tensor.shape)}
            for key, tensor in state.items()
        }
        made[name] = {"names": forms, "D": numbers.tolist()}
        return weights, numbers
    found = kept().get(name)
    if found is None:
        pytest.skip(f"needs the code of {case.repository}; see tests/parity/authors_repos.py")
    return restored(found["names"]), torch.tensor(found["D"], dtype=torch.float64)


def restored(forms: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights that were kept."""
    return {
        key: weight(key, tuple(form["shape"])) if isinstance(form, dict) else torch.tensor(form)
        for key, form in forms.items()
    }


def picked(value: Tensor) -> Tensor:
    """:data:`KEPT` numbers of each sample of D."""
    flat = value.double().flatten(1)
    return flat[:, torch.linspace(0, flat.shape[1] - 1, KEPT).long()]


@functools.cache
def kept() -> dict[str, Any]:
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as file:
        return json.load(file)  # type: ignore[no-any-return]


def keep() -> None:
    """Write what their code gave."""
    with open(GOLDEN, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(json.dumps(made, separators=(",", ":"), sort_keys=True).encode())


# -- NVIDIA's pickles --------------------------------------------------------------------------------------------------


class Persistent:
    """An object as ``torch_utils.persistence`` pickles it: a function's name, and what is said of the object."""

    def __init__(self, name: str, source: str, state: dict[str, Any]) -> None:
        self.name, self.source, self.state = name, source, state

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.name, "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def persistent(name: str, weights: dict[str, Tensor], source: str, **attributes: Any) -> Persistent:
    """A module as a tree of persistent objects with the weights in their places."""
    own = {key: nn.Parameter(value, requires_grad=False) for key, value in weights.items() if "." not in key}
    inner: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        if "." in key:
            first, _, rest = key.partition(".")
            inner.setdefault(first, {})[rest] = value
    modules = {key: persistent("Part", part, source) for key, part in inner.items()}
    return Persistent(
        name, source, {"training": False, "_parameters": own, "_buffers": {}, "_modules": modules} | attributes
    )


def pickled(file: Path, content: Any) -> Path:
    """Pickle ``content``, in which there may be :class:`Persistent` objects."""
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> None:
        """By name alone."""

    _reconstruct_persistent_obj.__module__, _reconstruct_persistent_obj.__qualname__ = (
        module.__name__,
        "_reconstruct_persistent_obj",
    )
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in ("torch_utils", "torch_utils.persistence")}
    sys.modules["torch_utils"], sys.modules["torch_utils.persistence"] = types.ModuleType("torch_utils"), module
    try:
        file.write_bytes(pickle.dumps(content))
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old
    return file
