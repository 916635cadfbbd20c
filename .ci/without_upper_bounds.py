"""Print the project's requirements with the given extras, without upper bounds, for `make test-latest`."""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def requirements(extras: list[str]) -> list[str]:
    """Return the unique requirements of the project and the extras, including extras that they name."""
    found, pending = list(PROJECT["dependencies"]), list(extras)
    for extra in pending:  # grows while iterating
        for requirement in PROJECT["optional-dependencies"][extra]:
            inner = re.fullmatch(r"timesformer_jax\[(.*)\]", requirement)
            (pending.extend(inner[1].split(",")) if inner else found.append(requirement))
    return list(dict.fromkeys(re.sub(r",<[^,;]+", "", requirement) for requirement in found))


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
