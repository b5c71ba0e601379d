"""A checkpoint folder in hub layout: config.json, safetensors, tokenizer files.

Nothing here runs code from the folder. Pickled checkpoints are refused unopened, since opening
a pickle can run anything.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert import json_file, safetensors_file
from convert.safetensors_file import StoredTensor, Tensor
from convert.source import Advance, hash_file
from convert.tokenizer_files import (
    ADDED_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    StoredTokenizer,
    TokenNames,
    read_token_names,
    read_tokenizer,
)
from edge.errors import ModelFileError, ModelNotFoundError, UnsupportedModelError

if TYPE_CHECKING:
    from convert.adapter import Adapter
    from convert.gated_adapter import GatedAdapter

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CHAT_TEMPLATE = "chat_template.jinja"

_MIB = 1 << 20
_LIMITS = {
    CONFIG: _MIB,
    GENERATION_CONFIG: _MIB,
    INDEX: 16 * _MIB,
    TOKENIZER: 64 * _MIB,
    TOKENIZER_CONFIG: 16 * _MIB,
    ADDED_TOKENS: 16 * _MIB,
    CHAT_TEMPLATE: _MIB,
}
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_SHARD_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Checkpoint:
    """What the folder says; tensor values stay on disk until they are asked for."""

    folder: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]  # empty when the file is absent
    tensors: Mapping[str, Tensor]
    weight_files: tuple[Path, ...]
    tokenizer: StoredTokenizer | None
    token_names: TokenNames
    chat_template: str | None
    adapter: Adapter | None = None  # merged into the tensors
    gate: GatedAdapter | None = None  # of masked rows, among the tensors

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder

    @property
    def config_path(self) -> Path:
        """The path of config.json, for error messages."""
        return self.folder / CONFIG

    @property
    def architecture(self) -> str:
        """``architectures[0]`` of config.json.

        Raises ModelFileError when config.json does not name one.
        """
        names = self.config.get("architectures")
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names[0]
        reason = f"architectures is {json_file.shown(names)}, a list of class names is wanted"
        raise ModelFileError(self.config_path, None, reason, hint="complete config.json")

    @property
    def num_bytes(self) -> int:
        """Bytes of config.json and all weight files."""
        return sum(path.stat().st_size for path in (self.config_path, *self.weight_files))

    def sha256(self, advance: Advance = lambda _: None) -> str:
        """Hash of config.json followed by the weight files in the order of their names."""
        digest = hashlib.sha256()
        for path in (self.config_path, *self.weight_files):
            hash_file(path, digest.update, advance)
        return digest.hexdigest()


def open_checkpoint(source: Path) -> Checkpoint:
    """Read everything but the weights.

    Raises ModelNotFoundError, ModelFileError, or UnsupportedModelError for pickled weights.
    """
    _refuse_non_folder(source)
    weight_files, tensors = _find_tensors(source)
    config = json_file.read_object(_required(source, CONFIG), _LIMITS[CONFIG])
    tokenizer = read_tokenizer(_optional(source, TOKENIZER), _LIMITS[TOKENIZER])
    settings = _object_or_empty(source, TOKENIZER_CONFIG)
    added_tokens = _object_or_empty(source, ADDED_TOKENS)
    return Checkpoint(
        folder=source,
        config=config,
        generation_config=_object_or_empty(source, GENERATION_CONFIG),
        tensors=tensors,
        weight_files=weight_files,
        tokenizer=tokenizer,
        token_names=read_token_names(tokenizer, settings, added_tokens, source),
        chat_template=_read_chat_template(source, settings),
    )


def _refuse_non_folder(source: Path) -> None:
    if source.is_dir():
        return
    if source.suffix in _PICKLES:
        raise _pickled(source)
    if not source.exists():
        hint = f"give a folder that holds {CONFIG} and {WEIGHTS}, or a .gguf file"
        raise ModelNotFoundError("no such checkpoint folder", path=source, hint=hint)
    reason = "SOURCE is a file, a checkpoint folder or a .gguf file is wanted"
    raise ModelFileError(source, None, reason, hint=f"give the folder that holds {CONFIG}")


def _find_tensors(folder: Path) -> tuple[tuple[Path, ...], dict[str, StoredTensor]]:
    if path := _optional(folder, WEIGHTS):
        return (path,), safetensors_file.read_header(path)
    if path := _optional(folder, INDEX):
        return _read_shards(folder, path)
    for entry in sorted(folder.iterdir()):
        if entry.suffix in _PICKLES:
            raise _pickled(entry)
    hint = f"a checkpoint folder holds {CONFIG} and {WEIGHTS} or {INDEX}"
    raise ModelFileError(folder, None, "there are no safetensors weights", hint=hint)


def _read_shards(folder: Path, index: Path) -> tuple[tuple[Path, ...], dict[str, StoredTensor]]:
    weight_map = json_file.read_object(index, _LIMITS[INDEX]).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(index, None, "weight_map must be an object that names shards")
    for name in weight_map.values():
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name) or name in {".", ".."}:
            reason = f"shard name {json_file.shown(name)} is refused"
            hint = "a shard is a file beside the index, named with A-Z a-z 0-9 . _ - only"
            raise ModelFileError(index, None, reason, hint=hint)
    paths = tuple(_required(folder, name) for name in sorted(set(weight_map.values())))
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        for name, tensor in safetensors_file.read_header(path).items():
            if weight_map.get(name) != path.name:
                reason = f"tensor '{name}' is in {path.name}, the index says"
                reason += f" {json_file.shown(weight_map.get(name))}"
                raise ModelFileError(index, None, reason)
            tensors[name] = tensor
    if absent := sorted(weight_map.keys() - tensors.keys()):
        reason = f"{len(absent)} tensors of the index are in no shard, the first is '{absent[0]}'"
        raise ModelFileError(index, None, reason)
    return paths, tensors


def _read_chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    if path := _optional(folder, CHAT_TEMPLATE):
        return json_file.read_text(path, _LIMITS[CHAT_TEMPLATE]) or None
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named templates
        named = {str(entry.get("name")): entry for entry in template if isinstance(entry, dict)}
        template = named.get("default", {}).get("template")
    if template is None or isinstance(template, str):
        return template or None
    reason = f"chat_template is {json_file.shown(template)}, not a text"
    raise ModelFileError(folder / TOKENIZER_CONFIG, None, reason)


def _object_or_empty(folder: Path, name: str) -> dict[str, Any]:
    path = _optional(folder, name)
    return json_file.read_object(path, _LIMITS[name]) if path else {}


def _required(folder: Path, name: str) -> Path:
    path = _optional(folder, name)
    if path is None:
        hint = "fetch the missing file of the checkpoint"
        raise ModelFileError(folder, None, f"there is no {name}", hint=hint)
    return path


def _optional(folder: Path, name: str) -> Path | None:
    """The folder's file of that name, None when absent.

    Links may lead out of the folder: the hub's download cache is made of such links.
    """
    path = folder / name
    if not path.exists() and not path.is_symlink():
        return None
    if path.is_file():
        return path
    hint = "fetch or copy the file itself into the folder"
    raise ModelFileError(path, None, f"{name} is not a regular file", hint=hint)


def _pickled(path: Path) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path.name} is a pickled checkpoint, which can run code when it is opened",
        path=path,
        hint="save the checkpoint as safetensors (save_pretrained does) and convert that",
    )
