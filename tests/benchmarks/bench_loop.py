"""What a sampling loop costs besides its denoiser: microseconds added per evaluation of D, ours and other libraries'.

    python -m pytest tests/benchmarks -s          or          python tests/benchmarks/bench_loop.py

The denoiser is ``x * 0.5``, on (B, 3, 32, 32) in float32, one thread, one core where the system allows it. For each
method

    added = (time of a whole run − evaluations × time of the bare denoiser)/evaluations,

the start-up of the run included. Rounds of all methods are interleaved, so that a busy neighbour slows all of them
alike; each method runs once untimed and then three times in a round, and the median of all is printed. At batch 64
memory is the limit: ``floor`` is what the least possible loop adds, ``x = lerp(D(x), x, r)``, one pass that reads two
tensors and writes one. ``passes`` counts the operations on whole tensors that a method adds per evaluation, and the
last column is the time at the largest batch in units of the floor. This prints; it asserts nothing about time, which
depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import edm_unified as edm
from edm_unified import solvers
from edm_unified.discretization import Karras

SHAPE = (3, 32, 32)
STEPS = 18


class Method(NamedTuple):
    library: str
    name: str
    run: Callable[[Callable[..., Tensor], Tensor], object]
    """One whole run from the noise, with the null denoiser that is given."""


def null(x: Tensor, sigma: object = None) -> Tensor:
    return x * 0.5


def ours(steps: int) -> list[Method]:
    def method(solver: Any) -> Method:
        grid = Karras(n=steps)
        name = solver.kind + (f"({solver.order})" if isinstance(solver, solvers.ExponentialAdams) else "")
        return Method(
            "edm_unified", name, lambda D, noise: edm.sample(D, noise, solver=solver, steps=grid, dtype=torch.float32)
        )

    plain = (
        solvers.Euler(),
        solvers.DDIM(),
        solvers.Heun(),
        solvers.Midpoint(),
        solvers.RK4(),
        solvers.DPMSolverPP2M(),
    )
    adams = (solvers.ExponentialAdams(order=2), solvers.ExponentialAdams(order=3))
    return [
        method(solver)
        for solver in (*plain, *adams, solvers.DDPM(), solvers.EulerMaruyama(), solvers.DPMSolverPP2MSDE())
    ]


def theirs(steps: int) -> list[Method]:
    """diffusers' nearest methods, driven as its pipelines drive them; ``set_timesteps`` is part of each run."""
    try:
        import diffusers
    except ImportError:
        return []

    def method(name: str, make: Callable[[], Any]) -> Method:
        scheduler = make()

        def run(D: Callable[..., Tensor], noise: Tensor) -> Tensor:
            scheduler.set_timesteps(steps)
            x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
            for t in scheduler.timesteps:
                scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
                x = scheduler.step(D(scaled, t), t, x, return_dict=False)[0]
            return x

        return Method("diffusers", name, run)

    trailing = {"timestep_spacing": "trailing"}
    return [
        method("euler", lambda: diffusers.EulerDiscreteScheduler(**trailing)),
        method("ddim", lambda: diffusers.DDIMScheduler(clip_sample=False, **trailing)),
        method("heun", lambda: diffusers.HeunDiscreteScheduler(**trailing)),
        method("dpmpp_2m", lambda: diffusers.DPMSolverMultistepScheduler(**trailing)),
        method("flow_euler", lambda: diffusers.FlowMatchEulerDiscreteScheduler()),
        method("ddpm", lambda: diffusers.DDPMScheduler(clip_sample=False, **trailing)),
        method(
            "dpmpp_2m_sde", lambda: diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **trailing)
        ),
    ]


def azulas(steps: int) -> list[Method]:
    """azula's nearest methods, where it is installed."""
    try:
        from azula.denoise import Denoiser, Posterior
        from azula.noise import VPSchedule
        from azula.sample import DDIMSampler, DDPMSampler, HeunSampler
    except ImportError:
        return []

    class Null(Denoiser):  # type: ignore[misc]
        def __init__(self, D: Callable[..., Tensor]) -> None:
            super().__init__()
            self.D, self.schedule = D, VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **_: object) -> Any:
            return Posterior(mean=self.D(x_t), var=torch.zeros(()))

    def method(name: str, sampler: Callable[..., Any]) -> Method:
        return Method("azula", name, lambda D, noise: sampler(Null(D), steps=steps, silent=True)(noise))

    return [method("ddim", DDIMSampler), method("heun", HeunSampler), method("ddpm", DDPMSampler)]


def usable(methods: list[Method]) -> list[Method]:
    """Those that run here: another library's interface may have moved."""
    kept = []
    for method in methods:
        try:
            method.run(null, torch.randn(1, *SHAPE))
            kept.append(method)
        except Exception as error:  # any failure of theirs is a line in the table's head, not ours to handle
            print(f"left out: {method.library} {method.name}: {type(error).__name__}: {error}")
    return kept


def clock(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def evaluations(method: Method, noise: Tensor) -> int:
    calls = 0

    def counting(x: Tensor, sigma: object = None) -> Tensor:
        nonlocal calls
        calls += 1
        return x * 0.5

    method.run(counting, noise)
    return calls


class Passes(TorchDispatchMode):
    """Counts the operations whose result is as large as the state: each of them reads and writes memory once."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        moved = not func.is_view and isinstance(out, Tensor) and out.numel() == self.size
        self.count += moved and not any(out is a for a in args[1:])
        return out


def passes(method: Method, calls: int) -> float:
    """Per evaluation, D's own pass left out."""
    noise = torch.randn(1, *SHAPE)
    with Passes(noise.numel()) as counted:
        method.run(null, noise)
    return counted.count / calls - 1


def measure(methods: list[Method], batch: int, seconds: float) -> list[float]:
    """µs: of the bare denoiser, of the least possible loop per step, and added per evaluation by each method."""
    noise, repeats = torch.randn(batch, *SHAPE), 18

    def bare() -> None:
        x = noise
        for _ in range(repeats):
            x = null(x)

    def floor() -> None:
        x = noise
        for _ in range(repeats):
            x = torch.lerp(null(x), x, 0.3)

    counts = [evaluations(method, noise) for method in methods]
    jobs: list[Callable[[], object]] = [bare, floor, *(lambda m=method: m.run(null, noise) for method in methods)]
    times: list[list[float]] = [[] for _ in jobs]
    with torch.no_grad():
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[0]) < 9:
            for job, kept in zip(jobs, times, strict=True):
                job()
                kept.extend(clock(job) for _ in range(3))
    medians = [statistics.median(kept) * 1e6 for kept in times]
    bare_us = medians[0] / repeats
    added = [(total - calls * bare_us) / calls for total, calls in zip(medians[2:], counts, strict=True)]
    return [bare_us, medians[1] / repeats - bare_us, *added]


def table(steps: int = STEPS, batches: tuple[int, ...] = (1, 64), seconds: float = 4.0) -> str:
    """The whole benchmark as text."""
    methods = usable([*ours(steps), *theirs(steps), *azulas(steps)])
    counts = [evaluations(method, torch.randn(1, *SHAPE)) for method in methods]
    results = [measure(methods, batch, seconds * batch**0.25) for batch in batches]
    names = [("torch", "x * 0.5, the bare denoiser", "1", "1.0"), ("torch", "lerp, the floor", "1", "1.0")]
    for method, calls in zip(methods, counts, strict=True):
        names.append((method.library, method.name, str(calls), f"{passes(method, calls):.1f}"))
    lines = [["library", "method", "evaluations", "passes", *(f"µs at batch {batch}" for batch in batches), "× floor"]]
    for name, added in zip(names, zip(*results, strict=True), strict=True):
        lines.append([*name, *(f"{us:.1f}" for us in added), f"{added[-1] / results[-1][1]:.2f}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return (
        f"added per evaluation, {steps} steps, (B, {', '.join(map(str, SHAPE))}) float32, {torch.__version__}\n{body}"
    )


def pin() -> None:
    """One thread, and one core where the system has such a call."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def test_print_the_cost_of_the_loop() -> None:
    pin()
    print("\n" + table())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seconds", type=float, default=4.0, help="time to spend at batch 1")
    arguments = parser.parse_args()
    pin()
    sys.stdout.write(table(arguments.steps, seconds=arguments.seconds) + "\n")
