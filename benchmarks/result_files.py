"""Files of results: JSON that the benchmarks write and their pages are drawn from."""

import json
from pathlib import Path
from typing import Any

FORMAT = 1


def read_record(path: Path, entry: str) -> dict[str, Any]:
    """The content of a file of results, which has `entry`.

    Raises:
        ValueError: If it is not one of this kind.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no file of results: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or entry not in content:
        raise ValueError(f"{path} is no file of results in format {FORMAT} with {entry}: run again with --output={path}.")
    return content
