"""Filling holes in place: a form's canvas, and the text that comes of it.

All texts stay as they were given, byte for byte. They are tokenized one by one, so no token
reaches from a text into a hole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge.canvas import Canvas
from edge.config import ModelConfig
from edge.errors import ContextLengthError, RequestError, UnsupportedModelError
from edge.generator import Generation
from edge.holes import Hole, Piece, checked_pieces
from edge.request import GenerateConfig
from edge.result import Commit, Done, Draft, FilledHole, Result
from edge.tokenizer import Tokenizer

_NO_IDS = np.empty(0, np.int32)
_CONTEXT = 8  # tokens before a hole, for decoders that write a text's first token in another way


@dataclass(frozen=True)
class Part:
    """A text with its ids [tokens], or a hole."""

    piece: Piece
    ids: NDArray[np.int32]

    @property
    def is_hole(self) -> bool:
        """Whether there is anything to fill."""
        return isinstance(self.piece, Hole)


class Form:
    """A template as the model is given it.

    ``end_ids`` are the tokens that end a hole before its last position; ``block_length`` is what
    was asked for, None: the model's.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        tokenizer: Tokenizer,
        config: ModelConfig,
        end_ids: Sequence[int],
        block_length: int | None = None,
    ) -> None:
        """Raises RequestError for a template without a hole and for texts that are no Unicode."""
        self.tokenizer = tokenizer
        self.config = config
        self.end_ids = tuple(end_ids)
        self._block_length = block_length or config.diffusion.block_length
        self.parts = _tokenized(checked_pieces(pieces), tokenizer)

    @property
    def holes(self) -> list[Hole]:
        """The holes in order."""
        return [part.piece for part in self.parts if isinstance(part.piece, Hole)]

    def canvas(self, widths: Sequence[int] | None = None) -> tuple[Canvas, list[tuple[int, int]]]:
        """Return the canvas and the spans of the holes, with their own sizes or these widths.

        Raises ContextLengthError, RequestError or UnsupportedModelError where it does not fit.
        """
        sizes = [hole.max_tokens for hole in self.holes] if widths is None else widths
        texts = sum(len(part.ids) for part in self.parts)
        self._check_length(texts + sum(sizes))
        rest = iter(sizes)
        spans, ids, length, texts_end = [], [_NO_IDS], 0, 0
        for part in self.parts:
            own = np.zeros(next(rest), np.int32) if part.is_hole else part.ids
            ids.append(own)
            length += len(own)
            if part.is_hole:
                spans.append((length - len(own), length))
            elif len(own):
                texts_end = length
        start = self._output_start(spans[0][0], texts_end)
        mask = self.config.diffusion.mask_token_id
        return Canvas.form(np.concatenate(ids), spans, start, mask, self.end_ids), spans

    def _check_length(self, length: int) -> None:
        longest, diffusion = self.config.denoiser.context_length, self.config.diffusion
        if length > longest:
            raise ContextLengthError(
                f"the template has {length} tokens with its holes, the model's context {longest}",
                hint="shorten the text or make the holes smaller",
            )
        if diffusion.in_place and length != diffusion.canvas_length:
            raise RequestError(
                f"the template has {length} tokens with its holes, the canvas of "
                f"{self.config.name} {diffusion.canvas_length}",
                hint="write one token or mask per position, or choose another model with -m",
            )

    def _output_start(self, first: int, end: int) -> int:
        """Where the first block with a hole begins; ``end`` is where the last text does.

        A model that attends in blocks or causally sees what follows a hole only inside its block.
        """
        diffusion, length = self.config.diffusion, self._block_length
        if not diffusion.caches:
            return first
        if diffusion.attention == "block" and diffusion.block_align == "absolute":
            start, seen = first, (first // length + 1) * length
        else:  # a row that predicts the next position has to be inside the block, too
            start = max(0, first - diffusion.carries)
            seen = start + length
        if first < end and seen < end:
            raise UnsupportedModelError(
                f"{self.config.name} sees {seen - first} tokens from the first hole on (attention "
                f"{diffusion.attention}), the text goes on for {end - first}",
                hint="shorten what follows the hole, or use a model with full attention",
            )
        return start

    def own_ids(self, ids: NDArray[np.int32]) -> list[int]:
        """What of a hole's ids is its text: all before an end token, or a mask nobody filled."""
        ends = np.isin(ids, (*self.end_ids, self.config.diffusion.mask_token_id))
        own: list[int] = (ids[: int(ends.argmax())] if ends.any() else ids).tolist()
        return own


@dataclass(frozen=True)
class Content:
    """What a hole has become: its ids, and how many positions of the canvas it took.

    ``text`` is None where it is what the ids say.
    """

    ids: list[int]
    width: int
    text: str | None = None
    scores: Mapping[str, float] | None = None


class FilledText:
    """The text of a form, put together from its beginning as far as it is known."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._rest = list(reversed(form.parts))
        self._at = 0  # position of the first of them on the canvas
        self._length = 0  # of the text, in characters
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._holes: list[FilledHole] = []

    def advance(self, content: Callable[[int, int], Content | None]) -> Commit | None:
        """Add texts and holes up to one that is not known yet; return what is new.

        ``content`` gets a hole's number and position and returns what it has become, or None.
        """
        num_texts, num_ids = len(self._texts), len(self._ids)
        while self._rest:
            part = self._rest[-1]
            if not part.is_hole:
                self._add(str(part.piece), part.ids.tolist(), len(part.ids))
            elif (hole := content(len(self._holes), self._at)) is not None:
                self._add_hole(hole)
            else:
                break
        new_text = "".join(self._texts[num_texts:])
        return Commit(new_text, self._ids[num_ids:]) if new_text else None

    def finish(self, result: Result) -> Result:
        """The result of the request with all that was added."""
        text, holes = "".join(self._texts), tuple(self._holes)
        return replace(result, text=text, ids=self._ids, holes=holes)

    def _add_hole(self, hole: Content) -> None:
        start, text = self._length, hole.text
        self._add(self._decoded(hole.ids) if text is None else text, hole.ids, hole.width)
        self._holes.append(FilledHole(self._texts[-1], start, self._length, hole.ids, hole.scores))

    def _add(self, text: str, ids: list[int], width: int) -> None:
        self._rest.pop()
        self._texts.append(text)
        self._ids += ids
        self._length += len(text)
        self._at += width

    def _decoded(self, ids: list[int]) -> str:
        tokenizer, before = self._form.tokenizer, self._ids[-_CONTEXT:]
        known = tokenizer.decode(np.array(before, np.int32))
        text = tokenizer.decode(np.array(before + ids, np.int32))
        if text.startswith(known):
            return text[len(known) :]
        return tokenizer.decode(np.array(ids, np.int32))


def run_filling(
    generation: Generation, form: Form, canvas: Canvas
) -> Iterator[Draft | Commit | Done]:
    """Yield the events of a generation on a form's canvas, with the form's own texts.

    The generation is one without a tokenizer. A Commit comes with every hole that is settled.
    """
    sizes = [hole.max_tokens for hole in form.holes]
    filled, settled = FilledText(form), canvas.output_start

    def content(index: int, at: int) -> Content | None:
        stop = at + sizes[index]
        known = stop <= settled
        return Content(form.own_ids(canvas.ids[at:stop]), sizes[index]) if known else None

    for event in generation.run():
        if isinstance(event, Draft):
            yield event
            continue
        settled = settled + len(event.ids) if isinstance(event, Commit) else len(canvas)
        commit = filled.advance(content)
        if commit is not None:
            yield commit
        if isinstance(event, Done):
            yield Done(filled.finish(event.result))


def check_options(options: GenerateConfig) -> None:
    """Raise RequestError for options that mean nothing where holes are filled."""
    if options.max_tokens is not None:
        raise RequestError(
            "max_tokens is given, but the holes have sizes of their own", hint="leave it out"
        )
    if options.reference:
        raise RequestError(
            "reference is given, but no published loop fills holes", hint="leave it out"
        )


def _tokenized(pieces: tuple[Piece, ...], tokenizer: Tokenizer) -> tuple[Part, ...]:
    """Tokenize the texts; neighbours are one text, and there is one before and after the holes."""
    joined: list[Piece] = [""]
    for piece in pieces:
        if isinstance(piece, str) and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    if isinstance(joined[-1], Hole):
        joined.append("")
    texts = [piece for piece in joined if isinstance(piece, str)]
    encoded = iter(tokenizer.encode_parts(texts))
    return tuple(
        Part(piece, next(encoded) if isinstance(piece, str) else _NO_IDS) for piece in joined
    )
