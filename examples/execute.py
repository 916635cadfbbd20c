"""Execute the notebooks and fail if one of them does; `make notebooks`.

python examples/execute.py [--write] [NOTEBOOK ...]
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

EXAMPLES = Path(__file__).resolve().parent
ROOT = EXAMPLES.parent
SECONDS_PER_CELL = 600
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def clean(value: object) -> object:
    """Return outputs without paths of this machine: those below the clone become relative to it."""
    if isinstance(value, str):
        return value.replace(f"{ROOT}/", "")
    if isinstance(value, list):
        return [clean(each) for each in value]
    return {key: clean(each) for key, each in value.items()} if isinstance(value, dict) else value


def execute(path: Path, *, write: bool) -> str | None:
    """Run a notebook from top to bottom.

    Args:
        path: The notebook.
        write: Whether to keep its new outputs.

    Returns:
        The error that ended it, or None.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        coalesce_streams=True,
        resources={"metadata": {"path": str(EXAMPLES)}},
        extra_arguments=["--log-level=ERROR"],
    )
    client.record_timing = False
    try:
        client.execute()
    except CellExecutionError as error:
        return COLOURS.sub("", str(error))
    if write:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = nbformat.from_dict(clean(cell.outputs))
        notebook.metadata.language_info = {"name": "python"}  # without the version of this Python
        nbformat.write(notebook, path)
    return None


def main() -> int:
    """Execute the chosen notebooks; the exit code is 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to execute; by default all in examples/")
    parser.add_argument("--write", action="store_true", help="write the new outputs back")
    options = parser.parse_args()
    # The commands in the notebooks find this environment, and the clone even if it is not installed.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    failed = False
    for path in options.notebooks or sorted(EXAMPLES.glob("*.ipynb")):
        begin = time.monotonic()
        error = execute(path, write=options.write)
        print(f"{path.name}: {'failed' if error else 'ok'} after {time.monotonic() - begin:.0f} s", flush=True)
        if error:
            print(error, file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
