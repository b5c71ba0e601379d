"""``edge show``: what a model file is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edge.cli.options import json_option, model_option
from edge.cli.output import print_object, print_rows, size_in_words, without_controls
from edge.errors import UnsupportedModelError
from edge.exit_codes import verbose_option

if TYPE_CHECKING:
    from edge._native import TensorInfo
    from edge.info import ModelInfo


@click.command(name="show")
@model_option
@click.option("--tensors", is_flag=True, help="List the tensors: name, type, shape, bytes.")
@click.option("--template", is_flag=True, help="Print the chat template and nothing else.")
@json_option
@verbose_option
def command(model: str | None, tensors: bool, template: bool, json: bool) -> None:
    """Show what a model file is, without loading its tensors.

    Architecture, noise process, attention, quantization, the file's own defaults
    for generating, where it came from, and its SHA-256.

    \b
    Examples:
      edge show
      edge show -m model.gguf --tensors
      edge show -m model.gguf --json
    """
    import edge

    info = edge.inspect(model)
    if template:
        click.echo(without_controls(_template_of(info)), nl=False)
        return
    rows = _rows(info)
    listed = _tensors(info) if tensors else None
    if json:
        print_object({**rows, **({} if listed is None else {"tensors": listed})})
        return
    print_rows(_for_people(rows))
    for tensor in listed or ():
        shape = " x ".join(map(str, tensor["shape"]))
        kind = " ".join(filter(None, (tensor["type"], _group_in_words(tensor))))
        click.echo(f"  {tensor['name']}  {kind}  {shape}  {tensor['num_bytes']} bytes")


def _template_of(info: ModelInfo) -> str:
    if info.chat_template is None:
        raise UnsupportedModelError(
            "the model file has no chat template", path=info.path, hint="prompts go in as they are"
        )
    return info.chat_template


def _rows(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.config.name,
        "path": info.path,
        "size_bytes": info.size_bytes,
        "num_parameters": info.num_parameters,
        "bits_per_weight": round(info.bits_per_weight, 4),
        "types": {
            name: {"num_tensors": count, "num_bytes": size}
            for name, (count, size) in info.types.items()
        },
        **asdict(info.config.denoiser),
        **asdict(info.config.diffusion),
        "num_tokens": info.config.num_tokens,
        "task": info.config.task,
        "has_tokenizer": info.has_tokenizer,
        "chat_template": info.chat_template,
        "bf16_activations": list(info.bf16_activations),
        "provenance": info.provenance,
        "sha256": info.file_sha256(),
    }


def _for_people(rows: dict[str, Any]) -> dict[str, object]:
    """Name the rows in words and write their values out."""
    types = ", ".join(
        f"{name} {size_in_words(mix['num_bytes'])} in {mix['num_tensors']} tensors"
        for name, mix in rows["types"].items()
    )
    provenance = ", ".join(f"{key}: {value}" for key, value in rows["provenance"].items())
    rank = rows["gate_rank"]
    template, in_bf16 = rows["chat_template"], len(rows["bf16_activations"])
    written = {
        **rows,
        "size_bytes": size_in_words(rows["size_bytes"]),
        "num_parameters": f"{rows['num_parameters']:,}",
        "types": types,
        "chat_template": template and f"{len(template)} characters (--template prints them)",
        "bf16_activations": f"of {in_bf16} matrices" if in_bf16 else "none",
        "gate_rank": f"{rank}, of the adapter of mask tokens" if rank else "no rows are gated",
        "experts": _experts(rows["experts"]),
        "provenance": provenance or "not recorded",
    }
    return {_in_words(name): _value_in_words(value) for name, value in written.items()}


def _experts(experts: dict[str, Any] | None) -> str:
    """What layers are a mixture of, and how rows choose."""
    if experts is None:
        return "none"
    parts = [f"{experts['num_used']} of {experts['num_experts']}, {experts['size']} wide"]
    parts.append(f"by {experts['scores']}")
    if experts["num_used_groups"] < experts["num_groups"]:
        parts.append(f"from {experts['num_used_groups']} of {experts['num_groups']} groups")
    if experts["renormalises"]:
        parts.append("renormalised")
    if experts["scale"] != 1:
        parts.append(f"times {experts['scale']:g}")
    if experts["shared_size"]:
        parts.append(f"{experts['shared_size']} wide for all rows")
    if experts["num_dense_layers"]:
        parts.append(f"none in the first {experts['num_dense_layers']} layers")
    return ", ".join(parts)


def _in_words(name: str) -> str:
    return name.removeprefix("num_").removesuffix("_bytes").replace("_", " ")


def _value_in_words(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or None
    return value


def _tensors(info: ModelInfo) -> list[dict[str, Any]]:
    from edge.formats.gguf_file import read_header

    return [
        {
            "name": tensor.name,
            "type": tensor.type,
            **_group_of(tensor),
            "shape": list(tensor.shape),
            "num_bytes": tensor.num_bytes,
        }
        for tensor in read_header(info.path).tensors.values()
    ]


def _group_of(tensor: TensorInfo) -> dict[str, Any]:
    """What int8 and int4 leave open."""
    if not tensor.group_size:
        return {}
    return {"group_size": tensor.group_size, "has_minima": tensor.has_minima}


def _group_in_words(tensor: dict[str, Any]) -> str:
    if "group_size" not in tensor:
        return ""
    return f"g{tensor['group_size']}" + (" with minima" if tensor["has_minima"] else "")
