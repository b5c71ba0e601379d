"""Keys of experts that do not fit the tensors: refused by name, never a crash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from expert_models import ExpertModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edge
from edge.formats.experts import Experts

SOUND = Experts(8, 2, 32, 32, 1, "sigmoid", True, False, 2.5, 4, 2)
NUMBERS = ("num_experts", "num_used", "size", "shared_size", "num_dense_layers", "num_groups")


class Liar(ExpertModel):
    """Tensors of sound experts, keys of others."""

    def tensors(self) -> dict[str, np.ndarray]:
        return replace(ExpertModel(SOUND), seed=self.seed).tensors()


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(NUMBERS), value=st.integers(0, 70) | st.sampled_from([1 << 16, 1 << 28])
)
def test_any_number(tmp_path: Path, name: str, value: int) -> None:
    path = tmp_path / "model.gguf"
    Liar(replace(SOUND, **{name: value})).write(path, "int8")
    line = ""
    try:
        with edge.load(path) as model:
            assert np.isfinite(model.logits(np.arange(9, dtype=np.int32))).all()
    except (edge.ModelFileError, edge.UnsupportedModelError) as error:
        line = str(error)
    assert not line or any(word in line for word in ("expert", "tensor", "leading_dense"))


@pytest.mark.parametrize("name", ["ffn_gate_inp", "ffn_down_exps", "exp_probs_b"])
def test_numbers_that_are_not_finite(tmp_path: Path, name: str) -> None:
    class Broken(ExpertModel):
        def tensors(self) -> dict[str, np.ndarray]:
            found = super().tensors()
            for each, values in found.items():
                if name in each:
                    values[..., -1] = np.nan
            return found

    path = tmp_path / "model.gguf"
    Broken(SOUND).write(path)
    with edge.load(path) as model, pytest.raises(edge.NumericError, match=r"layer 1|layer 2|norm"):
        model.logits(np.arange(9, dtype=np.int32))
