"""A U-Net over complex spectrograms of one to several microphones."""

from edm_unified.networks.spectrogram.component import SpectrogramUNet

__all__ = ["SpectrogramUNet"]
