"""The authors' own code, to be run beside ours: clones under the folder that AUTHORS_REPOS names.

Nothing of theirs is here. A clone is a folder with the repository's name; a test that does not find it is skipped and
says what to clone. Their tables are in the default type of PyTorch, float32: in float64 (:func:`double`) what is left
of a difference is a coefficient and not a rounding.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import edm_unified as edm
from edm_unified.sampling.dynamics import Dynamics
from edm_unified.sampling.loop import walk
from edm_unified.schedules import EDM

SHAPE = (1, 2, 2)
"""Their code wants images."""
NOISE = edm.unit_noise(3, SHAPE, seed=2)
D = edm.exact.GaussianMixture(
    [0.3, 0.5, 0.2],
    [[[[-0.9, 0.4], [0.1, -0.6]]], [[[0.2, 0.3], [-0.5, 0.7]]], [[[0.8, -0.7], [0.6, 0.1]]]],
    [[0.04, 0.02, 0.09, 0.05], [0.08, 0.03, 0.02, 0.06], [0.05, 0.07, 0.04, 0.03]],
)


def clone(repository: str) -> Path:
    """The folder of ``owner/name``, or the test is skipped."""
    root, name = os.environ.get("AUTHORS_REPOS"), repository.rpartition("/")[2]
    if not root or not (Path(root) / name).is_dir():
        where = f"{root}/{name}" if root else f"a folder {name} and set AUTHORS_REPOS to the one above it"
        pytest.skip(f"needs the authors' code: clone github.com/{repository} to {where}", allow_module_level=True)
    return Path(root) / name


@contextlib.contextmanager
def importable(folder: Path, stubs: tuple[str, ...] = ()) -> Iterator[Callable[[str], Any]]:
    """Import modules of ``folder`` by name; afterwards they are forgotten, for other clones have the same names.

    ``stubs``: packages that their modules import and that are not needed here. Where one is not installed, an empty
    one stands for it.
    """
    before, path = dict(sys.modules), list(sys.path)
    sys.path.insert(0, str(folder))
    stubs = tuple(name for name in stubs if name not in sys.modules and importlib.util.find_spec(name) is None)
    sys.modules.update({name: _Nothing(name) for name in stubs})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield importlib.import_module
    finally:
        own = [name for name, module in sys.modules.items() if name not in before and _lies(module, folder)]
        for name in [*own, *stubs]:
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]
        sys.path[:] = path


def _lies(module: Any, folder: Path) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    return any(place and str(place).startswith(str(folder)) for place in places)


class _Nothing(types.ModuleType):
    """A package in name only."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})  # to be inherited from, or called


@contextlib.contextmanager
def double() -> Iterator[None]:
    """Their tables and states in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Seen:
    """D, with the states at which it was asked kept."""

    def __init__(self, D: Callable[..., Tensor] = D) -> None:
        self.D, self.states = D, list[Tensor]()

    def __call__(self, x: Tensor, sigma: Tensor | float, **cond: Any) -> Tensor:
        self.states.append(x.detach().double().clone())
        return self.D(x, torch.as_tensor(sigma, dtype=torch.float64))


def ours(
    solver: Any,
    levels: list[float],
    schedule: Any = EDM(),  # noqa: B008
    noises: Iterator[Tensor] | None = None,
    denoiser: Any = D,
    corrector: Any = None,
    S_noise: float = 1.0,
    start: Tensor | None = None,
) -> Tensor:
    """A walk over ``levels`` from ``start``, or σ_0 times NOISE, with the ``noises`` as given."""
    dynamics = Dynamics(schedule, denoiser, {}, torch.device("cpu"))
    start = NOISE * levels[0] if start is None else start
    source = iter(noises or ())
    return walk(dynamics, start, dynamics.walk(levels), solver, corrector, S_noise, lambda: next(source))


def drawn(seed: int = 0) -> Iterator[Tensor]:
    """What ``torch.randn_like`` returns, one call after another, after ``torch.manual_seed(seed)``."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(NOISE.shape, generator=generator, dtype=torch.float64)


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference over max(1, the largest entry of b)."""
    return float((a.double() - b.double()).abs().max()) / max(1.0, float(b.abs().max()))
