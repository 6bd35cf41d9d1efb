"""The durable queue: who waits, who runs, what came of it.

A job is a row before it runs, and its pictures are in the gallery before it is done; a page only
watches. One thread runs the jobs in order, so that cancelled means idle.
"""

import collections
import contextlib
import dataclasses
import logging
import secrets
import sqlite3
import threading
import time
from dataclasses import dataclass

from engines import requests
from engines.errors import AtelierError, BadRequest, Cancelled

MAX_WAITING = 100
MAX_REQUEST = 60_000_000  # bytes as JSON: the picture keeps its request as PNG text, and 64 MB of that are read again
PACE = 0.1  # seconds between two states that a watcher is told
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
        self._paced = None  # when its first progress came, and the step that this was
        self._cancelled = set()
        self._latest = collections.OrderedDict()  # the final JobStates of the latest jobs, with their results
        self._closed = False
        with self._changed:
            self._recover()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def submit(self, request):
        """Queue a request; returns the job's id.

        Raises `BadRequest` when too many wait or its picture is too large to be kept with what is made from
        it, and `AtelierError` if the row cannot be written.
        """
        text = requests.to_json(request)
        if len(text) > MAX_REQUEST:
            raise BadRequest(
                f"The picture takes {len(text) * 3 // 4 // 10**6} MB as PNG; up to {MAX_REQUEST * 3 // 4 // 10**6} MB "
                "are kept with what is made from it: make it smaller and try again."
            )
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                raise BadRequest(f"{MAX_WAITING} jobs are waiting already; let some finish, or stop some.")
            job = secrets.token_hex(8)
            with _on_disk(job), self._database() as connection:
                connection.execute(
                    "INSERT INTO jobs (id, created, state, request) VALUES (?, ?, 'waiting', ?)",
                    (job, time.time(), text),
                )
            self._waiting.append((job, request))
            self._changed.notify_all()
        return job

    def aside(self, request):
        """The result of a request that is no job and leaves nothing behind, such as a look at an edit.

        Blocks, first until the running job is done. Raises `AtelierError` if it fails.
        """
        return self._worker.run(request)

    def cancel(self, job):
        """Take a waiting job out, or stop the running one within its step; a finished one stays as it is."""
        with self._changed:
            for row in self._waiting:
                if row[0] == job:
                    self._waiting.remove(row)
                    self._finish(JobState(job, "cancelled"))
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
            final = self._latest.get(job)
        return dataclasses.replace(final or self._stored(job), entries=self._gallery.of_job(job))

    def watch(self, job, every=1.0):
        """Yields the `JobState` at each change and every second, and ends after a final one.

        Of many quick changes only some are told: a page that is told of each has no time for anything else.
        """
        while True:
            with self._changed:
                state = self.state(job)
            yield state
            if state.state in FINAL:
                return
            told = time.monotonic()
            with self._changed:
                if self._looks(job) == _looks(state):
                    self._changed.wait(every)
                left = told + PACE - time.monotonic()
                self._changed.wait_for(lambda: self.state(job).state in FINAL, max(0.0, left))

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

    def _stored(self, job):
        with self._database() as connection:
            row = connection.execute("SELECT state, error FROM jobs WHERE id = ?", (job,)).fetchone()
        if row is None:
            raise BadRequest("There is no such job; it may belong to another studio.")
        return JobState(job, row["state"], error=row["error"])

    def _recover(self):
        with self._database() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'failed', error = ? WHERE state = 'running'",
                ("The studio was stopped while this was drawn; press Generate to draw it again.",),
            )
            rows = connection.execute("SELECT id, request FROM jobs WHERE state = 'waiting' ORDER BY rowid").fetchall()
        for row in rows:
            try:
                self._waiting.append((row["id"], requests.from_json(row["request"])))
            except BadRequest as error:
                self._finish(JobState(row["id"], "failed", error=str(error)))

    def _work(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job, request = self._waiting.popleft()
                self._running, self._started, self._paced = JobState(job, "running"), time.monotonic(), None
                self._changed.notify_all()
            final = self._run(job, request)
            with self._changed:
                self._running = None
                self._finish(dataclasses.replace(final, seconds=time.monotonic() - self._started))

    def _run(self, job, request):
        # the final state of the job, whatever happens: the thread must outlive every one of them
        try:
            with _on_disk(job):
                self._set(job, "running")
            result = self._worker.run(request, self._progressed, lambda: job in self._cancelled)
            with _on_disk(job):
                self._keep(job, result)
            return JobState(job, "done", result=result)
        except Cancelled:
            return JobState(job, "cancelled")
        except AtelierError as error:
            return JobState(job, "failed", error=str(error))
        except Exception:
            number = secrets.token_hex(4)
            log.exception("job %s: failure %s", job, number)
            sentence = f"Something went wrong (id {number}); the log has the details. Try other settings."
            return JobState(job, "failed", error=sentence)

    def _keep(self, job, result):
        if isinstance(result, requests.GenerateResult):
            for picture in result.pictures:
                self._gallery.add(picture.image, picture.record, picture.seed, job)
        elif isinstance(result, requests.ReconstructResult):
            self._gallery.add(result.reconstruction, result.record, job=job)

    def _progressed(self, progress):
        now = time.monotonic()
        with self._changed:
            before = self._running.progress
            if progress.preview is None and before is not None:
                progress = dataclasses.replace(progress, preview=before.preview)
            # The first step also waits for the engine and the model: later ones tell the pace without it.
            since, first = self._paced or (self._started, 0)
            self._paced = self._paced or (now, progress.index)
            pace = (now - since) / max(progress.index - first, 1)
            left = pace * (progress.count - progress.index)
            self._running = dataclasses.replace(self._running, progress=progress, seconds_left=left)
            self._changed.notify_all()

    def _set(self, job, state, error=""):
        with self._database() as connection:
            connection.execute("UPDATE jobs SET state = ?, error = ? WHERE id = ?", (state, error, job))

    def _finish(self, final):
        try:
            self._set(final.id, final.state, final.error)
        except sqlite3.Error:  # who watches is told all the same; the next start finds the row as it was
            log.exception("job %s: its end could not be written", final.id)
        self._latest[final.id] = final
        while len(self._latest) > RESULTS_KEPT:
            self._latest.popitem(last=False)
        self._cancelled.discard(final.id)
        self._changed.notify_all()


@contextlib.contextmanager
def _on_disk(job):
    # a full or failing disk is a sentence for the page; what it was exactly is for the log
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        log.exception("job %s: the home folder could not be written", job)
        raise AtelierError(
            "The home folder could not be written: make room on the disk that holds it, or allow writing there, "
            "and try again."
        ) from error


def _looks(state):
    # what a watcher would see change; the clock alone is no change
    return state.state, state.ahead, state.progress
