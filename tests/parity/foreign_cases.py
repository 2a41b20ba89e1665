"""The cases of :mod:`foreign_files`: small networks of each library."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from authors_repos import clone, importable
from foreign_files import Case, persistent, pickled
from torch import Tensor, nn

import edm_unified as edm

LABEL = (1, 3)


@contextlib.contextmanager
def code(repository: str, inner: str = "", stubs: tuple[str, ...] = ()) -> Iterator[Callable[[str], Any]]:
    with importable(clone(repository) / inner, stubs) as load:
        yield load


# -- EDM and EDM2 ----------------------------------------------------------------------------------------------------


def one_hot(label: Tensor | None, classes: int) -> Tensor | None:
    return None if label is None else nn.functional.one_hot(label, classes).float()


def edm_case(outer: str, inner: str, said: dict[str, Any], classes: int = 0, augment: int = 0, **options: Any) -> Case:
    arguments = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]} | options
    whole = arguments | {"label_dim": classes} | ({"augment_dim": augment} if augment else {})

    def theirs() -> tuple[nn.Module, Callable[..., Tensor]]:
        with code("NVlabs/edm", stubs=("psutil",)) as load:
            load("torch_utils.persistence")._check_pickleable = lambda _: None
            net = getattr(load("training.networks"), outer)(8, 3, model_type=inner, **whole)
        # by name too: a file of theirs in which the object is one of their own classes
        return net.model, lambda x, sigma, label=None: net(x, sigma, one_hot(label, classes))

    def save(weights: dict[str, Tensor], folder: Path) -> Path:
        outputs = 6 if outer == "iDDPMPrecond" else 3
        made = persistent(inner, weights, "raise SystemExit", _init_args=(), _init_kwargs=arguments | {
            "img_resolution": 8, "in_channels": 3, "out_channels": outputs, "label_dim": classes,
            "augment_dim": augment,
        })  # fmt: skip
        around = persistent(outer, {}, "raise SystemExit", img_resolution=8, **said)
        around.state["_modules"] = {"model": made}
        return pickled(
            folder / "network-snapshot.pkl", {"ema": around, "dataset_kwargs": {"use_labels": bool(classes)}}
        )

    fixed = ("resample_filter", "freqs")
    return Case("NVlabs/edm", (3, 8, 8), theirs, save, label=LABEL if classes else None,
                constant=lambda name: name.endswith(fixed),
                close=4e-5 if outer == "VPPrecond" else 1e-5)  # its steps up to 999 are in float32  # fmt: skip


def edm2_case(classes: int) -> Case:
    arguments = {
        "model_channels": 16,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
        "channels_per_head": 16,
    }

    def theirs() -> tuple[nn.Module, Callable[..., Tensor]]:
        with code("NVlabs/edm2", stubs=("psutil",)) as load:
            load("torch_utils.persistence")._check_pickleable = lambda _: None
            net = load("training.networks_edm2").Precond(8, 4, classes, use_fp16=False, **arguments)
        return net.unet, lambda x, sigma, label=None: net(x, sigma, one_hot(label, classes))

    def save(weights: dict[str, Tensor], folder: Path) -> Path:
        made = persistent("UNet", weights, "raise SystemExit", _init_args=(), _init_kwargs=arguments | {
            "img_resolution": 8, "img_channels": 4, "label_dim": classes,
        })  # fmt: skip
        around = persistent("Precond", {}, "raise SystemExit", sigma_data=0.5)
        around.state["_modules"] = {"unet": made}
        return pickled(folder / "edm2.pkl", {"ema": around})

    return Case("NVlabs/edm2", (4, 8, 8), theirs, save, label=LABEL if classes else None,
                constant=lambda name: "emb_fourier" in name)  # fmt: skip


NCSNPP: dict[str, Any] = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
SKIPS: dict[str, Any] = {"encoder_type": "skip", "decoder_type": "skip"}
EDM = {
    "EDM: DDPM++, VP": edm_case(
        "VPPrecond", "SongUNet", {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5}
    ),
    "EDM: NCSN++, VE": edm_case("VEPrecond", "SongUNet", {"sigma_min": 0.02, "sigma_max": 100}, **NCSNPP),
    "EDM: skips, EDM": edm_case("EDMPrecond", "SongUNet", {"sigma_data": 0.6}, 5, 9, sigma_data=0.6, **SKIPS),
    "EDM: ADM, iDDPM": edm_case(
        "iDDPMPrecond", "DhariwalUNet", {"C_1": 0.001, "C_2": 0.008, "M": 1000}, 5, 9, model_channels=64
    ),
    "EDM2": edm2_case(0),
    "EDM2 with classes": edm2_case(5),
}

# -- state dicts -----------------------------------------------------------------------------------------------------


def epsilon(net: Any, channels: int, table: edm.schedules.BetaTable, **kwargs: Any) -> Callable[..., Tensor]:
    """D of ε-prediction on a table of betas, by its definition, told the step between two levels linearly in ln σ."""
    levels = table.sigmas.log()

    def D(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        k = torch.searchsorted(levels, sigma.log()).clamp(1, len(levels) - 1)
        step = k - (levels[k] - sigma.log()) / (levels[k] - levels[k - 1])
        given = kwargs | ({} if label is None else {"y": label})
        sigma = sigma[:, None, None, None]
        out = net((x / (1 + sigma**2) ** 0.5).float(), step.float(), **given)
        return x - sigma * out[:, :channels].double()

    return D


def flow(velocity: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """D of a velocity x_1 − x_0 at x_t = t x_1 + (1 − t) x_0, x_0 the noise: x_1 = x_t + (1 − t) v."""

    def D(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        t = 1 / (1 + sigma)
        x_t, rest = x * t[:, None, None, None], (1 - t)[:, None, None, None]
        return x_t + rest * velocity(x_t.float(), t.float(), label).double()

    return D


def saved(name: str, around: Callable[[dict[str, Tensor]], Any] = lambda weights: weights) -> Callable[..., Path]:
    def save(weights: dict[str, Tensor], folder: Path) -> Path:
        torch.save(around(weights), folder / name)
        return folder / name

    return save


def adm_case(
    repository: str, module: str, asked: dict[str, Any], classes: int = 0, betas: str = "linear", **options: Any
) -> Case:
    whole = {
        "in_channels": 3,
        "model_channels": 32,
        "num_res_blocks": 1,
        "attention_resolutions": (2,),
        "channel_mult": (1, 2),
    }
    whole |= options | ({"num_classes": classes} if classes else {})
    if repository.endswith("guided-diffusion"):
        whole["image_size"] = 8

    def theirs() -> tuple[nn.Module, Callable[..., Tensor]]:
        with code(repository, stubs=("blobfile", "mpi4py")) as load:
            net = load(module).UNetModel(**whole)
        return net, epsilon(net, 3, edm.schedules.BetaTable(betas))  # type: ignore[arg-type]

    if betas != "linear":
        asked = asked | {"convention": edm.preconditioning.DDPM(betas=betas)}  # type: ignore[arg-type]
    return Case(
        repository,
        (3, 8, 8),
        theirs,
        saved("ema_0.9999_500000.pt"),
        asked | {"shape": (3, 8, 8)},
        LABEL if classes else None,
    )


def meta(classes: int, **options: Any) -> Case:
    """As their training saves it: the wrapper's average is what is to be read."""
    whole = {"in_channels": 3, "out_channels": 3, "model_channels": 32, "num_res_blocks": 1,
             "attention_resolutions": [2], "channel_mult": [2, 2], "use_scale_shift_norm": True,
             "use_new_attention_order": True,
             "num_classes": classes or None} | options  # fmt: skip

    def theirs() -> tuple[nn.Module, Callable[..., Tensor]]:
        with code("facebookresearch/flow_matching", "examples/image") as load:
            net = load("models.unet").UNetModel(**whole)
        return net, flow(lambda x, t, label: net(x, t, {} if label is None else {"label": label}))

    def around(weights: dict[str, Tensor]) -> Any:
        raw = {f"model.{name}": torch.zeros_like(value) for name, value in weights.items()}
        shadow = {f"shadow_params.{i}": value for i, value in enumerate(weights.values())}
        return {
            "model": raw | {"num_updates": torch.tensor(3)} | shadow, "optimizer": {}, "lr_schedule": {}, "epoch": 1,
            "args": argparse.Namespace(dataset="cifar10"),
        }  # fmt: skip

    fields = {"head_channels": options["num_head_channels"]} if "num_head_channels" in options else {}
    return Case("facebookresearch/flow_matching", (3, 8, 8), theirs, saved("checkpoint.pth", around),
                {"shape": (3, 8, 8), "fields": fields}, LABEL if classes else None)  # fmt: skip


def torchcfm() -> Case:
    def theirs() -> tuple[nn.Module, Callable[..., Tensor]]:
        with code("atong01/conditional-flow-matching", stubs=("ot",)) as load:
            net = load("torchcfm.models.unet.unet").UNetModelWrapper(
                (3, 8, 8), 32, 1, channel_mult=[1, 2], num_heads=4, num_head_channels=32, attention_resolutions="4",
                class_cond=True, num_classes=5,
            )  # fmt: skip
        return net, flow(lambda x, t, label: net(t, x, label))

    def around(weights: dict[str, Tensor]) -> Any:
        raw = {name: torch.zeros_like(value) for name, value in weights.items()}
        return {"net_model": raw, "ema_model": {f"module.{name}": value for name, value in weights.items()}, "step": 3}

    return Case("atong01/conditional-flow-matching", (3, 8, 8), theirs, saved("cfm.pt", around),
                {"shape": (3, 8, 8), "fields": {"head_channels": 32}}, LABEL)  # fmt: skip


def transformer(name: str) -> Case:
    repository = {"DiT": "facebookresearch/DiT", "SiT": "willisma/SiT"}[name]

    def theirs() -> tuple[nn.Module, Callable[..., Tensor]]:
        with code(repository) as load:
            net = getattr(load("models"), name)(
                input_size=8, patch_size=2, in_channels=4, hidden_size=32, depth=2, num_heads=4, num_classes=5
            )
        if name == "DiT":
            return net, epsilon(net, 4, edm.schedules.BetaTable())
        return net, flow(net)

    args = {"path_type": "Linear", "prediction": "velocity"} if name == "SiT" else {}
    save = saved(
        "0400000.pt", lambda weights: {"model": {}, "ema": weights, "opt": {}, "args": argparse.Namespace(**args)}
    )
    return Case(
        repository, (4, 8, 8), theirs, save, {"fields": {"heads": 4}}, (1, 4), lambda key: key == "pos_embed", ("timm",)
    )


def score_sde(name: str, **options: Any) -> Case:
    """As their training saves it: names that begin with ``module.``, and the averages as a list."""
    model = {
        "name": name, "nf": 16, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,), "dropout": 0.0,
        "resamp_with_conv": True, "conditional": True, "fir": False, "fir_kernel": [1, 3, 3, 1], "skip_rescale": True,
        "resblock_type": "biggan", "progressive": "none", "progressive_input": "none", "progressive_combine": "sum",
        "embedding_type": "positional", "init_scale": 0.0, "fourier_scale": 16, "scale_by_sigma": False,
        "nonlinearity": "swish", "sigma_min": 0.01, "sigma_max": 50, "num_scales": 5, "normalization": "GroupNorm",
    } | options  # fmt: skip
    ve = model["embedding_type"] == "fourier"

    def theirs() -> tuple[nn.Module, Callable[..., Tensor]]:
        space = types.SimpleNamespace
        config = space(
            model=space(**model), data=space(image_size=8, num_channels=3, centered=not ve),
            training=space(continuous=True), device="cpu",
        )  # fmt: skip
        with code("yang-song/score_sde_pytorch") as load, compiled_away():
            net = getattr(load(f"models.{name}"), "DDPM" if name == "ddpm" else "NCSNpp")(config)
        if name == "ddpm":
            net.rescaled = False
            return net, epsilon(net, 3, edm.schedules.BetaTable())
        schedule = edm.schedules.VP()

        def D(x: Tensor, sigma: Tensor, label: None = None) -> Tensor:
            s = sigma[:, None, None, None]
            if ve:  # data in [0, 1] and half the σ: the score there, and back
                score = net(((x + 1) / 2).float(), (sigma / 2).float()).double()
                return 2 * ((x + 1) / 2 + (s / 2) ** 2 * score) - 1
            return x - s * net((x / (1 + s**2) ** 0.5).float(), (999 * schedule.time(sigma)).float()).double()

        return net, D

    def around(weights: dict[str, Tensor]) -> Any:
        fixed = [key for key in weights if key == "sigmas" or key.endswith(".0.W")]
        raw = {f"module.{key}": value if key in fixed else torch.zeros_like(value) for key, value in weights.items()}
        shadow = [value for key, value in weights.items() if key not in fixed]
        ema = {"decay": 0.999, "num_updates": 3, "shadow_params": shadow}
        return {"optimizer": {}, "model": raw, "ema": ema, "step": 3}

    return Case(
        "yang-song/score_sde_pytorch", (3, 8, 8), theirs, saved("checkpoint_8.pth", around), {"shape": (3, 8, 8)},
        constant=lambda key: key in ("sigmas", "all_modules.0.W"), close=1e-5 if ve else 4e-5,
    )  # fmt: skip


def lucidrains() -> Case:
    """As the Trainer saves it: the diffusion with its buffers, within ema-pytorch's module."""
    steps = torch.linspace(0, 1, 1001, dtype=torch.float64)
    alpha_bar = (torch.cos((steps + 0.008) / 1.008 * torch.pi / 2) ** 2)[1:] / math.cos(
        0.008 / 1.008 * math.pi / 2
    ) ** 2
    betas = (1 - alpha_bar / torch.cat([steps[1:2] * 0 + 1, alpha_bar[:-1]])).clamp(0, 0.999)
    alpha_bar = torch.cumprod(1 - betas, 0)
    levels = ((1 - alpha_bar) / alpha_bar).log() / 2

    def theirs() -> tuple[nn.Module, Callable[..., Tensor]]:
        stubs = ("accelerate", "ema_pytorch", "pytorch_fid", "tqdm")
        with code("lucidrains/denoising-diffusion-pytorch", stubs=stubs) as load:
            net = load("denoising_diffusion_pytorch.denoising_diffusion_pytorch").Unet(
                8, dim_mults=(1, 2), attn_heads=2, attn_dim_head=8
            )

        def D(x: Tensor, sigma: Tensor, label: None = None) -> Tensor:
            k = torch.searchsorted(levels, sigma.log()).clamp(1, len(levels) - 1)
            step = k - (levels[k] - sigma.log()) / (levels[k] - levels[k - 1])
            c = (1 + sigma[:, None, None, None] ** 2) ** -0.5
            v = net((c * x).float(), step.float()).double()
            return c**2 * x - sigma[:, None, None, None] * c * v

        return net, D

    def around(weights: dict[str, Tensor]) -> Any:
        buffers = {"betas": betas.float(), "loss_weight": alpha_bar.float()}
        raw = {f"online_model.model.{name}": torch.zeros_like(value) for name, value in weights.items()}
        ema = {f"ema_model.model.{name}": value for name, value in weights.items()}
        ema |= {f"ema_model.{name}": value for name, value in buffers.items()}
        return {
            "step": 3, "model": {name.removeprefix("online_"): value for name, value in raw.items()}, "opt": {},
            "ema": raw | ema | {"initted": torch.tensor(True), "step": torch.tensor(3)}, "scaler": None, "version": "2",
        }  # fmt: skip

    return Case(
        "lucidrains/denoising-diffusion-pytorch", (3, 8, 8), theirs, saved("model-1.pt", around), {"shape": (3, 8, 8)},
        close=4e-5,  # the table is saved in float32
    )  # fmt: skip


@contextlib.contextmanager
def compiled_away() -> Iterator[None]:
    """Their resampling is compiled where it is imported; without a compiler it falls back to what it is tested by."""
    from unittest import mock

    with mock.patch("torch.utils.cpp_extension.load", return_value=None):
        yield


GUIDED = functools.partial(adm_case, "openai/guided-diffusion", "guided_diffusion.unet")
IMPROVED = functools.partial(adm_case, "openai/improved-diffusion", "improved_diffusion.unet")
STATES = {
    "improved-diffusion, learned variances": IMPROVED(
        {}, 5, "cosine", num_heads=4, use_scale_shift_norm=True, out_channels=6
    ),
    "improved-diffusion": IMPROVED({"fields": {"heads": 2}}, num_heads=2, out_channels=3),
    "guided-diffusion": GUIDED(
        {"fields": {"head_channels": 32, "new_attention_order": True}}, num_head_channels=32, resblock_updown=True,
        use_scale_shift_norm=True, use_new_attention_order=True, out_channels=6, channel_mult=(1, 1, 2),
    ),
    "flow_matching, CIFAR-10": meta(0, conv_resample=False),
    "flow_matching, ImageNet": meta(5, num_head_channels=32, num_heads=4, resblock_updown=True),
    "torchcfm": torchcfm(),
    "denoising-diffusion-pytorch": lucidrains(),
    "score_sde, NCSN++": score_sde(
        "ncsnpp", embedding_type="fourier", fir=True, progressive_input="residual", scale_by_sigma=True
    ),
    "score_sde, DDPM++": score_sde("ncsnpp", num_scales=1000),
    "score_sde, DDPM": score_sde("ddpm", nf=32),
    "DiT": transformer("DiT"),
    "SiT": transformer("SiT"),
}  # fmt: skip
CASES = EDM | STATES
