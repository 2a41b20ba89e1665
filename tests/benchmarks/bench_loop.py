"""What a sampling loop costs besides its denoiser: microseconds added per evaluation of D, ours and other libraries'.

    python -m pytest tests/benchmarks -n 0 -s          or          python tests/benchmarks/bench_loop.py --only ours
    python tests/benchmarks/bench_loop.py --device cuda

The denoiser is ``x * 0.5``, on (B, 3, 32, 32) in float32, one thread, one core where the system allows it. For each
method

    added = (time of a whole run − evaluations × time of the bare denoiser)/evaluations,

the start-up of the run included. Rounds of all methods are interleaved, so that a busy neighbour slows all of them
alike; each method runs once untimed and then three times in a round, and the least of all is printed: what the machine
can do when it is left alone. At batch 64 memory is the limit: ``floor`` is what the least possible loop adds,
``x = lerp(D(x), x, r)``, one pass that reads two tensors and writes one. ``passes`` counts the operations on whole
tensors that a method adds per evaluation, drawing of noise among them, ``aim`` is 2 + the outputs of D that it keeps,
and × floor is the time at the largest batch in units of the floor. For a method with noise that is nearly all the
drawing, so that the last column leaves it out: the time of a run in which a tensor of normals is at hand.
On a device the host waits for it at the end of each run and not before: what is measured there is mostly how long the
host takes to launch the operations.
This prints; it asserts nothing about time, which depends on the machine.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import edm_unified as edm
from edm_unified import schedules, solvers
from edm_unified.sampling import loop as sampling
from edm_unified.sampling.dynamics import Dynamics
from edm_unified.sampling.levels import Karras

SHAPE = (3, 32, 32)
STEPS = 18
EDM = schedules.EDM()


class Method(NamedTuple):
    library: str
    name: str
    run: Callable[[Callable[..., Tensor], Tensor], object]
    """One whole run from the noise, with the null denoiser that is given."""
    kept: int | None = None
    """Outputs of D that it keeps from step to step."""
    quiet: Callable[[Callable[..., Tensor], Tensor], object] | None = None
    """The same with a tensor of normals that is at hand instead of fresh ones; None where nothing is drawn."""


def null(x: Tensor, sigma: object = None) -> Tensor:
    return x * 0.5


FAMILIES: dict[str, tuple[Any, ...]] = {
    "Runge–Kutta": (solvers.Euler(), solvers.Heun(), solvers.Midpoint(), solvers.RK4()),
    "one evaluation": (solvers.DDIM(), solvers.DDPM(), solvers.EulerMaruyama(), solvers.ReverseDiffusion()),
    "exponential multistep": (
        solvers.DPMSolverPP2M(),
        solvers.DPMSolverPP3M(),
        *(solvers.ExponentialAdams(order=order) for order in (2, 3, 4)),
    ),
    "Adams": (
        *(solvers.LMS(order=order) for order in (2, 4)),
        solvers.IPNDM(),
        solvers.PNDM(),
        solvers.DEIS(),
        solvers.VelocityAdams(),
        solvers.TrigonometricAdams(),
        solvers.ExponentialAdamsNoise(),
    ),
    "single-step exponential": (
        solvers.DPMSolverPP2S(),
        solvers.RES2S(),
        solvers.RES3S(),
        solvers.Krogstad4(),
        solvers.HochbruckOstermann4(),
        solvers.DPMSolver2(),
        solvers.DPMSolver3(),
        solvers.DPMSolverFast(),
    ),
    "UniPC": (solvers.UniPC(p=2), solvers.UniPC(p=3), solvers.UniPC(p=3, corrector=False)),
    "SDE": (
        solvers.DPMSolverPP2MSDE(),
        solvers.DPMSolverPP3MSDE(),
        solvers.DPMSolverPPSDE(),
        *(solvers.SEEDS(order=order) for order in (1, 2, 3)),
        solvers.SASolver(),
        solvers.SASolver(predictor=2, corrector=2),
        solvers.ERSDE(order=2),
        solvers.ERSDE(),
    ),
}


def name_of(solver: Any) -> str:
    fields = [(f.name, getattr(solver, f.name), f.default) for f in dataclasses.fields(solver) if f.name != "kind"]
    changed = ", ".join(f"{name}={value}" for name, value, default in fields if value != default)
    return f"{solver.kind}({changed})" if changed else solver.kind


def kept_by(solver: Any) -> int:
    """Outputs of D kept: those of the past, and for a corrector that ends a step late the one before them too."""
    if isinstance(solver, solvers.UniPC):
        return solver.p
    if isinstance(solver, solvers.SASolver):
        return max(solver.predictor, solver.corrector)
    if hasattr(solver, "most_outputs"):
        return int(solver.most_outputs) - 1
    return evaluations(ours_of(solver, 10), torch.zeros(1, *SHAPE)) // 10


def ours_of(solver: Any, steps: int) -> Method:
    return Method(
        "edm_unified",
        name_of(solver),
        lambda D, noise: edm.sample(D, noise, solver=solver, steps=Karras(n=steps), dtype=torch.float32),
    )


def ours(steps: int) -> list[Method]:
    def method(solver: Any) -> Method:
        grid = Karras(n=steps)

        def run(D: Callable[..., Tensor], noise: Tensor) -> Tensor:
            return edm.sample(D, noise, solver=solver, steps=grid, dtype=torch.float32)

        def quiet(D: Callable[..., Tensor], noise: Tensor) -> Tensor:
            levels = sampling.levels_of(grid, EDM)
            dynamics = Dynamics(EDM, D, {}, noise.device)
            return sampling.walk(
                dynamics, noise * levels[0], dynamics.walk(levels), solver, None, 1.0, lambda: noise, None
            )

        return Method("edm_unified", name_of(solver), run, kept_by(solver), quiet if solver.stochastic else None)

    return [method(solver) for family in FAMILIES.values() for solver in family]


def theirs(steps: int) -> list[Method]:
    """diffusers' nearest methods, driven as its pipelines drive them; ``set_timesteps`` is part of each run."""
    try:
        import diffusers
    except ImportError:
        return []

    def method(name: str, make: Callable[[], Any]) -> Method:
        scheduler = make()

        def run(D: Callable[..., Tensor], noise: Tensor) -> Tensor:
            scheduler.set_timesteps(steps, device=noise.device)
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


def clock(function: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
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


def measure(
    methods: list[Method], batch: int, seconds: float, device: torch.device
) -> tuple[float, float, float, float, list[float]]:
    """µs: the bare denoiser, the least loop, torch.randn, our draw of noise, and what each run adds per evaluation."""
    noise, repeats = torch.randn(batch, *SHAPE, device=device), 18
    source = sampling.NoiseStreams(0, 0, noise.shape, torch.float32, noise.device, sampling.Purpose.STEPS)

    def bare() -> None:
        x = noise
        for _ in range(repeats):
            x = null(x)

    def floor() -> None:
        x = noise
        for _ in range(repeats):
            x = torch.lerp(null(x), x, 0.3)

    def randn() -> None:
        for _ in range(repeats):
            torch.randn(noise.shape, device=device)

    def drawn() -> None:
        for _ in range(repeats):
            source()

    counts = [evaluations(method, noise) for method in methods]
    jobs: list[Callable[[], object]] = [bare, floor, randn, drawn]
    jobs += [lambda m=method: m.run(null, noise) for method in methods]
    best = [float("inf")] * len(jobs)
    with torch.no_grad():
        end, rounds = time.perf_counter() + seconds, 0
        while time.perf_counter() < end or rounds < 3:
            rounds += 1
            for k, job in enumerate(jobs):
                clock(job, device)
                best[k] = min(best[k], *(clock(job, device) for _ in range(3)))
    bare_us, floor_us, randn_us, drawn_us = (1e6 * value / repeats for value in best[:4])
    added = [(1e6 * total - calls * bare_us) / calls for total, calls in zip(best[4:], counts, strict=True)]
    return bare_us, floor_us - bare_us, randn_us, drawn_us, added


CPU = torch.device("cpu")


def table(
    methods: list[Method],
    steps: int = STEPS,
    batches: tuple[int, ...] = (1, 64),
    seconds: float = 20.0,
    device: torch.device = CPU,
) -> str:
    """The whole benchmark as text."""
    methods = usable(methods)
    counts = [evaluations(method, torch.randn(1, *SHAPE)) for method in methods]
    results = [measure(methods, batch, seconds, device) for batch in batches]
    silent = [m._replace(run=m.quiet) for m in methods if m.quiet is not None]
    undrawn = measure(silent, batches[-1], seconds / 3, device)[4]
    without = {m.name: us for m, us in zip(silent, undrawn, strict=True)}
    floor = results[-1][1]
    head = ["library", "method", "evaluations", "passes", "aim", *(f"µs at batch {batch}" for batch in batches)]
    lines = [[*head, "× floor", "without the draw"]]
    for index, name in enumerate(("x * 0.5, the bare denoiser", "lerp, the floor", "randn")):
        lines.append(["torch", name, "1", "1.0", "", *(f"{r[index]:.1f}" for r in results)])
        lines[-1] += [f"{results[-1][index] / floor:.2f}", ""]
    lines.append(["edm_unified", "its draw of noise", "1", "", "", *(f"{r[3]:.1f}" for r in results)])
    lines[-1] += [f"{results[-1][3] / floor:.2f}", ""]
    for i, (method, calls) in enumerate(zip(methods, counts, strict=True)):
        aim = "" if method.kept is None else str(2 + method.kept)
        added = [result[4][i] for result in results]
        lines.append([method.library, method.name, str(calls), f"{passes(method, calls):.1f}", aim])
        lines[-1] += [*(f"{us:.1f}" for us in added), f"{added[-1] / floor:.2f}"]
        lines[-1].append(f"{without[method.name] / floor:.2f}" if method.quiet is not None else "")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "one CPU thread"
    shape = ", ".join(map(str, SHAPE))
    return f"added per evaluation, {steps} steps, (B, {shape}) float32, {where}, torch {torch.__version__}\n{body}"


def pin() -> None:
    """One thread, one core where the system has such a call, and an allocator that keeps the memory it has.

    Left alone, glibc gives the top of the heap back as soon as three tensors of this size are free, and takes it again
    page by page: that costs ten times what the arithmetic does, and hits whichever method frees three at once.
    """
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: as high as it may be
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def all_methods(steps: int) -> list[Method]:
    return [*ours(steps), *theirs(steps), *azulas(steps)]


def test_print_the_cost_of_the_loop() -> None:
    pin()
    print("\n" + table(all_methods(STEPS)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seconds", type=float, default=20.0, help="time to spend at each batch")
    parser.add_argument("--only", choices=("all", "ours"), default="all", help="leave out other libraries")
    parser.add_argument("--device", type=torch.device, default=CPU)
    arguments = parser.parse_args()
    pin()
    chosen = ours(arguments.steps) if arguments.only == "ours" else all_methods(arguments.steps)
    sys.stdout.write(table(chosen, arguments.steps, seconds=arguments.seconds, device=arguments.device) + "\n")
