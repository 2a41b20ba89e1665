"""Spectrograms with compressed amplitudes, and the scale-invariant signal-to-distortion ratio."""

from __future__ import annotations

import math

import pytest
import torch

from edm_unified.data.spectrograms import Spectrogram
from edm_unified.metrics import si_sdr


@pytest.mark.parametrize("length", [256, 1000, 1024, 4097])
@pytest.mark.parametrize("rule", [Spectrogram(), Spectrogram(window=64, hop=16, exponent=0.3), Spectrogram(exponent=1)])
def test_a_sound_comes_back_to_the_sample(rule: Spectrogram, length: int) -> None:
    """Of any length, odd ones too, with frames of padding that are cut off again; to the last digits of float64."""
    sound = torch.randn(2, 3, length, dtype=torch.float64)
    sound[0, 0, : length // 2] = 0  # silence has no phase
    spectrogram = rule.of(sound, multiple=16)
    assert spectrogram.shape == (2, *rule.shape(3, length, multiple=16))
    assert torch.allclose(rule.waves(spectrogram, length), sound, atol=1e-10)
    assert float((rule.waves(rule.of(sound.float()), length) - sound).abs().max()) < 2e-5


def test_the_amplitude_is_compressed_and_the_phase_kept() -> None:
    """0.15 |X|^0.5 of torch.stft's own X, real and imaginary part of one microphone after the other."""
    sound = torch.randn(1, 2, 2000, dtype=torch.float64)
    own = Spectrogram().of(sound)[0]
    for m in range(2):
        X = torch.stft(sound[0, m], 510, 128, window=torch.hann_window(510, dtype=torch.float64), return_complex=True)
        expected = 0.15 * X.abs().sqrt() * torch.exp(1j * X.angle())
        assert torch.allclose(torch.complex(own[2 * m], own[2 * m + 1]), expected, atol=1e-12)
    louder = Spectrogram().of(100 * sound)[0]
    assert torch.allclose(louder, 10 * own)


def test_sounds_that_have_no_spectrogram_are_refused() -> None:
    for sound, words in (
        (torch.zeros(1, 1, 255), "waves: a sound must have more than 255 samples"),
        (torch.zeros(1, 1000), r"waves: must be \(B, microphones, samples\)"),
        (torch.zeros(1, 1, 1000, dtype=torch.int16), r"waves: must be .* in floating point"),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            Spectrogram().of(sound)
    with pytest.raises(ValueError, match=r"^spectrogram: must be .*at least 8 frames for 1000 samples"):
        Spectrogram().waves(torch.zeros(1, 2, 256, 7), 1000)
    for settings, words in (({"window": 511}, "window: must be even"), ({"hop": 256}, "hop: must be at most half")):
        with pytest.raises(ValueError, match=f"^{words}"):
            Spectrogram(**settings)


def test_si_sdr() -> None:
    """Of orthogonal noise it is the ratio of energies. Loudness does not count; a constant does, unless taken off."""
    n = torch.arange(8000, dtype=torch.float64)
    s, noise = torch.sin(2 * math.pi * n / 80), torch.cos(2 * math.pi * n / 80)
    assert float(si_sdr(s + 0.1 * noise, s)) == pytest.approx(20.0, abs=1e-9)
    assert float(si_sdr(-7 * (s + 0.1 * noise), s)) == pytest.approx(20.0, abs=1e-9)
    assert float(si_sdr(s + 0.1 * noise + 1, s)) == pytest.approx(10 * math.log10(0.5 / 1.005), abs=1e-9)
    assert float(si_sdr(s + 0.1 * noise + 1, s, zero_mean=True)) == pytest.approx(20.0, abs=1e-9)
    assert si_sdr(torch.stack([s, s]) + noise, torch.stack([s, s])).shape == (2,)
    assert float(si_sdr(2 * s, s)) > 200
    with pytest.raises(ValueError, match=r"^target: is silent"):
        si_sdr(s, torch.zeros_like(s))
    with pytest.raises(ValueError, match=r"^estimate: must have the shape"):
        si_sdr(s[1:], s)
