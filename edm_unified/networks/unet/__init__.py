"""One U-Net: DDPM++, NCSN++ and ADM are configurations of it, for images, signals and volumes.

    encoder   conv; then per level: [halve], [pyramid], ``blocks`` residual blocks          every output is kept
    middle    block with attention, block
    decoder   per level: [double], ``blocks`` + 1 residual blocks, each joined to one kept output; norm, silu, conv

=====================  ============================  ============================  ==============================
field                  DDPM++ (Song et al. 2021)     NCSN++ (Song et al. 2021)     ADM (Dhariwal & Nichol 2021)
=====================  ============================  ============================  ==============================
channels, multipliers  128, 2-2-2 (64²: 1-2-2-2)     128, 2-2-2 (64²: 1-2-2-2)     192, 1-2-3-4
blocks                 4                             4                             3
attention              16, one head, last block of   16, one head, last block of   32, 16, 8; 64 channels a head,
                       a level in the decoder        a level in the decoder        every block
embedding              positional                    Fourier, twice the features   positional
condition              added                         added                         scales and shifts
encoder                standard                      residual                      standard
filter                 1-1                           1-3-3-1                       1-1
sums                   divided by √2                 divided by √2                 as they are
=====================  ============================  ============================  ==============================

With an augmentation embedding of 9 labels on CIFAR-10, DDPM++ and NCSN++ are the networks of Karras et al. 2022
(NVlabs/edm, ``SongUNet``), of 55 733 891 and 56 397 827 parameters; :mod:`edm_unified.networks.published` has these and
others.
"""

from edm_unified.networks.unet.component import UNet
from edm_unified.networks.unet.module import UNetModule

__all__ = ["UNet", "UNetModule"]
