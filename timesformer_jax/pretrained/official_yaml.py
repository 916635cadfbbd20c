"""The configuration that the official trainer leaves in its files, YAML in one known form."""

from timesformer_jax.pretrained.file_checks import LARGEST_TEXT


def entries_of_yaml(text: str) -> dict[str, str]:
    """Indented `NAME: value` lines as they stand, of each name the first; the items of a list are joined by spaces.

    Line by line, so that the time is proportional to the text.
    """
    entries: dict[str, list[str]] = {}
    items: list[str] | None = None
    """What the next lines may be further items of."""
    for line in text[:LARGEST_TEXT].splitlines():
        entry = line.strip()
        if entry.startswith("-") and items is not None:
            items.append(entry[1:].strip())
        elif entry:
            name, colon, value = entry.partition(":")
            items = None
            if colon and line[0] in " \t" and name not in entries:
                entries[name] = [value.strip()]
                items = None if value.strip() else entries[name]
    return {name: " ".join(parts).strip() for name, parts in entries.items()}
