"""A Llama-shaped autoregressive model in PyTorch, and the masked rows that draft behind its text.

The model's own weights come from a model file and never change. Its text is encoded once, without
gradients; any number of drafts are then rows of mask tokens that share these keys and values. They
see the text before their block and each other, and run with a low-rank adapter (gated LoRA,
arXiv:2507.11851), all of which is what `edge` does with a gated adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.config import read_config
from edge.formats.gguf_file import header_of, open_model

PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Base:
    """The weights of a model file, dequantized, their rows in the order of half-split rotation."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        file = open_model(str(path))
        self.config = read_config(header_of(str(path), file))
        self._dtype, sizes = dtype, self.config.denoiser
        if self.config.diffusion.attention != "causal_context":
            raise ValueError(f"{path} does not read causally; set diffusion.attention")
        if sizes.qkv_bias or sizes.qk_norm:
            raise ValueError(f"{path} is not Llama-shaped: it has biases or norms of heads")
        if sizes.yarn or sizes.query_scale:
            raise ValueError(f"{path} stretches its positions, which is not learned from here")

        def read(name: str) -> Tensor:
            shape = file.tensors[name].shape
            rows = file.read_rows(name, 0, shape[0] if len(shape) > 1 else 1)
            return torch.from_numpy(rows.reshape(shape)).to(dtype)

        self.weights = {name: read(name) for name in file.tensors if ".gate_" not in name}
        if sizes.rope_pairs == "adjacent":
            for layer in range(sizes.num_layers):
                for part, heads in (("q", sizes.num_heads), ("k", sizes.num_kv_heads)):
                    self._split_pairs(f"blk.{layer}.attn_{part}.weight", heads)
        self.head = self.weights.get("output.weight", self.weights["token_embd.weight"])

    def _split_pairs(self, name: str, heads: int) -> None:
        rows, cols = self.weights[name].shape
        pairs = self.weights[name].view(heads, rows // heads // 2, 2, cols)
        self.weights[name] = pairs.transpose(1, 2).reshape(rows, cols).contiguous()

    def norm(self, name: str, x: Tensor) -> Tensor:
        eps = self.config.denoiser.rms_norm_eps
        return F.rms_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], eps)


class Adapter(nn.Module):
    """Two factors per linear layer, and the mask token's embedding."""

    def __init__(self, base: Base, rank: int) -> None:
        super().__init__()
        self.rank = rank
        table = base.weights["token_embd.weight"]
        self.embedding = nn.Parameter(table.float().mean(0))
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for layer in range(base.config.denoiser.num_layers):
            for part in PARTS:
                rows, cols = base.weights[f"blk.{layer}.{part}.weight"].shape
                a = torch.randn(rank, cols) / cols**0.5
                self.a[f"{layer}-{part}"] = nn.Parameter(a)
                self.b[f"{layer}-{part}"] = nn.Parameter(torch.zeros(rows, rank))

    def raised(self, base: Base, layer: int, part: str, x: Tensor) -> Tensor:
        key = f"{layer}-{part}"
        low = F.linear(x, self.a[key].to(x.dtype))
        plain = F.linear(x, base.weights[f"blk.{layer}.{part}.weight"])
        return plain + F.linear(low, self.b[key].to(x.dtype))

    def peft(self) -> dict[str, Tensor]:
        """The tensors under the names that PEFT gives them."""
        at, tensors = "base_model.model.model.", {}
        for key, a in self.a.items():
            layer, part = key.split("-")
            module = f"{at}layers.{layer}.{PARTS[part]}"
            tensors[f"{module}.lora_A.weight"] = a.detach()
            tensors[f"{module}.lora_B.weight"] = self.b[key].detach()
        token = f"{at}embed_tokens.token_adapter.trainable_tokens_delta"
        return tensors | {token: self.embedding.detach()[None]}


@dataclass
class Context:
    """A text as plain rows see it: keys and values [kv heads, length, size] of each layer, and
    what enters the head [length, hidden].
    """

    keys: list[Tensor]
    values: list[Tensor]
    hidden: Tensor


@torch.no_grad()
def read(base: Base, ids: Tensor) -> Context:
    """Encode a text [length]."""
    sizes = base.config.denoiser
    x = base.weights["token_embd.weight"][ids][None]
    positions, context = torch.arange(len(ids))[None], Context([], [], x)
    seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    for layer in range(sizes.num_layers):

        def linear(part: str, y: Tensor, layer: int = layer) -> Tensor:
            return F.linear(y, base.weights[f"blk.{layer}.{part}.weight"])

        q, k, v = _heads(base, layer, x, positions, linear)
        context.keys.append(k[0])
        context.values.append(v[0])
        share = sizes.num_heads // sizes.num_kv_heads
        k, v = (y.repeat_interleave(share, 1) for y in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = _rest(base, layer, x, mixed, linear)
    context.hidden = base.norm("output_norm", x)[0]
    return context


def draft(base: Base, adapter: Adapter, context: Context, starts: Tensor, length: int) -> Tensor:
    """What enters the head [drafts, length, hidden] of masked rows from each of `starts` on."""
    sizes = base.config.denoiser
    x = adapter.embedding.to(context.hidden.dtype).expand(len(starts), length, -1)
    positions = starts[:, None] + torch.arange(length)
    total = len(context.hidden)
    before = torch.arange(total)[None] < starts[:, None]  # [drafts, total]
    own = torch.ones(len(starts), length, dtype=torch.bool)
    seen = torch.cat([before, own], 1)[:, None, None]
    for layer in range(sizes.num_layers):

        def linear(part: str, y: Tensor, layer: int = layer) -> Tensor:
            return adapter.raised(base, layer, part, y)

        q, k, v = _heads(base, layer, x, positions, linear)
        k, v = (
            torch.cat([given.expand(len(starts), -1, -1, -1), y], 2)
            for given, y in ((context.keys[layer], k), (context.values[layer], v))
        )
        share = sizes.num_heads // sizes.num_kv_heads
        k, v = (y.repeat_interleave(share, 1) for y in (k, v))
        scores = q @ k.transpose(2, 3) / sizes.head_dim**0.5
        mixed = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v
        x = _rest(base, layer, x, mixed, linear)
    return base.norm("output_norm", x)


def _heads(base, layer, x, positions, linear):  # type: ignore[no-untyped-def]
    """Queries, keys and values [batch, heads, length, size], turned by their positions."""
    sizes = base.config.denoiser
    y = base.norm(f"blk.{layer}.attn_norm", x)

    def heads(part: str, count: int) -> Tensor:
        return linear(part, y).unflatten(-1, (count, sizes.head_dim)).transpose(1, 2)

    q, k = heads("attn_q", sizes.num_heads), heads("attn_k", sizes.num_kv_heads)
    v = heads("attn_v", sizes.num_kv_heads)
    pairs = torch.arange(sizes.head_dim // 2) * 2 / sizes.head_dim
    angles = positions[:, None, :, None] * sizes.rope_theta**-pairs
    cos, sin = angles.cos().to(q.dtype), angles.sin().to(q.dtype)
    return _turned(q, cos, sin), _turned(k, cos, sin), v


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def _rest(base, layer, x, mixed, linear):  # type: ignore[no-untyped-def]
    """What leaves a layer, of what its attention mixed."""
    x = x + linear("attn_output", mixed.transpose(1, 2).flatten(2))
    y = base.norm(f"blk.{layer}.ffn_norm", x)
    return x + linear("ffn_down", F.silu(linear("ffn_gate", y)) * linear("ffn_up", y))
