"""Where each key of a TOML file stands. tomllib reads the values but forgets the lines, which errors must name.

Only for text that tomllib has already accepted: this scanner checks nothing.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import Any

KeyPath = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'  # up to two quotes may stand right before the closing three
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line (from 1) of every table, key and array element, by its path. Array elements have integers in their path."""
    return _Scanner(text).scan()


def parse_key(text: str) -> tuple[str, ...]:
    """The parts of a dotted key: `towers."my tower".modality`.

    Raises:
        ValueError: it is no TOML key.
    """
    try:
        found: Any = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{text!r} is no key") from error
    if "\n" in text:
        raise ValueError(f"{text!r} is no key")
    parts = []
    while isinstance(found, dict):
        (part, found) = next(iter(found.items()))
        parts.append(part)
    return tuple(parts)


class _Scanner:
    def __init__(self, text: str):
        self.text = text
        self.at = 0
        self.starts = [0, *(i + 1 for i, c in enumerate(text) if c == "\n")]
        self.found: dict[KeyPath, int] = {}
        self.elements: dict[KeyPath, int] = {}  # arrays of tables: how many elements so far

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self.skip(_BLANK)
        while self.at < len(self.text):
            line = self.line()
            if self.text[self.at] == "[":
                double = self.text.startswith("[[", self.at)
                self.at += 1 + double
                table = self.enter(self.key(), double, line)
                self.at += 1 + double
            else:
                self.pair(table)
            self.skip(_BLANK)
        return self.found

    def enter(self, key: list[str], double: bool, line: int) -> KeyPath:
        """The path of a [header] or [[header]]; a part that is an array of tables means its last element."""
        path: KeyPath = ()
        for number, part in enumerate(key):
            path = (*path, part)
            self.found.setdefault(path, line)
            if double and number == len(key) - 1:
                self.elements[path] = self.elements.get(path, 0) + 1
            if path in self.elements:
                path = (*path, self.elements[path] - 1)
                self.found.setdefault(path, line)
        return path

    def pair(self, table: KeyPath) -> None:
        """`key = value`"""
        line = self.line()
        path = table
        for part in self.key():
            path = (*path, part)
            self.found.setdefault(path, line)
        self.at += 1  # the equals sign
        self.skip(_SPACE)
        self.value(path)

    def key(self) -> list[str]:
        """A dotted key, and the blanks around it."""
        parts = []
        while True:
            self.skip(_SPACE)
            if self.text[self.at] in "\"'":
                raw = self.take(_STRING)
                parts.append(tomllib.loads(f"key = {raw}")["key"])
            else:
                parts.append(self.take(_BARE))
            self.skip(_SPACE)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def value(self, path: KeyPath) -> None:
        first = self.text[self.at]
        if first in "\"'":
            self.skip(_STRING)
        elif first == "[":
            self.sequence(path, "]")
        elif first == "{":
            self.sequence(path, "}")
        else:
            self.skip(_SCALAR)

    def sequence(self, path: KeyPath, end: str) -> None:
        """An array, or an inline table."""
        self.at += 1
        number = 0
        self.skip(_BLANK)
        while self.text[self.at] != end:
            if end == "}":
                self.pair(path)
            else:
                self.found[(*path, number)] = self.line()
                self.value((*path, number))
                number += 1
            self.skip(_BLANK)
            if self.text[self.at] == ",":
                self.at += 1
                self.skip(_BLANK)
        self.at += 1

    def line(self) -> int:
        return bisect_right(self.starts, self.at)

    def skip(self, pattern: re.Pattern[str]) -> None:
        self.take(pattern)

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match.group()
