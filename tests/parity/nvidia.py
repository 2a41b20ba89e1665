"""What the comparisons with NVlabs/edm and NVlabs/edm2 share.

Their code is under a licence for non-commercial use: nothing of it is here, it is read from clones and run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from authors_repos import Absent, clone, importable, place
from torch import Tensor


def modules(repository: str, *names: str) -> tuple[Any, ...]:
    """Modules of the clone of ``repository``; whoever asks is skipped where there is none."""
    with importable(clone(repository), stubs=("psutil",)) as load:  # they report memory by it
        load("torch_utils.persistence")._check_pickleable = lambda _: None  # nothing is pickled here
        return tuple(load(name) for name in names)


def absent_or(repository: str, *names: str) -> tuple[Any, ...]:
    """The same modules, or where there is no clone what skips the test that wants anything of them."""
    return modules(repository, *names) if place(repository) is not None else (Absent(repository),) * len(names)


def filled(module: torch.nn.Module) -> torch.nn.Module:
    """All weights of the order of those of a trained network, those that start at zero included; in float64."""
    with torch.no_grad():
        for p in module.parameters():
            scale, shift = (p[0].numel() ** -0.5, 0.0) if p.ndim > 1 else (0.1, 1.0)
            p.copy_(scale * torch.randn_like(p) + shift * p)
    return module.double().eval()


def fed(monkeypatch: pytest.MonkeyPatch, draws: Iterable[Tensor], *names: str) -> None:
    """Have torch's functions ``names`` (randn, rand, randn_like …) return ``draws``, one at each call."""
    source = iter(draws)

    def draw(first: Any, *args: Any, **kwargs: Any) -> Tensor:
        size = args[0] if isinstance(first, int) else first  # the bound of randint comes before its shape
        shape = size.shape if isinstance(size, Tensor) else torch.Size(size)
        given = next(source)
        assert given.shape == shape, (given.shape, shape)
        return given

    for name in names:
        monkeypatch.setattr(torch, name, draw)
