"""The studio process: the home, the queue, the engine's workers and the page, from start to Ctrl+C or SIGTERM."""

import functools
import inspect
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from engines.errors import BadRequest
from engines.worker import Worker, start_log
from studio.database import Database
from studio.gallery import Gallery
from studio.home import open_home
from studio.inputs import Inputs
from studio.jobs import Jobs
from studio.logins import Logins
from studio.presets import Presets
from studio.security import LOCAL
from studio.votes import Votes

EVERYWHERE = "0.0.0.0"  # the address of a page that other machines may open
NOBODY = "@nobody"  # no login can have this name


@dataclass(frozen=True)
class Studio:
    """What the page works on; everything but `home` shows each user their own alone."""

    home: Path
    gallery: Gallery
    jobs: Jobs
    votes: Votes
    presets: Presets
    inputs: Inputs
    shared: bool = False  # whether others come in by logins: where things lie is not theirs to know


class Own:
    """A part of the studio in the hands of whoever asks: methods that take a `user` are given `who()`."""

    def __init__(self, part, who):
        self._part, self._who = part, who

    def __getattr__(self, name):
        method = getattr(self._part, name)
        if not callable(method) or "user" not in inspect.signature(method).parameters:
            return method
        return functools.partial(method, user=self._who())


def serve(home, host, port, devices, listen=False):
    """Serve the page until the process is told to stop; with `listen` to other machines, too, behind logins.

    Each of `devices` has a worker. Raises `BadRequest` if the home is in use, or if there is no login yet.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop of the system ends like Ctrl+C
    if host not in LOCAL:
        raise BadRequest(f"“{host}” is open to other machines; use --listen instead, which asks for logins.")
    home = open_home(home)
    start_log(home, "studio")
    logins = Logins(home) if listen else None
    if listen and not logins:
        raise BadRequest("A studio for others needs logins: add one with `python app.py login NAME`, then start it.")
    workers = [Worker(home, device) for device in devices]
    # The engine loads torch while the page comes up; the first picture then waits for neither.
    for worker in workers:
        threading.Thread(target=worker.start, name="engine start", daemon=True).start()
    from studio import layout

    def who():
        return layout.visitor() or (NOBODY if listen else "")

    database = Database(home / "atelier.db")
    gallery = Gallery(home, database)
    jobs = Jobs(workers, gallery, database)
    parts = (gallery, jobs, Votes(database), Presets(database), Inputs(home))
    studio = Studio(home, *(Own(part, who) for part in parts), listen)
    try:
        page = layout.build(studio)
        address = layout.launch(page, EVERYWHERE if listen else host, port, home, logins, block=False)
        print(f"atelier: open {address} in a browser; Ctrl+C stops the studio.", file=sys.stderr, flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        jobs.close()
        for worker in workers:
            worker.close()
