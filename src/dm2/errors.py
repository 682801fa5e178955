"""The one exception type that users are meant to read."""


class InputError(ValueError):
    """Unusable input: names the field, the value that was given, and the remedy.

    The command line prints its message alone, without a traceback, and exits with 2.
    """
