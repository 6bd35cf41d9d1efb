"""The one family of errors. Each message is a sentence that an artist can act on.

A message says what was wrong, what is allowed, and what to do next. The studio shows it as it
stands; tracebacks go to the log.
"""


class AtelierError(Exception):
    """Something failed while running; the message is fit for the page."""


class BadRequest(AtelierError):
    """A request that cannot be carried out as asked: a wrong argument, an unknown name."""


class BadPicture(BadRequest):
    """A file that is no picture we read, or one outside the limits."""


class BadCheckpoint(BadRequest):
    """A weights file that is damaged, incomplete or of another model."""


class Cancelled(Exception):
    """Raised by a progress callback to stop the running task within its current step."""


def unknown(what, name, known):
    """The error for a name that is not in a table; lists the names that are."""
    return BadRequest(f"There is no {what} called “{name}”; choose one of: {', '.join(known)}.")
