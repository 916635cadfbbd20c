"""Jobs over single files and models: `timesformer JOB` (the same as `python -m timesformer_jax JOB`)."""

import argparse
import os
import sys

from timesformer_jax.errors import InputError
from timesformer_jax.extras import MissingPackageError, check_installed
from timesformer_jax.jobs import check, convert, cost, embed, explain, features, predict, zoo

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
    """Runs one job; returns the exit code: 0, or 1 where something could not be done (it says what on stderr)."""
    parser = argparse.ArgumentParser(prog="timesformer", description=__doc__)
    jobs = parser.add_subparsers(required=True, metavar="JOB")
    for name, module in JOBS.items():
        about = str(module.__doc__).partition("\n")[0]
        job = jobs.add_parser(
            name, help=about, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(job)
        job.set_defaults(run=module.run, job=f"timesformer {name}")
    arguments = parser.parse_args(argv)
    try:
        check_installed(arguments.job)
        return arguments.run(arguments)
    except MissingPackageError as error:
        print(f"Error: {error.within(arguments.job)}", file=sys.stderr)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    sys.exit(main())
