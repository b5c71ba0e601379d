"""The profile of a device: measured, stored, and not believed when it does not fit."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import edge
from edge import machine, profile
from edge.costs import StepCosts
from edge.profile import Identity

HERE = Identity("ab" * 32, "a processor", 2, "avx2", "native", "int8", "bf16", "cd" * 32)
COSTS = StepCosts(((1, 1e6), (8, 2e6)), ((1, 1e5), (8, 3e5)), 12.0, "calibration")
PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


@pytest.fixture(autouse=True)
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder instead of the user's."""
    monkeypatch.setattr(profile, "folder", lambda: tmp_path / "cache" / "profiles")
    return tmp_path / "cache" / "profiles"


def test_what_is_written_is_read() -> None:
    assert profile.read(HERE) is None
    path = profile.write(HERE, COSTS)
    assert profile.read(HERE) == COSTS
    profile.write(HERE, replace(COSTS, attention_ns=13.0))
    assert [entry.name for entry in path.parent.iterdir()] == [HERE.file_name]
    assert profile.read(HERE) == replace(COSTS, attention_ns=13.0)


@pytest.mark.parametrize("name", [field.name for field in fields(Identity)])
def test_another_device_model_or_version_has_another_profile(name: str) -> None:
    profile.write(HERE, COSTS)
    value = getattr(HERE, name)
    other = replace(HERE, **{name: value + (1 if isinstance(value, int) else "x")})
    assert profile.read(other) is None


def foreign(path: Path) -> None:
    content = json.loads(path.read_text())
    content["identity"]["cpu"] = "another processor"
    path.write_text(json.dumps(content))


def older(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 0}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def huge(path: Path) -> None:
    path.write_bytes(b" " * (1 << 21))


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\x00" * 50)


def a_list(path: Path) -> None:
    path.write_text("[1, 2]")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def negative(path: Path) -> None:
    content = json.loads(path.read_text())
    content["costs"]["body"][0][1] = -1.0
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage", [foreign, older, cut, nested, huge, binary, a_list, a_folder, negative]
)
def test_what_cannot_be_trusted_is_ignored_and_noted(
    damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(profile.write(HERE, COSTS))
    with caplog.at_level(logging.INFO):
        assert profile.read(HERE) is None
    assert "is ignored" in caplog.text


class TestOfAModel:
    def test_a_calibration_is_stored_and_used(self) -> None:
        with edge.load(threads=1) as model:
            costs, path = model.calibrate(seconds=0.2)
            assert path.is_file()
            assert model.costs == costs
            assert model.generate(PUZZLE, budget_ms=1e5).stats.cost_source == "calibration"
        assert [rows for rows, _ in costs.body][:2] == [1, 4]
        assert costs.body[-1][0] <= 81
        assert 0 < costs.predict(1, 0, 1) < costs.predict(81, 0, 81)
        with edge.load(threads=1) as again:
            assert again.costs == costs
        with edge.load(threads=2) as other:
            assert other.costs.source == "guess"

    def test_a_model_that_caches_is_measured_with_a_context(
        self, golden: Callable[[str], Path], converted: Callable[..., Path]
    ) -> None:
        with edge.load(converted(golden("sdar"), "f32"), threads=1) as model:
            costs, _ = model.calibrate(seconds=0.5)
        assert costs.attention_ns >= 0

    def test_requests_with_a_budget_teach_and_their_lesson_is_kept(self) -> None:
        with edge.load(threads=1) as model:
            first = model.generate(PUZZLE, budget_ms=1e5)
            second = model.generate(PUZZLE, budget_ms=1e5)
        assert (first.stats.cost_source, second.stats.cost_source) == ("guess", "steps")
        with edge.load(threads=1) as again:
            assert again.costs.source == "steps"

    def test_requests_without_one_leave_nothing_behind(self, kept_in: Path) -> None:
        with edge.load(threads=1) as model:
            model.generate(PUZZLE, steps=2)
        assert not kept_in.exists()

    def test_a_folder_that_cannot_be_written_is_no_failure(
        self, kept_in: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        kept_in.parent.write_text("a file where the folder should be")
        with caplog.at_level(logging.INFO), edge.load(threads=1) as model:
            assert model.generate(PUZZLE, budget_ms=1e5).complete
        assert "not stored" in caplog.text

    def test_warming_up_reads_the_profile_and_teaches_nothing(
        self, monkeypatch: pytest.MonkeyPatch, kept_in: Path
    ) -> None:
        with edge.load(threads=1) as model:
            model.calibrate(seconds=0.1)
        with edge.load(threads=1) as model:
            rows: list[int] = []
            forward = model._backend.forward

            def counting(request: Any) -> Any:
                rows.append(len(request.ids))
                return forward(request)

            monkeypatch.setattr(model._backend, "forward", counting)
            model.warm_up()
            assert rows == [81]
            monkeypatch.setattr(profile, "read", None)  # not read again
            assert model.costs.source == "calibration"
            model.generate(PUZZLE, budget_ms=1e5)
        assert len([*kept_in.iterdir()]) == 1

    def test_a_copy_of_the_file_shares_the_profile(self, tmp_path: Path) -> None:
        copy = tmp_path / "copy.gguf"
        with edge.load(threads=1) as model:
            copy.write_bytes(Path(model.info.path).read_bytes())
            costs, _ = model.calibrate(seconds=0.1)
        with edge.load(copy, threads=1) as other:
            assert other.costs == costs


def test_the_cpu_has_a_name() -> None:
    assert machine.cpu_name()


def test_figures_are_plain_numbers(kept_in: Path) -> None:
    with edge.load(threads=1) as model:
        model.calibrate(seconds=0.1)
    stored: dict[str, Any] = json.loads(next(kept_in.iterdir()).read_text())
    assert set(stored) == {"schema", "identity", "costs"}
