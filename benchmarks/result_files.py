"""Results files: the JSON that benchmarks write and their pages are drawn from."""

import json
from pathlib import Path
from typing import Any

FORMAT = 1


def read_record(path: Path, entry: str) -> dict[str, Any]:
    """Return the content of a results file with the field `entry`.

    Raises:
        ValueError: If the file is not such a results file.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a results file: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or entry not in content:
        raise ValueError(f"{path} is not a results file of format {FORMAT} with `{entry}`: run again with --output={path}.")
    return content
