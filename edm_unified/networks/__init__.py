"""Networks, written here from the papers: what F is in D = c_skip z + c_out F(c_in z; c_noise).

A component's fields are hyper-parameters; ``build(shape, classes, augment)`` makes the module, which is called as
``F(x, noise, label=None, augment=None)`` (see :mod:`edm_unified.networks.base`).
"""

from edm_unified.networks.base import Network
from edm_unified.networks.edm2 import EDM2
from edm_unified.networks.mlp import MLP
from edm_unified.networks.spectrogram import SpectrogramUNet
from edm_unified.networks.transformer import Transformer
from edm_unified.networks.unet import UNet

AnyNetwork = MLP | UNet | EDM2 | Transformer | SpectrogramUNet

__all__ = ["EDM2", "MLP", "AnyNetwork", "Network", "SpectrogramUNet", "Transformer", "UNet"]
