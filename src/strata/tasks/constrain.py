"""Text that matches a regular expression: which tokens may come next, so that what is written always can still match.

The expression becomes an automaton over the bytes of UTF-8 (Thompson 1968's construction, then Rabin and Scott 1959's
subsets), and a vocabulary a tree of its tokens' bytes. Walking both together gives the tokens that a state allows
(Willard and Louf 2023, "Efficient guided generation for large language models"). It is kept once found.

What is understood, with the meaning that Python's `re.fullmatch` gives it under `re.ASCII`: characters, ``.``,
``\\d \\w \\s`` and ``\\D \\W \\S``, escapes such as ``\\n \\x41 \\u00e9``, classes ``[a-z]`` and ``[^,]``, groups,
``|``, and ``* + ? {m} {m,} {m,n}``. Anchors, look-around, references back and lazy repetition are refused.

S states, V vocabulary.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from strata.errors import ConfigError

LAST = 0x10FFFF
MOST_STATES = 20_000
MOST_REPEATS = 1000
Ranges = tuple[tuple[int, int], ...]
"""Code points from the first through the last of each pair, ascending."""

_CLASSES: dict[str, Ranges] = {
    "d": ((48, 57),),
    "w": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "s": ((9, 13), (32, 32)),
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_UNUSABLE = {
    "^": "the whole text is matched, so leave it out",
    "$": "the whole text is matched, so leave it out",
    "*": "there is nothing before it to repeat",
    "+": "there is nothing before it to repeat",
    "?": "there is nothing before it to repeat",
    "{": "there is nothing before it to repeat; the character itself is written \\{",
}


def without(ranges: Ranges) -> Ranges:
    """Return every code point that is not in ``ranges``."""
    found, low = [], 0
    for first, last in merged(ranges):
        if first > low:
            found.append((low, first - 1))
        low = last + 1
    return tuple(found) + (((low, LAST),) if low <= LAST else ())


def merged(ranges: Ranges) -> Ranges:
    """Return the same code points in ascending ranges that do not overlap."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


class Parser:
    """Reads an expression into nested tuples: ("set", ranges), ("join", parts), ("either", parts), ("repeat", ...)."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.place = pattern, 0

    def parse(self) -> tuple[Any, ...]:
        """Return the whole expression. Raises ConfigError for what is not understood, and where it stands."""
        found = self._either()
        if self.place < len(self.pattern):
            self._refuse("it closes no group; the character itself is written \\)")
        return found

    def _refuse(self, why: str) -> NoReturn:
        at = f"{self._next()!r} at place {self.place}" if self._next() else "the end"
        raise ConfigError(f"regex={self.pattern} is not allowed: at {at}, {why}.")

    def _next(self) -> str:
        return self.pattern[self.place : self.place + 1]

    def _take(self, text: str) -> bool:
        if not self.pattern.startswith(text, self.place):
            return False
        self.place += len(text)
        return True

    def _either(self) -> tuple[Any, ...]:
        parts = [self._join()]
        while self._take("|"):
            parts.append(self._join())
        return parts[0] if len(parts) == 1 else ("either", tuple(parts))

    def _join(self) -> tuple[Any, ...]:
        parts = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        return ("join", tuple(parts))

    def _repeated(self, atom: tuple[Any, ...]) -> tuple[Any, ...]:
        least, most = 1, 1
        counts = re.compile(r"\{(\d*)(,?)(\d*)\}").match(self.pattern, self.place)
        if self._take("*"):
            least, most = 0, -1
        elif self._take("+"):
            least, most = 1, -1
        elif self._take("?"):
            least, most = 0, 1
        elif counts and (counts[1] or counts[3]):
            least = int(counts[1] or 0)
            most = least if not counts[2] else int(counts[3]) if counts[3] else -1
            if max(least, most) > MOST_REPEATS or 0 <= most < least:
                self._refuse(f"repeats go from the smaller to the greater number, and to {MOST_REPEATS} at most")
            self.place = counts.end()
        else:
            return atom
        if self._next() and self._next() in "*+?{":
            self._refuse("a repetition cannot be repeated; put it into a group")
        return ("repeat", atom, least, most)

    def _atom(self) -> tuple[Any, ...]:
        if self._take("("):
            if self._next() == "?" and not self._take("?:"):
                self._refuse("of groups that begin with a question mark only (?:...) is understood")
            inside = self._either()
            if not self._take(")"):
                self._refuse("the group is not closed")
            return inside
        if self._take("["):
            return ("set", self._class())
        if self._take("."):
            return ("set", without(((10, 10),)))
        if self._next() in _UNUSABLE:
            self._refuse(_UNUSABLE[self._next()])
        return ("set", self._character())

    def _character(self) -> Ranges:
        if not self._take("\\"):
            character = self._next()
            self.place += 1
            return ((ord(character), ord(character)),)
        letter = self._next()
        if letter.lower() in _CLASSES:
            self.place += 1
            ranges = _CLASSES[letter.lower()]
            return ranges if letter.islower() else without(ranges)
        number = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4})").match(
            self.pattern, self.place
        )
        if number:
            self.place = number.end()
            code = int(number[1] or number[2] or number[3], 16)
        elif letter in _ESCAPES or (letter and not letter.isalnum()):
            self.place += 1
            code = ord(_ESCAPES.get(letter, letter))
        else:
            self._refuse("this escape is not understood")
        return ((code, code),)

    def _class(self) -> Ranges:
        opposite = self._take("^")
        found: list[tuple[int, int]] = []
        while not found or self._next() != "]":
            if not self._next():
                self._refuse("the class is not closed")
            ranges = self._character()
            if self._next() == "-" and self.pattern[self.place + 1 : self.place + 2] not in ("]", ""):
                self.place += 1
                last = self._character()
                if len(ranges) > 1 or len(last) > 1 or ranges[0][0] > last[0][0]:
                    self._refuse("a range goes from the lower character to the higher")
                ranges = ((ranges[0][0], last[0][0]),)
            found += ranges
        self.place += 1
        return without(tuple(found)) if opposite else merged(tuple(found))


def utf8(first: int, last: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the UTF-8 of all code points from ``first`` through ``last`` as sequences of ranges of bytes."""
    for end in (0x7F, 0x7FF, 0xD7FF, 0xDFFF, 0xFFFF):  # other lengths, and the surrogates, which have no UTF-8
        if first <= end < last:
            yield from utf8(first, end)
            yield from utf8(end + 1, last)
            return
    if 0xD800 <= first <= 0xDFFF:
        return
    for bits in (6, 12, 18):
        low = (1 << bits) - 1
        if last > 0x7F and first >> bits != last >> bits:
            if first & low:
                yield from utf8(first, first | low)
                yield from utf8((first | low) + 1, last)
                return
            if last & low != low:
                yield from utf8(first, (last & ~low) - 1)
                yield from utf8(last & ~low, last)
                return
    yield [*zip(chr(first).encode(), chr(last).encode(), strict=True)]


class _Loose:
    """An automaton that may be in several states at once, each with free moves and moves by a range of bytes."""

    def __init__(self) -> None:
        self.free: list[list[int]] = []
        self.by_byte: list[list[tuple[int, int, int]]] = []

    def state(self) -> int:
        if len(self.free) > 10 * MOST_STATES:
            raise ConfigError(f"The regular expression is too large: over {MOST_STATES} states. Repeat fewer times.")
        self.free.append([])
        self.by_byte.append([])
        return len(self.free) - 1

    def add(self, node: tuple[Any, ...], start: int) -> int:
        """Add the moves that read ``node`` from ``start``, and return where they end."""
        kind, *rest = node
        if kind == "join":
            for part in rest[0]:
                start = self.add(part, start)
            return start
        end = self.state()
        if kind == "either":
            for part in rest[0]:
                self.free[self.add(part, start)].append(end)
        elif kind == "set":
            for first, last in rest[0]:
                for sequence in utf8(first, last):
                    at = start
                    for k, (low, high) in enumerate(sequence):
                        to = end if k == len(sequence) - 1 else self.state()
                        self.by_byte[at].append((low, high, to))
                        at = to
        else:
            part, least, most = rest
            for _ in range(least):
                start = self.add(part, start)
            self.free[start].append(end)
            if most < 0:
                again = self.state()  # a state of its own, lest a loop reach what else leaves from `start`
                self.free[start].append(again)
                self.free[self.add(part, again)] += [again, end]
            for _ in range(most - least):
                start = self.add(part, start)
                self.free[start].append(end)
        return end

    def closure(self, states: set[int]) -> frozenset[int]:
        """Return states with all that free moves reach from them."""
        waiting, found = [*states], set(states)
        while waiting:
            for state in self.free[waiting.pop()]:
                if state not in found:
                    found.add(state)
                    waiting.append(state)
        return frozenset(found)


class Automaton:
    """A regular expression as a table: state and byte to the next state, -1 where no match is possible any more.

    Args:
        bytes_used: those that there are tokens for; what needs others is out of reach.

    Raises ConfigError for an expression that is not understood, or that is too large.
    """

    def __init__(self, pattern: str, bytes_used: set[int] | None = None) -> None:
        loose = _Loose()
        start = loose.state()
        end = loose.add(Parser(pattern).parse(), start)
        number = {loose.closure({start}): 0}
        waiting, rows = deque(number), []
        while waiting:
            row = np.full(256, -1, dtype=np.int32)
            moves = [move for state in waiting.popleft() for move in loose.by_byte[state]]
            cuts = sorted({low for low, _, _ in moves} | {high + 1 for _, high, _ in moves})
            for low, high in itertools.pairwise(cuts):
                reached = {to for first, last, to in moves if first <= low <= last}
                if not reached:
                    continue
                states = loose.closure(reached)
                if states not in number:
                    number[states] = len(number)
                    waiting.append(states)
                row[low:high] = number[states]
            rows.append(row)
            if len(number) > MOST_STATES:
                raise ConfigError(f"regex={pattern} is too large: it needs over {MOST_STATES} states. Repeat less.")
        self.next_SX = np.stack(rows)
        self.accepting_S = np.array([end in states for states in number])
        unusable = [byte for byte in range(256) if bytes_used is not None and byte not in bytes_used]
        self.next_SX[:, unusable] = -1
        self.distance_S = self._distances()
        out_of_reach_S = self.distance_S < 0
        self.next_SX[out_of_reach_S[self.next_SX] & (self.next_SX >= 0)] = -1

    def _distances(self) -> np.ndarray:
        """Return how many bytes away from a match each state is, -1 for never: (S,)."""
        before: list[set[int]] = [set() for _ in self.next_SX]
        for state, row in enumerate(self.next_SX):
            for reached in np.unique(row[row >= 0]).tolist():
                before[reached].add(state)
        distance_S = np.where(self.accepting_S, 0, -1)
        waiting = deque(np.flatnonzero(self.accepting_S).tolist())
        while waiting:
            state = waiting.popleft()
            for earlier in before[state]:
                if distance_S[earlier] < 0:
                    distance_S[earlier] = distance_S[state] + 1
                    waiting.append(earlier)
        return distance_S

    def read(self, state: int, text: bytes) -> int:
        """Return the state after ``text``; -1 when no match is possible any more."""
        for byte in text:
            if state < 0:
                break
            state = int(self.next_SX[state, byte])
        return state

    def matches(self, text: str) -> bool:
        """Return whether the whole text matches."""
        state = self.read(0, text.encode())
        return state >= 0 and bool(self.accepting_S[state])


class Constraint:
    """Which tokens of a vocabulary may come next in a text that has to match.

    Args:
        spelled: the bytes of each token; None or empty for one that writes nothing, which is never allowed.

    Raises ConfigError where no text of these tokens matches.
    """

    start = 0

    def __init__(self, pattern: str, spelled: Sequence[bytes | None]) -> None:
        self.pattern = pattern
        self._spelled = spelled
        self._automaton = Automaton(pattern, {byte for text in spelled if text for byte in text})
        if self._automaton.distance_S[self.start] < 0:
            raise ConfigError(f"regex={pattern} is not allowed: no text of this model's tokens matches it.")
        self._tree: dict[Any, Any] = {}
        for token, text in enumerate(spelled):
            node = self._tree
            for byte in text or b"":
                node = node.setdefault(byte, {})
            if text:
                node.setdefault("tokens", []).append(token)
        self._found: dict[int, tuple[Tensor, Tensor]] = {}

    def _follow(self, state: int) -> tuple[Tensor, Tensor]:
        """Return the tokens that a state allows, and how many bytes away from a match each leads: int64 (N,) each."""
        if state not in self._found:
            tokens: list[int] = []
            distances: list[int] = []
            waiting = [(self._tree, state)]
            while waiting:
                node, at = waiting.pop()
                row = self._automaton.next_SX[at]
                for byte, below in node.items():
                    if byte == "tokens":
                        tokens += below
                        distances += [int(self._automaton.distance_S[at])] * len(below)
                    elif row[byte] >= 0:
                        waiting.append((below, int(row[byte])))
            self._found[state] = torch.tensor(tokens, dtype=torch.int64), torch.tensor(distances, dtype=torch.int64)
        return self._found[state]

    def allowed(self, state: int, left: int) -> Tensor:
        """Return the tokens that may come next, int64 (N,).

        Args:
            left: tokens that may still be written. Those from which a match would be too far are left out, as long as
                there are others; distances are in bytes, each of which is a token at worst.
        """
        token_N, distance_N = self._follow(state)
        near_N = distance_N < left
        return token_N[near_N] if bool(near_N.any()) else token_N

    def read(self, state: int, token: int) -> int:
        """Return the state after a token that was allowed."""
        return self._automaton.read(state, self._spelled[token] or b"")

    def accepts(self, state: int) -> bool:
        """Return whether the text may end here."""
        return bool(self._automaton.accepting_S[state])

    def is_complete(self, state: int) -> bool:
        """Return whether the text matches and nothing can be added."""
        return self.accepts(state) and len(self._follow(state)[0]) == 0


def spelling(preprocess: Any) -> list[bytes | None]:
    """Return the bytes that each token of a vocabulary writes; None for special ones.

    Raises ConfigError for a vocabulary whose texts are not their tokens put together.
    """
    try:
        return [preprocess.token_bytes(token) for token in range(preprocess.vocab_size)]
    except ConfigError as error:
        raise ConfigError(f"regex cannot be used with this model. {error}") from None
