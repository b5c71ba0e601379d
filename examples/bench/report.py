"""What the bench scripts print: tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, markdown: bool) -> None:
    """Print ``rows`` under ``headers``: the first column to the left, the others to the right."""
    if markdown:
        _print_markdown(headers, rows)
    else:
        _print_aligned(headers, rows)


def _print_markdown(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    rules = ["---", *("---:" for _ in headers[1:])]
    for cells in (headers, rules, *rows):
        print(f"| {' | '.join(cells)} |")


def _print_aligned(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    # Imported here: the processes whose memory and start are measured load this file too.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False)
    for number, header in enumerate(headers):
        table.add_column(Text(header), justify="right" if number else "left", no_wrap=True)
    for cells in rows:
        table.add_row(*map(Text, cells))
    # A wide console, so that a narrow terminal or a pipe never cuts a cell.
    Console(width=1000).print(table, soft_wrap=True)
