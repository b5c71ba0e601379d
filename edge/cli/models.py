"""``edge models``: the denoisers that came with the program."""

from __future__ import annotations

from typing import Any

import click

from edge.cli.options import json_option
from edge.cli.output import print_object, size_in_words
from edge.exit_codes import verbose_option


@click.command(name="models")
@json_option
@verbose_option
def command(json: bool) -> None:
    """List the embedded denoisers, their size and what each is for.

    The default is used where no model is named. A GGUF file of your own works
    everywhere a name does.

    \b
    Examples:
      edge models
      edge models --json
    """
    cards = _cards()
    if json:
        print_object({"models": cards})
        return
    for card in cards:
        default = ", the default" if card["default"] else ""
        click.echo(
            f"{card['name']}  ({size_in_words(card['size_bytes'])}, {card['licence']}{default})"
        )
        click.echo(f"    {card['purpose']}")
        click.echo(f"    {card['command']}")


def _cards() -> list[dict[str, Any]]:
    from edge.denoisers import EMBEDDED, path_of

    return [
        {
            "name": card.name,
            "path": path_of(card.name),
            "size_bytes": path_of(card.name).stat().st_size,
            "purpose": card.purpose,
            "licence": card.licence,
            "default": card.default,
            "command": f"edge run -m {card.name} {card.example}",
        }
        for card in EMBEDDED.values()
    ]
