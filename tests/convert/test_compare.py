"""How much of a model file's mind is left in others, and on which canvases that is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edge
from convert.canvases import Example, add_noise, own_examples, read_examples
from convert.commits import precision_above, threshold_for
from convert.compare import MASK_RATIOS, Comparison, compare
from convert.divergence import kl_nats, log_softmax

GOLDEN = Path(__file__).parents[1] / "golden"
PUZZLE = "." * 27 + "123456789456789123789123456" + "." * 27

Converted = Callable[..., Path]
Run = Callable[..., Any]  # conftest.edge_convert


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The llada fixture in q4_0 against itself in f32."""
    from convert import convert

    folder = tmp_path_factory.mktemp("pair")
    for type in ("f32", "q4_0"):
        groups = {"group_size": 128, "minima": True} if type == "int4" else {}
        convert(GOLDEN / "llada", folder / f"{type}.gguf", type, method="nearest", **groups)
    return compare(folder / "f32.gguf", folder / "q4_0.gguf", count=3, seed=5, threads=1)


def test_the_reference_equals_itself(pair: Comparison) -> None:
    itself = pair.files[0]
    assert (itself.kl_nats, itself.top1_agreement, itself.top1_agreement_low) == (0, 1, 1)
    assert [(at.mask_ratio, at.kl_nats, at.top1_agreement) for at in itself.at_ratios] == [
        (ratio, 0, 1) for ratio in MASK_RATIOS
    ]
    assert (itself.answers.ids_agreement, itself.answers.same_answers) == (1, 1)


def test_four_bits_are_told_from_none(pair: Comparison) -> None:
    other = pair.files[1]
    assert all(at.kl_nats > 0 for at in other.at_ratios)
    assert 0 < other.top1_agreement_low <= other.top1_agreement < 1
    assert other.answers.ids_agreement < 1
    assert other.size_bytes < pair.files[0].size_bytes / 2


def test_a_seed_is_a_comparison(pair: Comparison) -> None:
    files = [pair.files[0].file, pair.files[1].file]
    assert compare(*files, count=3, seed=5, threads=2) == pair
    assert compare(*files, count=3, seed=6).files[1].kl_nats != pair.files[1].kl_nats


def test_divergence_is_that_of_the_definition() -> None:
    random = np.random.default_rng(0)
    a, b = (random.normal(0, 5, (4, 9)).astype(np.float32) for _ in range(2))
    p, q = (np.exp(x.astype(float)) / np.exp(x.astype(float)).sum(1)[:, None] for x in (a, b))
    assert np.allclose(kl_nats(log_softmax(a), log_softmax(b)), (p * np.log(p / q)).sum(1))
    assert np.isfinite(log_softmax(np.float32([[1e30, 0.0], [-1e30, 0.0]]))).all()


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(
    ("attention", "align"),
    [
        ("full", "prompt_end"),
        ("block", "prompt_end"),
        ("block", "absolute"),
        ("causal_context", "prompt_end"),
    ],
)
@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_only_open_positions_are_masked_and_of_one_block_where_there_are_blocks(
    attention: str, align: str, ratio: float, shift: bool, pair: Comparison
) -> None:
    config = edge.inspect(pair.files[0].file).config
    diffusion = replace(
        config.diffusion,
        attention=attention,
        block_align=align,
        block_length=8,
        shift_logits=shift,
    )
    config, base = replace(config, diffusion=diffusion), 5
    ids = np.arange(1, 30, dtype=np.int32)
    example = Example(ids, np.arange(base, len(ids)), base, has_answer=True)
    seen = set()
    for seed in range(20):
        canvas = add_noise(example, ratio, config, np.random.default_rng(seed))
        masks = np.flatnonzero(canvas.ids == diffusion.mask_token_id)
        assert masks.tolist() == canvas.masked.tolist()
        assert masks.min() >= base
        assert (canvas.rows == canvas.masked - diffusion.shift_logits).all()
        clean = np.setdiff1d(np.arange(len(canvas.ids)), masks)
        assert (canvas.ids[clean] == ids[clean]).all()
        seen |= set(masks.tolist())
        if not diffusion.caches:
            assert len(masks) == round(ratio * len(example.open)) or len(masks) == 1
            continue
        start = 0 if diffusion.block_align == "absolute" else base
        blocks = set(((masks - start) // diffusion.block_length).tolist())
        assert len(blocks) == 1
        start += blocks.pop() * diffusion.block_length
        assert len(canvas.ids) == min(len(ids), start + diffusion.block_length)
        causal = diffusion.attention == "causal_context"
        assert canvas.context_length == (start if causal else base)
    assert ratio < 1 or seen == set(range(base, len(ids)))


EIGHTHS = st.integers(1, 8).map(lambda n: n / 8)  # their sums are exact


@given(st.lists(st.tuples(EIGHTHS, EIGHTHS), min_size=1, max_size=30), EIGHTHS)
@settings(max_examples=200, deadline=None)
def test_the_recalibrated_threshold_is_the_lowest_that_is_sound(
    rows: list[tuple[float, float]], wanted: float
) -> None:
    confidence, under_reference = (np.array(column) for column in zip(*rows, strict=True))
    thresholds = sorted({0.0, *confidence.tolist()})
    precisions = {t: precision_above(confidence, under_reference, t) for t in thresholds}
    sound = [t for t, precision in precisions.items() if precision and precision >= wanted]
    assert threshold_for(confidence, under_reference, wanted) == (sound[0] if sound else None)


def test_own_examples_are_clean_and_each_its_own(converted: Converted) -> None:
    with edge.load(converted(GOLDEN / "llada")) as model:
        drawn = [example.ids.tolist() for example in own_examples(model, 3, seed=1)]
        again = [example.ids.tolist() for example in own_examples(model, 3, seed=1)]
        assert model.config.diffusion.mask_token_id not in {id for ids in drawn for id in ids}
    assert drawn == again
    assert drawn[0] != drawn[1] != drawn[2]


def test_right_answers_are_counted(tmp_path: Path) -> None:
    solution = edge.load("sudoku").generate(PUZZLE).text
    wrong = PUZZLE.replace(".", "1")
    file = tmp_path / "pairs.txt"
    file.write_text(f"{PUZZLE}\t{solution}\n\n{PUZZLE}\t{wrong}\n")
    sudoku = edge.denoisers.path_of("sudoku")
    result = compare(sudoku, sudoku, examples=file, count=9, threads=1)
    assert result.num_examples == 2
    assert [report.answers.score for report in result.files] == [0.5, 0.5]
    # holes alone are masked, the givens stay
    assert result.num_positions == 2 * sum(round(ratio * 54) for ratio in MASK_RATIOS)


def test_the_command_prints_a_column_per_file(pair: Comparison, edge_convert: Run) -> None:
    files = [report.file for report in pair.files]
    options = ("--count", 3, "--seed", 5, "--threads", 1)
    done = edge_convert("compare", *files, *options)
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split("|")[2:4] == [" f32.gguf ", " q4_0.gguf "]
    assert len({len(line) for line in lines[:-2]}) == 1
    kl = next(line for line in lines if "KL in nats, all" in line)
    assert kl.split("|")[3].strip() == f"{pair.files[1].kl_nats:.3g}"
    done = edge_convert("compare", *files, *options, "--json")
    told, wanted = json.loads(done.stdout), json.loads(json.dumps(pair.to_json()))
    assert all(file.pop("forward_ms") > 0 for files in (told, wanted) for file in files["files"])
    assert told == wanted


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        pytest.param(b"", "there are no examples", id="empty"),
        pytest.param(b"\xff\xfe", "not UTF-8 from byte 0 on", id="binary"),
        pytest.param(b"1234\n", "line 1 has 4 tokens, the canvas has 81", id="short"),
        pytest.param(b"." * 81, "line 1 has mask tokens in its clean text", id="masks"),
        pytest.param(
            b"1" * 81 + b"\t" + b"1" * 81, "line 1 leaves no position open", id="no holes"
        ),
        pytest.param(
            b"." * 80 + b"\t" + b"1" * 81,
            "line 1 has a prompt of 80 and an answer of 81 tokens",
            id="lengths",
        ),
    ],
)
def test_unusable_examples_are_one_clear_line(
    content: bytes, fault: str, tmp_path: Path, edge_convert: Run
) -> None:
    file = tmp_path / "examples.txt"
    file.write_bytes(content)
    done = edge_convert("compare", "sudoku", "sudoku", "--examples", file)
    assert done.code == 2
    assert fault in done.error
    assert str(file) in done.error


def test_files_of_two_networks_are_refused(
    pair: Comparison, converted: Converted, edge_convert: Run
) -> None:
    other = converted(GOLDEN / "sdar")
    done = edge_convert("compare", pair.files[0].file, other)
    assert done.code == 2
    assert done.error.endswith(f"({other}) - compare files of the same network")


def test_examples_need_a_tokenizer(pair: Comparison, tmp_path: Path, edge_convert: Run) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("a text\n")
    done = edge_convert("compare", pair.files[0].file, pair.files[1].file, "--examples", file)
    assert done.code == 2
    assert "no tokenizer" in done.error


def test_a_missing_file_is_said(edge_convert: Run, tmp_path: Path) -> None:
    done = edge_convert("compare", "sudoku", tmp_path / "absent.gguf")
    assert done.code == 5
    assert "absent.gguf" in done.error


def test_texts_are_whole_canvases(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("1" * 81 + "\n")
    with edge.load("sudoku") as model:
        (example,) = read_examples(file, model)
    assert (len(example.open), example.context_length, example.has_answer) == (81, 0, False)
