"""The durable queue: who waits, who runs, what came of it.

A job is a row before it runs, and its pictures are in the gallery before it is done; a page only
watches. One thread runs the jobs in order, so that cancelled means idle.
"""

import collections
import dataclasses
import logging
import secrets
import threading
import time
from dataclasses import dataclass

from engines import requests
from engines.errors import AtelierError, BadRequest, Cancelled

MAX_WAITING = 100
RESULTS_KEPT = 8
FINAL = ("done", "failed", "cancelled")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobState:
    """What there is to say of a job. `state` is waiting, running, or one of FINAL."""

    id: str
    state: str
    ahead: int = 0  # jobs before it
    progress: requests.Progress | None = None
    seconds_left: float | None = None
    seconds: float = 0.0  # since it began to run
    entries: tuple = ()  # its pictures in the gallery
    result: object = None  # of the task; kept for the latest jobs only
    error: str = ""


class Jobs:
    """Runs requests by `worker` and keeps their pictures in `gallery`."""

    def __init__(self, worker, gallery, database):
        self._worker, self._gallery, self._database = worker, gallery, database
        self._changed = threading.Condition()
        self._waiting = collections.deque()
        self._running = None  # the JobState of the job at work
        self._started = 0.0
        self._cancelled = set()
        self._results = collections.OrderedDict()
        self._closed = False
        self._recover()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def submit(self, request):
        """Queue a request; returns the job's id. Raises `BadRequest` when too many wait."""
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                raise BadRequest(f"{MAX_WAITING} jobs are waiting already; let some finish, or stop some.")
            job = secrets.token_hex(8)
            with self._database() as connection:
                connection.execute(
                    "INSERT INTO jobs (id, created, state, request) VALUES (?, ?, 'waiting', ?)",
                    (job, time.time(), requests.to_json(request)),
                )
            self._waiting.append((job, request))
            self._changed.notify_all()
        return job

    def cancel(self, job):
        """Take a waiting job out, or stop the running one within its step; a finished one stays as it is."""
        with self._changed:
            for row in self._waiting:
                if row[0] == job:
                    self._waiting.remove(row)
                    self._finish(job, "cancelled")
                    return
            if self._running and self._running.id == job:
                self._cancelled.add(job)

    def state(self, job):
        """The `JobState` of a job. Raises `BadRequest` for an id that never was."""
        with self._changed:
            if self._running and self._running.id == job:
                return dataclasses.replace(self._running, seconds=time.monotonic() - self._started)
            for index, (waiting, _) in enumerate(self._waiting):
                if waiting == job:
                    return JobState(job, "waiting", ahead=index + (self._running is not None))
        with self._database() as connection:
            row = connection.execute("SELECT state, error FROM jobs WHERE id = ?", (job,)).fetchone()
        if row is None:
            raise BadRequest("There is no such job; it may belong to another studio.")
        result, seconds = self._results.get(job, (None, 0.0))
        return JobState(
            job, row["state"], entries=self._gallery.of_job(job), result=result, error=row["error"], seconds=seconds
        )

    def watch(self, job, every=1.0):
        """Yields the `JobState` at each change and every second, and ends after a final one."""
        while True:
            with self._changed:
                state = self.state(job)
            yield state
            if state.state in FINAL:
                return
            with self._changed:
                if self._looks(job) == _looks(state):
                    self._changed.wait(every)

    def close(self):
        """Stop the running job and the thread; what waits is run when the studio starts again."""
        with self._changed:
            self._closed = True
            if self._running:
                self._cancelled.add(self._running.id)
            self._changed.notify_all()
        self._thread.join(10)

    def _looks(self, job):
        return _looks(self.state(job))

    def _recover(self):
        with self._database() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'failed', error = ? WHERE state = 'running'",
                ("The studio was stopped while this was drawn; press Generate to draw it again.",),
            )
            rows = connection.execute("SELECT id, request FROM jobs WHERE state = 'waiting' ORDER BY created").fetchall()
        for row in rows:
            try:
                self._waiting.append((row["id"], requests.from_json(row["request"])))
            except BadRequest as error:
                self._finish(row["id"], "failed", str(error))

    def _work(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job, request = self._waiting.popleft()
                self._running, self._started = JobState(job, "running"), time.monotonic()
                self._set(job, "running")
                self._changed.notify_all()
            outcome = self._run(job, request)
            with self._changed:
                self._running = None
                self._finish(job, *outcome)

    def _run(self, job, request):
        try:
            result = self._worker.run(request, self._progressed, lambda: job in self._cancelled)
            self._keep(job, result)
            return ("done",)
        except Cancelled:
            return ("cancelled",)
        except AtelierError as error:
            return "failed", str(error)
        except OSError:
            log.exception("job %s: a picture could not be written", job)
            return "failed", "The picture could not be written: make room on the disk that holds the home folder."
        except Exception:
            number = secrets.token_hex(4)
            log.exception("job %s: failure %s", job, number)
            return "failed", f"Something went wrong (id {number}); the log has the details. Try other settings."

    def _keep(self, job, result):
        if isinstance(result, requests.GenerateResult):
            for picture in result.pictures:
                self._gallery.add(picture.image, picture.record, picture.seed, job)
        else:
            self._gallery.add(result.reconstruction, result.record, job=job)
        self._results[job] = result, time.monotonic() - self._started
        while len(self._results) > RESULTS_KEPT:
            self._results.popitem(last=False)

    def _progressed(self, progress):
        with self._changed:
            before = self._running.progress
            if progress.preview is None and before is not None:
                progress = dataclasses.replace(progress, preview=before.preview)
            pace = (time.monotonic() - self._started) / progress.index
            left = pace * (progress.count - progress.index)
            self._running = dataclasses.replace(self._running, progress=progress, seconds_left=left)
            self._changed.notify_all()

    def _set(self, job, state, error=""):
        with self._database() as connection:
            connection.execute("UPDATE jobs SET state = ?, error = ? WHERE id = ?", (state, error, job))

    def _finish(self, job, state, error=""):
        self._set(job, state, error)
        self._cancelled.discard(job)
        self._changed.notify_all()


def _looks(state):
    # what a watcher would see change; the clock alone is no change
    return state.state, state.ahead, state.progress
