"""Files of other libraries' networks: D is theirs at ten levels, of the file itself and of what it is converted to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from foreign_cases import CASES
from foreign_files import LEVELS, noisy, picked, reference, told

import edm_unified as edm
from edm_unified.interop import converted


@pytest.mark.parametrize("name", CASES)
def test_the_denoiser_is_theirs(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    weights, wanted = reference(name, case)
    file = case.save(weights, tmp_path)
    D = edm.load(file, **case.asked)
    assert D.shape == case.shape
    x = noisy(case.shape)
    found = D(x, LEVELS, **told(case))
    scale = LEVELS.clamp(min=1)[:, None]
    torch.testing.assert_close(picked(found) / scale, wanted / scale, rtol=0, atol=case.close)
    assert (wanted[3] - picked(x)[3]).abs().max() > 1e-3
    converted.write(edm.interop.recognise(file, **case.asked), tmp_path / "converted", lambda source: "")
    again = edm.load(tmp_path / "converted")
    assert torch.equal(again(x, LEVELS, **told(case)), found)
    assert (again.classes, again.needs_label) == (D.classes, D.needs_label)
