"""Side files of packed weights: made once, taken only when they are the model's, never an error."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from edge import _native, pack_cache

KINDS = ["q8_0", "q4_0", "int8", "int4"]
IDS = np.arange(40) % 10
Logits = NDArray[np.float32]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, worth using for the smallest model."""
    monkeypatch.setattr(pack_cache, "SMALLEST_BYTES", 1)
    monkeypatch.setattr(pack_cache, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "panels"


@pytest.fixture
def model(tmp_path: Path, golden: Callable[[str], Path], converted: Callable[..., Path]) -> Path:
    return Path(shutil.copy(converted(golden("sudoku"), "q8_0"), tmp_path / "model.gguf"))


def logits(path: Path, **options: Any) -> Logits:
    with edge.load(path, **{"threads": 1, **options}) as loaded:
        return loaded.logits(IDS)


def side_file(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("isa")
def test_results_are_the_same_with_and_without(
    golden: Callable[[str], Path], converted: Callable[..., Path], kind: str, folder: Path
) -> None:
    path = converted(golden("sudoku"), kind)
    wanted = logits(path, pack_cache=False)
    assert not folder.exists()
    for _ in range(2):
        np.testing.assert_array_equal(logits(path, threads=2), wanted)
        np.testing.assert_array_equal(
            logits(path, activations="f32"), logits(path, activations="f32", pack_cache=False)
        )
    assert side_file(folder).name.endswith(f"-{_native.PANEL_LAYOUT}.panels")
    assert side_file(folder).name.startswith(f"{path.stat().st_size}-")


def test_the_second_load_does_not_pack(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = logits(model)
    before = side_file(folder).stat()
    monkeypatch.setattr(pack_cache, "_write", lambda *_: pytest.fail("it packs again"))
    np.testing.assert_array_equal(logits(model), first)
    after = side_file(folder).stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert after.st_mtime_ns > before.st_mtime_ns  # used


def test_small_models_are_packed_in_memory(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_cache, "SMALLEST_BYTES", 64 << 20)
    logits(model)
    assert not folder.exists()


def test_float_models_have_nothing_to_pack(
    golden: Callable[[str], Path], converted: Callable[..., Path], folder: Path
) -> None:
    logits(converted(golden("sudoku"), "f32"))
    assert not folder.exists()


def changed_bytes(path: Path) -> bytes:
    """The same size, header and key places: other weights in between."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    for i in range(middle, middle + 20_000):
        content[i] ^= 1
    return bytes(content)


def replaced(path: Path) -> None:
    other = path.with_name("other.gguf")
    other.write_bytes(changed_bytes(path))
    shutil.copystat(path, other)
    other.replace(path)


def written_in_place(path: Path) -> None:
    content, status = changed_bytes(path), path.stat()
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [replaced, written_in_place])
def test_another_model_of_the_same_size_and_time(
    model: Path, folder: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_cache, "_NUM_SAMPLES", 2)  # what samples see is not what saves us
    first, status = logits(model), model.stat()
    change(model)
    assert (model.stat().st_size, model.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    second = logits(model)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, logits(model, pack_cache=False))
    assert len(list(folder.iterdir())) == 2


def test_another_model_s_side_file_is_not_taken(
    model: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = logits(model)
    mine = side_file(folder)
    other = model.with_name("other.gguf")
    other.write_bytes(changed_bytes(model))
    logits(other)
    theirs = next(path for path in folder.iterdir() if path != mine)
    shutil.copy(theirs, mine)
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(logits(model), wanted)
    assert "the packed weights are another file's" in caplog.text
    assert mine.read_bytes() != theirs.read_bytes()


def refusing(error: int) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error))

    return fail


def test_a_full_disk_while_writing(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = logits(model, pack_cache=False)
    program = (
        "import resource, signal, sys; from pathlib import Path; import numpy as np; "
        "from edge import pack_cache; import edge; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
        "pack_cache.SMALLEST_BYTES = 1; pack_cache.cache_folder = lambda: Path(sys.argv[2]); "
        "print(edge.load(sys.argv[1], threads=1).logits(np.arange(40) % 10).tobytes().hex())"
    )
    command = [sys.executable, "-c", program, str(model), str(folder.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (bytes.fromhex(done.stdout), done.stderr) == (wanted.tobytes(), "")
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))  # type: ignore[attr-defined]
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(logits(model), wanted)
    assert "has no room for" in caplog.text
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["mkdir", "replace"])
def test_a_folder_that_takes_nothing(
    model: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
    error: int,
) -> None:
    wanted = logits(model, pack_cache=False)
    monkeypatch.setattr(Path, call, refusing(error))
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(logits(model), wanted)
    assert "weights are packed into memory" in caplog.text
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_folder_that_is_a_file(model: Path, folder: Path) -> None:
    wanted = logits(model, pack_cache=False)
    folder.parent.mkdir()
    folder.write_text("in the way")
    np.testing.assert_array_equal(logits(model), wanted)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(model: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    wanted = logits(model, pack_cache=False)
    np.testing.assert_array_equal(logits(model), wanted)
    assert list(folder.iterdir()) == []


def test_processes_that_race(model: Path, folder: Path) -> None:
    wanted = logits(model, pack_cache=False).tobytes().hex()
    program = (
        "import sys; from pathlib import Path; import numpy as np; from edge import pack_cache; "
        "import edge; pack_cache.SMALLEST_BYTES = 1; "
        "pack_cache.cache_folder = lambda: Path(sys.argv[2]); sys.stdin.readline(); "
        "print(edge.load(sys.argv[1], threads=1).logits(np.arange(40) % 10).tobytes().hex())"
    )
    command = [sys.executable, "-c", program, str(model), str(folder.parent)]
    pipe = subprocess.PIPE
    racers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("\n")
        racer.stdin.flush()
    answers = [racer.communicate(timeout=120)[0].strip() for racer in racers]
    assert answers == [wanted] * len(racers)
    assert [racer.returncode for racer in racers] == [0] * len(racers)
    assert logits(model).tobytes().hex() == wanted
    assert side_file(folder)


def test_threads_that_race(model: Path, folder: Path) -> None:
    wanted = logits(model, pack_cache=False)
    answers: list[Logits] = []
    racers = [threading.Thread(target=lambda: answers.append(logits(model))) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(answers) == 4
    for answer in answers:
        np.testing.assert_array_equal(answer, wanted)
    assert side_file(folder)


def test_what_killed_writers_left_is_swept(model: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    left_over = folder / f".some-other.panels.partial.{int(gone.stdout)}"
    left_over.write_bytes(b"half")
    logits(model)
    assert side_file(folder).suffix == ".panels"


def test_the_least_recently_used_go_first(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [Path(shutil.copy(model, model.with_name(f"{i}.gguf"))) for i in range(3)]
    made = []
    for path in paths[:2]:
        before = set(folder.iterdir()) if folder.exists() else set()
        logits(path)
        made += set(folder.iterdir()) - before
    os.utime(made[0], ns=(2, 2))
    os.utime(made[1], ns=(1, 1))
    size = made[0].stat().st_size
    monkeypatch.setattr(pack_cache, "LARGEST_FOLDER_BYTES", 2 * size)
    logits(paths[2])
    left = set(folder.iterdir())
    assert made[0] in left
    assert made[1] not in left
    assert len(left) == 2
    assert pack_cache.side_files()[0][0] == made[0]


def test_a_denoiser_without_panels_does_not_run(model: Path) -> None:
    from edge.backends.native import native_shape
    from edge.config import read_config
    from edge.formats.gguf_file import open_model, read_header

    config = read_config(read_header(model)).denoiser
    denoiser = _native.Denoiser(open_model(model), native_shape(config), 1, pack=False)
    with pytest.raises(RuntimeError, match="not packed yet"):
        denoiser.logits(IDS.astype(np.int32))
    denoiser.pack_panels()
    np.testing.assert_array_equal(
        denoiser.logits(IDS.astype(np.int32)), logits(model, pack_cache=False)
    )


def test_the_command_line_can_leave_it(model: Path, folder: Path) -> None:
    from click.testing import CliRunner

    from edge.cli.run import command

    options = ["-m", str(model), "--steps", "1", "--json", "." * 81]
    assert json.loads(CliRunner().invoke(command, [*options, "--no-pack-cache"]).stdout)["nfe"] == 1
    assert not folder.exists()
    CliRunner().invoke(command, options)
    assert side_file(folder)
