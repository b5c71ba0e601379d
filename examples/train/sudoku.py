"""Sudoku as a task: 81 cells in place, holes are the mask token, answers have one solution."""

from __future__ import annotations

from typing import Any

import torch
from denoiser import MASK, Denoiser
from puzzle_maker import make_puzzles
from tasks import HeldOut, Pairs, word_tokenizer

FEWEST, MOST = 24, 40  # givens aimed at
HARD_PERCENT = 40  # of the puzzles, at least these need more than naked and hidden singles
BANDS = {"36+": (36, 46, 0.3), "30-35": (30, 35, 0.4), "24-29": (24, 29, 0.3)}  # of givens
HELD_OUT_SEED = 1 << 32  # no training seed: those are smaller


class Sudoku:
    name = "sudoku"
    vocab_size = 10
    canvas_length = 81

    def tokenizer(self) -> dict[str, Any]:
        return word_tokenizer(".123456789", ignore="[^0-9.]", also_mask="0")

    def pairs(self, seed: int, first: int, count: int) -> Pairs:
        """Puzzles `first` to `first + count - 1` of a seed: prompts and answers [count, 81]."""
        givens, solutions, _ = make_puzzles(seed, first, count, FEWEST, MOST, HARD_PERCENT)
        return givens, solutions

    def held_out(self, count: int) -> HeldOut:
        """The bands' shares of puzzles, by band."""
        groups: HeldOut = {}
        for name, (fewest, most, share) in BANDS.items():
            number = round(share * count)
            givens, solutions, _ = make_puzzles(HELD_OUT_SEED, 0, 2 * number, fewest, most, 0)
            kept = (givens != MASK).sum(1) <= most  # few cannot be thinned out so far
            groups[name] = givens[kept][:number], solutions[kept][:number]
        return groups

    @torch.no_grad()
    def prepare(self, model: Denoiser) -> None:
        """Start three heads of each layer as attention within a row, a column and a box.

        The position table starts as one-hot codes of the three in dimensions 0-26, which the
        heads' queries and keys pick out. A plain start stays at ln 9 for thousands of steps.
        """
        cells = torch.arange(81)
        codes = (cells // 9, cells % 9, cells // 27 * 3 + cells % 9 // 3)
        model.wte.weight.normal_(std=0.3)
        model.wte.weight[:, :27] = 0
        model.wpe.weight.zero_()
        for unit, code in enumerate(codes):
            model.wpe.weight[cells, 9 * unit + code] = 1
        size = model.shape.hidden_size // model.shape.num_heads
        for layer in model.blocks:
            for unit in range(3):
                # The last nine dimensions of a half are hardly turned by their position.
                rows = torch.arange(9) + unit * size + size // 2 - 9
                for matrix in (layer.q_proj.weight, layer.k_proj.weight):
                    matrix[unit * size : (unit + 1) * size] *= 0.1
                    matrix[rows, torch.arange(9) + 9 * unit] = 2.2


TASK = Sudoku()
