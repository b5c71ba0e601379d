"""The recorded peaks: the best one stays, and what cannot be trusted is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge import peak_record
from edge.peak_record import best_peak


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(peak_record, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache/peaks.json"


def test_the_best_stays() -> None:
    assert [best_peak("cpu", "avx2", 2, gops) for gops in (100.0, 90.0, 120.0, 1.0)] == [
        100.0,
        100.0,
        120.0,
        120.0,
    ]


def test_others_are_others() -> None:
    best_peak("cpu", "avx2", 2, 100.0)
    assert best_peak("cpu", "avx2", 1, 50.0) == 50.0
    assert best_peak("cpu", "generic", 2, 5.0) == 5.0
    assert best_peak("another cpu", "avx2", 2, 70.0) == 70.0
    assert best_peak("cpu", "avx2", 2, 60.0) == 100.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": 1, "peaks": 7}',
        '{"schema": 1, "peaks": {"cpu, avx2, 2": "fast"}}',
        '{"schema": 1, "peaks": {"cpu, avx2, 2": NaN}}',
        '{"schema": 1, "peaks": {"cpu, avx2, 2": 1e300}}',
        '{"schema": 1, "peaks": {"cpu, avx2, 2": null}}',
        '{"schema": 2, "peaks": {"cpu, avx2, 2": 500}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_record_begins_anew(record: Path, text: str) -> None:
    record.parent.mkdir()
    record.write_text(text)
    assert best_peak("cpu", "avx2", 2, 100.0) == 100.0
    assert best_peak("cpu", "avx2", 2, 90.0) == 100.0


def test_a_folder_that_cannot_be_made_is_no_failure(record: Path) -> None:
    record.parent.write_text("a file")
    assert best_peak("cpu", "avx2", 2, 100.0) == 100.0
    assert best_peak("cpu", "avx2", 2, 90.0) == 90.0
