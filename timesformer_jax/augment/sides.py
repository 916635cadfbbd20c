"""Labels that a mirrored clip would no longer fit."""

import re
from collections.abc import Sequence

UNRELATED = re.compile(
    r"[bf]right|wright|copyright|birthright|[du]p?right|outright|forthright|downright|al?right|righteous|rightful"
    r"|cleft|leftover|leftist|lefty",
    re.IGNORECASE,
)
"""Words that only contain "left" or "right". Any other word that does counts: a label that is mirrored wrongly teaches its
opposite, and one that is left unmirrored costs a little augmentation."""
ANYWHERE = re.compile(r"left|right|clockwise|左|右", re.IGNORECASE)
"""Parts of words: turnleft, lefthanded, counterclockwise."""
WORDS = re.compile(
    r"\b(c?cw|acw|links|rechts|gauche|droite|izquierd[ao]|derech[ao]|sinistr[ao]|destr[ao]|esquerd[ao]|direit[ao])\b",
    re.IGNORECASE,
)
"""Whole words: abbreviations, and left and right in some other languages."""
NEW_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_")
"""Where a word begins within a name: Turn|Left, LEFT|Turn, rotate|cw."""


def sides_matter(label_names: Sequence[str]) -> bool:
    """Whether a label names a side or a sense of rotation, so that a mirrored clip would have another label.

    "Pushing something from left to right", "TurnLeft", "lefthand" and "rotate_ccw" do, "bright" and "leftovers" don't.
    """
    for name in label_names:
        words = NEW_WORD.sub(" ", name)
        if ANYWHERE.search(UNRELATED.sub("", words)) or WORDS.search(words):
            return True
    return False
