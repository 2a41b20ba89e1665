"""The magnitude-preserving layers of EDM2 (Karras et al. 2024, section 2.3 and Appendix B).

Magnitude means √(E x²) over the elements of a tensor. "Preserving" means: for inputs of
magnitude one, independent of each other and of the weights, the output has magnitude one.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-4
SILU_MAGNITUDE = 0.596
"""√(E silu(x)²) for unit normal x, to the three digits that the paper divides by."""


def unit_magnitude(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """x / (√(mean x²) + ε) over ``dim``, computed in float32 at least: a square of 300 does not exist in float16.

    ε = 1e-4 is added to the magnitude, as the authors do (NVlabs/edm2, ``normalize``): what had magnitude one comes out
    with 0.9999, and what comes out stays as it is.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    count = math.prod([x.shape[axis] for axis in ([dim] if isinstance(dim, int) else dim)])
    magnitude = torch.linalg.vector_norm(wide, dim=dim, keepdim=True) / math.sqrt(count)
    return (wide / (magnitude + EPSILON)).to(x.dtype)


def pixel_norm(x: Float[Tensor, "B C *shape"]) -> Float[Tensor, "B C *shape"]:
    """Each pixel's vector of channels, brought to magnitude one: pixel normalization."""
    return unit_magnitude(x, 1)


def mp_silu(x: Tensor) -> Tensor:
    """silu(x)/0.596 (Eq. 81)."""
    return functional.silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """((1 − t) a + t b) / √((1−t)² + t²) (Eq. 88): a blend of two independent unit inputs is a unit output."""
    return a.lerp(b, t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """a and b side by side along the channels, t the share of b (Eq. 103).

    They are scaled so that b contributes t² : (1−t)² to what the next layer sees, whatever the numbers of channels
    N_a and N_b, and the whole has magnitude one:  √((N_a+N_b)/((1−t)²+t²)) · [ (1−t)/√N_a a ⊕ t/√N_b b ].
    """
    n_a, n_b = a.shape[1], b.shape[1]
    scale = math.sqrt((n_a + n_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (scale * (1 - t) / math.sqrt(n_a)), b * (scale * t / math.sqrt(n_b))], dim=1)


class MPFourier(nn.Module):
    """√2 cos(2π (f a + φ)) of a number a, with f ~ N(0, bandwidth²) and φ ~ U(0, 1) drawn once (section 2.5).

    (B,) to (B, ``channels``), in float32 at least. Frequencies and phases are buffers: saved, never trained.
    """

    def __init__(self, channels: int, bandwidth: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(channels) * bandwidth)
        self.register_buffer("phases", torch.rand(channels))

    def forward(self, a: Float[Tensor, " B"]) -> Float[Tensor, "B channels"]:
        frequencies, phases = cast(Tensor, self.frequencies).float(), cast(Tensor, self.phases).float()
        return math.sqrt(2) * torch.cos(2 * math.pi * (a[:, None] * frequencies + phases))


class MPConv(nn.Module):
    """Convolution, or linear layer where ``kernel`` is empty, with unit rows: y = W x/‖W‖ (section 2.3).

    ``weight`` starts at N(0, 1). Its scale has no effect on the output, and the gradient is orthogonal to it. The norm
    is part of the graph, so a forward pass neither writes to the parameter nor needs to know that it is training: a
    compiled network, an average of weights and a network in evaluation all see one function.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *kernel))

    def unit_weight(self) -> Tensor:
        """The weight with rows of norm one."""
        fan_in = math.prod(self.weight.shape[1:])
        return unit_magnitude(self.weight, tuple(range(1, self.weight.ndim))) / math.sqrt(fan_in)

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        weight = self.unit_weight()
        weight = (weight if gain is None else weight * gain).to(x.dtype)
        if not self.kernel:
            return functional.linear(x, weight)
        return functional.conv2d(x, weight, padding=[side // 2 for side in self.kernel])


@torch.no_grad()
def normalize_weights(module: nn.Module) -> None:
    """Forced weight normalization: every :class:`MPConv` row in ``module`` back to norm √(fan-in), in place.

    Call it after each step of the optimizer; :meth:`EDM2Network.after_step` does. The output of the network does not
    change (that is what :class:`MPConv` is for), only how far the next step turns the weights: without it they grow,
    the steps shrink in proportion, and the learning rate decays in a way that nobody chose (section 2.3, Algorithm 1).
    """
    for layer in module.modules():
        if isinstance(layer, MPConv):
            # FSDP2 cuts weights up by rows, so that what this process has of them can be normalized where it is
            here = getattr(layer.weight, "to_local", lambda weight=layer.weight: weight)()
            here.copy_(unit_magnitude(here, tuple(range(1, here.ndim))))


class CosineAttention(nn.Module):
    """Cosine self-attention over the pixels: q, k and v of each head at magnitude one (v too, as in config G).

    Logits are q·k/√d = √d cos(q, k), d the channels of a head, and so lie in [−√d, √d] for ever.
    """

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.qkv = MPConv(channels, 3 * channels, (1, 1))
        self.out = MPConv(channels, channels, (1, 1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        height = x.shape[-2]
        qkv = rearrange(self.qkv(x), "b (three head c) h w -> three b head (h w) c", three=3, c=self.head_channels)
        q, k, v = unit_magnitude(qkv, -1).unbind()
        y = functional.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.out(rearrange(y, "b head (h w) c -> b (head c) h w", h=height)))
