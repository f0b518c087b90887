"""What can be wrong with data."""


class DataError(Exception):
    """Data that cannot be used; the message says where, what was found, what was expected and what to do."""


def told(error: Exception) -> str:
    """The message of another library's error on one line."""
    return " ".join(str(error).split())
