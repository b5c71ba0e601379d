"""The group of commands, each in the file of its name.

Nothing here and at the top of a command's file may import more than click and the standard
library: ``edge --help`` has to be instant.
"""

from __future__ import annotations

import importlib

import click

from edge import __version__

COMMANDS = ("run", "fill", "chat", "show", "models", "bench", "frontier", "calibrate", "doctor")


class LazyGroup(click.Group):
    """Finds the command NAME in the module ``edge.cli.NAME``, when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help page."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; its options share the prefix ``EDGE_`` with all others."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"edge.cli.{cmd_name}").command
        command.context_settings["auto_envvar_prefix"] = "EDGE"
        return command


@click.group(cls=LazyGroup, invoke_without_command=True, subcommand_metavar="COMMAND [ARGS]...")
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def group(context: click.Context) -> None:
    """Run diffusion language models on the processor in front of you.

    \b
    Examples:
      edge models                      what is on board
      edge run "PROMPT"                answer with the embedded default
      edge run -m model.gguf - < FILE  answer the prompt in a file
      edge fill -m MODEL "A[[MASK:3]]" fill holes, leave the rest
      edge chat -m model.gguf          talk in turns
      edge COMMAND --help              options and examples of a command

    Every option of a command can also be set in the environment: EDGE_ and its
    long name, for all commands that have it (EDGE_THREADS=2, and EDGE_LIVE=0 for
    --no-live). The command line wins.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        raise click.UsageError("no command given", context)
