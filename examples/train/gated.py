"""Train masked rows to draft for an autoregressive model that stays as it is.

    edge-convert SmolLM2-135M-Instruct base.gguf --set diffusion.attention=causal_context \\
        --mask-token-id 16
    python examples/train/gated.py base.gguf PROMPTS.txt RUN
    edge-convert SmolLM2-135M-Instruct drafter.gguf --gated-adapter RUN/adapter --type int8
    python examples/bench/drafts.py drafter.gguf PROMPTS.txt

Needs PyTorch (pip install torch). PROMPTS.txt has a prompt per line; what is learned is the model's
own greedy answers to them, since such text is what drafts are compared with. Each step reads one of
them and learns from several fully masked blocks of it: half from its tokens, half from what the
model says at each place. RUN holds run.safetensors, all that is needed to go on, and adapter/, a
folder in PEFT's layout for edge-convert. The same command goes on after a stop, to the same bits.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from causal import Adapter, Base, draft, read
from own_texts import Text, own_texts
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from train import RUN, Stop

from edge.formats.atomic_file import replacing

FIXED = ("seed", "rank", "block_length", "answer_tokens")


@dataclass
class Settings:
    """Options of a run; those in `FIXED` cannot change later."""

    steps: int = 20_000
    rank: int = 32
    block_length: int = 8  # of a draft, the token that the model itself says first included
    drafts: int = 32  # blocks per step, all of one text
    learning_rate: float = 1e-3
    warmup: int = 50
    cooldown: int = 4_000  # last steps, in which the learning rate falls to zero
    soft: float = 0.5  # share of the loss against the model's own distribution
    decay: float = 0.85  # weight of a token in a draft, less for each that has to be right before
    answer_tokens: int = 128  # most tokens of an answer
    held_out: float = 0.05  # share of the texts that is only evaluated on
    seed: int = 0


class Training:
    """A run between two steps; `save` and `resume` put a pause there that changes nothing."""

    def __init__(self, base: Base, settings: Settings, texts: Sequence[Text]) -> None:
        torch.manual_seed(settings.seed)
        self.base, self.settings, self.step_number = base, settings, 0
        usable = [text for text in texts if len(text[0]) - text[1] > settings.block_length]
        held_out = max(1, int(len(usable) * settings.held_out))
        if len(usable) <= held_out:
            raise ValueError(
                f"only {len(usable)} answers are longer than a block; give more prompts"
            )
        self.texts, self.held_out = usable[held_out:], usable[:held_out]
        self.adapter = Adapter(base, settings.rank)
        self.optimizer = torch.optim.AdamW(self.adapter.parameters(), weight_decay=0.0)

    def step(self) -> float:
        """One step of the optimizer; returns the loss in nats per token."""
        s, random = self.settings, np.random.default_rng([self.settings.seed, self.step_number])
        ids, num_given = self.texts[random.integers(len(self.texts))]
        last = len(ids) - s.block_length
        starts = random.integers(num_given, last + 1, s.drafts)
        loss = self._loss(torch.from_numpy(ids), torch.from_numpy(starts))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1
        return loss.item()

    def _loss(self, ids: Tensor, starts: Tensor) -> Tensor:
        s, context = self.settings, read(self.base, ids)
        length = s.block_length - 1
        rows = starts[:, None] + torch.arange(length)  # of the tokens before those to be drafted
        hidden = draft(self.base, self.adapter, context, starts, length)
        logits = F.linear(hidden, self.base.head).float().flatten(0, 1)
        with torch.no_grad():
            own = F.linear(context.hidden[rows], self.base.head).float().softmax(-1).flatten(0, 1)
        hard = F.cross_entropy(logits, ids[rows + 1].flatten(), reduction="none")
        soft = F.cross_entropy(logits, own, reduction="none")
        weights = s.decay ** torch.arange(length).repeat(len(starts))
        return (((1 - s.soft) * hard + s.soft * soft) * weights).sum() / weights.sum()

    def learning_rate(self) -> float:
        s, step = self.settings, self.step_number
        rising, falling = (step + 1) / max(1, s.warmup), (s.steps - step) / max(1, s.cooldown)
        return s.learning_rate * max(0.0, min(1.0, rising, falling))

    @torch.no_grad()
    def evaluate(self) -> dict[str, object]:
        """On held-out answers: tokens that a block keeps, its first one included, and how often
        each of the drafted ones is right.
        """
        length = self.settings.block_length - 1
        right = []
        for ids, num_given in self.held_out:
            starts = torch.arange(num_given, len(ids) - length, self.settings.block_length)
            context, tokens = read(self.base, torch.from_numpy(ids)), torch.from_numpy(ids)
            hidden = draft(self.base, self.adapter, context, starts, length)
            drafted = F.linear(hidden, self.base.head).argmax(-1)
            right.append(drafted == tokens[starts[:, None] + torch.arange(length) + 1])
        agreed = torch.cat(right).float()
        return {
            "kept_per_block": round(1 + agreed.cumprod(1).sum(1).mean().item(), 3),
            "right": [round(share, 3) for share in agreed.mean(0).tolist()],
        }

    def export(self, folder: Path) -> None:
        """Write the adapter as PEFT does, for `edge-convert --gated-adapter`."""
        folder.mkdir(exist_ok=True)
        config = {
            "peft_type": "LORA",
            "r": self.settings.rank,
            "lora_alpha": self.settings.rank,
            "target_modules": [name.split(".")[-1] for name in _modules(self.adapter)],
            "trainable_token_indices": [self.base.config.diffusion.mask_token_id],
        }
        tensors = {name: tensor.contiguous() for name, tensor in self.adapter.peft().items()}
        with replacing(folder / "adapter_model.safetensors") as file:
            save_file(tensors, file, {"format": "pt"})
        with replacing(folder / "adapter_config.json") as file:
            file.write_text(json.dumps(config, indent=1) + "\n")

    def save(self, path: Path) -> None:
        """Write everything a later `resume` needs, whole or not at all."""
        about = {"settings": asdict(self.settings), "step": self.step_number}
        tensors = {}
        for name, parameter in self.adapter.named_parameters():
            tensors[f"parameter/{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adamw/{key}/{name}"] = value
        with replacing(path) as file:
            save_file(tensors, file, {"run": json.dumps(about)})

    def resume(self, path: Path) -> None:
        """Go on where a file's run was."""
        with safe_open(path, "pt") as file:
            self.step_number = json.loads(file.metadata()["run"])["step"]
            for name, parameter in self.adapter.named_parameters():
                parameter.data.copy_(file.get_tensor(f"parameter/{name}"))
                for key in ("step", "exp_avg", "exp_avg_sq") if self.step_number else ():
                    value = file.get_tensor(f"adamw/{key}/{name}")
                    self.optimizer.state[parameter][key] = value.clone()


def _modules(adapter: Adapter) -> list[str]:
    names = (name for name in adapter.peft() if name.endswith(".lora_A.weight"))
    return sorted({name.removesuffix(".lora_A.weight").split(".")[-1] for name in names})


def settings_of(path: Path, given: dict[str, object]) -> Settings:
    """Those of the run in the file with the given changes; raises ValueError for a fixed one."""
    if not path.exists():
        return Settings(**given)  # type: ignore[arg-type]
    with safe_open(path, "pt") as file:
        before = json.loads(file.metadata()["run"])["settings"]
    for name in FIXED:
        if given.get(name, before[name]) != before[name]:
            raise ValueError(f"{name} is {before[name]} in this run; take a new folder")
    return Settings(**(before | given))


def run(training: Training, folder: Path, arguments: argparse.Namespace) -> bool:
    """Train to the last step or until stopped; returns whether the run is complete."""
    stop, settings = Stop(), training.settings
    saved = begun = time.monotonic()
    first, losses = training.step_number, []
    while training.step_number < settings.steps and not stop.wanted:
        losses.append(training.step())
        step = training.step_number
        if step % arguments.evaluate_every == 0 or step == settings.steps:
            tokens = (step - first) * settings.drafts * (settings.block_length - 1)
            entry = {"step": step, "loss": round(float(np.mean(losses)), 4)}
            entry["tokens_per_s"] = round(tokens / (time.monotonic() - begun))
            print(json.dumps(entry | training.evaluate()), flush=True)
            losses.clear()
        if time.monotonic() - saved > 60 * arguments.save_minutes:
            training.save(folder / RUN)
            training.export(folder / "adapter")
            saved = time.monotonic()
    training.export(folder / "adapter")
    training.save(folder / RUN)
    return training.step_number >= settings.steps


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the texts, train, and print an evaluation per line on stdout."""
    parser = argparse.ArgumentParser(description="Train masked rows to draft for a model.")
    add = parser.add_argument
    add("model", type=Path, help="a model file that reads causally")
    add("prompts", type=Path, help="a prompt per line")
    add("folder", type=Path, help="of the run; with a run in it, that one goes on")
    add("--threads", type=int, default=1, help="of PyTorch (default 1)")
    add("--evaluate-every", type=int, default=200, metavar="STEPS", help="default 200")
    add("--save-minutes", type=float, default=4, help="between saves (default 4)")
    for each in fields(Settings):
        name = f"--{each.name.replace('_', '-')}"
        add(name, type=type(each.default), metavar="N", help=f"default {each.default}")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    given = {each.name: getattr(arguments, each.name) for each in fields(Settings)}
    path = arguments.folder / RUN
    try:
        settings = settings_of(path, {k: v for k, v in given.items() if v is not None})
        prompts = [line for line in arguments.prompts.read_text().splitlines() if line.strip()]
        texts = own_texts(arguments.model, prompts, settings.answer_tokens, arguments.folder)
        has_bf16 = torch.cpu.get_capabilities().get("avx512_bf16")
        base = Base(arguments.model, torch.bfloat16 if has_bf16 else torch.float32)
        training = Training(base, settings, texts)
        if path.exists():
            training.resume(path)
    except (ValueError, OSError, SafetensorError) as error:
        sys.exit(f"error: {error}")
    if not run(training, arguments.folder, arguments):
        sys.exit(f"stopped at step {training.step_number}; the same command goes on")


if __name__ == "__main__":
    main()
