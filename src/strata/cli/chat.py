"""A conversation in the terminal: lines in, answers out as they are written."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from types import FrameType
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
    asked_to_stop = False

    def stream(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()
        if asked_to_stop:
            raise KeyboardInterrupt

    def stop(number: int, frame: FrameType | None) -> None:
        # Raised here, it may come where Python drops it, such as in a callback; so it waits for the next piece
        nonlocal asked_to_stop
        if asked_to_stop:
            raise KeyboardInterrupt
        asked_to_stop = True

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, stop) if in_main_thread else None
    try:
        chat.answer(line, stream)
        sys.stdout.write("\n")
    except KeyboardInterrupt:
        sys.stdout.write("\n")
        _say(out, "[dim]Stopped.[/]")
    except DataError as error:
        _say(out, f"[bold red]Error:[/] {escape(str(error))}")
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, before)
    sys.stdout.flush()


def _say(out: Console, words: str) -> None:
    out.print(words, highlight=False, soft_wrap=True)
