"""Which families fill which texts, and denoisers whose canvas is the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edge
from edge import Hole
from edge.config import ModelConfig
from edge.errors import ContextLengthError, RequestError, UnsupportedModelError
from edge.filling import Form
from edge.tokenizer import Tokenizer

MASK, EOS, PAD = 256, 257, 250
FULL = ("llada", "dream", "a2d_qwen3_mdlm")


class TestFamilies:
    """Where a model sees what follows a hole, and where it does not."""

    @pytest.fixture
    def started(
        self, model_config: Callable[..., ModelConfig], byte_tokenizer: Tokenizer
    ) -> Callable[..., int]:
        def start(
            before: int, hole: int, after: int, length: int | None = None, **config: Any
        ) -> int:
            made, pieces = model_config(**config), ["a" * before, Hole(hole), "b" * after]
            form = Form(pieces, byte_tokenizer, made, (EOS,), length)
            return form.canvas()[0].output_start

        return start

    @pytest.mark.parametrize(
        ("before", "hole", "after", "config", "start"),
        [
            (5, 2, 90, {"attention": "full"}, 5),
            (5, 2, 1, {"attention": "block", "block_align": "absolute"}, 5),
            (5, 1, 3, {"attention": "block", "block_align": "absolute"}, None),
            (4, 1, 3, {"attention": "block", "block_align": "absolute"}, 4),
            (5, 1, 3, {"attention": "block"}, 5),
            (5, 2, 3, {"attention": "block"}, None),
            (5, 40, 0, {"attention": "block"}, 5),
            (5, 1, 2, {"attention": "block", "shift_logits": True}, 4),
            (5, 1, 3, {"attention": "block", "shift_logits": True}, None),
            (5, 1, 2, {"attention": "causal_context"}, 4),
            (5, 1, 3, {"attention": "causal_context"}, None),
            (0, 2, 2, {"attention": "causal_context"}, 0),
            (5, 1, 60, {"attention": "causal_context", "length": 64}, 4),
            (5, 1, 1, {"attention": "causal_context", "length": 2}, None),
        ],
    )
    def test_a_hole_is_filled_where_its_suffix_is_seen(
        self,
        started: Callable[..., int],
        before: int,
        hole: int,
        after: int,
        config: dict[str, Any],
        start: int | None,
    ) -> None:
        if start is None:
            with pytest.raises(UnsupportedModelError, match=r"scripted sees \d tokens from.*full"):
                started(before, hole, after, **config)
        else:
            assert started(before, hole, after, **config) == start

    @pytest.mark.parametrize("family", ["sdar", "fast_dllm_v2"])
    def test_block_models_fill_inside_a_block(
        self, text_model: Callable[[str], Path], family: str
    ) -> None:
        with edge.load(text_model(family)) as model:
            length = model.config.diffusion.block_length
            result = model.fill(["x" * length * 3 + "a", Hole(2), "b"])
            assert result.text is not None
            assert result.text.startswith("x" * length * 3 + "a")
            assert result.text.endswith("b")
            assert result.stats.nfe <= 4
            long = model.fill(["abc", Hole(3 * length)])
            plain = model.generate("abc", raw=True, max_tokens=3 * length)
            assert long.holes[0].ids[: len(plain.ids)] == plain.ids
            with pytest.raises(UnsupportedModelError, match="attention block"):
                model.fill(["abc", Hole(2), "b" * length])

    def test_without_a_tokenizer_nothing_is_filled(
        self, golden: Callable[[str], Path], converted: Callable[..., Path]
    ) -> None:
        model = edge.load(converted(golden("llada")))
        with model, pytest.raises(UnsupportedModelError, match="no tokenizer"):
            model.fill(["a", Hole(1)])


@pytest.fixture(scope="module")
def sudoku() -> Iterator[edge.Model]:
    with edge.load() as loaded:
        yield loaded


class TestInPlaceModels:
    PUZZLE = ".15..2.7.....7.4..3..4...19..9.37...1...2.6.725......3..4..1...5.834976..61.58..4"

    def test_all_cells_are_what_run_gives(self, sudoku: edge.Model) -> None:
        pieces = [Hole(1) if cell == "." else cell for cell in self.PUZZLE]
        assert sudoku.fill(pieces).text == sudoku.generate(self.PUZZLE).text

    def test_an_open_cell_in_the_text_stays_open(self, sudoku: edge.Model) -> None:
        result = sudoku.fill([Hole(1), self.PUZZLE[1:]])
        assert result.text == "4" + self.PUZZLE[1:]
        assert (result.stats.nfe, result.status) == (1, "complete")

    def test_the_canvas_has_its_length(self, sudoku: edge.Model) -> None:
        for pieces in ([Hole(2), "1"], [Hole(80), "11"]):
            with pytest.raises((RequestError, ContextLengthError), match=r"81|-m"):
                sudoku.fill(pieces)
        with pytest.raises(RequestError, match="block_length"):
            sudoku.fill([Hole(1), self.PUZZLE[1:]], block_length=9)
