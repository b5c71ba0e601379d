"""A file is replaced whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from edge.formats.atomic_file import replacing, sweep_partials


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def dead_pid() -> int:
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    process.join()
    pid = process.pid
    process.close()
    assert pid is not None
    return pid


@pytest.fixture
def living_pid() -> int:
    return os.getppid()


@pytest.mark.parametrize("old", [None, "old"])
def test_success_leaves_the_new_file_alone(target: Path, old: str | None) -> None:
    if old is not None:
        target.write_text(old)
    with replacing(target) as partial:
        assert partial.parent == target.parent
        partial.write_text("new")
        assert target.exists() == (old is not None)
    assert contents(target.parent) == {"model.gguf": "new"}


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("written", [True, False])
def test_failure_leaves_the_old_file_alone(
    target: Path, failure: type[BaseException], old: str | None, written: bool
) -> None:
    if old is not None:
        target.write_text(old)

    def work() -> None:
        with replacing(target) as partial:
            if written:
                partial.write_text("half")
            raise failure

    with pytest.raises(failure):
        work()
    assert contents(target.parent) == ({} if old is None else {"model.gguf": "old"})


def test_a_body_that_writes_nothing_fails(target: Path) -> None:
    target.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert contents(target.parent) == {"model.gguf": "old"}


def test_a_text_path(target: Path) -> None:
    with replacing(str(target)) as partial:
        partial.write_text("new")
    assert contents(target.parent) == {"model.gguf": "new"}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "no" / "x.gguf") as partial:
        partial.write_text("new")


def test_a_dead_writer_s_partial_is_swept(target: Path, dead_pid: int) -> None:
    stale = target.with_name(f".model.gguf.partial.{dead_pid}")
    stale.write_text("half")
    with replacing(target) as partial:
        assert not stale.exists()
        partial.write_text("new")
    assert contents(target.parent) == {"model.gguf": "new"}


def test_a_living_writer_s_partial_is_kept(target: Path, living_pid: int) -> None:
    busy = target.with_name(f".model.gguf.partial.{living_pid}")
    busy.write_text("half")
    with replacing(target) as partial:
        partial.write_text("new")
    assert contents(target.parent) == {"model.gguf": "new", busy.name: "half"}


def test_only_this_target_s_partials_are_swept(target: Path, dead_pid: int) -> None:
    others = [
        f".other.gguf.partial.{dead_pid}",
        f"model.gguf.partial.{dead_pid}",
        f".model.gguf.partial.{dead_pid}x",
        f".model.gguf.partial.-{dead_pid}",
        ".model.gguf.partial.",
        f".modelXgguf.partial.{dead_pid}",
    ]
    for name in others:
        target.with_name(name).write_text("other")
    sweep_partials(target)
    assert sorted(contents(target.parent)) == sorted(others)


@pytest.mark.parametrize("name", ["m[1].gguf", "m*.gguf", "m?.gguf"])
def test_names_with_glob_characters(tmp_path: Path, name: str, dead_pid: int) -> None:
    target = tmp_path / name
    stale, other = (tmp_path / f".{n}.partial.{dead_pid}" for n in (name, "m1.gguf"))
    stale.write_text("half")
    other.write_text("other")
    with replacing(target) as partial:
        partial.write_text("new")
    assert sorted(contents(tmp_path)) == sorted([name, other.name])


def test_the_replaced_file_stays_readable_by_who_has_it_open(target: Path) -> None:
    target.write_text("old")
    with target.open() as reader, replacing(target) as partial:
        partial.write_text("new")
        assert reader.read() == "old"
    assert target.read_text() == "new"
