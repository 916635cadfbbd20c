"""Pages with a generated section between two marks."""

from pathlib import Path


def replace_marked(document: Path, begin: str, end: str, content: str) -> None:
    """Replace the text between the two marks of `document`.

    Raises:
        ValueError: If the document lacks the marks.
    """
    text = document.read_text()
    if begin not in text or end not in text:
        raise ValueError(f"{document} lacks the marks {begin!r} and {end!r}.")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{begin}\n\n{content}\n\n{end}{after}")
