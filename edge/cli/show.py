"""``edge show``: what a model file is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edge.cli.options import json_option, model_option
from edge.cli.output import print_object, print_rows, size_in_words
from edge.exit_codes import verbose_option

if TYPE_CHECKING:
    from edge.model import ModelInfo


@click.command(name="show")
@model_option
@click.option("--tensors", is_flag=True, help="List the tensors: name, type, shape, bytes.")
@json_option
@verbose_option
def command(model: str | None, tensors: bool, json: bool) -> None:
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
    rows = _rows(info)
    listed = _tensors(info) if tensors else None
    if json:
        print_object({**rows, **({} if listed is None else {"tensors": listed})})
        return
    print_rows(_for_people(rows))
    for tensor in listed or ():
        shape = " x ".join(map(str, tensor["shape"]))
        click.echo(f"  {tensor['name']}  {tensor['type']}  {shape}  {tensor['num_bytes']} bytes")


def _rows(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.config.name,
        "path": info.path,
        "size_bytes": info.size_bytes,
        "num_parameters": info.num_parameters,
        "types": {
            name: {"num_tensors": count, "num_bytes": size}
            for name, (count, size) in info.types.items()
        },
        **asdict(info.config.denoiser),
        **asdict(info.config.diffusion),
        "num_tokens": info.config.num_tokens,
        "task": info.config.task,
        "has_tokenizer": info.has_tokenizer,
        "has_chat_template": info.chat_template is not None,
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
    written = {
        **rows,
        "size_bytes": size_in_words(rows["size_bytes"]),
        "num_parameters": f"{rows['num_parameters']:,}",
        "types": types,
        "provenance": provenance or "not recorded",
    }
    return {_in_words(name): _value_in_words(value) for name, value in written.items()}


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
            "shape": list(tensor.shape),
            "num_bytes": tensor.num_bytes,
        }
        for tensor in read_header(info.path).tensors.values()
    ]
