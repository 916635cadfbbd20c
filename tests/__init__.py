"""Run-time type checking of every library function through an import hook, in the tests only."""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # ints are accepted as floats, as by any type checker
