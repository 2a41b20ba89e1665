"""How a network of another library is called, and what of its answer is the prediction."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edm_unified.components.component import shown

TIME_NAMES = ("t", "time", "times", "timestep", "timesteps", "sigma", "sigmas", "noise", "noise_labels", "step", "k")
"""Names that an argument for the time has in the libraries that are known here."""


class Call(nn.Module):
    """A network as F(input, c_noise, label=…, **cond), whatever its own arguments and answer are called.

    ``arguments``: a sequence of ``"x"`` and ``"time"`` in the order of its positional arguments, or a mapping of these
    two to the names of keyword arguments, ``{"x": "sample", "time": "timestep"}``. None reads the order from the names
    of the first two arguments of the network, x first where they say nothing.

    ``label``: the argument that takes classes, whole numbers (B,); ``null`` is the class that stands for none.
    ``cond`` are conditions for every call, and those of a call are given under their own names; a tensor of one row is
    repeated for the batch. ``needs`` are the conditions without which there is no answer.

    ``integer``: the time is told as int64, for networks that look it up in a table. ``negate``: the prediction is minus
    the output.

    The answer may be a tensor, a tuple or list that begins with one, a mapping or object with ``sample``. Of an output
    with twice the channels of x the second half, a learned variance, is dropped.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        arguments: Sequence[str] | Mapping[str, str] | None = None,
        *,
        label: str | None = None,
        null: int | None = None,
        cond: Mapping[str, Any] | None = None,
        needs: Sequence[str] = (),
        integer: bool = False,
        negate: bool = False,
    ) -> None:
        super().__init__()
        if not callable(network):
            raise ValueError(f"network: must be callable, got {type(network).__name__}")
        found = _order(network) if arguments is None else arguments
        if set(found) != {"x", "time"} or len(found) != 2:
            raise ValueError(
                f"arguments: must be 'x' and 'time' in their order, or their names such as {{'x': 'sample', 'time': "
                f"'timestep'}}; got {shown(arguments)}"
            )
        self.network, self.arguments = network, found
        self.label, self.null, self.integer, self.negate = label, null, integer, negate
        self.cond, self.needs = dict(cond or {}), tuple(needs)

    def takes(self, name: str) -> bool:
        """Whether the network has a keyword of that name for a condition; one with ``**keywords`` takes all."""
        call = self.network.forward if isinstance(self.network, nn.Module) else self.network
        try:
            parameters = inspect.signature(call).parameters.values()
        except (TypeError, ValueError):
            return True
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            return True
        own = set(self.arguments.values()) if isinstance(self.arguments, Mapping) else set()
        others = [parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY]
        return name in others[0 if own else 2 :] and name not in own | {self.label}

    def forward(self, x: Tensor, noise: Tensor, *, label: Tensor | None = None, **cond: Any) -> Tensor:
        given = {name: _rows(value, x) for name, value in {**self.cond, **cond}.items() if value is not None}
        if missing := next((name for name in self.needs if name not in given), None):
            raise ValueError(
                f"{missing}: this network needs it; give --cond {missing}=FILE, or in Python D(x, sigma, "
                f"{missing}=...) or edm.load(SOURCE, cond={{'{missing}': ...}})"
            )
        if self.label is not None:
            given[self.label] = self._classes(x, label)
        told = {"x": x, "time": noise.round().long() if self.integer else noise}
        if isinstance(self.arguments, Mapping):
            out = self.network(**{self.arguments[name]: value for name, value in told.items()}, **given)
        else:
            out = self.network(*(told[name] for name in self.arguments), **given)
        prediction = _tensor(out)
        if x.ndim > 1 and prediction.ndim == x.ndim and prediction.shape[1] == 2 * x.shape[1]:
            prediction = prediction[:, : x.shape[1]]
        return -prediction if self.negate else prediction

    def _classes(self, x: Tensor, label: Tensor | None) -> Tensor | None:
        """(B,) classes with −1 replaced by the class that stands for none."""
        values = torch.full((len(x),), -1, device=x.device) if label is None else label.to(x.device)
        if self.null is None:
            return None if label is None else values
        return torch.where(values == -1, self.null, values)


def _order(network: Callable[..., Any]) -> tuple[str, str]:
    """("x", "time"), or the other way round where the first argument is named as a time and the second is not."""
    call = network.forward if isinstance(network, nn.Module) else network
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):
        return "x", "time"
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name.lower() for parameter in parameters if parameter.kind in positional][:2]
    swapped = len(names) == 2 and names[0] in TIME_NAMES and names[1] not in TIME_NAMES
    return ("time", "x") if swapped else ("x", "time")


def _rows(value: Any, x: Tensor) -> Any:
    """A condition with a row for each sample, in the dtype and on the device of x where it is of floating point."""
    if isinstance(value, Mapping):
        return {key: _rows(item, x) for key, item in value.items()}
    if not isinstance(value, Tensor):
        return value
    moved = value.to(device=x.device, dtype=x.dtype if value.is_floating_point() else value.dtype)
    return moved.expand(len(x), *moved.shape[1:]) if moved.ndim and len(moved) == 1 else moved


def _tensor(output: Any) -> Tensor:
    """The prediction in what a network returned. Raises ``ValueError`` where there is none."""
    found = output
    if isinstance(found, Mapping):
        found = found.get("sample")
    elif hasattr(found, "sample") and not isinstance(found, Tensor):
        found = found.sample
    elif isinstance(found, (tuple, list)) and found:
        found = found[0]
    if isinstance(found, Tensor):
        return found
    raise ValueError(
        f"network: returned {type(output).__name__}, in which no tensor is to be found; it must return one, a tuple "
        "that begins with one, or an object with .sample"
    )
