"""What the side file of packed weights saves: time and memory of loading, and of a first step.

    python examples/bench/pack_cache.py
    python examples/bench/pack_cache.py --shape qwen3-0.6b --type q8_0 --markdown

Loads a model file of random weights, each time in a process of its own: packed into memory; with
no side file there yet; and twice from the side file. The page cache is left as it is. Memory of
the process's own is what other processes cannot share.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import print_table

from edge.machine import cpu_name

WAYS = ("in memory", "first load, packs", "second load", "third load")
_PROGRAM = """
import json, sys, time
import numpy as np, psutil
import edge
began = time.perf_counter()
with edge.load(sys.argv[1], pack_cache=sys.argv[2] == "yes") as model:
    loaded = time.perf_counter()
    now = psutil.Process().memory_info()
    model.logits(np.arange(8))
    stepped = time.perf_counter()
    print(json.dumps({"load_ms": 1e3 * (loaded - began), "step_ms": 1e3 * (stepped - loaded),
                      "rss_bytes": now.rss, "own_bytes": now.rss - now.shared,
                      "peak_bytes": edge.generator.peak_rss_bytes()}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Loading with and without a side file.")
    parser.add_argument("--model", type=Path, help="a file; default: random weights of --shape")
    parser.add_argument("--shape", default="sdar-1.7b", help="see `edge bench --shape`")
    parser.add_argument("--type", default="int4")
    parser.add_argument("--markdown", action="store_true", help="the table in Markdown")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-pack-cache-") as folder:
        path = options.model or _random_model(Path(folder), options.shape, options.type)
        rows = [_row(way, path, Path(folder, "cache")) for way in WAYS]
        size = path.stat().st_size
    print(f"{path.name}, {size / 2**20:.0f} MiB; {cpu_name()}\n")
    header = ("", "load ms", "then 8 rows ms", "RSS MiB", "of it own", "peak MiB")
    print_table(header, rows, markdown=options.markdown)


def _random_model(folder: Path, shape: str, kind: str) -> Path:
    from edge.random_model import write_random_model
    from edge.shapes import SHAPES

    path = folder / f"{shape}.gguf"
    write_random_model(path, SHAPES[shape], kind)
    return path


def _row(way: str, path: Path, cache: Path) -> list[str]:
    figures = _load(path, cache, use_cache=way != WAYS[0])
    sizes = (figures[name] / 2**20 for name in ("rss_bytes", "own_bytes", "peak_bytes"))
    times = (figures[name] for name in ("load_ms", "step_ms"))
    return [way, *(f"{figure:.0f}" for figure in (*times, *sizes))]


def _load(path: Path, cache: Path, *, use_cache: bool) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, path, "yes" if use_cache else "no"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    main()
