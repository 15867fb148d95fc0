"""A conversation: what is remembered, what is dropped, and how it goes in a terminal."""

from __future__ import annotations

import io
import os
import pty
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import strata
from strata.data.chat_template import ROLE_TOKENS, with_roles
from strata.data.tokens import TextPreprocess
from strata.errors import ConfigError, DataError
from strata.predict.chat import Chat
from strata.predict.run import Predictor
from strata.tasks.base import Answering


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> strata.Run:
    folder = tmp_path_factory.mktemp("chat")
    (folder / "t.txt").write_text("abcde fghij\n\n" * 300)
    settings = {"data": str(folder / "t.txt"), "model.num_layers": 1, "model.num_heads": 2, "model.width": 8}
    settings |= {"model.context": 40, "train.steps": 4, "train.batch_size": 4, "train.device": "cpu"}
    return strata.train("gpt", settings, runs=folder / "runs")


def test_the_oldest_turns_are_dropped_where_there_is_no_room_for_an_answer(run: strata.Run) -> None:
    chat = Chat(run.predictor(), tokens=10, temperature=1.0)
    pieces: list[str] = []
    first = chat.answer("abc", pieces.append)
    assert first == "".join(pieces) and chat.forgotten == 0
    for _ in range(4):
        chat.answer("de fgh")
    assert chat.forgotten >= 4 and len(chat._tokens()) < 40 and chat.messages[-2]["content"] == "de fgh"
    with pytest.raises(DataError, match="The text has 61 tokens; this model looks back on 40"):
        chat.answer("a" * 60)
    with pytest.raises(DataError, match="Character 'z' at place"):
        chat.answer("z")
    assert chat.messages[-2]["content"] == "de fgh"  # what failed was not said
    chat.reset()
    assert chat.messages == [] and chat.answer("abc") == first


def test_ctrl_c_keeps_what_was_said_so_far(run: strata.Run) -> None:
    chat = Chat(run.predictor(), tokens=30, stop="zzz")
    pieces: list[str] = []

    def stop_after_three(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chat.answer("abc", stop_after_three)
    assert chat.messages[-1] == {"role": "assistant", "content": "".join(pieces)} and len(pieces) == 3


def test_with_a_chat_template_the_model_reads_roles_and_ends_with_its_turn(run: strata.Run) -> None:
    plain = TextPreprocess(tokens="character", characters=tuple("abcdefg \n"))
    speaks = with_roles(plain)
    predictor = Predictor(run.folder / "model")
    predictor.preprocess = speaks
    predictor.context = Answering((), speaks, predictor.context.device)
    predictor.model = strata.create(
        "gpt", num_layers=1, num_heads=2, width=8, context=40, vocab_size=speaks.vocab_size
    ).eval()
    chat = Chat(predictor, system="abc", tokens=8)
    asked: list[list[int]] = []
    write: Callable[..., Any] = predictor.write

    def spy(prompt: list[int], settings: Any, language: Any, **options: Any) -> Any:
        asked.append(prompt)
        assert speaks.special_ids["<|end|>"] in language.stop_tokens
        return write(prompt, settings, language, **options)

    predictor.write = spy  # type: ignore[method-assign]
    chat.answer("de")
    user, assistant, system, end = (speaks.special_ids[name] for name in ROLE_TOKENS)
    assert asked == [[system, 0, 1, 2, end, user, 3, 4, end, assistant]]


def test_what_cannot_chat_says_so(run: strata.Run) -> None:
    with pytest.raises(ConfigError, match="a chat has one answer at a time"):
        Chat(run.predictor(), number=2)
    with pytest.raises(ConfigError, match="without a chat template knows no roles"):
        Chat(run.predictor(), system="abc")


def test_the_command_answers_lines_and_prints_only_answers(
    run: strata.Run, strata_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("abc\n/what\nz\n/reset\nabc\n/exit\nabc\n"))
    found = strata_command("chat", str(run.folder), "tokens=9", "stop=zz")
    first, *_ = answers = [found.out[k : k + 10] for k in range(0, len(found.out), 10)]
    assert found.code == 0 and len(answers) == 2 and answers == [first, first] and first.endswith("\n")
    assert "/what is no command" in found.err and "Character 'z'" in found.err and "A new conversation" in found.err
    assert "Did you mean 'tokens'?" in strata_command("chat", str(run.folder), "tokns=9").refusal


def test_in_a_terminal_ctrl_c_stops_the_answer_and_not_the_program(run: strata.Run, tmp_path: Path) -> None:
    child, terminal = pty.fork()
    if child == 0:
        words = ["chat", str(run.folder), "tokens=1000000", "stop=zz"]
        os.execv(sys.executable, [sys.executable, "-m", "strata", *words])

    def wait_for(mark: bytes) -> bytes:
        found, until = b"", time.monotonic() + 60
        while mark not in found:
            assert time.monotonic() < until, found
            if select.select([terminal], [], [], 1)[0]:
                found += os.read(terminal, 4096)
        return found

    assert b"No chat template" in wait_for(b"> ")
    os.write(terminal, b"abc\n")
    wait_for(b"\n")
    while len(os.read(terminal, 64)) == 0:
        pass
    os.write(terminal, b"\x03")
    assert b"Stopped." in wait_for(b"> ")
    os.write(terminal, b"/exit\n")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
