"""The configuration that the official trainer leaves in its files, YAML in one known form."""

from timesformer_jax.pretrained.claims import LARGEST_TEXT


def entries_of_yaml(text: str) -> dict[str, str]:
    """Indented `NAME: value` lines as they stand, of each name the first; the items of a list are joined by spaces.

    Line by line, so that the time is proportional to the text.
    """
    entries: dict[str, str] = {}
    items: str | None = None
    """The name whose list the next lines may be."""
    for line in text[:LARGEST_TEXT].splitlines():
        entry = line.strip()
        if entry.startswith("-") and items is not None:
            entries[items] += f" {entry[1:].strip()}"
        elif entry:
            name, colon, value = entry.partition(":")
            items = name if colon and line[0] in " \t" and not value and name not in entries else None
            if colon and line[0] in " \t":
                entries.setdefault(name, value.strip())
    return entries
