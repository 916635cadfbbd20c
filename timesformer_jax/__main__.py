"""Jobs over single files and models: `timesformer JOB` (the same as `python -m timesformer_jax JOB`)."""

import os
import sys
from collections.abc import Sequence

from timesformer_jax import __version__
from timesformer_jax.errors import InputError, did_you_mean
from timesformer_jax.extras import MissingPackageError, check_installed
from timesformer_jax.jobs import app, check, convert, cost, embed, explain, features, predict, zoo
from timesformer_jax.jobs.parser import Parser
from timesformer_jax.os_errors import job_failed
from timesformer_jax.preemption import Preempted
from timesformer_jax.printable import escape_unencodable

JOBS = {
    "predict": predict,
    "explain": explain,
    "features": features,
    "embed": embed,
    "check": check,
    "convert": convert,
    "app": app,
    "zoo": zoo,
    "cost": cost,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job.

    Returns the exit code: 0, 1 after an error (reported on stderr), or 130 after Ctrl-C. Usage errors exit with 2.
    """
    escape_unencodable()
    given = list(sys.argv[1:] if argv is None else argv)
    parser, jobs = _parsers()
    if not given:
        parser.print_help(sys.stderr)
        return 2
    if given[0] in jobs:
        jobs[given[0]].check_spelling(given[1:])
    elif given[0].startswith("-"):
        parser.check_spelling(given[:1])
    else:
        parser.error(f"there is no job {given[0]!r}.{did_you_mean(given[0], jobs)}")
    arguments = parser.parse_args(given)
    try:
        check_installed(arguments.job)
        return arguments.run(arguments)
    except MissingPackageError as error:
        print(f"Error: {error.within(arguments.job)}", file=sys.stderr)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        return 130 if stopped.interrupted else 0
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the pipe has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        said = job_failed(error, f"`{arguments.job}`")
        if said is None:
            raise
        print(f"Error: {said}", file=sys.stderr)
    return 1


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    """Make the command's parser and the parser of each job."""
    parser = Parser(prog="timesformer", description=__doc__, epilog="`timesformer JOB --help` describes a job's flags.")
    parser.add_argument("--version", action="version", version=f"timesformer_jax {__version__}", help="print the version")
    commands = parser.add_subparsers(required=True, metavar="JOB")
    jobs = {}
    for name, module in JOBS.items():
        about = str(module.__doc__).partition("\n")[0]
        jobs[name] = commands.add_parser(name, help=about, description=module.__doc__)
        module.add_arguments(jobs[name])
        jobs[name].set_defaults(run=module.run, job=f"timesformer {name}")
    return parser, jobs


if __name__ == "__main__":
    sys.exit(main())
