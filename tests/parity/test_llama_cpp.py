"""llama.cpp reads the converted file and finds the same most probable tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytestmark = pytest.mark.llama


def one_forward(library: ModuleType, path: Path, ids: list[int], rows: int) -> NDArray[np.float32]:
    """Logits [ids, rows] of all ids at once, every one of them seen by every other."""
    settings = library.llama_model_default_params()
    settings.n_gpu_layers = 0
    model = library.llama_model_load_from_file(str(path).encode(), settings)
    assert model
    options = library.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = 512
    options.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = library.llama_init_from_model(model, options)
    assert context
    library.llama_set_causal_attn(context, False)
    batch = library.llama_batch_init(len(ids), 0, 1)
    try:
        fill(batch, ids)
        assert library.llama_decode(context, batch) == 0
        logits = library.llama_get_logits(context)
        return np.ctypeslib.as_array(logits, (len(ids), rows)).copy()
    finally:
        library.llama_batch_free(batch)
        library.llama_free(context)
        library.llama_model_free(model)


def fill(batch: Any, ids: list[int]) -> None:
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i] = token, i
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = True


@pytest.mark.parametrize(("type", "bound"), [("f32", 0.02), ("q8_0", None)])
def test_recorded_llada(
    llama_cpp: ModuleType,
    golden: Callable[[str], Path],
    converted: Callable[..., Path],
    type: str,
    bound: float | None,
) -> None:
    with np.load(golden("llada") / "expected.npz") as recording:
        ids, wanted = recording["x"].tolist(), recording["logits"]
    logits = one_forward(llama_cpp, converted(golden("llada"), type), ids, wanted.shape[1])
    same = logits.argmax(axis=1) == wanted.argmax(axis=1)
    if bound is None:
        assert same.mean() > 0.9  # int8 weights and activations move close calls
    else:
        assert same.all()
        assert np.abs(logits - wanted).max() < bound
