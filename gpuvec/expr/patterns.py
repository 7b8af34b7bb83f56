"""Patterns of `like` and words of `text_match`, as RE2 regular expressions."""

import re
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.expr.substring import contains


@lru_cache(maxsize=1024)
def like_parts(pattern: str) -> tuple[str | None, ...] | None:
    """Split a pattern into texts, `%` (as "%" alone in a tuple's place: None) and `_` (as "").

    Returns:
        Texts to match, None for any characters, "" for one character; None if a single backslash
        ends it.
    """
    parts: list[str | None] = []
    text = ""
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            position += 1
            if position == len(pattern):
                return None
            text += pattern[position]
        elif character in "%_":
            parts += [text] if text else []
            parts.append(None if character == "%" else "")
            text = ""
        else:
            text += character
        position += 1
    return tuple(parts + ([text] if text else []))


def like_to_regex(pattern: str) -> str | None:
    """Return the pattern as an RE2 regular expression; None if a single backslash ends it."""
    parts = like_parts(pattern)
    if parts is None:
        return None
    marks = (".*" if part is None else re.escape(part) or "." for part in parts)
    return rf"(?s)\A{''.join(marks)}\z"


def like_prefix(pattern: str) -> tuple[str, bool]:
    """Return the text with which all matches begin, and whether it is the only match."""
    parts = like_parts(pattern) or ()
    prefix = parts[0] if parts and parts[0] else ""
    return prefix, len(parts) == bool(prefix)


def like(texts: pa.Array, pattern: str) -> pa.Array:
    """Return which texts a pattern matches; null where the text is."""
    match like_parts(pattern):
        case ():
            return pc.equal(texts, "")
        case (str(text),) if text:
            return pc.equal(texts, text)
        case (str(text), None) if text:
            return pc.starts_with(texts, pattern=text)
        case (None, str(text)) if text:
            return pc.ends_with(texts, pattern=text)
        case (None, str(text), None) if text:
            return contains(texts, text)
    return pc.match_substring_regex(texts, pattern=like_to_regex(pattern))


def words_of(text: str) -> list[str]:
    """Return the words of a text: runs of letters, digits and underscores."""
    return re.findall(r"\w+", text)


def text_match(texts: pa.Array, words: str) -> pa.Array:
    """Return which texts have one of the words, in any case; null where the text is."""
    found = "|".join(map(re.escape, words_of(words)))
    if not found:
        return pc.less(texts, "")  # never true, null where the text is
    edge = r"[^\pL\pN\pM_]"
    return pc.match_substring_regex(texts, pattern=rf"(?i)(?:\A|{edge})(?:{found})(?:\z|{edge})")
