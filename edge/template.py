"""Chat templates: messages to the text that a model was trained on.

A rendering remembers which of its characters come from messages, so that the tokenizer makes
control tokens of the template's own text only.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import ModelFileError, RequestError
from edge.formats import keys
from edge.formats.gguf_file import Header

MAX_SOURCE = 1 << 20  # characters
MAX_MESSAGES = 1 << 20  # characters of all messages together

_PROGRAM = Path(__file__).with_name("template_process.py")
_MAX_WAIT_S = 10.0  # a machine too busy to start a process; the template's own limit is far lower
_RAW_HINT = "give the prompt without the template (raw=True, --raw)"
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
# No text needs them: the first one that the request does not use marks what a message wrote.
_PRIVATE_CHARACTERS = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))


@dataclass(frozen=True)
class Rendering:
    """A rendered conversation.

    ``marked`` is the same with every visible character of a message replaced by ``mark``;
    ``contents`` are the messages'.
    """

    text: str
    marked: str
    mark: str
    contents: tuple[str, ...]

    @property
    def is_aligned(self) -> bool:
        """Whether ``marked`` tells, character by character, what of ``text`` is a message's.

        It does not when the template decides by what a message says.
        """
        if len(self.text) != len(self.marked):
            return False
        text, marked = (
            np.frombuffer(t.encode("utf-32-le"), "<u4") for t in (self.text, self.marked)
        )
        return bool(np.all((text == marked) | (marked == ord(self.mark))))


class ChatTemplate:
    """The Jinja template of a model file. Each rendering runs in a process of its own."""

    def __init__(self, source: str, *, path: str | None = None) -> None:
        """``path`` is the model file, for messages."""
        self.source = source
        self._path = path

    @classmethod
    def from_header(cls, header: Header) -> ChatTemplate | None:
        """Return the file's template, None when it has none; raises ModelFileError."""
        source = header.metadata.get(keys.CHAT_TEMPLATE)
        if source is None:
            return None
        if not isinstance(source, str):
            raise ModelFileError(header.path, None, f"key '{keys.CHAT_TEMPLATE}' is not a string")
        if len(source) > MAX_SOURCE:
            reason = f"key '{keys.CHAT_TEMPLATE}' has {len(source)} characters, not {MAX_SOURCE}"
            raise ModelFileError(header.path, None, reason)
        return cls(source, path=header.path) if source else None

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        special_tokens: Mapping[str, str] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool = False,
    ) -> Rendering:
        """Render messages of the form ``{"role": ..., "content": ...}``.

        ``special_tokens`` are the texts by name (``bos_token``, ``eos_token`` ...). Raises
        RequestError for malformed messages and those that the template refuses, ModelFileError
        for a template that fails or takes too much time or memory.
        """
        checked = [_checked(message) for message in messages]
        variables: dict[str, Any] = {
            "tools": None,
            "documents": None,
            **(special_tokens or {}),
            "add_generation_prompt": add_generation_prompt,
            "enable_thinking": enable_thinking,
        }
        contents = tuple(message["content"] for message in checked)
        mark = self._unused_character(contents, variables)
        marked = [{**m, "content": re.sub(r"\S", mark, m["content"])} for m in checked]
        texts = self._run([{"messages": each, **variables} for each in (checked, marked)])
        return Rendering(*texts, mark=mark, contents=contents)

    def _unused_character(self, contents: Sequence[str], variables: dict[str, Any]) -> str:
        if sum(map(len, contents)) > MAX_MESSAGES:
            raise RequestError(
                f"the messages have more than {MAX_MESSAGES} characters", hint="shorten them"
            )
        used = set().union(self.source, *contents, *filter(None, map(str, variables.values())))
        return next(c for c in map(chr, _PRIVATE_CHARACTERS) if c not in used)

    def _run(self, renderings: list[dict[str, Any]]) -> tuple[str, str]:
        import subprocess

        if not sys.executable or getattr(sys, "frozen", False):
            raise RequestError("there is no Python to run the chat template with", hint=_RAW_HINT)
        job = {"path": sys.path, "source": self.source, "renderings": renderings}
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(_PROGRAM)],
                input=json.dumps(job, ensure_ascii=False).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_MAX_WAIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise self._fault(f"it does not end within {_MAX_WAIT_S:.0f} s") from None
        return self._texts(done.returncode, done.stdout)

    def _texts(self, code: int, output: bytes) -> tuple[str, str]:
        if code == -signal.SIGPROF:
            raise self._fault("it takes too long")
        if code:
            raise self._fault("it exhausts its memory or crashes the template engine")
        answer = json.loads(output)
        if "refused" in answer:
            raise RequestError(
                f"the chat template refuses the messages: {answer['refused']}", hint=_RAW_HINT
            )
        if "broken" in answer:
            raise self._fault(answer["broken"])
        text, marked = answer["texts"]
        return text, marked

    def _fault(self, problem: str) -> ModelFileError:
        reason = f"the chat template cannot be used: {problem}"
        return ModelFileError(self._path, None, reason, hint=_RAW_HINT)


def _checked(message: Mapping[str, str]) -> dict[str, str]:
    """A plain copy; what a template may do with other objects is anybody's guess."""
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise RequestError(
            "a message is not of the form {'role': ..., 'content': ...}", hint="give exactly these"
        )
    role, content = message["role"], message["content"]
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise RequestError(
            f"a message has the role {role!r:.80}", hint="give a word: user, assistant or system"
        )
    if not isinstance(content, str):
        raise RequestError(
            f"a message's content is of type {type(content).__name__}", hint="give a string"
        )
    refuse_surrogates(content)
    return {"role": role, "content": content}


def refuse_surrogates(text: str) -> None:
    """Raise RequestError for a text that is no valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"the prompt holds a lone surrogate at character {error.start}",
            hint="give text that is valid Unicode",
        ) from None
