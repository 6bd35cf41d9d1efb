"""The studio process: the home, the queue, the engine's worker and the page, from start to Ctrl+C or SIGTERM."""

import logging
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from engines.worker import Worker
from studio.database import Database
from studio.gallery import Gallery
from studio.home import open_home
from studio.jobs import Jobs
from studio.votes import Votes


@dataclass(frozen=True)
class Studio:
    """What the page works on."""

    home: Path
    gallery: Gallery
    jobs: Jobs
    votes: Votes


def serve(home, host, port, device):
    """Serve the page until the process is told to stop. Raises `BadRequest` if the home is in use."""
    logging.basicConfig(format="%(asctime)s studio %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop of the system ends like Ctrl+C
    home = open_home(home)
    worker = Worker(home, device)
    # The engine loads torch while the page comes up; the first picture then waits for neither.
    threading.Thread(target=worker.start, name="engine start", daemon=True).start()
    from studio import layout

    database = Database(home / "atelier.db")
    gallery = Gallery(home, database)
    studio = Studio(home, gallery, Jobs([worker], gallery, database), Votes(database))
    try:
        address = layout.launch(layout.build(studio), host, port, home, block=False)
        print(f"atelier: open {address} in a browser; Ctrl+C stops the studio.", file=sys.stderr, flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        studio.jobs.close()
        worker.close()
