"""Train a masked diffusion denoiser of your own, on a laptop's CPU.

    python examples/train/train.py sudoku RUN
    edge-convert RUN/model RUN/sudoku.gguf --type int8 --set edge.task=sudoku
    python examples/bench/sudoku_solve_rate.py --model RUN/sudoku.gguf

Needs PyTorch (pip install torch) and, for Sudoku, a C++ compiler. The run's folder holds
run.safetensors, all that is needed to go on, written every few minutes and when it is stopped
(Ctrl-C, SIGTERM), and model/, the averaged weights as a checkpoint for edge-convert. The same
command goes on after a stop; a run that was stopped ends with the very same weights as one that
was not.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tasks
import torch
from safetensors import SafetensorError
from training import Settings, Training, resume

RUN = "run.safetensors"
LOG_SECONDS = 60  # between lines where nobody watches


@dataclass
class Pace:
    """Tokens per second since the last line, and the time left."""

    step: int
    since: float

    def line(self, training: Training, loss: float) -> str:
        now, s = time.monotonic(), training.settings
        step = training.progress.step
        per_step = (now - self.since) / max(1, step - self.step)
        self.step, self.since = step, now
        tokens = s.batch * training.task.canvas_length / per_step
        minutes = round((s.steps - step) * per_step / 60)
        return (
            f"step {step}/{s.steps}  loss {loss:.4f}  lr {training.learning_rate():.1e}  "
            f"{tokens:,.0f} tokens/s  {minutes // 60} h {minutes % 60:02} min left"
        )


class Stop:
    """Set by Ctrl-C and SIGTERM: the run ends after the current step."""

    def __init__(self) -> None:
        self.wanted = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._want)

    def _want(self, *_: Any) -> None:
        self.wanted = True


def run(training: Training, folder: Path, arguments: argparse.Namespace) -> bool:
    """Train to the last step or until stopped; returns whether the run is complete."""
    stop = Stop()
    progress, settings = training.progress, training.settings
    pace = Pace(progress.step, time.monotonic())
    watched = sys.stderr.isatty()
    shown = saved = time.monotonic()
    cpu, loss = time.process_time(), float("nan")
    while progress.step < settings.steps and not stop.wanted:
        latest = training.step()
        loss = latest if loss != loss else 0.98 * loss + 0.02 * latest
        progress.cpu_seconds += time.process_time() - cpu
        cpu = time.process_time()
        if time.monotonic() - shown > (1 if watched else LOG_SECONDS):
            shown = time.monotonic()
            end, start = ("", "\r\x1b[K") if watched else ("\n", "")
            print(start + pace.line(training, loss), end=end, file=sys.stderr, flush=True)
        if progress.step % arguments.evaluate_every == 0 or progress.step == settings.steps:
            report(training, loss, arguments.held_out)
            training.export(folder / "model")
            saved = -float("inf")
        if time.monotonic() - saved > 60 * arguments.save_minutes:
            training.save(folder / RUN)
            saved = time.monotonic()
    training.export(folder / "model")
    training.save(folder / RUN)
    return progress.step >= settings.steps


def report(training: Training, loss: float, count: int) -> None:
    """Evaluate on held-out pairs; print a line and keep it in the run's history."""
    progress = training.progress
    entry = {
        "step": progress.step,
        "cpu_seconds": round(progress.cpu_seconds),
        "pairs": training.canvases.num_drawn,
        "loss": round(loss, 4),
        **training.evaluate(count),
    }
    progress.history.append(entry)
    print(("\r\x1b[K" if sys.stderr.isatty() else "") + json.dumps(entry), flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a masked diffusion denoiser.")
    add = parser.add_argument
    add("task", choices=tasks.NAMES, help="mirror is a toy")
    add("folder", type=Path, help="of the run; with a run in it, that one goes on")
    add("--threads", type=int, default=1, help="of PyTorch (default 1)")
    add("--evaluate-every", type=int, default=500, metavar="STEPS", help="default 500")
    add("--held-out", type=int, default=300, help="pairs of an evaluation (default 300)")
    add("--save-minutes", type=float, default=4, help="between saves (default 4)")
    for each in fields(Settings):
        name = f"--{each.name.replace('_', '-')}"
        add(name, type=type(each.default), metavar="N", help=f"default {each.default}")
    return parser.parse_args(argv)


def _training(arguments: argparse.Namespace) -> Training:
    """The folder's run, or a new one; options not given are as they were, or the defaults."""
    given = {each.name: getattr(arguments, each.name) for each in fields(Settings)}
    given = {name: value for name, value in given.items() if value is not None}
    task, path = tasks.find(arguments.task), arguments.folder / RUN
    if path.exists():
        return resume(path, task, given)
    return Training(task, Settings(**given))


def main(argv: Sequence[str] | None = None) -> None:
    """Train, print an evaluation per line on stdout and the progress on stderr."""
    arguments = _arguments(argv)
    torch.set_num_threads(arguments.threads)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        training = _training(arguments)
    except (ValueError, OSError, SafetensorError) as error:
        sys.exit(f"error: {arguments.folder / RUN}: {error}")
    own = sum(p.numel() for p in training.model.parameters())
    exported = sum(t.numel() for t in training.model.export(training.average).values())
    print(
        f"{training.task.name} from step {training.progress.step}: {own / 1e6:.2f} M parameters "
        f"trained, {exported / 1e6:.2f} M exported",
        file=sys.stderr,
    )
    if not run(training, arguments.folder, arguments):
        sys.exit(f"stopped at step {training.progress.step}; the same command goes on")


if __name__ == "__main__":
    main()
