"""The error of a message that does not hold what it says."""


class CodecError(ValueError):
    """A wire message is malformed.

    Attributes:
        field: path of the offending field below the message, e.g. `data` or `indptr`.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
