"""Jobs over single files and models: `timesformer JOB` (the same as `python -m timesformer_jax JOB`)."""

import argparse
import os
import sys

from timesformer_jax.errors import InputError
from timesformer_jax.jobs import check, convert, cost, embed, explain, features, predict, zoo
from timesformer_jax.preemption import Preempted

JOBS = {
    "predict": predict,
    "explain": explain,
    "features": features,
    "embed": embed,
    "check": check,
    "convert": convert,
    "zoo": zoo,
    "cost": cost,
}


def main(argv: list[str] | None = None) -> int:
    """Runs one job; returns the exit code: 0, 1 if something could not be done (it says what on stderr), 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="timesformer", description=__doc__)
    jobs = parser.add_subparsers(required=True, metavar="JOB")
    for name, module in JOBS.items():
        about = str(module.__doc__).partition("\n")[0]
        job = jobs.add_parser(
            name, help=about, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(job)
        job.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        return 130 if stopped.interrupted else 0
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    sys.exit(main())
