"""Sounds as complex spectrograms whose large values are pressed together, and back.

    X = STFT(x),     c = β |X|^α e^{i∠X}

(Richter et al. 2023, Eq. 2). Speech has magnitudes over five decades; with α = ½ they are within the reach of one noise
level, and β brings them to about [−1, 1]. A network sees the real and the imaginary part of each microphone as two
channels.
"""

from __future__ import annotations

from typing import Annotated

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from edm_unified.components.component import component
from edm_unified.components.constraints import Positive, interval, whole


@component
class Spectrogram:
    """Short-time Fourier transform with a periodic Hann window, β |X|^α e^{i∠X}; the defaults are those of SGMSE.

    ``window`` samples, a frame every ``hop``, the first and the last centred on the ends of the sound. Of real sounds
    window/2 + 1 bins are kept: 256 of 510. ``exponent`` is α, ``factor`` is β.
    """

    window: Annotated[int, whole(least=2, most=1 << 20)] = 510
    hop: Annotated[int, whole(least=1, most=1 << 20)] = 128
    exponent: Annotated[float, interval(0, 1, "(]")] = 0.5
    factor: Positive = 0.15

    def __post_init__(self) -> None:
        if self.window % 2:
            raise ValueError(f"window: must be even, got {self.window}")
        if self.hop > self.window // 2:
            raise ValueError(f"hop: must be at most half of the window, {self.window // 2}, got {self.hop}")

    def shape(self, microphones: int, length: int, multiple: int = 1) -> tuple[int, int, int]:
        """That of the spectrogram of sounds of so many samples: (2 microphones, bins, frames)."""
        frames = 1 + length // self.hop
        return 2 * microphones, self.window // 2 + 1, -(-frames // multiple) * multiple

    def of(self, waves: Float[Tensor, "B M N"], multiple: int = 1) -> Float[Tensor, "B channels F T"]:
        """The spectrograms of sounds, channels being real and imaginary part of one microphone after the other.

        ``multiple``: frames of zeros are added until their number is one; :meth:`waves` takes them off again. Raises
        ``ValueError`` for sounds shorter than half a window, which have nothing to be mirrored at their ends.
        """
        if waves.ndim != 3 or not waves.is_floating_point():
            raise ValueError(f"waves: must be (B, microphones, samples) in floating point, got {tuple(waves.shape)}")
        if waves.shape[-1] <= self.window // 2:
            raise ValueError(
                f"waves: a sound must have more than {self.window // 2} samples, half of the window, got "
                f"{waves.shape[-1]}"
            )
        X = torch.stft(
            waves.flatten(0, 1), self.window, self.hop, window=self._hann(waves), center=True, return_complex=True
        )
        size = X.abs()
        tiny = torch.finfo(waves.dtype).tiny
        c = self.factor * X * torch.where(size > tiny, size, 1.0) ** (self.exponent - 1)
        parts = rearrange(torch.view_as_real(c), "(b m) f t two -> b (m two) f t", b=len(waves))
        return functional.pad(parts, (0, -parts.shape[-1] % multiple))

    def waves(self, spectrogram: Float[Tensor, "B channels F T"], length: int) -> Float[Tensor, "B M N"]:
        """The sounds of ``length`` samples; frames beyond those of such a sound are left out, as they are padding."""
        frames = 1 + length // self.hop
        if spectrogram.ndim != 4 or spectrogram.shape[1] % 2 or spectrogram.shape[-1] < frames:
            raise ValueError(
                f"spectrogram: must be (B, 2 microphones, bins, at least {frames} frames for {length} samples), got "
                f"{tuple(spectrogram.shape)}"
            )
        pairs = rearrange(spectrogram[..., :frames], "b (m two) f t -> (b m) f t two", two=2)
        c = torch.view_as_complex(pairs.contiguous()) / self.factor
        size = c.abs()
        tiny = torch.finfo(spectrogram.dtype).tiny
        X = c * torch.where(size > tiny, size, 1.0) ** (1 / self.exponent - 1)
        sound = torch.istft(X, self.window, self.hop, window=self._hann(spectrogram), center=True, length=length)
        return rearrange(sound, "(b m) n -> b m n", b=len(spectrogram))

    def _hann(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.window, periodic=True, dtype=like.dtype, device=like.device)
