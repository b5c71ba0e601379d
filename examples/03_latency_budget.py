"""Give an answer a deadline: the runtime decides how many denoising steps fit.

    python examples/03_latency_budget.py

More time, more steps, better answers; the statistics say what the clock forced.
"""

from __future__ import annotations

import edge

PUZZLE = ".15..2.7.....7.4..3..4...19..9.37...1...2.6.725......3..4..1...5.834976..61.58..4"


def main() -> None:
    with edge.load() as model:
        model.calibrate()  # once per device; without it the first answers teach the same
        for budget_ms in (10.0, 40.0, 10_000.0):
            result = model.generate(PUZZLE, budget_ms=budget_ms)
            stats = result.stats
            verdict = "solved" if result.verified else "not solved"
            print(
                f"{budget_ms:g} ms: {verdict} in {stats.elapsed_ms:.0f} ms, {stats.steps} steps, "
                f"{stats.forced_tokens} cells forced, {result.status}"
            )
        try:
            model.generate(PUZZLE, budget_ms=0.01, on_infeasible="error")
        except edge.BudgetError as error:
            print(f"refused: {error.budget_ms:g} ms, at least {error.min_budget_ms:g} ms needed")


if __name__ == "__main__":
    main()
