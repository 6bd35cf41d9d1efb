"""A stand-in for the worker, so that the queue's own laws can be tested without waiting for torch."""

import json
import threading

import pytest
from PIL import Image

from engines import requests
from engines.errors import BadRequest, Cancelled
from studio.database import Database
from studio.gallery import Gallery
from studio.jobs import Jobs


class StandIn:
    """Draws plain pictures; `hold` keeps it at its second step until it is set, of every picture or of one seed."""

    def __init__(self):
        self.seen, self.hold, self.held_seed = [], threading.Event(), None
        self.hold.set()
        self._lock = threading.Lock()  # the worker's: one request after the other

    def hold_seed(self, seed):
        self.held_seed = seed
        self.hold.clear()

    def run(self, request, on_progress=lambda progress: None, cancelled=lambda: False):
        with self._lock:
            return self._draw(request, on_progress, cancelled)

    def _draw(self, request, on_progress, cancelled):
        self.seen.append(request.prompt)
        if request.prompt == "refused":
            raise BadRequest("There is no model called “x”; choose one of: y.")
        if request.prompt == "broken":
            raise RuntimeError("secret detail")
        for index in range(1, request.steps + 1):
            if index == 2 and self.held_seed in (None, request.seed):
                while not self.hold.wait(0.02):
                    if cancelled():
                        raise Cancelled
            if cancelled():
                raise Cancelled
            on_progress(requests.Progress(index, request.steps))
        record = {"request": json.loads(requests.to_json(request))}
        pictures = tuple(
            requests.Picture(Image.new("RGB", (16, 16), "teal"), request.seed + i, record) for i in range(request.count)
        )
        return requests.GenerateResult(pictures, 0.1, record)


@pytest.fixture
def worker():
    return StandIn()


@pytest.fixture
def open_jobs(tmp_path, worker):
    opened = []

    def build():
        database = Database(tmp_path / "atelier.db")
        (tmp_path / "gallery").mkdir(exist_ok=True)
        jobs = Jobs([worker], Gallery(tmp_path, database), database)
        opened.append(jobs)
        return jobs

    yield build
    worker.hold.set()
    for jobs in opened:
        jobs.close()
