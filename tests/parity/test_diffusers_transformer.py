"""Our diffusion transformer against diffusers' DiT, with the same weights: equal to float32 rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edm_unified.networks import Transformer
from edm_unified.networks.transformer import TransformerNetwork

diffusers = pytest.importorskip("diffusers")


def theirs_to_ours(theirs: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """diffusers' state dict under our names. Theirs repeats the embeddings in each block; they are one and the same."""

    def swapped(weight: Tensor) -> Tensor:
        return torch.cat(weight.chunk(2, dim=1)[::-1], dim=1)  # they put cosines first, we sines

    embedder = "transformer_blocks.0.norm1.emb."
    ours = {
        "patches.weight": theirs["pos_embed.proj.weight"].flatten(1),
        "patches.bias": theirs["pos_embed.proj.bias"],
        "noise.0.weight": swapped(theirs[embedder + "timestep_embedder.linear_1.weight"]),
        "noise.0.bias": theirs[embedder + "timestep_embedder.linear_1.bias"],
        "noise.2.weight": theirs[embedder + "timestep_embedder.linear_2.weight"],
        "noise.2.bias": theirs[embedder + "timestep_embedder.linear_2.bias"],
        "label.weight": theirs[embedder + "class_embedder.embedding_table.weight"],
    }
    names = {"modulation": "proj_out_1", "head": "proj_out_2"}
    for i in range(depth):
        block = f"transformer_blocks.{i}."
        names[f"blocks.{i}.modulation"] = block + "norm1.linear"
        names[f"blocks.{i}.attention.out"] = block + "attn1.to_out.0"
        names[f"blocks.{i}.mlp.0"] = block + "ff.net.0.proj"
        names[f"blocks.{i}.mlp.2"] = block + "ff.net.2"
        for kind in ("weight", "bias"):
            parts = [theirs[f"{block}attn1.to_{part}.{kind}"] for part in "qkv"]
            ours[f"blocks.{i}.attention.qkv.{kind}"] = torch.cat(parts)
    for our, their in names.items():
        ours |= {f"{our}.{kind}": theirs[f"{their}.{kind}"] for kind in ("weight", "bias")}
    return ours


@pytest.mark.parametrize("patch", [1, 2])
def test_same_output_as_diffusers_dit(patch: int) -> None:
    depth, classes = 2, 5
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        num_layers=depth,
        norm_num_groups=1,
        sample_size=8,
        patch_size=patch,
        num_embeds_ada_norm=classes,
        norm_eps=1e-6,
    ).eval()
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.normal_(std=0.2)  # also where a fresh network has zeros: every weight must have a say
    shared = dit.transformer_blocks[0].norm1.emb
    shared.time_proj.downscale_freq_shift = 0  # Peebles & Xie's frequencies; diffusers' are 10000^{-i/127}
    for block in dit.transformer_blocks:
        block.norm1.emb = shared

    ours = Transformer(depth=depth, width=32, heads=2, patch=patch).build((4, 8, 8), classes)
    assert isinstance(ours, TransformerNetwork)
    ours.load_state_dict(theirs_to_ours(dit.state_dict(), depth))  # strict: no weight of ours is left over

    x, step, label = torch.randn(3, 4, 8, 8), torch.tensor([0, 17, 999]), torch.tensor([0, 4, classes])
    with torch.no_grad():
        want = dit(x, timestep=step, class_labels=label).sample
        got = ours(x, step.float(), label=torch.where(label == classes, -1, label))
    assert want.std() > 0.1
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * float(want.std()))
