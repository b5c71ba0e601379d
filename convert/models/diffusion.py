"""The diffusion.* keys: the family's defaults, then config.json, then the caller's choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from convert.json_file import shown
from convert.metadata import SETTINGS, Entry, describe
from convert.models.base import Choices, ConfigReader
from convert.models.tokens import ids_fit, wanted_ids
from edge.errors import ModelFileError, RequestError, UnsupportedModelError
from edge.formats import keys

_PREFIX = "diffusion."
_DEFAULTS = {
    keys.NOISE: "mask",
    keys.ATTENTION: "full",
    keys.CANVAS: "append",
    keys.SHIFT_LOGITS: False,
}


@dataclass(frozen=True)
class DiffusionReader:
    """Reads and checks them for a model of `longest` positions and `num_rows` embedding rows.

    `defaults` are the family's values by key, `eos_ids` those of the checkpoint, `supported`
    the only values that some keys may have. `longest_key` of config.json said `longest`.
    """

    config: ConfigReader
    choices: Choices
    longest_key: str
    longest: int
    num_rows: int
    eos_ids: tuple[int, ...]
    defaults: Mapping[str, object] = field(default_factory=dict)
    supported: Mapping[str, object] = field(default_factory=dict)

    def entries(self) -> dict[str, Entry]:
        """Key -> entry, complete and consistent.

        Raises ModelFileError for values of config.json, RequestError for the caller's, and
        UnsupportedModelError for what the runtime does not do.
        """
        given = {entry.key: entry for entry in self._from_config()}
        given.update((k, e) for k, e in self.choices.settings.items() if k.startswith(_PREFIX))
        found = {entry.key: entry for entry in self._defaults()}
        self._fit(found, given)
        found.update(given)
        self._refuse_unsupported(found)
        self._check_lengths(found)
        self._check_eos_ids(found)
        return found

    def _defaults(self) -> Iterator[Entry]:
        for key, value in {**_DEFAULTS, **self.defaults}.items():
            yield SETTINGS[key].entry(value)
        if self.eos_ids:
            yield SETTINGS[keys.EOS_IDS].entry(self.eos_ids)

    def _fit(self, defaults: dict[str, Entry], given: Mapping[str, Entry]) -> None:
        """Shorten the family's lengths to what the model, then the block, has room for."""
        room = self.longest
        for key in (keys.BLOCK_LENGTH, keys.SUB_BLOCK_LENGTH):
            if key in defaults:
                defaults[key] = Entry(key, "u32", min(defaults[key].value, room))
            if entry := given.get(key, defaults.get(key)):
                room = min(room, entry.value)

    def _from_config(self) -> Iterator[Entry]:
        given = self.config.get("diffusion")
        if not isinstance(given, dict | None):
            raise self.config.fault("diffusion", "an object")
        for name, value in (given or {}).items():
            key = _PREFIX + name
            if value is None:
                continue
            if key not in SETTINGS:
                known = ", ".join(k for k in SETTINGS if k.startswith(_PREFIX))
                raise self._fault(f"{key[:100]} is no known key", f"known keys: {known}")
            try:
                yield SETTINGS[key].entry(value)
            except ValueError as error:
                raise self._fault(describe(key, value, str(error)), "correct it") from None

    def _refuse_unsupported(self, found: dict[str, Entry]) -> None:
        for key, wanted in self.supported.items():
            if found[key].value != wanted:
                raise UnsupportedModelError(
                    f"{key} is {shown(found[key].value)} ({shown(wanted)} is supported)",
                    path=self.config.checkpoint.config_path,
                    hint="this kind of model cannot be converted",
                )

    def _check_lengths(self, found: dict[str, Entry]) -> None:
        if found[keys.CANVAS].value == "in_place":
            found.setdefault(keys.CANVAS_LENGTH, Entry(keys.CANVAS_LENGTH, "u32", self.longest))
        elif keys.CANVAS_LENGTH in found:
            self._refuse(found[keys.CANVAS_LENGTH], 'diffusion.canvas "in_place"')
        for key in (keys.CANVAS_LENGTH, keys.BLOCK_LENGTH):
            if key in found and found[key].value > self.longest:
                self._refuse(found[key], f"at most {self.longest_key} {self.longest}")
        block, sub_block = found.get(keys.BLOCK_LENGTH), found.get(keys.SUB_BLOCK_LENGTH)
        if block and sub_block and sub_block.value > block.value:
            self._refuse(sub_block, f"at most {block.key} {block.value}")

    def _check_eos_ids(self, found: dict[str, Entry]) -> None:
        entry = found.get(keys.EOS_IDS)
        if entry and not ids_fit(entry.value, self.num_rows):
            self._refuse(entry, wanted_ids(self.num_rows))

    def _refuse(self, entry: Entry, wanted: str) -> None:
        what = describe(entry.key, entry.value, wanted)
        if entry.key in self.choices.settings:
            raise RequestError(what, hint="give another value with --set")
        raise self._fault(what, "correct it or give another value with --set")

    def _fault(self, reason: str, hint: str) -> ModelFileError:
        return ModelFileError(self.config.checkpoint.config_path, None, reason, hint=hint)
