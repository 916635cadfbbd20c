"""Plans of the recipes on several targets (docs/scale.md): `python -m benchmarks.plans`.

Compiles the training step of every row of `ROWS`, a minute or two each, and prints a table. Nothing is run on the hardware; all
times are estimates. Finished plans are kept in `--folder`; `--only` selects rows.
"""

import argparse
import importlib
from pathlib import Path
from typing import Any, NamedTuple

from experiment.plan import planned as plan_elsewhere
from experiment.plan import step_request
from timesformer_jax.planning import Plan, find_target
from timesformer_jax.planning.report import table


class Row(NamedTuple):
    """A plan to make.

    Attributes:
        config: Config file and variants, such as "k400:base,tpu".
        target: Name of the hardware.
        changes: Fields of the config to change.
    """

    config: str
    target: str
    changes: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the plan's file."""
        values = "-".join(str(value) for value in self.changes.values())
        return f"{self.config}-{self.target}-{values}".replace(":", "_").replace(",", "_")


def row(config: str, target: str, batch_size: int = 64, accumulation: int = 1) -> Row:
    """A row with this batch."""
    return Row(config, target, {"train.batch_size": batch_size, "train.accumulation": accumulation})


TARGETS = [
    *(row("k400:base,tpu", target) for target in ("v5e-8", "v6e-8", "v5p-64")),
    row("k400:base,tpu", "v5e-256", 2048),
    row("k400:base,tpu", "h100"),
    row("k400:base,tpu", "l4", accumulation=4),
    row("k400:hr,tpu", "v5e-8", accumulation=4),
    row("k400:hr,tpu", "v5e-256", 256),
    row("k400:hr,tpu", "v5p-64"),
    row("k400:hr,tpu", "v6e-8", accumulation=2),
    row("k400:hr,tpu", "h100", accumulation=8),
    row("k400:hr,tpu", "l4", accumulation=32),
    row("k400:large,tpu", "v5e-8", accumulation=8),
    row("k400:large,tpu", "v5e-256", 256),
    row("k400:large,tpu", "v5p-64"),
    row("k400:large,tpu", "v6e-8", accumulation=4),
    row("k400:large,tpu", "h100", accumulation=16),
    row("k400:large,tpu", "l4", accumulation=64),
]
"""The paper's three models on six targets."""

WEAK_SCALING = [row("k400:base,tpu", f"v5e-{chips}", 8 * chips) for chips in (1, 4, 8, 16, 64, 256)]
"""The base model with 8 clips a chip on more and more chips."""

VARIANTS = [
    *(
        row(f"k400:{variant},tpu", "l4", accumulation=8)
        for variant in ("joint", "space_only", "local_global", "axial", "scratch", "modern")
    ),
    row("ssv2:large,tpu", "l4", accumulation=32),
]
"""Other variants on the smallest GPU; those of Something-Something v2 have the same models."""

ROWS = [*TARGETS, *WEAK_SCALING, *VARIANTS]


def main() -> None:
    """Make the plans and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/plans"), help="folder of finished plans")
    parser.add_argument("--python", help="Python of an environment with the compilers; by default as for --mode=plan")
    parser.add_argument("--only", help="names of rows, with commas between; LIST prints all names")
    given = parser.parse_args()
    if given.only == "LIST":
        print("\n".join(dict.fromkeys(each.name for each in ROWS)))
        return
    rows = [each for each in ROWS if not given.only or each.name in given.only.split(",")]
    plans = [planned(each, given.folder, given.python) for each in rows]
    print(table(plans, [each.config for each in rows]))


def planned(row: Row, folder: Path, python: str | None) -> Plan:
    """The row's plan, from its file or made now."""
    file = folder / f"{row.name}.json"
    if file.exists():
        return Plan.from_json(file.read_text())
    name, _, variant = row.config.partition(":")
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    config.update_from_flattened_dict(row.changes)
    plan = plan_elsewhere(step_request(config), find_target(row.target), python)
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(plan.to_json())
    return plan


if __name__ == "__main__":
    main()
