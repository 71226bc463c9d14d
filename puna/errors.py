"""The errors that tell a user what to change. Anything else that is raised is a fault in Puna."""


class InputError(ValueError):
    """A fault in what the user gave: a setting, a file, a record, a text.

    Its text is one line: where, which field, which value, what was expected. The command line
    prints that line without a traceback and exits with status 2.
    """

    def __init__(self, text: str) -> None:
        """Keep `text` as one line: line breaks and runs of blanks become single spaces."""
        super().__init__(" ".join(text.split()))


class GateError(InputError):
    """A stage ended, and its own check of the result failed; the next stage must not start."""
