"""The one exception that means "what was given can't be used"."""


class InputError(ValueError):
    """Bad input: the message is one sentence with what was expected, what was got and what to do.

    The command-line jobs print it without a traceback and end with exit code 1. A traceback therefore always
    means a defect of this project, never of the user's input.
    """
