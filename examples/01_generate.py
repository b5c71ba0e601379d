"""Generate with the embedded default denoiser: one call, one answer.

python examples/01_generate.py [PUZZLE]
"""

from __future__ import annotations

import sys

import edge

PUZZLE = ".15..2.7.....7.4..3..4...19..9.37...1...2.6.725......3..4..1...5.834976..61.58..4"


def main() -> None:
    puzzle = sys.argv[1] if len(sys.argv) > 1 else PUZZLE
    with edge.load() as model:
        # Fewer steps are faster and less sure: a step commits several cells at once.
        for steps in (1, 4, None):
            result = model.generate(puzzle, steps=steps, seed=0)
            verdict = "solved" if result.verified else "not solved"
            print(f"{result.stats.steps:3} steps: {result.text} {verdict}")


if __name__ == "__main__":
    main()
