"""Published configurations of the networks, as values; a recipe writes out their fields.

The numbers of EDM's networks are those of the authors' code (NVlabs/edm, train.py with the options of its README;
Karras et al. 2022, appendix F); ``build(shape, classes, augment)`` with 9 augmentation labels (none on ImageNet) gives
the parameter counts below, which are those of their modules. Dropout is that of their training runs.

=======================  ===================  ==============  ===============
name                     shape                classes         parameters
=======================  ===================  ==============  ===============
DDPMPP_CIFAR10           (3, 32, 32)          0               55 733 891
NCSNPP_CIFAR10           (3, 32, 32)          0               56 397 827
DDPMPP_64                (3, 64, 64)          0               61 805 571
NCSNPP_64                (3, 64, 64)          0               62 761 091
ADM_IMAGENET64           (3, 64, 64)          1000            295 899 267
=======================  ===================  ==============  ===============
"""

from __future__ import annotations

from edm_unified.networks.unet import UNet

DDPMPP_CIFAR10 = UNet(multipliers=(2, 2, 2), dropout=0.13)
"""DDPM++ of EDM's VP rows and of its own, CIFAR-10."""

NCSNPP_CIFAR10 = UNet(
    multipliers=(2, 2, 2),
    embedding="fourier",
    noise_multiplier=2,
    encoder="residual",
    filter=(1, 3, 3, 1),
    dropout=0.13,
)
"""NCSN++ of EDM's VE rows, CIFAR-10."""

DDPMPP_64 = UNet(multipliers=(1, 2, 2, 2), dropout=0.05)
"""DDPM++ for FFHQ at 64 × 64; AFHQv2 uses it with a dropout of 0.25."""

NCSNPP_64 = UNet(
    multipliers=(1, 2, 2, 2),
    embedding="fourier",
    noise_multiplier=2,
    encoder="residual",
    filter=(1, 3, 3, 1),
    dropout=0.05,
)
"""NCSN++ for FFHQ at 64 × 64; AFHQv2 uses it with a dropout of 0.25."""

ADM_IMAGENET64 = UNet(
    channels=192,
    multipliers=(1, 2, 3, 4),
    blocks=3,
    attention_resolutions=(32, 16, 8),
    decoder_attention="all",
    head_channels=64,
    endpoint=False,
    label_at="embedding",
    adaptive_scale=True,
    resample_projection=False,
    rescale=False,
    dropout=0.1,
    norm_eps=1e-5,
    init="fan_in",
)
"""ADM (Dhariwal & Nichol 2021) for class-conditional ImageNet at 64 × 64."""
