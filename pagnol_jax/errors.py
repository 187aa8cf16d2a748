"""The one error that a user can cause and can mend."""


class UserError(Exception):
    """Bad input, told in one line; the command line prints it and exits with status 2."""
