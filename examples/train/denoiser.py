"""The network in PyTorch: the LLaDA block that `edge` runs, with a learned position table.

RMSNorm, rotary positions in half-split form, SwiGLU, no biases, every position sees every other.
Tensor names are those of GSAI-ML's LLaDA checkpoints, so `edge-convert` reads what `export` gives.

Layers may share weights while they are trained (`num_own_layers`): layer l then uses the weights
of layer l modulo that number, the same few layers in a loop. An exported model has them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = "model.transformer"
MASK = 0  # the mask token's id
NORM_EPS = 1e-5
ROPE_THETA = 1e12  # almost no rotation: the table tells positions apart


@dataclass(frozen=True)
class Shape:
    """Sizes of a denoiser; `canvas_length` positions, always all of them."""

    vocab_size: int
    canvas_length: int
    hidden_size: int = 128
    num_layers: int = 16
    num_own_layers: int = 4
    num_heads: int = 4
    feed_forward_size: int = 256


class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), NORM_EPS)


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden, wide = shape.hidden_size, shape.feed_forward_size
        self.num_heads = shape.num_heads
        self.attn_norm, self.ff_norm = Norm(hidden), Norm(hidden)
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, hidden, bias=False)
        self.v_proj = nn.Linear(hidden, hidden, bias=False)
        self.attn_out = nn.Linear(hidden, hidden, bias=False)
        self.ff_proj = nn.Linear(hidden, wide, bias=False)  # the gate
        self.up_proj = nn.Linear(hidden, wide, bias=False)
        self.ff_out = nn.Linear(wide, hidden, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attn_out(self._attend(self.attn_norm(x), rotation))
        y = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(y)) * self.up_proj(y))

    def _attend(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, hidden = x.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(batch, length, self.num_heads, -1)

        q, k = rotate(heads(self.q_proj(x)), rotation), rotate(heads(self.k_proj(x)), rotation)
        v = heads(self.v_proj(x)).transpose(1, 2)
        # By hand: at these sizes several times faster on a CPU than the fused attention.
        weights = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)).softmax(-1)
        return (weights @ v).transpose(1, 2).reshape(batch, length, hidden)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """`x` [batch, length, heads, size] turned by its position."""
    cos, sin = rotation
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((second, first), -1) * sin


def rotation_tables(shape: Shape) -> tuple[Tensor, Tensor]:
    """Two tables [length, heads, size] for `rotate`; they hold the 1/sqrt(size) of attention."""
    half = shape.hidden_size // shape.num_heads // 2
    angles = torch.arange(shape.canvas_length)[:, None] / ROPE_THETA ** (torch.arange(half) / half)
    cos = torch.cat((angles.cos(), angles.cos()), 1)
    sin = torch.cat((-angles.sin(), angles.sin()), 1)

    def table(values: Tensor) -> Tensor:  # spelled out per head: a broadcast would be slow
        return (values * (2 * half) ** -0.25)[:, None].repeat(1, shape.num_heads, 1)

    return table(cos), table(sin)


class Denoiser(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.wpe = nn.Embedding(shape.canvas_length, shape.hidden_size)
        self.blocks = nn.ModuleList(Layer(shape) for _ in range(shape.num_own_layers))
        self.ln_f = Norm(shape.hidden_size)
        self.ff_out = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        cos, sin = rotation_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Logits [batch, length, vocab] after each loop over the own layers; the last count."""
        x = self.wte(ids) + self.wpe.weight
        x = x.to(torch.bfloat16) if torch.is_autocast_enabled("cpu") else x
        rotation = self.cos.to(x.dtype), self.sin.to(x.dtype)
        outputs = []
        for number in range(self.shape.num_layers):
            x = self.blocks[number % len(self.blocks)](x, rotation)
            if (number + 1) % len(self.blocks) == 0:
                outputs.append(self.ff_out(self.ln_f(x)))
        return outputs

    def export(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors, shared layers written out, of parameters named as ours."""
        exported = {}
        for name, tensor in tensors.items():
            top, _, rest = name.partition(".")
            if top != "blocks":
                exported[f"{ROOT}.{name}"] = tensor
                continue
            own, _, rest = rest.partition(".")
            for layer in range(int(own), self.shape.num_layers, len(self.blocks)):
                exported[f"{ROOT}.blocks.{layer}.{rest}"] = tensor.clone()
        return exported

    def config(self) -> dict[str, Any]:
        """The config.json of a checkpoint, for a canvas that is denoised in place."""
        shape = self.shape
        return {
            "architectures": ["LLaDAModelLM"],
            "model_type": "llada",
            "d_model": shape.hidden_size,
            "n_heads": shape.num_heads,
            "n_kv_heads": shape.num_heads,
            "n_layers": shape.num_layers,
            "mlp_hidden_size": shape.feed_forward_size,
            "vocab_size": shape.vocab_size,
            "embedding_size": shape.vocab_size,
            "max_sequence_length": shape.canvas_length,
            "rope": True,
            "rope_theta": ROPE_THETA,
            "rms_norm_eps": NORM_EPS,
            "layer_norm_type": "rms",
            "activation_type": "silu",
            "block_type": "llama",
            "include_bias": False,
            "weight_tying": False,
            "mask_token_id": MASK,
            "eos_token_id": None,
            "learned_position_table": True,
            "diffusion": {
                "shift_logits": False,
                "canvas": "in_place",
                "attention": "bidirectional",
            },
        }
