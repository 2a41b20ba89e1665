"""Walks as CUDA graphs: everything that a run launches on a GPU, launched at once.

A small network keeps a GPU waiting: each of its kernels is launched by the host, one after the other. Where all levels
are fixed before the run starts, its kernels are the same ones in every batch. They are recorded once and replayed:

    graphs = edm.Graphs()
    for first in range(0, 50_000, 64):
        x = edm.sample(D, edm.unit_noise(64, shape, first=first).to("cuda"), first=first, graphs=graphs)

The first run of its settings and shape is an ordinary one, the second is recorded, and all later ones are replayed.
Noise is drawn as ever, by sample, and copied to where the recorded run reads it, so samples do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edm_unified.sampling.solvers import Randn

Take = Callable[[Tensor, Mapping[str, object], Randn], Tensor]
"""A whole walk: from its start, by what else it is given and a source of noise to its end."""


class _Recorded(NamedTuple):
    """A recorded walk, and the tensors that it reads and writes, which stay where they are.

    ``take`` has the levels, whose tensors are read too.
    """

    replay: Callable[[], object]
    take: Take
    start: Tensor
    given: Mapping[str, object]
    draws: list[Tensor]
    end: Tensor


class Graphs:
    """The recorded walks of **one denoiser**, by settings and shape; they hold its memory until they are let go.

    The weights of the denoiser are read where they are: they may be changed in place between runs, not moved.
    """

    def __init__(self) -> None:
        self._first: dict[Hashable, list[Tensor]] = {}
        self._recorded: dict[Hashable, _Recorded] = {}
        self._pool: Any = None

    def __len__(self) -> int:
        """How many walks are recorded."""
        return len(self._recorded)

    def run(
        self, settings: Iterable[object], take: Take, start: Tensor, given: Mapping[str, object], randn: Randn
    ) -> Tensor:
        """The end of the walk ``take``: taken, or replayed where one of these settings and shapes is recorded.

        Raises ``ValueError`` where the walk does what cannot be recorded, such as waiting for the device.
        """
        _check(start)
        named = tuple((name, _kind(value)) for name, value in sorted(given.items()))
        key = (*map(_kind, settings), _kind(start), named)
        if key not in self._first:  # an ordinary run: it compiles, finds its algorithms, and tells what it draws
            draws: list[Tensor] = []

            def drawing() -> Tensor:
                draws.append(randn())
                return draws[-1]

            end = take(start, given, drawing)
            self._first[key] = draws
            return end
        if key not in self._recorded:
            own = {name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()}
            self._recorded[key] = self._record(take, start.clone(), own, self._first[key])
        recorded = self._recorded[key]
        recorded.start.copy_(start)
        for name, value in recorded.given.items():
            if isinstance(value, Tensor):
                value.copy_(given[name])  # type: ignore[arg-type]  # of the same kind: the key says so
        for draw in recorded.draws:
            draw.copy_(randn(), non_blocking=True)
        recorded.replay()
        return recorded.end.clone()

    def _record(self, take: Take, start: Tensor, given: Mapping[str, object], draws: list[Tensor]) -> _Recorded:
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        turns = iter(draws)
        try:
            torch.cuda.synchronize(start.device)
            with torch.cuda.graph(graph, pool=self._pool):
                end = take(start, given, lambda: next(turns))
        except RuntimeError as error:
            raise ValueError(
                "graphs: the run cannot be recorded as a CUDA graph, since its denoiser or solver waits for the device "
                f"or copies from the host ({str(error).splitlines()[0]}); leave graphs out"
            ) from None
        return _Recorded(graph.replay, take, start, given, draws, end)


def _check(start: Tensor) -> None:
    if start.device.type != "cuda":
        raise ValueError(f"graphs: walks are recorded on a CUDA device, and the noise is on {start.device}")


def _kind(value: object) -> Hashable:
    """What of a value is fixed in a recorded walk: of a tensor its shape, type and device."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, value.device
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value
