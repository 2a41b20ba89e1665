"""Networks of other libraries that none of ours can express, written from their definitions.

They are built and called as ours are (:mod:`edm_unified.networks.base`), to be sampled and not to be trained.
"""

from edm_unified.interop.networks.lucid import LucidUNet

AnyForeign = LucidUNet

__all__ = ["AnyForeign", "LucidUNet"]
