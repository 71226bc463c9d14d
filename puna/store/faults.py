"""What can go wrong between a caller and the store. The web turns each into one status."""

from puna.errors import InputError


class Refused(InputError):
    """A value that cannot be taken; `field` names it (400)."""

    def __init__(self, field: str, message: str) -> None:
        """Say which field, and what was expected."""
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


class Missing(Exception):
    """There is no such thing, or it is not this person's to see: the two look alike (404)."""


class Conflict(Exception):
    """It was true when the page was made, and is not any more; the text says what changed (409)."""


class Unavailable(Exception):
    """The database is locked, full or read-only: nothing was stored, try again (503)."""
