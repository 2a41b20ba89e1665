"""Folders that diffusers saved: a pipeline with ``model_index.json``, or a model with ``config.json``.

The class is one of those below and is made by diffusers itself; its weights are read here, so that one that is missing
or left over is an error and not a random number. No code of the folder is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edm_unified.denoisers.preconditioning import Preconditioning
from edm_unified.interop import files, schedulers
from edm_unified.interop.source import Source

REMEDY = "pip install 'edm_unified[diffusers]'"
LARGEST = 1_000_000
"""The largest number that is believed of a configuration: of channels, of layers, of a side."""


class Model(NamedTuple):
    """How a class of diffusers is called: the names of its arguments, what its configuration says, and its wrapper."""

    arguments: Mapping[str, str]
    shape: Callable[[Mapping[str, Any]], tuple[int | None, int | None]]
    """Channels and side."""
    needs: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda config: ()
    classes: Callable[[Mapping[str, Any]], tuple[int, int | None]] = lambda config: (0, None)
    """How many there are, and which stands for none."""
    told_1000: bool = True
    around: Callable[[nn.Module], nn.Module] = lambda network: network


class FluxOnLatents(nn.Module):
    """Flux on latents (B, C, H, W): packed into tokens of 2 × 2, with the places of these and of the text."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **cond: Any) -> Tensor:
        batch, channels, height, width = hidden_states.shape
        h, w = height // 2, width // 2
        tokens = hidden_states.view(batch, channels, h, 2, w, 2).permute(0, 2, 4, 1, 3, 5).reshape(batch, h * w, -1)
        image = torch.zeros(h, w, 3, device=tokens.device, dtype=tokens.dtype)
        image[..., 1] += torch.arange(h, device=tokens.device)[:, None]
        image[..., 2] += torch.arange(w, device=tokens.device)[None]
        text = torch.zeros(encoder_hidden_states.shape[1], 3, device=tokens.device, dtype=tokens.dtype)
        out = self.network(
            hidden_states=tokens, timestep=timestep, encoder_hidden_states=encoder_hidden_states,
            img_ids=image.view(-1, 3), txt_ids=text, **cond,
        )[0]  # fmt: skip
        return out.view(batch, h, w, channels, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def _classes(config: Mapping[str, Any]) -> tuple[int, int | None]:
    return _whole(config, "num_class_embeds", 0) or 0, None


def _text(config: Mapping[str, Any]) -> tuple[str, ...]:
    more = ("added_cond_kwargs",) if config.get("addition_embed_type") else ()
    return ("encoder_hidden_states", *more)


def _embedded(config: Mapping[str, Any]) -> tuple[str, ...]:
    return ("class_labels",) if config.get("class_embed_type") else ()


def _side(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    return _whole(config, "in_channels", None), _whole(config, "sample_size", None)


def _flux_shape(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    return (_whole(config, "in_channels", 64) or 64) // 4, 128


MODELS = {
    "UNet2DModel": Model({"x": "sample", "time": "timestep"}, _side, _embedded, _classes),
    "UNet2DConditionModel": Model({"x": "sample", "time": "timestep"}, _side, _text, _classes),
    "DiTTransformer2DModel": Model(
        {"x": "hidden_states", "time": "timestep"},
        _side,
        classes=lambda config: (_whole(config, "num_embeds_ada_norm", 1000) or 0,) * 2,
    ),
    "SD3Transformer2DModel": Model(
        {"x": "hidden_states", "time": "timestep"},
        _side,
        needs=lambda config: ("encoder_hidden_states", "pooled_projections"),
    ),
    "FluxTransformer2DModel": Model(
        {"x": "hidden_states", "time": "timestep"},
        _flux_shape,
        needs=lambda config: (
            ("encoder_hidden_states", "pooled_projections") + (("guidance",) if config.get("guidance_embeds") else ())
        ),
        told_1000=False,
        around=FluxOnLatents,
    ),
}


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder of diffusers."""
    return path.is_dir() and ((path / "model_index.json").is_file() or (path / "config.json").is_file())


def _whole(config: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = config.get(name, default)
    if isinstance(value, (list, tuple)) and value and all(side == value[0] for side in value):
        value = value[0]
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST):
        raise ValueError(f"{name}: must be a whole number up to {LARGEST:,}, got {str(value)[:40]!r}")
    return value


def recognise(
    place: Path, label: str, shape: tuple[int, ...] = (), convention: Preconditioning | None = None
) -> Source:
    """The source in a folder of diffusers. Raises ``ValueError`` where there is none."""
    folder, scheduler = _parts(place, label)
    config = files.read_json(files.inside(folder / "config.json", place if folder.is_relative_to(place) else folder))
    name = str(config.get("_class_name", ""))
    if name == "AutoencoderKL":
        raise ValueError(f"{label}: is an autoencoder of latents, not a denoiser; read it by edm.interop.Latents.load")
    if name not in MODELS:
        what = repr(name[:60]) if name else "without a class"
        raise ValueError(f"{label}: a network {what} is not known; known are {', '.join(MODELS)}; or use edm.wrap")
    _sound(config, f"{folder / 'config.json'}")
    model = MODELS[name]
    try:
        found = model.shape(config)
        channels, side = found
        outputs = _whole(config, "out_channels", None)
        classes, null = model.classes(config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    if channels is None:
        raise ValueError(f"{folder / 'config.json'}: in_channels: missing")
    per = 4 if model.around is FluxOnLatents else 1
    if outputs is not None and outputs not in (per * channels, 2 * channels):
        raise ValueError(
            f"{label}: takes {channels} channels and gives {outputs}: what is joined to its input is not known; use "
            "edm.wrap"
        )
    if not shape:
        if side is None:
            raise ValueError(f"{label}: does not say the size of its samples; give shape={channels},H,W")
        shape = (channels, side, side)
    reading = _reading(scheduler, config, model, convention, label)
    weights = _weights(folder, place)
    return Source(
        place=label,
        what="diffusers folder",
        network=name,
        convention=reading.convention,
        schedule=reading.schedule,
        steps=reading.steps,
        shape=tuple(shape),
        weights=weights,
        build=lambda: model.around(_build(name, config, weights, label)),
        arguments=model.arguments,
        classes=classes,
        label="class_labels" if classes else None,
        null=null,
        negate=reading.negate,
        needs=tuple(need for need in model.needs(config) if not (classes and need == "class_labels")),
        requires=("diffusers",),
        notes=reading.notes,
        said={} if scheduler is None else {"scheduler": scheduler.get("_class_name")},
    )


def _parts(place: Path, label: str) -> tuple[Path, dict[str, Any] | None]:
    """The folder of the network, and the configuration of the scheduler, if there is one."""
    if (place / "model_index.json").is_file():
        index = files.read_json(files.inside(place / "model_index.json", place))
        found = next((part for part in ("transformer", "unet", "prior") if index.get(part)), None)
        if found is None or not (place / found).is_dir():
            raise ValueError(f"{label}: model_index.json names no unet and no transformer in the folder")
        folder = place / found
    else:
        folder = place
    candidates = (place / "scheduler" / "scheduler_config.json", place / "scheduler_config.json",
                  place.parent / "scheduler" / "scheduler_config.json")  # fmt: skip
    there = next((file for file in candidates if file.is_file()), None)
    if there is None:
        return folder, None
    return folder, files.read_json(files.inside(there, place if there.is_relative_to(place) else there.parent))


def _reading(
    scheduler: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    model: Model,
    convention: Preconditioning | None,
    label: str,
) -> schedulers.Reading:
    """What the scheduler says, or ``convention`` in its place, with the schedule and levels of a flow where none do."""
    if scheduler is None and convention is None:
        raise ValueError(
            f"{label}: has no scheduler_config.json, which says what the network predicts; put it beside config.json, "
            "or give a convention"
        )
    fourier = config.get("time_embedding_type") == "fourier"
    try:
        reading = schedulers.read(scheduler or schedulers.NONE, fourier, model.told_1000)
    except ValueError as error:
        if convention is None:
            raise ValueError(f"{label}: {error}") from None
        reading = schedulers.read(schedulers.NONE, fourier, model.told_1000)
    return reading if convention is None else reading._replace(convention=convention, negate=False)


def _sound(config: Mapping[str, Any], label: str) -> None:
    """Raise ``ValueError`` for a number beyond all networks, before anything is made of it."""
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"{label}: {str(value)[:30]} is beyond what any network has")


def _weights(folder: Path, place: Path) -> tuple[Path, ...]:
    """The files of weights of a folder: safetensors if there are any, in one file or in shards."""
    stem = "diffusion_pytorch_model"
    for suffix in (".safetensors", ".bin"):
        whole, index = folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"
        if whole.is_file():
            return (files.inside(whole, place),)
        if index.is_file():
            named = files.read_json(files.inside(index, place)).get("weight_map")
            if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
                raise ValueError(f"{index}: has no weight_map")
            shards = sorted(set(named.values()))
            if any(Path(name).name != name for name in shards):
                raise ValueError(f"{index}: names a file outside its folder")
            return tuple(files.inside(folder / name, place) for name in shards)
        variants = sorted(folder.glob(f"{stem}.*{suffix}"))
        if len(variants) == 1:
            return (files.inside(variants[0], place),)
    raise ValueError(f"{folder}: has no weights, {stem}.safetensors or .bin")


def library() -> Any:
    """diffusers. Raises ``ValueError`` with the line that installs it."""
    try:
        import diffusers
    except ImportError:
        raise ValueError(f"diffusers: is not installed, and this folder needs it; {REMEDY}") from None
    return diffusers


_OLD_NAMES = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))
"""Attention layers as they were called before diffusers 0.13."""


def _build(name: str, config: Mapping[str, Any], weights: tuple[Path, ...], label: str) -> nn.Module:
    """The network with its weights, in evaluation mode. Raises ``ValueError`` where they do not fit."""
    tensors: dict[str, Tensor] = {}
    for file in weights:
        tensors.update(files.read_tensors(file))
    if (wrong := next((key for key, value in tensors.items() if not isinstance(value, Tensor)), None)) is not None:
        raise ValueError(f"{weights[0]}: {wrong!r} is no tensor; it is not what diffusers writes")
    cls = getattr(library(), name)
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    with torch.device("meta"):  # its shapes first: the memory is that of the files, whatever the configuration says
        sized = _made(cls, plain, label).state_dict()
    renamed = {_renamed(key, sized): value for key, value in tensors.items()}
    files.check_fit(sized, renamed, weights[0])
    network = _made(cls, plain, label)
    files.fill(network, renamed, weights[0])
    return network.eval()


def _made(cls: Any, config: dict[str, Any], label: str) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            return cls.from_config(config)  # type: ignore[no-any-return]
    except Exception as error:  # whatever a class makes of a value that it cannot take
        raise ValueError(
            f"{label}: config.json: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        ) from None


def _renamed(key: str, wanted: Mapping[str, Any]) -> str:
    if key in wanted:
        return key
    for old, new in _OLD_NAMES:
        if key.replace(old, new) in wanted:
            return key.replace(old, new)
    return key


class Latents:
    """An AutoencoderKL with the scale of its latents: what the pipelines denoise is (z − shift) · scale.

    ``encode(images)`` are the means of the latents of images in [−1, 1], ``decode(latents)`` images of latents.
    """

    def __init__(self, autoencoder: Any, scale: float, shift: float) -> None:
        self.autoencoder, self.scale, self.shift = autoencoder, scale, shift

    @classmethod
    def load(cls, path: str | Path) -> Latents:
        """That of a pipeline's folder, or of the folder of the autoencoder itself."""
        place = Path(path)
        folder = place / "vae" if (place / "vae" / "config.json").is_file() else place
        if not (folder / "config.json").is_file():
            raise ValueError(f"{path}: has no autoencoder, neither config.json nor vae/config.json")
        config = files.read_json(files.inside(folder / "config.json", place))
        if config.get("_class_name") != "AutoencoderKL":
            raise ValueError(f"{path}: {str(config.get('_class_name'))[:60]!r} is no AutoencoderKL")
        _sound(config, str(folder / "config.json"))
        network = _build("AutoencoderKL", config, _weights(folder, place), str(path))
        scale, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor") or 0.0
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in (scale, shift)) or not scale:
            raise ValueError(f"{folder / 'config.json'}: scaling_factor and shift_factor must be numbers")
        return cls(network.requires_grad_(False), float(scale), float(shift))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [−1, 1] to latents as the denoiser sees them."""
        return (self.autoencoder.encode(images).latent_dist.mode() - self.shift) * self.scale  # type: ignore[no-any-return]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents as the denoiser gives them to images, about [−1, 1]."""
        dtype = next(self.autoencoder.parameters()).dtype
        return self.autoencoder.decode(latents.to(dtype) / self.scale + self.shift).sample  # type: ignore[no-any-return]
