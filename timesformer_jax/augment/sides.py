"""Detect labels that a mirrored clip would no longer match."""

import re
from collections.abc import Sequence

UNRELATED = re.compile(
    r"[bf]right|wright|copyright|birthright|[du]p?right|outright|forthright|downright|al?right|righteous|rightful"
    r"|cleft|leftover|leftist|lefty",
    re.IGNORECASE,
)
"""Words that contain "left" or "right" but name no side.

Every other word that contains them counts: wrongly mirroring a clip teaches the opposite label, while not mirroring it only
costs a little augmentation.
"""
ANYWHERE = re.compile(r"left|right|clockwise|左|右", re.IGNORECASE)
"""Substrings that match within words: turnleft, lefthanded, counterclockwise."""
WORDS = re.compile(
    r"\b(c?cw|acw|links|rechts|gauche|droite|izquierd[ao]|derech[ao]|sinistr[ao]|destr[ao]|esquerd[ao]|direit[ao])\b",
    re.IGNORECASE,
)
"""Words that match as a whole: abbreviations, and left and right in some other languages."""
NEW_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_")
"""Word boundaries within a name: Turn|Left, LEFT|Turn, rotate|cw."""
EXCHANGED = {
    "links": "rechts",
    "rechts": "links",
    "ccw": "cw",
    "acw": "cw",
    "cw": "ccw",
    "l": "r",
    "r": "l",
}
"""Text -> its mirror image. These count only if the label with the exchange is in the set as well: linksabbiegen, hook_L."""
PARTS = re.compile("links|rechts|ccw|acw|cw", re.IGNORECASE)
"""Texts of `EXCHANGED` that count within words."""
LETTERS = re.compile(
    r"(?<![^\W\d_])[lrLR](?![^\W\d_])"
    r"|(?<![A-Z])[LR](?=[A-Z]?(?![^\W\d_])|[A-Z][a-z])"
)
"""L and R as words (hook l, hand_R), at the end of a capitalised name (turnL), or first of two capitals (LH, LHook)."""


def sides_matter(label_names: Sequence[str]) -> bool:
    """Return True if any label names a side or a direction of rotation, so that a mirrored clip would have another label.

    "Pushing something from left to right", "TurnLeft", "lefthand" and "rotate_ccw" do; "bright" and "leftovers" don't. "hook L"
    does only if "hook R" is a label too, and "linksabbiegen" only if "rechtsabbiegen" is.
    """
    for name in label_names:
        words = NEW_WORD.sub(" ", name)
        if ANYWHERE.search(UNRELATED.sub("", words)) or WORDS.search(words):
            return True
    folded = {name.casefold() for name in label_names}
    for name in label_names:
        for mirrored in (_exchange(PARTS, name), _exchange(LETTERS, name), _exchange(PARTS, _exchange(LETTERS, name))):
            if mirrored.casefold() != name.casefold() and mirrored.casefold() in folded:
                return True
    return False


def _exchange(texts: re.Pattern[str], name: str) -> str:
    return texts.sub(lambda match: EXCHANGED[match[0].lower()], name)
