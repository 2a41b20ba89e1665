"""Folders that diffusers saves, read here: D at ten levels is that of diffusers' own schedulers and networks.

The networks are real classes with small random weights. Every scheduler computes in float32.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

import edm_unified as edm

diffusers = pytest.importorskip("diffusers", reason="folders of diffusers are read with diffusers")
SMALL = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}


def unet(**more: Any) -> Any:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return diffusers.UNet2DModel(in_channels=2, out_channels=2, **blocks, **SMALL, **more)


def dit(**more: Any) -> Any:
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=2, out_channels=4, num_layers=1, sample_size=8,
        num_embeds_ada_norm=5, patch_size=2, **more,
    )  # fmt: skip


def conditioned() -> Any:
    return diffusers.UNet2DConditionModel(
        in_channels=2, out_channels=2, cross_attention_dim=8, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **SMALL,
    )  # fmt: skip


def sd3() -> Any:
    return diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=2, num_layers=1, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=8, caption_projection_dim=8, pooled_projection_dim=8, out_channels=2, pos_embed_max_size=8,
    )  # fmt: skip


def flux() -> Any:
    return diffusers.FluxTransformer2DModel(
        in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, guidance_embeds=True, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip


def saved(folder: Path, network: Any, scheduler: Any, part: str = "unet") -> Path:
    """A folder as a pipeline is saved."""
    torch.manual_seed(0)
    for weight in network.parameters():  # last layers are zero, and time would not be seen
        torch.nn.init.normal_(weight, std=0.1) if weight.ndim > 1 else None
    network.save_pretrained(folder / part)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({part: ["diffusers", type(network).__name__]}))
    return folder


def batch() -> Tensor:
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def by_scheduler(scheduler: Any, network: Any, x: Tensor, at: int, cond: dict[str, Any]) -> tuple[Tensor, float]:
    """x_0 as a scheduler of k-diffusion's kind has it in step ``at`` from the state x_0 + σ n, and its σ."""
    sigma, t = float(scheduler.sigmas[at]), scheduler.timesteps[at]
    scheduler._step_index = None
    seen = scheduler.scale_model_input(x, t)
    out = network(seen, t.expand(len(x)), **cond).sample
    if out.shape[1] == 2 * x.shape[1]:
        out = out[:, : x.shape[1]]
    return scheduler.step(out, t, x).pred_original_sample, sigma


TABLES = [
    ({}, {}),
    ({"prediction_type": "v_prediction"}, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    ({"prediction_type": "sample"}, {"trained_betas": [0.001 * (i + 1) for i in range(50)], "num_train_timesteps": 50}),
    (
        {"prediction_type": "v_prediction"},
        {"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
]


@pytest.mark.parametrize(("prediction", "table"), TABLES, ids=["linear", "scaled, v", "given, x0", "zero terminal snr"])
def test_a_unet_of_a_table_of_betas(prediction: dict[str, Any], table: dict[str, Any], tmp_path: Path) -> None:
    network = unet()
    # whole steps: between them Euler interpolates σ linearly, and its own t(σ) in ln σ
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing", **prediction, **table)
    D = edm.load(saved(tmp_path, network, scheduler))
    assert (D.shape, D.classes) == ((2, 8, 8), 0)
    scheduler.set_timesteps(10)
    for at in range(10):
        sigma = float(scheduler.sigmas[at])
        x = batch() * (1 + sigma**2) ** 0.5
        want, _ = by_scheduler(scheduler, network, x, at, {})
        got = D(x, torch.tensor(sigma, dtype=torch.float64).clamp(D.sigma_min, D.sigma_max))
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5 * (1 + sigma))


def test_a_class_conditional_dit_with_learned_variances(tmp_path: Path) -> None:
    network = dit().eval()
    D = edm.load(saved(tmp_path, network, diffusers.DDIMScheduler(), "transformer"))
    assert D.classes == 5
    assert not D.needs_label
    x, label = batch(), torch.tensor([3, -1, 0])
    euler = diffusers.EulerDiscreteScheduler()
    euler.set_timesteps(4)
    want, sigma = by_scheduler(euler, network, 3 * x, 2, {"class_labels": torch.tensor([3, 5, 0])})
    torch.testing.assert_close(D(3 * x, sigma, label=label), want, rtol=0, atol=5e-5)


def test_a_unet_with_classes_needs_one(tmp_path: Path) -> None:
    network = unet(num_class_embeds=4)
    D = edm.load(saved(tmp_path, network, diffusers.DDPMScheduler()))
    assert (D.classes, D.needs_label) == (4, True)
    with pytest.raises(ValueError, match=r"^label: must be from 0 to 3"):
        D(batch(), 1.0)
    assert D(batch(), 1.0, label=2).shape == (3, 2, 8, 8)


@pytest.mark.parametrize("sign", ["epsilon", "v_prediction"])
def test_a_network_of_an_edm_scheduler(sign: str, tmp_path: Path) -> None:
    network = conditioned()
    scheduler = diffusers.EDMEulerScheduler(prediction_type=sign, sigma_min=0.01, sigma_max=50.0)
    text = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(2))
    D = edm.load(saved(tmp_path, network, scheduler), cond={"encoder_hidden_states": text})
    scheduler.set_timesteps(10)
    for at in range(10):
        sigma = float(scheduler.sigmas[at])
        x = batch() * (0.25 + sigma**2) ** 0.5
        seen, t = scheduler.precondition_inputs(x, sigma), 0.25 * torch.tensor(sigma).log()
        out = network(seen, t, encoder_hidden_states=text.expand(3, -1, -1)).sample
        torch.testing.assert_close(D(x, sigma), scheduler.precondition_outputs(x, out, sigma), rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match=r"^encoder_hidden_states: this network needs it"):
        edm.load(tmp_path)(batch(), 1.0)


@pytest.mark.parametrize(("make", "factor"), [(sd3, 1000), (flux, 1)], ids=["SD3", "Flux"])
def test_flow_transformers(make: Any, factor: int, tmp_path: Path) -> None:
    """One step of FlowMatchEuler to σ = 0 from x_s = (1 − s) x_0 + s n is x_0 = x_s − s v."""
    network = make().eval()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    g = torch.Generator().manual_seed(3)
    cond = {
        "encoder_hidden_states": torch.randn(3, 4, 8, generator=g),
        "pooled_projections": torch.randn(3, 8, generator=g),
    }
    more = {"guidance": torch.full((3,), 3.5)} if factor == 1 else {}
    D = edm.load(saved(tmp_path, network, scheduler, "transformer"), shape=(2, 8, 8), cond=cond | more)
    for s in (0.05, 0.3, 0.7, 0.95):
        x_s, t = batch(), torch.full((3,), s * factor)
        if factor == 1:
            tokens = rearrange(x_s, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)
            ids = torch.tensor([[0.0, row, column] for row in range(4) for column in range(4)])
            v = network(tokens, timestep=t, img_ids=ids, txt_ids=torch.zeros(4, 3), **cond, **more)[0]
            v = rearrange(v, "b (h w) (c p q) -> b c (h p) (w q)", h=4, p=2, q=2)
        else:
            v = network(x_s, timestep=t, **cond).sample
        torch.testing.assert_close(D(x_s / (1 - s), s / (1 - s)), x_s - s * v, rtol=0, atol=2e-5)
    recognised = edm.interop.recognise(tmp_path, shape=(2, 8, 8))
    assert recognised.schedule == edm.schedules.FlowMatching(shift=3.0)


def test_latents_have_the_scale_and_shift_of_the_pipelines(tmp_path: Path) -> None:
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=2, scaling_factor=0.5, shift_factor=0.1
    )
    vae.save_pretrained(tmp_path / "vae")
    latents = edm.interop.Latents.load(tmp_path)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    z = latents.encode(images)
    torch.testing.assert_close(z, (vae.encode(images).latent_dist.mode() - 0.1) * 0.5, rtol=0, atol=1e-6)
    torch.testing.assert_close(latents.decode(z), vae.decode(z / 0.5 + 0.1).sample, rtol=0, atol=1e-6)


def test_what_schedulers_say_of_levels_and_schedules() -> None:
    read = edm.interop.schedulers.read
    found = read({"_class_name": "DDPMScheduler", "timestep_spacing": "leading", "steps_offset": 1})
    assert found.steps == edm.discretization.TableSubset(n=20, spacing="leading", offset=1)
    ours = torch.tensor(read({"_class_name": "HeunDiscreteScheduler", "beta_schedule": "exp"}).schedule.betas)
    theirs = diffusers.HeunDiscreteScheduler(beta_schedule="exp").betas
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-7)
    sigmoid = read({"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"}).schedule.betas
    torch.testing.assert_close(
        torch.tensor(sigmoid).float(), diffusers.DDPMScheduler(beta_schedule="sigmoid").betas, rtol=1e-4, atol=1e-8
    )
    assert (
        read(
            {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 5.0}
        ).schedule.shift
        == 5
    )


def damage(folder: Path, **changes: Any) -> None:
    """Change the configuration of the network, or of the scheduler with a name begun by ``s_``."""
    for name, value in changes.items():
        file = folder / ("scheduler/scheduler_config.json" if name.startswith("s_") else "unet/config.json")
        tree = json.loads(file.read_text()) | {name.removeprefix("s_").replace("cls", "_class_name"): value}
        file.write_text(json.dumps(tree))


def unlink(folder: Path) -> None:
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    outside = folder.parent / "elsewhere.safetensors"
    weights.rename(outside)
    weights.symlink_to(outside)


def lengthen(folder: Path) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    file.write_bytes((1 << 60).to_bytes(8, "little") + file.read_bytes()[8:])


DAMAGE = {
    "unknown network": (lambda f: damage(f, cls="Evil"), r"a network 'Evil' is not known; known are UNet2DModel, "),
    "tokens": (lambda f: damage(f, s_cls="VQDiffusionScheduler"), r"VQDiffusionScheduler draws tokens .* no denoiser"),
    "unknown scheduler": (lambda f: damage(f, s_cls="Odd"), r"scheduler: Odd is not known; known are "),
    "unknown prediction": (lambda f: damage(f, s_prediction_type="noise"), r"prediction_type: unknown 'noise'"),
    "betas": (lambda f: damage(f, s_beta_end=7.0), r"scheduler: beta_end: must lie in \[1e-50, 1\)"),
    "a word for a number": (lambda f: damage(f, s_beta_start="a"), r"scheduler: beta_start: must be a number, got 'a'"),
    "huge": (lambda f: damage(f, layers_per_block=10**9), r"1000000000 is beyond what any network has"),
    "other sizes": (
        lambda f: damage(f, block_out_channels=[8, 16]),
        r"does not fit the network: .*; .*; .*, and \d+ more",
    ),
    "what a class cannot take": (lambda f: damage(f, act_fn="none"), r"config.json: ValueError|config.json: KeyError"),
    "no config": (lambda f: (f / "unet/config.json").unlink(), r"config.json: is missing"),
    "no scheduler": (
        lambda f: (f / "scheduler/scheduler_config.json").unlink(),
        r"has no scheduler_config.json, which says",
    ),
    "not JSON": (lambda f: (f / "unet/config.json").write_text("{"), r"config.json: is not JSON"),
    "no weights": (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(), r"has no weights, diffusion_"),
    "a link out": (unlink, r"is a link out of "),
    "a header that lies": (lengthen, r"not a readable safetensors file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_wrong_with_a_folder_is_one_line(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", unet(), diffusers.DDPMScheduler())
    DAMAGE[name][0](folder)
    with pytest.raises(ValueError, match=DAMAGE[name][1]) as caught:
        edm.load(folder)
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_one_line(tmp_path: Path) -> None:
    """Cut at 40 places, and with 40 bytes changed: refused in a line, or the same names and shapes."""
    folder = saved(tmp_path / "model", unet(), diffusers.DDPMScheduler())
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    whole, g = file.read_bytes(), torch.Generator().manual_seed(0)
    source = edm.interop.recognise(folder)
    for i in range(80):
        place = int(torch.randint(len(whole) if i < 40 else 2000, (1,), generator=g))
        file.write_bytes(whole[:place] if i < 40 else whole[:place] + b"\xff" + whole[place + 1 :])
        try:
            edm.interop.files.read_tensors(source.weights[0])
        except ValueError as error:
            assert re.match(rf"{re.escape(str(file))}: not a readable safetensors file[^\n]*$", str(error))  # noqa: PT017
