"""What a file of weights holds, and where in it the weights are that are to be used: an average, if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from edm_unified.interop import files, pickles

AVERAGES = ("ema", "ema_model", "model_ema", "ema_state_dict")
"""Names that averaged weights go by in a checkpoint, and others."""
PLACES = (*AVERAGES, "state_dict", "model", "net_model", "net", "module")
PREFIXES = ("module.", "_orig_mod.", "ema_model.", "model.")
"""What is before every name where a network was wrapped."""


class State(NamedTuple):
    """Tensors by name, and the place in the file that they are from."""

    place: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Content:
    """A file of weights: its ``tree`` (a state dict, or a checkpoint with one in it), and the ``words`` of a header of
    safetensors."""

    file: Path
    label: str
    tree: Any
    words: Mapping[str, str]

    @cached_property
    def states(self) -> list[State]:
        """The state dicts in it, averages first, with what is before every name taken off."""
        return list(_states(self.tree))

    @cached_property
    def state(self) -> State:
        """The first of :attr:`states`; without tensors where there is none."""
        return self.states[0] if self.states else State("", {})


def read(file: Path, label: str) -> Content:
    """The content of ``file``. Raises ``ValueError`` in one line where it is damaged or holds more than may be read."""
    if file.suffix == ".safetensors":
        tensors, words = files.read_safetensors(file)
        return Content(file, label, tensors, words)
    return Content(file, label, pickles.read(file), {})


def _states(tree: Any) -> Iterator[State]:
    if not isinstance(tree, Mapping):
        return
    if (own := _tensors(tree)) is not None:
        yield State("", _bare(own))
        return
    for place in PLACES:
        inner = tree.get(place)
        if isinstance(inner, Mapping) and (found := _tensors(inner)) is not None:
            if place == "ema" and any(name.startswith("ema_model.") for name in found):  # of ema-pytorch, with the raw
                found = {name: value for name, value in found.items() if name.startswith("ema_model.")}
            if (listed := _averaged(tree.get("ema"), found)) is not None:
                yield State("ema", _bare(listed))
            if (listed := _wrapped(found)) is not None:
                yield State(f"{place}, shadow_params", listed)
            yield State(place, _bare(found))


def _tensors(tree: Mapping[Any, Any]) -> dict[str, Tensor] | None:
    """The tensors of a state dict; None where most of its values are none."""
    found = {name: value for name, value in tree.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return found if found and len(found) >= 0.5 * len(tree) else None


def _bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None or not tensors:
            return tensors
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}


def _averaged(ema: Any, model: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The averages of score_sde_pytorch: a list in the order of the parameters that are trained."""
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(shadow, list) or not all(isinstance(tensor, Tensor) for tensor in shadow):
        return None
    trained = [name for name in model if not _fixed(name, model[name])]
    return _paired(trained, shadow, model)


def _fixed(name: str, tensor: Tensor) -> bool:
    """Whether that is no trained parameter of score_sde_pytorch: its levels, and the frequencies of its features."""
    last = name.rpartition(".")[2]
    return last == "sigmas" or (last == "W" and tensor.ndim == 1)


def _wrapped(found: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The averages of Meta's wrapper: ``shadow_params.0`` … beside ``model.…``, in the order of its parameters."""
    count = sum(name.startswith("shadow_params.") for name in found)
    if not count:
        return None
    model = {name.removeprefix("model."): value for name, value in found.items() if name.startswith("model.")}
    return _paired(list(model), [found.get(f"shadow_params.{i}") for i in range(count)], model)


def _paired(names: list[str], shadow: list[Any], model: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """``model`` with ``shadow`` in the place of ``names``; None where the shapes do not agree."""
    fits = len(names) == len(shadow) and all(
        tensor is not None and tensor.shape == model[name].shape for name, tensor in zip(names, shadow, strict=True)
    )
    return model | dict(zip(names, shadow, strict=True)) if fits else None
