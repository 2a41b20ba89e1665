"""The autoencoder of a latent diffusion model that diffusers saved: images to latents and back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edm_unified.interop import files
from edm_unified.interop.diffusers_classes import check_numbers
from edm_unified.interop.diffusers_weights import build, weights_of


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
        check_numbers(config, str(folder / "config.json"))
        network = build("AutoencoderKL", config, weights_of(folder, place), str(path))
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
