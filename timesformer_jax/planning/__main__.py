"""Jobs of a process that plans: `python -m timesformer_jax.planning JOB RESULT`, two JSON files.

`timesformer_jax.planning.environment` starts it, so that no other process loads the compilers of TPUs and GPUs.
"""

import json
import sys
from pathlib import Path

from timesformer_jax.errors import InputError
from timesformer_jax.planning.plan import plan_step
from timesformer_jax.planning.request import StepRequest
from timesformer_jax.planning.search import search_plans


def main(asked: Path, answer: Path) -> None:
    """Run the job in a file and write its result, or the message of its `InputError`, to another."""
    job = json.loads(asked.read_text())
    request = StepRequest.from_json(job["request"])
    try:
        plan = search_plans if job["search"] else plan_step
        result = {"result": plan(request, job["target"]).to_json()}
    except InputError as error:
        result = {"error": str(error)}
    answer.write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
