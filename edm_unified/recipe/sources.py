"""A recipe around a checkpoint of another library: the schedule and levels that it was made for, and a plain solver."""

from __future__ import annotations

from typing import Any

from edm_unified import interop
from edm_unified.components.component import encode
from edm_unified.denoisers.preconditioning import AnyPreconditioning
from edm_unified.interop import Source
from edm_unified.recipe import canonical
from edm_unified.recipe.codec import components
from edm_unified.sampling.levels import Karras

KINDS = tuple(components(AnyPreconditioning))


def tree(path: str) -> dict[str, Any]:
    """The recipe of the source ``path`` as plain data. It has no data: give some to compare its samples with.

    Euler's method (that is DDIM) for levels of a table and of a flow, Heun's for those of Karras et al.

    Raises ``ValueError`` where the source is not known.
    """
    return around(interop.recognise(path), path)


def around(source: Source, path: str, key: str = "source") -> dict[str, Any]:
    """The recipe of ``source``, which is to be found at ``path`` by the ``key`` of a checkpoint."""
    found: dict[str, Any] = {
        "title": f"{source.network} of {path}",
        "source": f"{source.what}{''.join(f'; {note}' for note in source.notes)}",
        "schedule": encode(source.schedule),
        "sampler": {
            "steps": encode(source.steps),
            "solver": {"kind": "heun" if isinstance(source.steps, Karras) else "euler"},
        },
        "denoiser": {"kind": "checkpoint", key: path},
    }
    if getattr(source.convention, "kind", None) in KINDS:
        found["preconditioning"] = encode(source.convention)
    return found


def text(source: Source, path: str) -> str:
    """The recipe of ``source``, which is to be found at ``path``, as YAML with every field spelled out."""
    from edm_unified.recipe.loading import from_tree

    return canonical.dump(from_tree(around(source, path), path))


def convention(words: str) -> Any:
    """The preconditioning that ``words`` name: ``ddpm:betas=cosine``. Raises ``ValueError`` where there is none."""
    from edm_unified.recipe import parse_component

    return parse_component(AnyPreconditioning, words, "--convention")
