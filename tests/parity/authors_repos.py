"""The authors' own code, to be run beside ours: clones under the folder that AUTHORS_REPOS names.

Nothing of theirs is here. A clone is a folder with the repository's name. A test that does not find it takes the
numbers that their code gave (:func:`golden`), or is skipped and says what to clone. Their tables are in the default
type of PyTorch, float32: in float64 (:func:`double`) what is left of a difference is a coefficient and not a rounding.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import os
import sys
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
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


def place(repository: str) -> Path | None:
    """The folder of ``owner/name``, if it is there."""
    root = os.environ.get("AUTHORS_REPOS")
    folder = Path(root or "") / repository.rpartition("/")[2]
    return folder if root and folder.is_dir() else None


def clone(repository: str) -> Path:
    """The folder of ``owner/name``, or the test is skipped."""
    folder = place(repository)
    if folder is None:
        root, name = os.environ.get("AUTHORS_REPOS"), repository.rpartition("/")[2]
        where = f"{root}/{name}" if root else f"a folder {name} and set AUTHORS_REPOS to the one above it"
        pytest.skip(f"needs the authors' code: clone github.com/{repository} to {where}", allow_module_level=True)
    return folder


class Absent:
    """In place of a module of a clone that is not there: the test that wants anything of it is skipped."""

    def __init__(self, repository: str) -> None:
        self.__dict__["repository"] = repository

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return clone(self.repository)


def loaded(repository: str, *names: str, stubs: tuple[str, ...] = ()) -> Any:
    """The modules ``names`` of a clone, or :class:`Absent` ones; of one name, the one."""
    folder = place(repository)
    if folder is None:
        found = [Absent(repository) for _ in names]
    else:
        with importable(folder, stubs) as load:
            found = [load(name) for name in names]
    return found if len(names) > 1 else found[0]


# -- their numbers, kept -------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).with_name("golden_authors.npz")
"""What functions under :func:`golden` returned in each test; ``make_golden.py`` writes it."""
made: dict[str, Any] = {}
"""What they returned in this process, where the clones are there."""


def golden(repository: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For a function that runs their code and returns numbers: tensors, floats, and lists and tuples of these.

    With the clone it runs. Without, it returns what it did where the clone was, in the same test at the same call.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def numbers(*args: Any, **kwargs: Any) -> Any:
            key = _key()
            if place(repository) is not None:
                made[key] = function(*args, **kwargs)
                return made[key]
            kept = _kept()
            return _restored(*kept[key]) if key in kept else clone(repository)

        return numbers

    return wrap


_calls: Counter[str] = Counter()


def _key() -> str:
    """File, test and parameters, and which call this is in the run of that test."""
    file, _, name = os.environ["PYTEST_CURRENT_TEST"].rpartition(" (")[0].partition("::")
    test = f"{file.rpartition('/')[2]}::{name}"
    for other in [name for name in _calls if name != test]:
        del _calls[other]
    _calls[test] += 1
    return f"{test} {_calls[test]}"


@functools.cache
def _kept() -> dict[str, tuple[Any, np.ndarray]]:
    with np.load(GOLDEN) as file:
        numbers, index = file["numbers"], json.loads(file["index"].tobytes())
    return {key: (form, numbers[first:last]) for key, (form, first, last) in index.items()}


def keep(found: dict[str, Any], files: Iterable[str]) -> None:
    """Write :data:`GOLDEN`: all numbers one after another, and for each key their form and places.

    What is there of other ``files`` of tests than these stays.
    """
    others = {key: _restored(*kept) for key, kept in _kept().items() if key.partition("::")[0] not in set(files)}
    found = others | found
    numbers, index = list[float](), {}
    for key in sorted(found):
        first = len(numbers)
        form = _form(found[key], numbers)
        index[key] = form, first, len(numbers)
    np.savez_compressed(GOLDEN, numbers=np.array(numbers), index=np.frombuffer(json.dumps(index).encode(), np.uint8))


def _form(value: Any, numbers: list[float]) -> Any:
    """null for a number, {"shape": …} for a tensor, a list of forms for a list or tuple."""
    if isinstance(value, Tensor):
        numbers += value.double().flatten().tolist()
        return {"shape": list(value.shape)}
    if isinstance(value, (list, tuple)):
        return [_form(item, numbers) for item in value]
    numbers.append(float(value))
    return None


def _restored(form: Any, numbers: np.ndarray) -> Any:
    source = iter(numbers.tolist())

    def restore(form: Any) -> Any:
        if isinstance(form, list):
            return [restore(item) for item in form]
        if form is None:
            return next(source)
        count = int(np.prod(form["shape"]))
        return torch.tensor([next(source) for _ in range(count)], dtype=torch.float64).reshape(form["shape"])

    return restore(form)


# -- running them ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def importable(folder: Path, stubs: tuple[str, ...] = ()) -> Iterator[Callable[[str], Any]]:
    """Import modules of ``folder`` by name; afterwards they are forgotten, for other clones have the same names.

    ``stubs``: packages that their modules import and that are not needed here. Where one is not installed, an empty
    one stands for it.
    """
    before, path = dict(sys.modules), list(sys.path)
    sys.path.insert(0, str(folder))
    _uncover(folder)
    stubs = tuple(name for name in stubs if name not in sys.modules and importlib.util.find_spec(name) is None)
    sys.modules.update({name: _Nothing(name) for name in stubs})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield importlib.import_module
    finally:
        own = [name for name, module in sys.modules.items() if before.get(name) is not module and _lies(module, folder)]
        for name in [*own, *stubs]:
            sys.modules.pop(name, None)
        sys.modules.update({name: module for name, module in before.items() if sys.modules.get(name) is not module})
        sys.path[:] = path


def _uncover(folder: Path) -> None:
    """A folder of theirs without ``__init__.py`` (``datasets``) gives way to an installed package of that name."""
    for place in folder.iterdir():
        if next(place.glob("*.py"), None) and not (place / "__init__.py").exists():
            for name in [name for name in sys.modules if name.partition(".")[0] == place.name]:
                del sys.modules[name]
            sys.modules[place.name] = types.ModuleType(place.name)
            sys.modules[place.name].__path__ = [str(place)]


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


def some(states: list[Tensor]) -> list[Tensor]:
    """Twenty of many states, the first and the last among them: enough to be kept."""
    return [states[i] for i in torch.linspace(0, len(states) - 1, min(20, len(states))).long().tolist()]


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
