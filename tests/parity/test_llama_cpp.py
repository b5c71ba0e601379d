"""llama.cpp reads the converted file and finds the same most probable tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy_twin
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


# llama_ftype: what `llama-quantize` calls Q4_0, Q4_1, Q8_0, Q5_0, Q5_1, Q4_K_M, Q5_K_M, Q6_K.
@pytest.mark.parametrize("file_type", [2, 3, 7, 8, 9, 15, 17, 18])
def test_files_that_it_quantized(
    llama_cpp: ModuleType,
    checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
    denoiser: Callable[..., Any],
    from_gguf: Callable[[Path], Any],
    tmp_path: Path,
    file_type: int,
) -> None:
    """Their mixtures of types are read, and mean the logits that llama.cpp finds in them."""
    source = converted(checkpoint(d_model=256, mlp_hidden_size=512, n_layers=3))
    quantized = tmp_path / "quantized.gguf"
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = file_type, 1
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(quantized).encode(), settings)
    assert not failed
    ids = np.random.default_rng(2).integers(0, 39, 40)
    ours = denoiser(quantized, activations="f32").logits(ids.astype(np.int32))
    wanted = numpy_twin.forward(from_gguf(quantized), ids, numpy_twin.Plain())
    assert np.abs(ours - wanted).max() < 1e-3
    theirs = one_forward(llama_cpp, quantized, ids.tolist(), ours.shape[1])
    assert np.mean(theirs.argmax(axis=1) == ours.argmax(axis=1)) > 0.85  # its activations are int8
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.99
