"""The studio process: the home, the queue, the engine's worker and the page, from start to Ctrl+C."""

import logging
import threading

from engines.worker import Worker
from studio.gallery import Gallery
from studio.home import open_home
from studio.jobs import Jobs


def serve(home, host, port, device):
    """Serve the page until the process is told to stop. Raises `BadRequest` if the home is in use."""
    logging.basicConfig(format="%(asctime)s studio %(levelname)s %(message)s")
    home = open_home(home)
    worker = Worker(home, device)
    # The engine loads torch while the page comes up; the first picture then waits for neither.
    threading.Thread(target=worker.start, name="engine start", daemon=True).start()
    from studio import layout

    gallery = Gallery(home)
    jobs = Jobs(home, worker, gallery)
    try:
        demo = layout.build(jobs, gallery, home)
        layout.launch(demo, host, port, home)
    except KeyboardInterrupt:
        pass
    finally:
        jobs.close()
        worker.close()
