"""What a conversion of a large checkpoint takes: memory, time, MB of input per second.

    python examples/bench/conversion.py --gigabytes 4 --options "--type int4"

makes a LLaDA-shaped checkpoint of random bfloat16 weights of about that size in a temporary folder
(--folder: elsewhere), converts it and samples the process's anonymous memory (RssAnon, Linux only).
Random weights have no mind: this says nothing of quality.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

ROOT = "model.transformer"
SAMPLE_SECONDS = 0.02
POOL_VALUES = 1 << 22
LLADA_8B = {"d_model": 4096, "mlp_hidden_size": 12288, "vocab_size": 126464, "n_heads": 32}
SMALL = {"d_model": 128, "mlp_hidden_size": 384, "vocab_size": 512, "n_heads": 4}


def shapes(sizes: dict[str, int], num_layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors."""
    hidden, wide, vocab = sizes["d_model"], sizes["mlp_hidden_size"], sizes["vocab_size"]
    found: dict[str, tuple[int, ...]] = {f"{ROOT}.wte.weight": (vocab, hidden)}
    for layer in range(num_layers):
        block = f"{ROOT}.blocks.{layer}"
        found |= {f"{block}.{name}_norm.weight": (hidden,) for name in ("attn", "ff")}
        for name in ("q_proj", "k_proj", "v_proj", "attn_out"):
            found[f"{block}.{name}.weight"] = (hidden, hidden)
        found |= {f"{block}.{name}.weight": (wide, hidden) for name in ("ff_proj", "up_proj")}
        found[f"{block}.ff_out.weight"] = (hidden, wide)
    return found | {f"{ROOT}.ln_f.weight": (hidden,), f"{ROOT}.ff_out.weight": (vocab, hidden)}


def fewest_layers(sizes: dict[str, int], num_bytes: float) -> int:
    """So many that the checkpoint has at least `num_bytes`."""
    base, one = (2 * sum(map(math.prod, shapes(sizes, n).values())) for n in (0, 1))
    return max(1, math.ceil((num_bytes - base) / (one - base)))


def write_checkpoint(folder: Path, sizes: dict[str, int], num_layers: int) -> int:
    """config.json and model.safetensors; returns the bytes of the tensors."""
    config = sizes | {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "n_kv_heads": sizes["n_heads"],
        "n_layers": num_layers,
        "embedding_size": sizes["vocab_size"],
        "max_sequence_length": 4096,
        "rope": True,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "layer_norm_type": "rms",
        "activation_type": "silu",
        "block_type": "llama",
        "include_bias": False,
        "weight_tying": False,
        "mask_token_id": sizes["vocab_size"] - 128,
        "eos_token_id": sizes["vocab_size"] - 129,
    }
    (folder / "config.json").write_text(json.dumps(config))
    header, offset = {}, 0
    tensors = shapes(sizes, num_layers)
    for name, shape in tensors.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for piece in values(tensors):
            file.write(piece.data)
    return offset


def values(tensors: dict[str, tuple[int, ...]]) -> Iterator[np.ndarray]:
    """bfloat16 bits piece by piece: ones for norms, else pieces of one normal pool."""
    random = np.random.default_rng(0)
    pool = random.standard_normal(POOL_VALUES, np.float32) * np.float32(0.02)
    bits = (pool.view(np.uint32) >> 16).astype("<u2")
    for shape in tensors.values():
        left = math.prod(shape)
        if len(shape) == 1:
            yield np.full(left, 0x3F80, "<u2")
            continue
        while left:
            first = int(random.integers(POOL_VALUES))
            piece = bits[first : first + left]
            left -= len(piece)
            yield piece


def watched(command: Sequence[str]) -> tuple[float, float, str]:
    """Seconds, peak MiB of anonymous memory, what was said."""
    begun, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stderr=said)
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            try:
                found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
            except OSError:  # it has just ended
                found = None
            peak = max(peak, int(found[1]) if found else 0)
            time.sleep(SAMPLE_SECONDS)
        said.seek(0)
        text = said.read()
    if process.returncode:
        sys.exit(text)
    return time.monotonic() - begun, peak / 1024, text


def main(argv: Sequence[str] | None = None) -> None:
    """Make the checkpoint, convert it, print what it took."""
    parser = argparse.ArgumentParser(description="Time and watch the conversion of a checkpoint.")
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of bfloat16 (default 4)")
    parser.add_argument("--options", default="--type int4", help="of edge-convert")
    parser.add_argument("--folder", type=Path, help="to work in (default: a temporary one)")
    arguments = parser.parse_args(argv)
    if not arguments.gigabytes > 0:
        parser.error("wanted: --gigabytes above 0")
    sizes = LLADA_8B if arguments.gigabytes >= 2.5 else SMALL
    num_layers = fewest_layers(sizes, 1e9 * arguments.gigabytes)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        source = Path(name) / "checkpoint"
        source.mkdir()
        num_bytes = write_checkpoint(source, sizes, num_layers)
        program = Path(sys.executable).with_name("edge-convert")
        command = [str(program), str(source), f"{name}/out.gguf"]
        seconds, peak, said = watched([*command, *shlex.split(arguments.options)])
    print(said.replace(name, "...").strip())
    print(
        f"{num_bytes / 1e9:.2f} GB, {num_layers} layers: {seconds:.0f} s, "
        f"peak anonymous memory {peak:.0f} MiB"
    )


if __name__ == "__main__":
    main()
