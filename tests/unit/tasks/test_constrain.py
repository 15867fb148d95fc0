"""Regular expressions as automata: they match what Python's `re` matches, and tokens are allowed accordingly."""

from __future__ import annotations

import itertools
import re

import pytest

from strata.errors import ConfigError
from strata.tasks.constrain import Automaton, Constraint


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a",
        "(a|b)*é",
        "a{2}",
        "a{1,}b{,2}",
        "[^a]b?",
        r"\d+|\w\s",
        ".*a.",
        "(?:a|ab)(b|)",
        r"[\]é-]+",
        "(a?b*)+",
        r"\Wb",
    ],
)
def test_what_python_matches_is_matched_and_nothing_else(pattern: str) -> None:
    automaton = Automaton(pattern)
    matched = 0
    for length in range(5):
        for letters in itertools.product("ab1 é\n", repeat=length):
            text = "".join(letters)
            expected = re.fullmatch(pattern, text, re.ASCII) is not None
            assert automaton.matches(text) == expected, text
            matched += expected
    assert matched > 0


@pytest.mark.parametrize(
    "text", ["é", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff", "中"]
)
def test_characters_of_every_length_are_one_character(text: str) -> None:
    assert Automaton(".").matches(text) and not Automaton(".").matches(2 * text)
    assert Automaton(f"[{text}]").matches(text) and not Automaton(f"[^{text}]").matches(text)


def test_tokens_that_go_on_with_a_match_are_allowed() -> None:
    spelled = [b"a", b"ab", b"abc", b"b", None, "é".encode(), "é".encode()[:1], "é".encode()[1:]]
    constraint = Constraint("a(bc)?é", [*spelled, b"c"])
    assert sorted(constraint.allowed(constraint.start, 9).tolist()) == [0, 1, 2]
    after = constraint.read(constraint.start, 1)
    assert constraint.allowed(after, 9).tolist() == [8] and not constraint.accepts(after)
    after = constraint.read(constraint.start, 0)
    assert sorted(constraint.allowed(after, 9).tolist()) == [3, 5, 6]
    assert sorted(constraint.allowed(after, 2).tolist()) == [5, 6]  # no room for what "b" would need
    assert constraint.is_complete(constraint.read(after, 5))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("^a", "at '^' at place 0, the whole text is matched"),
        ("a**", "at '*' at place 2, a repetition cannot be repeated"),
        ("(a", "at the end, the group is not closed"),
        ("[a", "at the end, the class is not closed"),
        ("a)", "at ')' at place 1, it closes no group"),
        ("(?=a)", "only (?:...) is understood"),
        (r"(a)\1", "this escape is not understood"),
        ("[b-a]", "a range goes from the lower character to the higher"),
        ("a{3,2}", "repeats go from the smaller to the greater number"),
        ("*", "there is nothing before it to repeat"),
        ("((a{1000}){1000})", "is too large"),
        ("z", "no text of this model's tokens matches it"),
    ],
)
def test_an_expression_that_cannot_be_used_is_refused_with_the_reason(pattern: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Constraint(pattern, [b"a", b"b"])
    assert words in str(refused.value)
