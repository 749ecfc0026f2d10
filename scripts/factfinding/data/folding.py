"""Look-alikes: texts that a reader takes for the same, written with other characters. They are compared folded, never changed."""

from __future__ import annotations

import html
import re
import unicodedata

QUOTES = dict.fromkeys(
    map(ord, "\u2018\u2019\u201a\u201b\u02b9\u02bb\u02bc\u02bd\u02c8\u2032\u2035\ua78c`\u00b4"), "'"
)
QUOTES |= dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f\u2033\u2036\u00ab\u00bb"), '"')
DASHES = dict.fromkeys(map(ord, "\u2212\u2043\u02d7"), "-")
"""Beside all that Unicode itself calls dashes (category Pd)."""
UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks that print nothing; formats (category Cf) and variation selectors are known by their kind."""
FOLDED = "quotes, dashes, width, case or invisible characters"
"""What two texts of one folding may differ in."""
ALPHABETS = frozenset({"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "CHEROKEE"})
"""Alphabets with letters that look like those of another."""


def folded(text: str) -> str:
    """What a text is compared by: one kind of quotes and of dashes, one width, one case, nothing invisible, single spaces."""
    marked = unicodedata.normalize("NFKC", text.translate(QUOTES)).translate(QUOTES | DASHES)
    seen = ("-" if unicodedata.category(c) == "Pd" else c for c in marked if not is_unseen(c))
    return unicodedata.normalize("NFKC", " ".join("".join(seen).casefold().split()))


def is_unseen(character: str) -> bool:
    """Whether a character prints nothing and is no space: joiners, fillers, variation selectors."""
    if character in UNSEEN or unicodedata.category(character) == "Cf":
        return True
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def damage(text: str) -> str | None:
    """What in a text looks like the trace of a wrong conversion: said, and left as it is; None where nothing does."""
    if "\N{REPLACEMENT CHARACTER}" in text:
        return "holds U+FFFD, which stands for a character lost in a conversion"
    plain = html.unescape(text)
    if plain != text:
        return f"holds HTML for {plain!r}"
    meant = " ".join(_read_as_utf8(word) or word for word in text.split())
    if meant != text:
        return f"looks like {meant!r} read in another encoding"
    for word in text.split():
        alphabets = {unicodedata.name(c, "").partition(" ")[0] for c in word if c.isalpha()} & ALPHABETS
        if len(alphabets) > 1:
            return f"mixes letters of several alphabets in {word!r} ({', '.join(sorted(alphabets)).lower()})"
    return None


def _read_as_utf8(word: str) -> str | None:
    """A word before its UTF-8 was read as Windows-1252 or Latin-1, if it was."""
    if word.isascii():
        return None
    for encoding in ("cp1252", "latin-1"):
        try:
            meant = word.encode(encoding).decode("utf-8")
        except (UnicodeEncodeError, UnicodeDecodeError):
            continue
        if re.search(r"[^\W\d_]", meant) and meant != word:
            return meant
    return None
