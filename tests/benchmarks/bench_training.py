"""What a training step costs beyond the network: optimizer, averages, and the loop around them.

    python tests/benchmarks/bench_training.py [--steps 8] [--batch 8]
    python tests/benchmarks/bench_training.py --steps 30 --batch 256 --device cuda --precision bfloat16 --channels-last

A DDPM++-like U-Net on 32×32 colour images. The parts are timed in turns within one run, so that what else the machine
does falls on all of them; medians are printed, as shares of the whole step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from edm_unified import schedules
from edm_unified.data import Dataset
from edm_unified.denoisers.preconditioning import EDM
from edm_unified.networks import UNet
from edm_unified.training import Objective
from edm_unified.training.job import Job
from edm_unified.training.loop import train
from edm_unified.training.optimization.ema import HalfLife, Power
from edm_unified.training.parallel import Team
from edm_unified.training.runs.state import TrainState
from edm_unified.training.settings import Training


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--benchmark", action="store_true", help="let cuDNN choose its convolutions by timing them")
    options = parser.parse_args()
    team = Team(torch.device(options.device))
    torch.backends.cudnn.benchmark = options.benchmark
    images = torch.rand(max(64, options.batch), 3, 32, 32) * 2 - 1
    settings = Training(images=10**9, batch=options.batch, log_every=10**12, save_every=10**12, sample_every=10**12,
                        snapshot_every=10**12, precision=options.precision,
                        channels_last=options.channels_last, compile=options.compile)  # fmt: skip
    job = Job(
        UNet(channels=options.channels), EDM(), Objective(), schedules.EDM(), settings, Dataset(images, None, "noise")
    )
    state = TrainState.start(job, team)
    network = state.trainee.network
    number = sum(p.numel() for p in network.parameters())
    averages = {"half_life": HalfLife().build(network), "power, two": Power().build(network)}

    def timed(work: Callable[[], object]) -> float:
        if team.device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if team.device.type == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - began)

    steps = train(job, state, team)
    x = images[: options.batch].to(team.device)
    if options.channels_last:
        x = x.to(memory_format=torch.channels_last)
    sigma = torch.ones(options.batch, dtype=torch.float64, device=team.device)
    cast = torch.autocast(team.device.type, getattr(torch, options.precision), enabled=options.precision != "float32")

    def network_alone() -> None:
        with cast:
            loss = state.trainee.denoiser(x, sigma).square().mean()
        loss.backward()

    def several() -> None:
        for _ in range(5):
            next(steps)

    times: dict[str, list[float]] = {}
    for turn in range(options.steps + 2):
        parts = {
            "step": lambda: next(steps),
            "forward and backward": network_alone,
            "optimizer": state.optimizer.step,
            **{f"average ({name})": lambda a=a: a.update(10**6, options.batch) for name, a in averages.items()},
        }
        for name, work in parts.items():
            value = timed(work)
            if turn >= 2:
                times.setdefault(name, []).append(value)
    step = statistics.median(times["step"])
    if team.device.type == "cuda":  # in a row: the next step is launched while this one is computed
        times["step, of five in a row"] = [timed(several) / 5 for _ in range(options.steps // 5)]
    print(f"{number / 1e6:.1f} M parameters, batch {options.batch}, {options.device}, {options.precision}, "
          f"torch {torch.__version__}, {torch.get_num_threads()} threads")  # fmt: skip
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:<24}{median:10.2f} ms  {100 * median / step:6.1f} %")


if __name__ == "__main__":
    main()
