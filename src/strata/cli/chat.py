"""A conversation in the terminal: lines in, answers out as they are written."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from strata.errors import DataError

if TYPE_CHECKING:
    from strata.predict.chat import Chat

COMMANDS = "/reset begins anew, /exit leaves, Ctrl-C stops an answer"


def talk(chat: Chat, out: Console) -> None:
    """Answer each line of standard input, until it ends or says /exit.

    In a terminal there is a mark where to type. Elsewhere nothing but answers goes to standard output.

    Args:
        out: where all else goes.
    """
    in_terminal = sys.stdin.isatty()
    if in_terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - with it, a line can be edited and earlier ones come back
        kind = "It answers" if chat.has_roles else "No chat template, so it goes on with what you type"
        _say(out, f"[dim]{kind}. {COMMANDS}.[/]")
    warned = False
    while True:
        try:
            line = input("> " if in_terminal else "").strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            continue
        if line == "/exit":
            return
        if line == "/reset":
            chat.reset()
            warned = False
            _say(out, "[dim]A new conversation.[/]")
        elif line.startswith("/"):
            _say(out, f"[dim]{escape(line)} is no command: {COMMANDS}.[/]")
        elif line:
            _answer(chat, line, out)
            if chat.forgotten and not warned:
                warned = True
                _say(out, "[dim]The conversation is longer than the model looks back: the oldest turns are dropped.[/]")
    if in_terminal:
        sys.stdout.write("\n")


def _answer(chat: Chat, line: str, out: Console) -> None:
    def stream(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    try:
        chat.answer(line, stream)
    except KeyboardInterrupt:
        stream("\n")
        _say(out, "[dim]Stopped.[/]")
    except DataError as error:
        _say(out, f"[bold red]Error:[/] {escape(str(error))}")
    else:
        stream("\n")


def _say(out: Console, words: str) -> None:
    out.print(words, highlight=False, soft_wrap=True)
