"""The type checker that the import hook puts on every function of the library, in the tests alone."""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float, as in any type checker
