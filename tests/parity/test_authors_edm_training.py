"""EDM's training and ours: its own loop run beside ours on one data set, and the settings of every published network.

The settings are those that train.py of NVlabs/edm makes of the options in its README, and the presets of NVlabs/edm2.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
import shlex
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia import fed, modules
from test_authors_edm_networks import put_network
from torch import Tensor, nn

from edm_unified.data import BYTES
from edm_unified.denoisers.preconditioning import EDM
from edm_unified.networks import EDM2, UNet
from edm_unified.recipe import Recipe, loads
from edm_unified.training import augment, random_numbers
from edm_unified.training.batches import Reader
from edm_unified.training.loop import train
from edm_unified.training.objective import LearnedUncertainty, LogNormal
from edm_unified.training.optimization.ema import HalfLife, Power
from edm_unified.training.optimization.optimizers import Adam
from edm_unified.training.optimization.rates import Constant, InverseSquareRoot
from edm_unified.training.parallel import Team
from edm_unified.training.random_numbers import TrainingPurpose
from edm_unified.training.runs.state import TrainState

loop, command, networks, losses = modules(
    "NVlabs/edm", "training.training_loop", "train", "training.networks", "training.loss"
)
edm2_command, edm2_loop, phema = modules("NVlabs/edm2", "train_edm2", "training.training_loop", "training.phema")

RECIPE = """
title: "Six steps"
source: nobody
data: {kind: arrays, path: PATH, key: images, label_key: labels}
network: {kind: unet, channels: 16, multipliers: [1, 2], blocks: 1, attention_resolutions: [8], dropout: 0.0}
preconditioning: {kind: edm, sigma_data: 0.5}
objective: {noise: {kind: log_normal, P_mean: -1.2, P_std: 1.2}, weight: {kind: edm, sigma_data: 0.5}}
training:
  images: 96
  batch: 16
  conditional: true
  optimizer: {kind: adam, lr: 1.0e-3, eps: 1.3020833e-11}     # 1e-8 over 3·16·16 entries
  rate: {kind: constant, ramp_up: 48}
  ema: {kind: half_life, images: 40, ramp_up: 0.5}
schedule: {kind: edm}
sampler: {steps: {kind: karras, n: 6}, solver: {kind: heun}}
"""
CPU = Team(torch.device("cpu"))


def their_loop(patch: pytest.MonkeyPatch, out: Path, net: Any, data: list[Any], noises: list[Tensor]) -> Any:
    """Run ``training_loop`` on the CPU from ``net``, which learns, and return the average."""
    average: list[Any] = []

    def constructed(class_name: str, **options: Any) -> Any:
        if class_name == "loss":
            return told
        return data if class_name == "data" else net if class_name == "net" else torch.optim.Adam(**options)

    def told(**inputs: Any) -> Tensor:
        with pytest.MonkeyPatch.context() as inner:
            fed(inner, [noises.pop(0), noises.pop(0)], "randn", "randn_like")
            found: Tensor = losses.EDMLoss()(**inputs)
        return found

    def copied(net: Any) -> Any:
        average.append(copy.deepcopy(net))
        return average[0]

    nothing = types.SimpleNamespace(rss=0)
    patch.setattr(loop.dnnlib.util, "construct_class_by_name", constructed)
    patch.setattr(loop.misc, "InfiniteSampler", lambda dataset, **options: range(len(dataset)))
    patch.setattr(loop.misc, "print_module_summary", lambda *args, **options: None)
    patch.setattr(loop, "copy", types.SimpleNamespace(deepcopy=copied))
    process = types.SimpleNamespace(memory_info=lambda: nothing)
    patch.setattr(loop, "psutil", types.SimpleNamespace(Process=lambda pid: process))
    patch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda net, device_ids: net)
    for name in ("max_memory_allocated", "max_memory_reserved"):
        patch.setattr(torch.cuda, name, lambda device: 0)
    patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    loop.training_loop(
        run_dir=str(out), batch_size=16, total_kimg=0.096, ema_halflife_kimg=0.04, ema_rampup_ratio=0.5,
        lr_rampup_kimg=0.048, snapshot_ticks=None, state_dump_ticks=None, device=torch.device("cpu"),
        dataset_kwargs={"class_name": "data"}, network_kwargs={"class_name": "net"}, loss_kwargs={"class_name": "loss"},
        optimizer_kwargs={"class_name": "adam", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8},
    )  # fmt: skip
    return average[0]


class Pictures(list[Any]):
    resolution, num_channels, label_dim = 16, 3, 10


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # they leave a file open
def test_six_steps_of_both_training_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images, noise levels and noise: Adam, the ramp of the rate and the average end at the same weights."""
    g = np.random.default_rng(0)
    file = tmp_path / "data.npz"
    np.savez(file, images=g.integers(0, 256, (64, 3, 16, 16), dtype=np.uint8), labels=np.arange(64) % 10)
    job = loads(RECIPE.replace("PATH", str(file)), "six").job()  # type: ignore[union-attr]
    assert job.dataset.scaling == BYTES
    net = networks.EDMPrecond(
        16, 3, 10, model_type="SongUNet", model_channels=16, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[8],
        dropout=0.0,
    )  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    state = TrainState.start(job, CPU)
    put_network(state.trainee.network, net.model, 16)

    data, noises = Pictures(), []
    with Reader(job, CPU) as reader:
        for step in range(6):
            x0, labels = reader(step, 0)
            assert labels is not None
            one_hot = nn.functional.one_hot(labels, 10).float().numpy()
            data += list(zip((x0 * 127.5 + 127.5).round().byte().numpy(), one_hot, strict=True))
            u = random_numbers.uniforms((0, TrainingPurpose.LEVELS, step), 16)
            noises += [torch.special.ndtri(u).float().view(-1, 1, 1, 1)]
            noises += [
                random_numbers.normals((0, TrainingPurpose.NOISE, step), 0, 16, (3, 16, 16), torch.device("cpu"), 16)
            ]

    before = [p.detach().clone() for p in state.trainee.network.parameters()]
    assert [p.step for p in train(job, state, CPU)][-1] == 6
    average = their_loop(monkeypatch, tmp_path, net, data, noises)
    mapped = job.network.build((3, 16, 16), 10)
    for mine, theirs in (
        (state.trainee.network.state_dict(), net.model),
        (state.averages.weights()[0][1], average.model),
    ):
        put_network(mapped, theirs, 16)
        moved = torch.cat([(p - b).flatten() for p, b in zip(mapped.parameters(), before, strict=True)]).detach()
        apart = torch.cat([(mine[name] - p).flatten() for name, p in mapped.named_parameters()]).detach()
        assert moved.std() > 5e-4  # of six steps of at most 1e-3
        share = float((apart.abs() > 1e-3 * moved.abs()).float().mean())
        assert share < 0.01  # the rest have gradients of the size of roundings, whose signs Adam follows


def published(row: str) -> dict[str, Any]:
    """What train.py would train with the options that the README gives for that network."""
    readme = (Path(loop.__file__).parents[1] / "README.md").read_text("utf-8").replace("&#8209;", "-")
    (options,) = re.findall(rf"<sub>{row}</sub>.*`(.*)`</sub>$", readme, re.M)
    side = int(row.split("x")[1].split("-")[0])

    class Files:
        name, resolution, has_labels = row, side, True

        def __len__(self) -> int:
            return 1

    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.multiprocessing, "set_start_method", lambda method: None)
        patch.setattr(command.dist, "init", lambda: None)
        patch.setattr(command.dist, "print0", lambda *text: lines.append(" ".join(map(str, text))))
        patch.setattr(command.dnnlib.util, "construct_class_by_name", lambda **options: Files())
        arguments = ["--outdir=x", "--data=y", "--nosubdir", "--seed=0", "--dry-run", *shlex.split(options)]
        command.main.main(arguments, standalone_mode=False)
    found: dict[str, Any] = json.loads(next(line for line in lines if line.startswith("{")))
    return found


def mean_of(eps: float, entries: int) -> float:
    """Adam's eps for the gradient of a mean, to the digits of the recipes; theirs is for that of a sum."""
    return float(f"{eps / entries:.4g}")


ROWS = {
    "cifar10_f_vp": "cifar10-32x32-uncond-vp",
    "cifar10_f_ve": "cifar10-32x32-uncond-ve",
    "ffhq64_vp": "ffhq-64x64-uncond-vp",
    "ffhq64_ve": "ffhq-64x64-uncond-ve",
    "afhqv2_64_vp": "afhqv2-64x64-uncond-vp",
    "afhqv2_64_ve": "afhqv2-64x64-uncond-ve",
    "imagenet64_adm": "imagenet-64x64-cond-adm",
}


@pytest.mark.parametrize("name", ROWS)
def test_the_settings_of_the_published_networks(name: str) -> None:
    theirs, recipe = published(ROWS[name]), Recipe.load(f"train/{name}")
    defaults = {key: p.default for key, p in inspect.signature(loop.training_loop).parameters.items()}
    side, classes = int(ROWS[name].split("x")[1].split("-")[0]), 1000 if "-cond-" in ROWS[name] else 0
    adam, ours = theirs["optimizer_kwargs"], recipe.training
    assert ours is not None
    assert ours.optimizer == Adam(adam["lr"], *adam["betas"], eps=mean_of(adam["eps"], 3 * side**2))
    assert ours.rate == Constant(ramp_up=defaults["lr_rampup_kimg"] * 1000)
    assert ours.ema == HalfLife(theirs["ema_halflife_kimg"] * 1000, defaults["ema_rampup_ratio"])
    assert (ours.batch, ours.images, ours.clip) == (theirs["batch_size"], theirs["total_kimg"] * 1000, None)
    assert ours.conditional == theirs["dataset_kwargs"]["use_labels"] == bool(classes)
    assert not theirs["dataset_kwargs"]["xflip"]
    pipe = theirs.get("augment_kwargs")
    assert ours.augment == (None if pipe is None else augment.EDM(pipe["p"]))
    network = theirs["network_kwargs"]
    assert ours.precision == ("float16" if network["use_fp16"] else "float32")
    assert isinstance(recipe.network, UNet)
    assert recipe.network.dropout == network["dropout"]
    assert network.pop("class_name") == "training.networks.EDMPrecond"
    with torch.device("meta"):  # the same structure, or the weights would not fit
        built = networks.EDMPrecond(img_resolution=side, img_channels=3, label_dim=classes, **network)
        put_network(recipe.network.build((3, side, side), classes, 9 if pipe else 0), built.model, side)
    told, loss = losses.EDMLoss(), recipe.objective
    assert loss is not None
    assert loss.noise == LogNormal(told.P_mean, told.P_std)
    assert recipe.preconditioning == EDM(built.sigma_data)


def test_the_settings_of_edm2_xs() -> None:
    with pytest.MonkeyPatch.context() as patch:
        files = types.SimpleNamespace(num_channels=8, has_labels=True)
        patch.setattr(edm2_command.dnnlib.util, "construct_class_by_name", lambda **options: files)
        theirs = edm2_command.setup_training_config("edm2-img512-xs", data="x")
    defaults = {key: p.default for key, p in inspect.signature(edm2_loop.training_loop).parameters.items()}
    rate = {key: p.default for key, p in inspect.signature(edm2_loop.learning_rate_schedule).parameters.items()}
    recipe = Recipe.load("train/edm2_xs_latents")
    ours, (beta1, beta2) = recipe.training, defaults["optimizer_kwargs"]["betas"]
    assert ours is not None
    assert ours.optimizer == Adam(theirs.lr_kwargs.ref_lr, beta1, beta2, eps=mean_of(1e-8, 4 * 64 * 64))
    ramp_up = round(rate["rampup_Mimg"] * 1e6)
    assert ours.rate == InverseSquareRoot(theirs.lr_kwargs.ref_batches * theirs.batch_size, ramp_up)
    assert ours.ema == Power(tuple(phema.PowerFunctionEMA(nn.Linear(1, 1)).stds))
    assert (ours.batch, ours.images, ours.clip) == (theirs.batch_size, theirs.total_nimg, None)
    assert ours.conditional == theirs.dataset_kwargs.use_labels
    assert ours.label_dropout == 0
    assert ours.augment is None
    assert theirs.network_kwargs.use_fp16
    assert ours.precision == "float16"
    assert recipe.network == EDM2(channels=theirs.network_kwargs.model_channels, dropout=theirs.network_kwargs.dropout)
    assert recipe.objective is not None
    assert recipe.objective.noise == LogNormal(theirs.loss_kwargs.P_mean, theirs.loss_kwargs.P_std)
    assert recipe.objective.uncertainty == LearnedUncertainty()


def test_the_sizes_of_edm2_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text("utf-8")
    for size in ("xxs", "xs", "s", "m", "l", "xl", "xxl"):
        preset = edm2_command.config_presets[f"edm2-img512-{size}"]
        assert f"| {size.upper()} | {preset.channels} | {preset.dropout:g} |" in page
