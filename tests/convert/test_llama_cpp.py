"""llama.cpp loads what carries a name it knows: same logits, same tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convert import convert as run
from edge.formats.pretokenizers import PRE_TOKENIZERS

pytestmark = pytest.mark.llama

Golden = Callable[[str], Path]
TEXTS = [
    "the quick brown fox isn't",
    "LAZY dogs'LL  do",
    "\n\n x=12345!!  ",
    "été 你好 ☃ \t\r\n foo",
    "<think> a<|mask|>b",
    "  in front",
]


@contextmanager
def loaded(library: ModuleType, path: Path) -> Iterator[Any]:
    model = library.llama_model_load_from_file(
        str(path).encode(), library.llama_model_default_params()
    )
    assert model, "llama.cpp does not load the file"
    try:
        yield model
    finally:
        library.llama_model_free(model)


def one_forward(library: ModuleType, model: Any, ids: list[int], rows: int) -> NDArray[np.float32]:
    """Logits [ids, rows] of all ids at once, every one of them seen by every other."""
    options = library.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = 512
    options.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = library.llama_init_from_model(model, options)
    library.llama_set_causal_attn(context, False)
    batch = library.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    assert library.llama_decode(context, batch) == 0
    logits = np.ctypeslib.as_array(library.llama_get_logits(context), (len(ids), rows)).copy()
    library.llama_batch_free(batch)
    library.llama_free(context)
    return logits


@pytest.mark.parametrize(("name", "logits"), [("llada", "logits"), ("dream", "logits_raw")])
def test_reference_logits(
    llama_cpp: ModuleType, golden: Golden, tmp_path: Path, name: str, logits: str
) -> None:
    source = golden(name)
    run(source, tmp_path / "out.gguf", "f32")
    with np.load(source / "expected.npz") as expected:
        ids, wanted = expected["x"].tolist(), expected[logits]
    with loaded(llama_cpp, tmp_path / "out.gguf") as model:
        found = one_forward(llama_cpp, model, ids, wanted.shape[1])
    np.testing.assert_array_equal(found.argmax(axis=1), wanted.argmax(axis=1))
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}])
def test_a_dream_model_with_one_matrix_for_both_ends_loads(
    llama_cpp: ModuleType, dense: Callable[..., Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    made = dense("DreamModel", **changes)
    if changes:
        del made.tensors["lm_head.weight"]
    run(made.write(), tmp_path / "out.gguf", "q8_0")
    with loaded(llama_cpp, tmp_path / "out.gguf") as model:
        assert np.isfinite(one_forward(llama_cpp, model, [1, 2, 39], 40)).all()


def test_what_it_would_run_wrongly_it_refuses(
    llama_cpp: ModuleType, golden: Golden, tmp_path: Path
) -> None:
    run(golden("sdar"), tmp_path / "out.gguf", "q8_0")
    path = str(tmp_path / "out.gguf").encode()
    assert not llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_same_tokens(
    llama_cpp: ModuleType,
    dense: Callable[..., Any],
    bpe: Callable[[str], Any],
    tmp_path: Path,
    name: str,
) -> None:
    tokenizer = bpe(name)
    source = dense("DreamModel", vocab_size=330, mask_token_id=...).write()
    tokenizer.save(str(source / "tokenizer.json"))
    assert run(source, tmp_path / "out.gguf", "q8_0").notes == ()
    with loaded(llama_cpp, tmp_path / "out.gguf") as model:
        vocab = llama_cpp.llama_model_get_vocab(model)
        assert llama_cpp.llama_vocab_n_tokens(vocab) == 330
        assert llama_cpp.llama_vocab_mask(vocab) == tokenizer.token_to_id("<|mask|>")
        for text in TEXTS:
            content, ids = text.encode(), (llama_cpp.llama_token * 200)()
            count = llama_cpp.llama_tokenize(vocab, content, len(content), ids, 200, True, True)
            assert list(ids[:count]) == tokenizer.encode(text).ids, text
