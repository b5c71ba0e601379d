"""What a turn of a conversation costs with and without the turns before kept in the cache.

    python examples/bench/chat_turns.py --shape qwen3-0.6b --type int4 --turns 6

Random weights of a known model's shape, attention in blocks, a token per byte, questions and
answers of a fixed length. ``prompt`` counts the tokens of the conversation so far, ``new`` those
that the turn had to compute. The times are those to the first token, the template's process
included, with what was kept and without. Every answer is compared with the one without.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from report import print_table

import edge
from edge.formats import keys
from edge.machine import cpu_name
from edge.random_model import write_random_model
from edge.shapes import SHAPES, Shape
from edge.vocabulary import byte_letters

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "<assistant>"
)
BLOCK_LENGTH = 16
QUESTION = "How many turns does it take until a conversation is long? "


def tokenizer() -> str:
    """A token per byte, from 1 on; 0 is the mask."""
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    vocab = {letter: byte + 1 for byte, letter in byte_letters().items()}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {**to_bytes, "use_regex": False},
            "decoder": {**to_bytes, "use_regex": False},
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        }
    )


def write_model(path: Path, shape: Shape, kind: str) -> None:
    """Random weights that chat."""
    more: dict[str, int | float | str] = {
        keys.ATTENTION: "block",
        keys.BLOCK_ALIGN: "absolute",
        keys.BLOCK_LENGTH: BLOCK_LENGTH,
        keys.NUM_TOKENS: 256,
        keys.TOKENIZER_JSON: tokenizer(),
        keys.CHAT_TEMPLATE: TEMPLATE,
    }
    write_random_model(path, shape, kind, more_keys=more)


def measure(model: edge.Model, turns: int, tokens: int) -> list[dict[str, Any]]:
    """One conversation; each turn is also asked without a memory."""
    conversation = model.conversation(max_tokens=tokens, steps_per_block=2)
    rows = []
    for number in range(1, turns + 1):
        question = f"{number}. {QUESTION}"
        messages = [*conversation.messages, {"role": "user", "content": question}]
        alone = model.chat(messages, max_tokens=tokens, steps_per_block=2)
        kept = conversation.say(question)
        if kept.ids != alone.ids:
            raise SystemExit("the answers differ")
        rows.append(
            {
                "turn": number,
                "prompt": kept.stats.prompt_tokens,
                "new": kept.stats.prompt_tokens - kept.stats.reused_tokens,
                "ms": kept.stats.ttft_ms,
                "ms_alone": alone.stats.ttft_ms,
            }
        )
    return rows


def main() -> None:
    """Print a table, or an object with --json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen3-0.6b")
    parser.add_argument("--type", default="int4")
    parser.add_argument("--layers", type=int, help="only so many")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--markdown", action="store_true", help="a table for README.md")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        shape = SHAPES[asked.shape]
        if asked.layers:
            shape = replace(shape, num_layers=asked.layers)
        write_model(path, shape, asked.type)
        with edge.load(path, threads=asked.threads, pack_cache=False) as model:
            model.warm_up()
            rows = measure(model, asked.turns, asked.tokens)
            about = f"{asked.shape} {asked.type}, {model.threads} threads, {model.isa}"
    if asked.json:
        print(json.dumps({"schema": 1, "about": about, "turns": rows}, indent=2))
        return
    print(f"{about}, {cpu_name()}")
    cells = [[f"{value:.0f}" for value in row.values()] for row in rows]
    print_table([name.replace("_", " ") for name in rows[0]], cells, markdown=asked.markdown)


if __name__ == "__main__":
    main()
