"""Compensated rounding, calibration, mixed precision, recipes, and conversions that go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from convert import convert as run
from convert.calibration.compensation import round_compensated
from convert.calibration.moments import Moments
from convert.calibration.sensitivity import Rung, allot
from convert.cli import Bytes
from convert.commits import bound_for, precision_within, threshold_for
from convert.compare import compare
from edge._native import dequantize, quantize
from edge.errors import RequestError
from edge.formats.groups import Choice, Layout, layout_for

Golden = Callable[[str], Path]
Make = Callable[..., Any]  # conftest.folder
Run = Callable[..., Any]  # conftest.edge_convert
Values = NDArray[np.float32]
MASKS = {"a2d_qwen3_mdlm": 245, "a2d_qwen3_bd3lm": 245, "fast_dllm_v2": 245}
PUZZLE = "6947152.827..68..5..523...79..47.1....2.8...9.3...9..4..78429...4..91782..9..7..."
SOLUTION = "694715238273968415185234697958476123462183579731529864317842956546391782829657341"


def renamed(number: int) -> str:
    """The puzzle with other digits in each place, and its answer."""
    names = str.maketrans(
        "123456789", "".join(np.random.default_rng(number).permutation(list("123456789")))
    )
    givens = SOLUTION[:number] + PUZZLE[number:]
    return f"{givens.translate(names)}\t{SOLUTION.translate(names)}\n"


PUZZLES = "".join(map(renamed, range(40)))


@pytest.fixture
def puzzles(tmp_path: Path) -> Path:
    path = tmp_path / "puzzles.txt"
    path.write_text(PUZZLES)
    return path


def layout_of(type: str, cols: int, group: int, minima: bool = False) -> Layout:
    layout = layout_for(type, cols, Choice(group, minima))
    assert layout is not None
    return layout


def correlated(rows: int, cols: int, seed: int = 0) -> Values:
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(cols // 4, cols)) + 0.1 * random.normal(size=(cols // 4, cols))
    noise = 0.3 * random.normal(size=(rows, cols))
    return np.asarray(random.normal(size=(rows, cols // 4)) @ mixing + noise, np.float32)


def read(stored: NDArray[np.uint8], layout: Layout, cols: int) -> Values:
    return dequantize(layout.type, stored, cols, *layout.choices)


@pytest.mark.parametrize(
    ("type", "group", "minima"),
    [("int4", 32, False), ("int4", 128, False), ("int4", 64, True), ("int8", 0, False)],
)
def test_compensation_costs_the_outputs_less(type: str, group: int, minima: bool) -> None:
    inputs = correlated(2048, 256)
    weights = np.random.default_rng(1).normal(size=(40, 256)).astype(np.float32)
    layout = layout_of(type, 256, group, minima)
    moments = Moments.of_columns(256)
    moments.add(inputs)
    stored = round_compensated(weights, layout, moments.factors())
    nearest = quantize(type, weights, *layout.choices)
    assert stored.shape == nearest.shape
    errors = [
        np.square(inputs @ (read(bytes_, layout, 256) - weights).T).mean()
        for bytes_ in (stored, nearest)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_uncorrelated_inputs_leave_nothing_to_compensate() -> None:
    weights = np.random.default_rng(1).normal(size=(16, 128)).astype(np.float32)
    layout = layout_of("int4", 128, 32)
    stored = round_compensated(weights, layout, [np.eye(128, dtype=np.float32)])
    np.testing.assert_array_equal(stored, quantize("int4", weights, *layout.choices))


def test_the_compensation_is_that_of_numpy() -> None:
    """One column after the other, as the paper has it."""
    weights = np.random.default_rng(2).normal(size=(8, 64)).astype(np.float32)
    moments = Moments.of_columns(64)
    moments.add(correlated(512, 64))
    (factor,) = moments.factors()
    layout = layout_of("int8", 64, 0)
    scale = (np.abs(weights).max(axis=1) / np.float32(127)).astype(np.float16).astype(np.float64)
    left, wanted = weights.astype(np.float64), np.empty_like(weights, np.float64)
    for col in range(64):
        wanted[:, col] = np.rint(np.clip(left[:, col] / scale, -127, 127)) * scale
        error = (left[:, col] - wanted[:, col]) / factor[col, col]
        left[:, col:] -= np.outer(error, factor[col, col:])
    found = read(round_compensated(weights, layout, [factor]), layout, 64)
    assert np.mean(np.abs(found - wanted) < 1e-6) > 0.98  # float32 may round a tie otherwise


def test_the_factor_is_that_of_the_inverse() -> None:
    moments = Moments.of_columns(96)
    inputs = correlated(400, 96)
    moments.add(inputs[:100])
    moments.add(inputs[100:])
    (factor,) = moments.factors()
    damped = inputs.T.astype(np.float64) @ inputs
    damped += 0.01 * np.diagonal(damped).mean() * np.eye(96)
    product = factor.T.astype(np.float64) @ factor @ damped
    np.testing.assert_allclose(product, np.eye(96), atol=2e-3)
    assert np.array_equal(factor, np.triu(factor))


def test_inputs_of_nothing_are_rounded_to_nearest() -> None:
    moments = Moments.of_columns(32)
    moments.add(np.zeros((4, 32), np.float32))
    weights = np.random.default_rng(3).normal(size=(4, 32)).astype(np.float32)
    layout = layout_of("int4", 32, 32)
    stored = round_compensated(weights, layout, moments.factors())
    np.testing.assert_array_equal(stored, quantize("int4", weights, *layout.choices))


def test_outliers_are_noise_for_int8() -> None:
    even, spiked = Moments.of_columns(64), Moments.of_columns(64)
    inputs = np.random.default_rng(4).normal(size=(100, 64)).astype(np.float32)
    even.add(inputs)
    inputs[:, 5] *= 300
    spiked.add(inputs)
    assert even.int8_noise < 2e-4 < spiked.int8_noise


def rungs(*pairs: tuple[int, float]) -> list[Rung]:
    return [Rung(layout_of("int4", 128, 128), size, kl) for size, kl in pairs]


def test_bits_go_where_they_save_most() -> None:
    ladders = {
        "cheap": rungs((10, 1.0), (20, 0.9)),
        "dear": rungs((10, 5.0), (12, 4.9), (20, 1.0)),
    }
    size = {name: {id(r.layout): r.num_bytes for r in ladder} for name, ladder in ladders.items()}

    def spent(num_bytes: int) -> dict[str, int]:
        layouts = allot(ladders, num_bytes)
        return {name: size[name][id(layouts[name])] for name in ladders}

    assert spent(29) == {"cheap": 10, "dear": 12}
    assert spent(30) == {"cheap": 10, "dear": 20}
    assert spent(40) == {"cheap": 20, "dear": 20}
    with pytest.raises(RequestError, match="2 bytes more"):
        allot(ladders, 18)


def test_a_bound_is_recalibrated_to_the_same_precision() -> None:
    random = np.random.default_rng(5)
    entropies = [np.sort(random.random(20)) for _ in range(50)]
    sound = [1 - entropy / 2 for entropy in entropies]
    worse = [1 - entropy for entropy in entropies]
    precision = precision_within(entropies, sound, 0.5)
    assert bound_for(entropies, sound, 0.5, precision) >= 0.5
    stricter = bound_for(entropies, worse, 0.5, precision)
    assert stricter < 0.5
    assert precision_within(entropies, worse, stricter) >= precision
    confidence = np.array([0.9, 0.8, 0.7])
    assert threshold_for(confidence, np.array([1.0, 1.0, 0.1]), 1.0) == 0.7


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("calibrated")
    (folder / "puzzles.txt").write_text(PUZZLES)
    source = Path(__file__).parents[1] / "golden" / "sudoku"
    files = {}
    for name, options in {
        "f32": {"type": "f32"},
        "int4": {"type": "int4"},
        "nearest": {"type": "int4", "method": "nearest"},
        "mixed": {"size_bytes": 760_000},
    }.items():
        files[name] = folder / f"{name}.gguf"
        run(source, files[name], examples=folder / "puzzles.txt", **options)
    return files


def test_compensated_int4_keeps_more_of_the_mind(calibrated: dict[str, Path]) -> None:
    names = ("f32", "int4", "nearest", "mixed")
    _, ours, plain, mixed = compare(
        *(calibrated[name] for name in names), count=8, answers=False
    ).files
    assert ours.kl_nats < plain.kl_nats / 2
    assert ours.bits_per_weight == plain.bits_per_weight
    assert ours.top1_agreement > plain.top1_agreement
    assert ours.bits_per_weight < mixed.bits_per_weight
    assert 700_000 < calibrated["mixed"].stat().st_size <= 760_000
    types = edge.inspect(calibrated["mixed"]).types
    assert set(types) >= {"int4", "f32"}


def test_the_commit_threshold_is_the_files_own(calibrated: dict[str, Path]) -> None:
    config = edge.inspect(calibrated["int4"]).config.diffusion
    assert 0.5 < config.threshold < 1
    assert config.threshold != edge.inspect(calibrated["f32"]).config.diffusion.threshold
    assert not list(calibrated["int4"].parent.glob(".*"))  # nothing unfinished is left


def test_any_number_of_threads_gives_the_same_bytes(golden: Golden, tmp_path: Path) -> None:
    source = golden("llada")
    digests = {run(source, tmp_path / f"{n}.gguf", "int4", threads=n).sha256 for n in (1, 2)}
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llada", "dream", "sdar", "fast_dllm_v2", "a2d_qwen3_bd3lm"])
def test_every_family_is_calibrated(golden: Golden, tmp_path: Path, family: str) -> None:
    options = {"card": tmp_path / "card.md", "mask_token_id": MASKS.get(family)}
    report = run(golden(family), tmp_path / "out.gguf", "int8", **options)
    assert report.comparison is not None
    assert report.comparison.files[1].top1_agreement > 0.9
    assert "## What it lost" in (tmp_path / "card.md").read_text()


def test_a_recipe_is_what_a_report_tells(golden: Golden, tmp_path: Path, puzzles: Path) -> None:
    recipe = {"type": "int4", "method": "nearest", "tensors": {"output.weight": "f16"}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    puzzles.write_text("".join(map(renamed, range(3))))
    out, report = tmp_path / "out.gguf", tmp_path / "report.json"
    run(golden("sudoku"), out, recipe=tmp_path / "recipe.json", report=report, examples=puzzles)
    told = json.loads(report.read_text())
    assert {key: told["recipe"][key] for key in recipe} == recipe
    types = {tensor["name"]: tensor["type"] for tensor in told["tensors"]}
    assert types["output.weight"] == "f16"
    answers = told["comparison"]["files"][0]["answers"]
    assert answers["score"] == 1.0
    (tmp_path / "again.json").write_text(json.dumps(told["recipe"]))
    again = run(tmp_path / "sudoku", tmp_path / "2.gguf", recipe=tmp_path / "again.json")
    assert again.sha256 == told["sha256"]


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ('{"colour": 1}', "unknown key 'colour'"),
        ('{"type": "int4", "bits": "many"}', 'bits is "many"'),
        ('{"type": "int5"}', "unknown type 'int5'"),
        ('{"type": "f16", "method": "compensated"}', "method compensated for f16"),
        ('{"type": "int4", "tensors": {"x.*": "f16"}}', "'x.*', which is no tensor"),
        ('{"type": "int4", "bits": 4.5, "size_bytes": 9}', "bits per weight and a size"),
        ("[1]", "object"),
    ],
)
def test_unusable_recipes_are_one_line(
    golden: Golden, edge_convert: Run, tmp_path: Path, recipe: str, reason: str
) -> None:
    (tmp_path / "recipe.json").write_text(recipe)
    out = tmp_path / "out.gguf"
    done = edge_convert(golden("llada"), out, "--recipe", tmp_path / "recipe.json")
    assert done.code in (2, 3)
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--preset", "small", "--type", "int8"), "type int8, but preset small makes int4"),
        (("--preset", "small", "--recipe", "."), "--recipe"),
        (("--bits", "4.5", "--type", "q8_0"), "mixed precision of q8_0"),
        (("--bits", "2"), "at their fewest bits"),
        (("--size", "many"), "'many' is no size like 1.1GB"),
        (("--type", "q4_0", "--method", "compensated"), "method compensated for q4_0"),
        (("--type", "f16", "--smooth"), "smoothing for f16"),
    ],
)
def test_choices_that_cannot_be(
    golden: Golden, edge_convert: Run, tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    done = edge_convert(golden("llada"), tmp_path / "out.gguf", *options)
    assert (done.code, reason in done.stderr) == (2, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["llada"]


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("760 kB", 760_000), ("1.1GB", 1_100_000_000), ("2MiB", 2 << 20), ("4096", 4096)],
)
def test_sizes_are_read_as_people_write_them(text: str, num_bytes: int) -> None:
    assert Bytes().convert(text, None, None) == num_bytes
