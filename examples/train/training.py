"""All that a training run is, and its file: parameters, their average, optimizers, canvases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from canvases import Canvases, denoise
from denoiser import MASK, Denoiser, Shape
from safetensors import safe_open
from safetensors.torch import save_file
from tasks import Task
from torch import Tensor
from torch.nn import functional as F

from edge.formats.atomic_file import replacing

FIXED = ("seed", "batch", "hidden_size", "num_heads", "feed_forward_size")


@dataclass
class Settings:
    """Options of a run; those in `FIXED` cannot change later."""

    steps: int = 20_000
    batch: int = 48
    learning_rate: float = 3e-3
    warmup: int = 100
    cooldown: int = 4_000  # last steps, in which the learning rate falls to zero
    average: float = 0.999  # decay of the averaged parameters, which are what is exported
    visits: int = 8  # of a canvas, at most; 1: a fresh canvas each step
    sure: float = 0.9  # confidence from which a visited canvas gets a token
    full_noise: float = 0.3  # share of the new canvases whose holes are all masked
    seed: int = 0
    hidden_size: int = 128
    num_layers: int = 16
    num_own_layers: int = 4  # layers with weights of their own; the others repeat them
    num_heads: int = 4
    feed_forward_size: int = 256

    def check(self) -> None:
        """Raises ValueError for what cannot be trained."""
        if self.num_own_layers < 1 or self.num_layers % self.num_own_layers:
            raise ValueError(
                f"num_layers {self.num_layers} must be a multiple of num_own_layers "
                f"{self.num_own_layers}"
            )
        if self.num_heads < 1 or self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must give {self.num_heads} heads of even size"
            )
        for name in ("steps", "batch", "visits", "num_layers", "feed_forward_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")

    def shape(self, task: Task) -> Shape:
        return Shape(
            task.vocab_size,
            task.canvas_length,
            self.hidden_size,
            self.num_layers,
            self.num_own_layers,
            self.num_heads,
            self.feed_forward_size,
        )


@dataclass
class Progress:
    step: int = 0
    cpu_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)  # evaluations


class Training:
    """A run between two steps; `save` and `resume` put a pause there that changes nothing."""

    def __init__(self, task: Task, settings: Settings) -> None:
        settings.check()
        torch.manual_seed(settings.seed)
        self.task, self.settings, self.progress = task, settings, Progress()
        self.model = Denoiser(settings.shape(task))
        task.prepare(self.model)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.canvases = Canvases.empty(settings.batch, task.canvas_length)
        self.optimizers = make_optimizers(self.model)

    def step(self) -> float:
        """One step of the optimizers; returns the loss in nats per masked token."""
        s, canvases = self.settings, self.canvases
        canvases.renew(self.task, s.seed, s.visits, s.full_noise)
        masked = canvases.ids == MASK
        with quick_products():
            outputs = self.model(canvases.ids)
        targets = canvases.answers[masked]
        losses = [F.cross_entropy(each[masked].float(), targets) for each in outputs]
        # Every loop over the own layers is to be as good as it can, the last one most of all.
        total = sum((n + 1) * loss for n, loss in enumerate(losses))
        (total * 2 / (len(losses) * (len(losses) + 1))).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
            optimizer.step()
            optimizer.zero_grad()
        canvases.advance(outputs[-1].detach(), s.sure)
        self.progress.step += 1
        self._update_average()
        return losses[-1].item()

    def learning_rate(self) -> float:
        s, step = self.settings, self.progress.step
        rising = (step + 1) / max(1, s.warmup)
        falling = (s.steps - step) / max(1, s.cooldown)
        return s.learning_rate * max(0.0, min(1.0, rising, falling))

    @torch.no_grad()
    def _update_average(self) -> None:
        step = self.progress.step
        decay = min(self.settings.average, step / (step + 10))
        for name, parameter in self.model.named_parameters():
            self.average[name].lerp_(parameter, 1 - decay)

    def evaluate(self, count: int, threshold: float = 0.97) -> dict[str, Any]:
        """Share of held-out pairs whose every token is right, by group, in the network's view."""
        twin = Denoiser(self.model.shape)
        twin.load_state_dict(self.average)
        report: dict[str, Any] = {"threshold": threshold}
        for name, (prompts, answers) in self.task.held_out(count).items():
            with quick_products():
                ids, steps = denoise(twin, torch.from_numpy(prompts).long(), threshold)
            solved = (ids == torch.from_numpy(answers)).all(1).float().mean().item()
            report[name] = {"solved": solved, "mean_steps": steps}
        return report

    def export(self, folder: Path) -> None:
        """Write config.json, model.safetensors (averaged, f32), tokenizer.json."""
        folder.mkdir(exist_ok=True)
        config = self.model.config() | {
            "trained": {
                "task": self.task.name,
                "steps": self.progress.step,
                "pairs_seen": self.canvases.num_drawn,
                "cpu_seconds": round(self.progress.cpu_seconds),
                "seed": self.settings.seed,
            }
        }
        with replacing(folder / "model.safetensors") as file:
            save_file(self.model.export(self.average), file, {"format": "pt"})
        for name, content in ("config", config), ("tokenizer", self.task.tokenizer()):
            with replacing(folder / f"{name}.json") as file:
                file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def save(self, path: Path) -> None:
        """Write everything a later `resume` needs, whole or not at all."""
        about = {"settings": asdict(self.settings), "progress": asdict(self.progress)}
        about |= {"task": self.task.name, "num_drawn": self.canvases.num_drawn}
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors()}
        with replacing(path) as file:
            save_file(tensors, file, {"run": json.dumps(about)})

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name in ("ids", "answers", "visits"):
            yield f"canvas/{name}", getattr(self.canvases, name)
        for name, parameter in self.model.named_parameters():
            yield f"parameter/{name}", parameter.detach()
            yield f"average/{name}", self.average[name]
            for kind, optimizer in self.optimizers.items():
                for key, value in optimizer.state.get(parameter, {}).items():
                    yield f"{kind}/{key}/{name}", value


def quick_products() -> torch.autocast:
    """Products in bfloat16 where the processor has them; emulated they are slower than float32."""
    found = torch.cpu.get_capabilities()
    has_bf16 = any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bf16)


def make_optimizers(model: Denoiser) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if name.startswith("blocks.") and p.ndim == 2]
    others = [p for name, p in named if not name.startswith("blocks.") or p.ndim != 2]
    return {
        "muon": torch.optim.Muon(
            matrices, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        "adamw": torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
    }


def resume(path: Path, task: Task, changes: dict[str, Any]) -> Training:
    """The run of a file, on with changed settings. New own layers start as copies of those that
    were in their place.

    Raises ValueError for another task or another shape.
    """
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["run"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _refuse(about, task, changes)
    training = Training(task, Settings(**{**about["settings"], **changes}))
    training.progress = Progress(**about["progress"])
    canvases = (tensors[f"canvas/{name}"] for name in ("ids", "answers", "visits"))
    training.canvases = Canvases(*canvases, num_drawn=about["num_drawn"])
    num_before = about["settings"]["num_own_layers"]
    for name, parameter in training.model.named_parameters():
        source = _name_before(name, num_before)
        parameter.data.copy_(tensors[f"parameter/{source}"])
        training.average[name].copy_(tensors[f"average/{source}"])
        for kind, optimizer in training.optimizers.items():
            for stored in (each for each in tensors if each.startswith(f"{kind}/")):
                _, key, owner = stored.split("/")
                if owner == source:
                    optimizer.state[parameter][key] = tensors[stored].clone()
    return training


def _name_before(name: str, num_before: int) -> str:
    top, dot, rest = name.partition(".")
    if top != "blocks":
        return name
    number, dot, rest = rest.partition(".")
    return f"{top}.{int(number) % num_before}{dot}{rest}"


def _refuse(about: dict[str, Any], task: Task, changes: dict[str, Any]) -> None:
    if about["task"] != task.name:
        raise ValueError(f"the run is one of {about['task']!r}, not of {task.name!r}")
    for name in FIXED:
        before = about["settings"][name]
        if changes.get(name, before) != before:
            raise ValueError(f"{name} is {before} in this run; {changes[name]} needs a new folder")
