"""The diffusion.* keys: the family's defaults, then config.json, then the caller's choices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convert.json_file import shown
from convert.metadata import SETTINGS, Entry, describe
from convert.models.base import Choices, ConfigReader
from edge.errors import ModelFileError, RequestError, UnsupportedModelError
from edge.formats import keys

_PREFIX = "diffusion."
_SUPPORTED = {keys.NOISE: "mask", keys.ATTENTION: "full", keys.SHIFT_LOGITS: False}
_MOST_EOS_IDS = 64


@dataclass(frozen=True)
class DiffusionReader:
    """Reads and checks them for a model of `longest` positions and `num_rows` embedding rows."""

    config: ConfigReader
    choices: Choices
    longest: int
    num_rows: int

    def entries(self) -> dict[str, Entry]:
        """Key -> entry, complete and consistent.

        Raises ModelFileError for values of config.json, RequestError for the caller's, and
        UnsupportedModelError for what the runtime does not do.
        """
        found = {entry.key: entry for entry in self._defaults()}
        found.update((entry.key, entry) for entry in self._from_config())
        found.update((k, e) for k, e in self.choices.settings.items() if k.startswith(_PREFIX))
        self._refuse_unsupported(found)
        self._check_lengths(found)
        self._check_eos_ids(found)
        return found

    def _defaults(self) -> Iterator[Entry]:
        yield Entry(keys.NOISE, "string", "mask")
        yield Entry(keys.ATTENTION, "string", "full")
        yield Entry(keys.CANVAS, "string", "append")
        yield Entry(keys.SHIFT_LOGITS, "bool", False)
        eos = self.config.get("eos_token_id")
        if eos is None or eos == []:
            return
        try:
            entry = SETTINGS[keys.EOS_IDS].entry(eos)
        except ValueError as error:
            raise self.config.fault("eos_token_id", str(error)) from None
        if not self._ids_fit(entry):
            raise self.config.fault("eos_token_id", self._wanted_ids())
        yield entry

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
        for key, wanted in _SUPPORTED.items():
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
                self._refuse(found[key], f"at most max_sequence_length {self.longest}")

    def _check_eos_ids(self, found: dict[str, Entry]) -> None:
        entry = found.get(keys.EOS_IDS)
        if entry and not self._ids_fit(entry):
            self._refuse(entry, self._wanted_ids())

    def _ids_fit(self, entry: Entry) -> bool:
        return len(entry.value) <= _MOST_EOS_IDS and max(entry.value) < self.num_rows

    def _wanted_ids(self) -> str:
        return f"at most {_MOST_EOS_IDS} ids below {self.num_rows}"

    def _refuse(self, entry: Entry, wanted: str) -> None:
        what = describe(entry.key, entry.value, wanted)
        if entry.key in self.choices.settings:
            raise RequestError(what, hint="give another value with --set")
        raise self._fault(what, "correct it or give another value with --set")

    def _fault(self, reason: str, hint: str) -> ModelFileError:
        return ModelFileError(self.config.checkpoint.config_path, None, reason, hint=hint)
