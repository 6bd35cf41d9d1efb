"""The home directory: where the artist's models, pictures, inputs and runs lie."""

import os
from pathlib import Path

from engines.errors import BadRequest

FOLDERS = ("models", "gallery", "thumbnails", "inputs", "runs", "wildcards")
_held = {}  # open lock files by home: the lock lasts as long as the file is open


def open_home(path):
    """Make the folders of a home and take its lock; returns its absolute path.

    Raises `BadRequest` if another studio holds it, or if it cannot be written.
    """
    home = Path(path).expanduser().resolve()
    try:
        for folder in FOLDERS:
            (home / folder).mkdir(parents=True, exist_ok=True)
        lock = open(home / "lock", "w")  # noqa: SIM115 held open on purpose
    except OSError as error:
        raise BadRequest(f"The home folder {home} cannot be written; choose another with --home.") from error
    try:
        _take(lock)
    except OSError as error:
        lock.close()
        raise BadRequest(
            f"Another studio runs on {home}; use its page, stop it, or choose another folder with --home."
        ) from error
    _held[home] = lock
    return home


def _take(lock):
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
