"""The one exception for what a user can mend."""


class UserError(ValueError):
    """Wrong input, configuration or environment; the message says what to do about it.

    Commands print the message alone and exit with code 2. Any other exception that leaves a
    command is a bug of this package and shows its traceback.
    """
