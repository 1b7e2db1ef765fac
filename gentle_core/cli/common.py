"""What the commands share: lazy loading, the options -v, --set, --plugin and --no-plugins, warnings."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gentle_core.catalog import Catalog

F = TypeVar("F", bound=Callable[..., Any])


class State:
    """What the whole invocation knows."""

    def __init__(self) -> None:
        self.verbose = False


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; `--help` shows the summaries given here.

    Args:
        commands_at: "module:attribute" and summary by command name.
    """

    def __init__(self, *args: Any, commands_at: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.commands_at = dict(commands_at or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands_at, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands_at:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.commands_at[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            from gentle_core.suggest import did_you_mean

            raise click.UsageError(
                f"there is no command {args[0]!r}{did_you_mean(args[0], self.list_commands(ctx))}", ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, summary) for name, (_, summary) in self.commands_at.items()]
        for name in super().list_commands(ctx):
            command = super().get_command(ctx, name)
            rows.append((name, command.get_short_help_str(80) if command else ""))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def verbose_option(function: F) -> F:
    """-v, before or after the command's name."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            ctx.ensure_object(State).verbose = True

    return click.option(
        "-v", "--verbose", is_flag=True, expose_value=False, callback=remember, help="Show tracebacks of errors."
    )(function)


def set_option(function: F) -> F:
    """--set KEY=VALUE, any number of times."""
    return click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="KEY=VALUE",
        help="Replace a setting, e.g. train.steps=50; VALUE is TOML, or a bare word. Give it as often as needed.",
    )(function)


def plugin_options(function: F) -> F:
    """--plugin FILE and --no-plugins; the command receives `catalog`, a function that discovers on demand."""

    @click.option("--plugin", "files", multiple=True, metavar="FILE", help="Also load a single-file plugin.")
    @click.option("--no-plugins", is_flag=True, help="Load no installed plugin, the core's components alone.")
    def wrapped(files: tuple[str, ...], no_plugins: bool, **kwargs: Any) -> Any:
        def find() -> Catalog:
            from gentle_core.plugins import discover

            return discover(enabled=not no_plugins, files=files)

        return function(find_catalog=find, **kwargs)

    wrapped.__name__, wrapped.__doc__ = function.__name__, function.__doc__
    wrapped.__click_params__ = (  # type: ignore[attr-defined]
        getattr(function, "__click_params__", []) + wrapped.__click_params__  # type: ignore[attr-defined]
    )
    return wrapped  # type: ignore[return-value]


def note_problems(catalog: Catalog) -> None:
    """A line for each plugin that cannot be used; the command goes on without it."""
    for problem in catalog.problems:
        warn(str(problem))


def fail(message: str) -> None:
    """The line that says what went wrong."""
    click.echo(f"{click.style('gentle: error:', fg='red', bold=True)} {message}", err=True)


def warn(message: str) -> None:
    click.echo(f"{click.style('gentle: warning:', fg='yellow')} {message}", err=True)
