"""How many drafted tokens are kept, and what that saves.

    python examples/bench/drafts.py drafter.gguf PROMPTS.txt

Each prompt, a line, is answered greedily three times: plainly, with drafts of a whole block, and as
the model decides by itself. The texts must be equal, token for token.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import edge
from edge.result import Stats


def answers(
    model: edge.Model, prompts: Sequence[str], tokens: int, **options: object
) -> tuple[list[list[int]], list[Stats]]:
    results = [model.generate(prompt, max_tokens=tokens, **options) for prompt in prompts]
    return [result.ids for result in results], [result.stats for result in results]


def line(name: str, stats: Sequence[Stats], plain_ms: float) -> str:
    total_ms = sum(each.elapsed_ms for each in stats)
    tokens, forwards = sum(each.tokens for each in stats), sum(each.nfe for each in stats)
    drafts, accepted = (
        sum(each.drafts for each in stats),
        sum(each.accepted_tokens for each in stats),
    )
    kept = f"{1 + accepted / drafts:.2f}" if drafts else "-"
    return (
        f"{name:<16} {tokens:>7} {forwards:>9} {tokens / forwards:>15.2f} {kept:>15} "
        f"{total_ms / tokens:>10.2f} {plain_ms / total_ms:>7.2f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row per way of decoding; exit with 1 if the texts differ."""
    parser = argparse.ArgumentParser(description="How many drafted tokens are kept.")
    parser.add_argument("model", help="a model that drafts")
    parser.add_argument("prompts", type=Path, help="a prompt per line")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer (default 64)")
    parser.add_argument("--count", type=int, default=20, help="prompts to ask (default 20)")
    parser.add_argument("--threads", type=int, help="default: big cores")
    arguments = parser.parse_args(argv)
    prompts = [text for text in arguments.prompts.read_text().splitlines() if text.strip()]
    prompts = prompts[: arguments.count]
    with edge.load(arguments.model, threads=arguments.threads) as model:
        model.warm_up()
        ways = {
            "plain": {"sampler": "autoregressive"},
            "whole blocks": {"block_length": model.config.diffusion.block_length},
            "as it decides": {},
        }
        print(
            "decoding          tokens  forwards  tokens/forward  kept per draft   ms/token  faster"
        )
        texts, plain_ms = [], 0.0
        for name, options in ways.items():
            ids, stats = answers(model, prompts, arguments.tokens, **options)
            plain_ms = plain_ms or sum(each.elapsed_ms for each in stats)
            print(line(name, stats, plain_ms), flush=True)
            texts.append(ids)
    if any(ids != texts[0] for ids in texts):
        sys.exit("the texts differ")


if __name__ == "__main__":
    main()
