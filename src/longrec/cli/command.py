"""What every command has: `--quiet`, and an answer to calls that cannot be meant so."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Option, Typer
from typer.core import TyperGroup
from typer.main import get_command

from longrec.cli.lists import ListCommand, refuse_repeated
from longrec.core import console
from longrec.core.arguments import NO_UTF8, is_utf8
from longrec.core.errors import UsageError


class Group(TyperGroup):
    """All commands; what is wrong with a call whatever its command is told here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As every group does, once all words are text that any file and error can hold."""
        for word in args:
            if not is_utf8(word):
                raise UsageError(f"the call has {word!r}, {NO_UTF8}")
        refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)


class Command(ListCommand):
    """A command of ours."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.params.append(_quiet_option())

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As every command does; an unknown option that is a setting is told as one."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if type(error).__name__ != "NoSuchOption" or not self._takes("--set"):
                raise
            option = str(error.option_name)  # type: ignore[attr-defined]
            meant = _meant(option.lstrip("-").replace("-", "_"))
            if meant is None:
                raise
            raise UsageError(f"no such option: {option}. {meant}") from None

    def _takes(self, option: str) -> bool:
        return any(option in param.opts for param in self.params)


def _meant(key: str) -> str | None:
    """The setting that an option's name is, ours or under another library's name."""
    from longrec.cli.known_names import settings_of
    from longrec.config.peers_words import meant_by

    known = settings_of(None)
    if key in known:
        return f"It is a setting: --set {key}=…"
    return meant_by(key, "…", known)


def _quiet_option() -> Any:
    """The option `--quiet`, as typer makes it of a parameter; what it sets is the console."""
    sample = Typer(add_completion=False)

    @sample.command()
    def one(
        quiet: Annotated[
            bool,
            Option(
                "--quiet",
                callback=console.be_quiet,
                help="No notes and no progress: results, warnings and errors alone.",
            ),
        ] = False,
    ) -> None:
        """Nothing but its parameter is used."""

    [option] = get_command(sample).params
    option.expose_value = False
    return option
