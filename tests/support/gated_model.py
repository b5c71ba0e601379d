"""An autoregressive checkpoint with an adapter for its mask tokens, and what it computes.

The forward is float64 and from the formulas: RMSNorm, half-split rotation, grouped heads, SwiGLU.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Array = NDArray[Any]

MASK = 16
HEADS, KV_HEADS, LAYERS = 4, 2, 2
_LINEAR = {
    "self_attn.q_proj": ("hidden", "hidden"),
    "self_attn.k_proj": ("kv", "hidden"),
    "self_attn.v_proj": ("kv", "hidden"),
    "self_attn.o_proj": ("hidden", "hidden"),
    "mlp.gate_proj": ("wide", "hidden"),
    "mlp.up_proj": ("wide", "hidden"),
    "mlp.down_proj": ("hidden", "wide"),
}


@dataclass
class Gated:
    """The weights by their names in the checkpoint, and the adapter's by their module."""

    config: dict[str, Any]
    tensors: dict[str, Array]
    a: dict[str, Array]
    b: dict[str, Array]
    mask_embedding: Array
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def random(
        cls,
        seed: int = 0,
        *,
        rank: int = 4,
        hidden: int = 64,
        wide: int = 96,
        vocab: int = 40,
        context: int = 128,
        strength: float = 0.2,
        habit: float = 0.0,
    ) -> Gated:
        """Random weights; ``strength`` is the adapter's.

        ``habit`` draws all rows towards some few tokens, so that drafts often agree.
        """
        random = np.random.default_rng(seed)

        def draw(*shape: int, scale: float = 0.3) -> Array:
            return random.normal(0, scale, shape).astype(np.float32)

        sizes = {"hidden": hidden, "wide": wide, "kv": hidden // HEADS * KV_HEADS}
        tensors = {"model.embed_tokens.weight": draw(vocab, hidden)}
        tensors["model.norm.weight"] = draw(hidden) + 1
        a, b = {}, {}
        for layer in range(LAYERS):
            part = f"model.layers.{layer}"
            for norm in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{part}.{norm}.weight"] = draw(hidden) + 1
            for name, (rows, cols) in _LINEAR.items():
                module = f"{part}.{name}"
                tensors[f"{module}.weight"] = draw(sizes[rows], sizes[cols])
                a[module] = draw(rank, sizes[cols], scale=strength)
                b[module] = draw(sizes[rows], rank, scale=strength)
        config = {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": hidden,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "num_hidden_layers": LAYERS,
            "intermediate_size": wide,
            "vocab_size": vocab,
            "max_position_embeddings": context,
            "hidden_act": "silu",
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "eos_token_id": vocab - 1,
        }
        settings = {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": 2 * rank,
            "target_modules": "all-linear",
            "trainable_token_indices": [MASK],
        }
        own = draw(hidden)
        if habit:
            towards = draw(hidden, scale=1.0)
            tensors["model.embed_tokens.weight"] += habit * towards
            tensors["model.embed_tokens.weight"][3:9] += 0.1 * habit * towards
            own += habit * towards
        return cls(config, tensors, a, b, own, settings)

    def write_with_tokenizer(self, folder: Path, of: Path) -> tuple[Path, Path]:
        """The same, with the tokenizer of another checkpoint."""
        base, adapter = self.write(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(of / name, base / name)
        return base, adapter

    @property
    def scale(self) -> float:
        return float(self.settings["lora_alpha"] / self.settings["r"])

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The checkpoint's folder and the adapter's."""
        base, adapter = folder / "base", folder / "adapter"
        base.mkdir(parents=True)
        adapter.mkdir()
        (base / "config.json").write_text(json.dumps(self.config))
        save_file(self.tensors, base / "model.safetensors")
        (adapter / "adapter_config.json").write_text(json.dumps(self.settings))
        save_file(self.adapter_tensors(), adapter / "adapter_model.safetensors")
        return base, adapter

    def adapter_tensors(self) -> dict[str, Array]:
        """The adapter under the names that PEFT saves."""
        at = "base_model.model."
        saved = {f"{at}{module}.lora_A.weight": a for module, a in self.a.items()}
        saved |= {f"{at}{module}.lora_B.weight": b for module, b in self.b.items()}
        token = f"{at}model.embed_tokens.token_adapter.trainable_tokens_delta"
        return saved | {token: self.mask_embedding[None]}

    def logits(self, ids: Array, masked: Array) -> Array:
        """[rows, vocab]: plain rows see what stands before them, masked ones see everything."""
        ids, masked = np.asarray(ids), np.asarray(masked, bool)
        x = self.tensors["model.embed_tokens.weight"][ids].astype(np.float64)
        x[masked] = self.mask_embedding
        seen = np.tri(len(ids), dtype=bool) | masked[:, None]
        for layer in range(LAYERS):
            part = f"model.layers.{layer}"
            x = x + self._attention(part, self._norm(f"{part}.input_layernorm", x), masked, seen)
            y = self._norm(f"{part}.post_attention_layernorm", x)
            gate = self._linear(f"{part}.mlp.gate_proj", y, masked)
            up = self._linear(f"{part}.mlp.up_proj", y, masked)
            x = x + self._linear(f"{part}.mlp.down_proj", gate / (1 + np.exp(-gate)) * up, masked)
        x = self._norm("model.norm", x)
        return x @ self.tensors["model.embed_tokens.weight"].astype(np.float64).T

    def _norm(self, name: str, x: Array) -> Array:
        mean = (x**2).mean(axis=1, keepdims=True)
        return x / np.sqrt(mean + self.config["rms_norm_eps"]) * self.tensors[f"{name}.weight"]

    def _linear(self, module: str, x: Array, masked: Array) -> Array:
        y = x @ self.tensors[f"{module}.weight"].astype(np.float64).T
        y[masked] += self.scale * (x[masked] @ self.a[module].T) @ self.b[module].T
        return np.asarray(y)

    def _attention(self, part: str, x: Array, masked: Array, seen: Array) -> Array:
        q, k, v = (self._linear(f"{part}.self_attn.{n}_proj", x, masked) for n in "qkv")
        size = self.config["hidden_size"] // HEADS
        mixed = np.empty_like(q)
        for head in range(HEADS):
            own, shared = (slice(h * size, (h + 1) * size) for h in (head, head // 2))
            scores = self._turned(q[:, own]) @ self._turned(k[:, shared]).T / np.sqrt(size)
            weights = np.exp(np.where(seen, scores, -np.inf))
            mixed[:, own] = weights / weights.sum(axis=1, keepdims=True) @ v[:, shared]
        return self._linear(f"{part}.self_attn.o_proj", mixed, masked)

    def _turned(self, x: Array) -> Array:
        half = x.shape[1] // 2
        theta = self.config["rope_theta"] ** (-np.arange(half) / half)
        angles = np.arange(len(x))[:, None] * theta
        first, second = x[:, :half], x[:, half:]
        turned = first * np.cos(angles) - second * np.sin(angles)
        return np.hstack((turned, first * np.sin(angles) + second * np.cos(angles)))
