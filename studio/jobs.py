"""The durable queue: who waits, who runs, what came of it.

A job is a row before it runs. It is drawn piece by piece, a picture a piece, and each is in the gallery
before the next is begun: a stop, a kill or a full disk loses nothing that was finished, and the next start
goes on behind it. A page only watches. One thread a worker runs the jobs, so that stopped means idle.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import logging
import secrets
import sqlite3
import threading
import time
from dataclasses import dataclass

from engines import pictures, requests
from engines.errors import AtelierError, BadRequest, Cancelled

MAX_WAITING = 100  # jobs of one user
MAX_REQUEST = 180_000_000  # bytes as JSON, which what is made from it keeps; 40 million pixels of a photograph fit
ATTEMPTS = 3  # times that a job is begun; one that takes the studio down with it is not begun for ever
PACE = 0.1  # seconds between two states that a watcher is told
RESULTS_KEPT = 8
FINAL = ("done", "failed", "cancelled")
WAITING = ("waiting", "held")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobState:
    """What there is to say of a job. `state` is waiting, held, running, or one of FINAL."""

    id: str
    state: str
    task: str = ""
    prompt: str = ""
    pictures: int = 1  # that it is to draw
    ahead: int = 0  # jobs that begin before it
    progress: requests.Progress | None = None  # over all of its pictures
    seconds_left: float | None = None  # until it is done; None while nobody can tell
    seconds: float = 0.0  # since it began to run
    entries: tuple = ()  # its pictures in the gallery
    result: object = None  # of the last piece; kept for the latest jobs only
    error: str = ""
    resumed: bool = False  # whether it was begun before, and the studio stopped


@dataclass
class Job:
    """A job that is not yet done."""

    id: str
    user: str
    request: object
    attempts: int = 0  # times that it was begun
    held: bool = False

    @functools.cached_property
    def pieces(self):
        return pieces(self.request)

    def state(self, state, **more):
        """The `JobState` of this job in that state."""
        about = requests.task_of(self.request), _prompt(self.request), len(self.pieces)
        return JobState(self.id, state, *about, resumed=self.attempts > (state not in WAITING), **more)


class Run:
    """A job at work: how far it is, and what is asked of it."""

    def __init__(self, job, worker):
        self.job, self.worker = job, worker
        self.pieces = job.pieces
        self.piece = 0  # the number of the piece at work
        self.wish = ""  # stop, finish or skip
        self.started = time.monotonic()
        self.progress = self.seconds_left = self.pace = None  # seconds a step of the piece at work
        self._paced = None  # the piece, when its first progress came, and the step that this was

    def progressed(self, progress, rest=None):
        """Take in the `Progress` of the piece at work; `rest` is what the pieces after it take in seconds, or None."""
        before, index, now = self.progress, progress.index, time.monotonic()
        # The first step also waits for the engine and the model: later ones tell the pace without it.
        if self._paced is None or self._paced[0] != self.piece:
            self._paced = self.piece, now, index
        _, since, first = self._paced
        if index > first:
            self.pace = (now - since) / (index - first)
        pace = self.pace or (now - self.started) / max(index, 1)
        if rest is None:
            rest = pace * progress.count * (len(self.pieces) - self.piece - 1)
        self.seconds_left = pace * (progress.count - index) + rest
        self.progress = requests.Progress(
            self.piece * progress.count + index,
            len(self.pieces) * progress.count,
            progress.preview or (before and before.preview),
        )

    def state(self):
        return self.job.state(
            "running", progress=self.progress, seconds_left=self.seconds_left, seconds=time.monotonic() - self.started
        )


def pieces(request):
    """The requests that draw the pictures of `request` one after the other."""
    if isinstance(request, requests.Drawn):
        return [requests.alone(request, index) for index in range(request.count)]
    if isinstance(request, requests.CompareRequest):
        cells = request.cells()
        return [cells[place] for place in request.order()]
    return [request]


def work(request):
    """How much is to be done for a request, in pixels times steps; None for tasks that nobody has to wait for."""
    if isinstance(request, requests.UpscaleRequest):
        # of each pixel once, and of sixteen times as many where four times are not enough
        return _pixels(request) * (1 + 16 * (request.scale > 4)) * _times_seen(request)
    if not isinstance(request, requests.Drawn):
        return None
    if getattr(request, "area", "") == "parts":  # nobody knows yet how many
        return None
    looks = request.count * request.steps * (2 if request.cfg_scale > 1 else 1)
    if isinstance(request, requests.GenerateRequest):
        return looks * request.width * request.height
    if isinstance(request, requests.RefineRequest):
        return looks * request.strength * _pixels(request) * request.scale**2
    return looks * (1 + request.jumps)  # a model paints at its own size, whatever the picture's


def _pixels(request):
    # of the picture that it begins with
    width, height = pictures.size_of(request.image)
    return width * height


def _times_seen(request):
    # of an enlargement
    return request.looks if request.detail else 1


def _prompt(request):
    request = getattr(request, "base", request)
    return getattr(request, "prompt", "")


class Jobs:
    """Runs requests by `workers`, each with a thread, and keeps their pictures in `gallery`.

    Users take turns, and each sees and moves jobs of their own alone: of another's, a job never was.
    """

    def __init__(self, workers, gallery, database):
        self._gallery, self._database = gallery, database
        self._changed = threading.Condition()
        self._waiting = collections.defaultdict(list)  # the jobs of each user, in their order
        self._running = {}  # runs by the ids of their jobs
        self._turns = itertools.count(1)
        self._served = {}  # when each user had the last turn
        self._latest = collections.OrderedDict()  # the final JobStates of the latest jobs, with their results
        self._aside = collections.Counter()  # looks that wait for each worker
        self._paces = {}  # measured seconds for a unit of work, by model and sampler
        self._memories = {}  # measured bytes, by model and size of the picture
        self._closed = False
        with self._changed:
            self._recover()
        self._workers = list(workers)
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name="jobs", daemon=True) for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    # ------------------------------------------------------------ what is asked

    def submit(self, request, user=""):
        """Queue a request; returns the job's id.

        Raises `BadRequest` when too many of the user's wait or its picture is too large to be kept with what
        is made from it, and `AtelierError` if the row cannot be written.
        """
        text = requests.to_json(request)
        if len(text) > MAX_REQUEST:
            raise BadRequest(
                f"The picture takes {len(text) * 3 // 4 // 10**6} MB as PNG; up to {MAX_REQUEST * 3 // 4 // 10**6} MB "
                "are kept with what is made from it: make it smaller and try again."
            )
        job = Job(secrets.token_hex(8), user, request)
        assert job.pieces  # one that cannot be drawn is refused here
        with self._changed:
            if len(self._waiting[user]) >= MAX_WAITING:
                raise BadRequest(f"{MAX_WAITING} jobs of yours are waiting already; let some finish, or stop some.")
            with _on_disk(job.id), self._database() as connection:
                connection.execute(
                    "INSERT INTO jobs (id, user, created, state, request, place) VALUES (?, ?, ?, 'waiting', ?, "
                    "(SELECT 1 + COALESCE(MAX(place), 0) FROM jobs))",
                    (job.id, user, time.time(), text),
                )
            self._waiting[user].append(job)
            self._changed.notify_all()
        return job.id

    def aside(self, request):
        """The result of a request that is no job and leaves nothing behind, such as a look at an edit.

        Blocks, first until the picture at work is done; the next one waits for it. Raises `AtelierError` if
        it fails.
        """
        with self._changed:
            busy = {run.worker for run in self._running.values()}
            worker = min(self._workers, key=lambda worker: (worker in busy, self._aside[worker]))
        return self._aside_by(worker, request)

    def _aside_by(self, worker, request):
        with self._changed:
            self._aside[worker] += 1
        try:
            return worker.run(request)
        finally:
            with self._changed:
                self._aside[worker] -= 1
                self._changed.notify_all()

    def everywhere(self, request):
        """The results of a request that is no job from every worker, in their order; as `aside` otherwise."""
        return [self._aside_by(worker, request) for worker in self._workers]

    def stop(self, job, user=""):
        """Take a waiting job out, or stop the running one within its step; a finished one stays as it is."""
        with self._changed:
            waiting = self._find(job, user)
            if waiting:
                self._waiting[user].remove(waiting)
                self._finish(waiting.state("cancelled"))
            self._ask(job, user, "stop")

    def finish(self, job, user=""):
        """Let a running job end with the picture at work and leave out the others."""
        with self._changed:
            self._ask(job, user, "finish")

    def skip(self, job, user=""):
        """Let a running job leave out the picture at work and go on with the next."""
        with self._changed:
            self._ask(job, user, "skip")

    def hold(self, job, held=True, user=""):
        """Let a waiting job wait until it is let go again, by `held` False."""
        with self._changed:
            waiting = self._find(job, user)
            if waiting:
                waiting.held = held
                with _on_disk(job):
                    self._set(job, held=int(held))
                self._changed.notify_all()

    def move(self, job, by, user=""):
        """Let a waiting job change places with those of the same user: `by` -1 is one place nearer the front."""
        with self._changed:
            row = self._waiting[user]
            waiting = self._find(job, user)
            if waiting:
                old = row.index(waiting)
                new = min(max(old + by, 0), len(row) - 1)
                row.insert(new, row.pop(old))
                with _on_disk(job), self._database() as connection:
                    ids = [other.id for other in row]
                    places = connection.execute(
                        f"SELECT place FROM jobs WHERE id IN ({', '.join('?' * len(ids))}) ORDER BY place", ids
                    ).fetchall()
                    connection.executemany(
                        "UPDATE jobs SET place = ? WHERE id = ?",
                        [(place["place"], other) for place, other in zip(places, ids, strict=True)],
                    )
                self._changed.notify_all()

    def again(self, job, user=""):
        """Queue the request of an earlier job once more; returns the new job's id."""
        return self.submit(self.request(job, user), user)

    # ------------------------------------------------------------ what is told

    def state(self, job, user=""):
        """The `JobState` of a job. Raises `BadRequest` for an id that never was, or is another user's."""
        with self._changed:
            state = self._now(job, user)
        return dataclasses.replace(state, entries=self._gallery.of_job(job))

    def listed(self, user="", latest=20):
        """The `JobState` of the user's jobs: those at work, those waiting, and the latest finished, newest first."""
        with self._changed:
            mine = [run.job for run in self._running.values() if run.job.user == user] + self._waiting[user]
            found = [self._now(job.id, user) for job in mine]
        return found + self._stored(f"user = ? AND state IN {FINAL} ORDER BY created DESC LIMIT ?", (user, latest))

    def estimate(self, request):
        """Seconds and bytes that a request would take by itself, as measured so far; each None where nothing was."""
        parts = pieces(request)
        known = [self._memories.get(_shape(piece)) for piece in parts]
        return self._seconds(parts), None if None in known else max(known)

    def _seconds(self, pieces):
        times = [self._time(piece) for piece in pieces]
        return None if None in times else sum(times)

    def _time(self, piece):
        amount = work(piece)
        pace = self._paces.get(_kind(piece)) if amount else None
        return amount * pace if pace else None

    def request(self, job, user=""):
        """The request of a job. Raises `BadRequest` for an id that never was, or is another user's."""
        with self._database() as connection:
            row = connection.execute("SELECT request FROM jobs WHERE id = ? AND user = ?", (job, user)).fetchone()
        if row is None:
            raise _no_such_job()
        return requests.from_json(row["request"])

    def watch(self, job, every=1.0, user=""):
        """Yields the `JobState` at each change and every second, and ends after a final one.

        Of many quick changes only some are told: a page that is told of each has no time for anything else.
        """
        while True:
            with self._changed:
                state = self.state(job, user)
            yield state
            if state.state in FINAL:
                return
            told = time.monotonic()
            with self._changed:
                if _looks(self._now(job, user)) == _looks(state):
                    self._changed.wait(every)
                left = told + PACE - time.monotonic()
                self._changed.wait_for(lambda: self._now(job, user).state in FINAL, max(0.0, left))

    def close(self):
        """Stop the running jobs and the threads; they go on, and what waits is run, when the studio starts again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(10)

    def _now(self, job, user):
        # the state without the pictures
        run = self._running.get(job)
        if run and run.job.user == user:
            return run.state()
        waiting = self._find(job, user)
        if waiting and waiting.held:
            return waiting.state("held")
        if waiting:
            before, own = list(self._order()), self._seconds(waiting.pieces)
            del before[before.index(waiting) :]
            times = [run.seconds_left for run in self._running.values()]
            times += [self._seconds(job.pieces) for job in before]
            left = None if None in [*times, own] else sum(times) / len(self._workers) + own
            return waiting.state("waiting", ahead=len(times), seconds_left=left)
        stored = self._stored("id = ? AND user = ?", (job, user))
        if not stored:
            raise _no_such_job()
        return self._latest.get(job, stored[0])

    def _stored(self, where, values):
        with self._database() as connection:
            rows = connection.execute(
                "SELECT id, state, error, json_extract(request, '$.task') AS task, "
                "COALESCE(json_extract(request, '$.prompt'), json_extract(request, '$.base.prompt'), '') AS prompt "
                f"FROM jobs WHERE {where}",
                values,
            ).fetchall()
        return [JobState(**row) for row in rows]

    # ------------------------------------------------------------ who is next

    def _find(self, job, user):
        return next((waiting for waiting in self._waiting[user] if waiting.id == job), None)

    def _ask(self, job, user, wish):
        run = self._running.get(job)
        if run and run.job.user == user and run.wish != "stop":
            run.wish = wish

    def _order(self):
        """The waiting jobs as they will begin: one a user in turn, the user first whose last turn is longest ago."""
        users = sorted(self._waiting, key=lambda user: self._served.get(user, 0))
        rows = [[job for job in self._waiting[user] if not job.held] for user in users]
        return [job for turn in itertools.zip_longest(*rows) for job in turn if job]

    def _work(self, worker):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._order())
                if self._closed:
                    return
                job = self._order()[0]
                self._waiting[job.user].remove(job)
                self._served[job.user] = next(self._turns)
                job.attempts += 1
                run = self._running[job.id] = Run(job, worker)
                self._changed.notify_all()
            final = self._run(run)
            with self._changed:
                del self._running[job.id]
                if final is None:  # the studio closes; the row says that it waits
                    return
                self._finish(dataclasses.replace(final, seconds=time.monotonic() - run.started))

    # ------------------------------------------------------------ one job

    def _run(self, run):
        # the final state of the job, whatever happens: the thread must outlive every one of them
        job = run.job
        try:
            with _on_disk(job.id):
                self._set(job.id, state="running", attempts=job.attempts)
            # what was drawn before the studio was stopped
            drawn = {entry.record.get("piece") for entry in self._gallery.of_job(job.id)}
            result = None
            while run.piece < len(run.pieces) and run.wish != "finish":
                if run.piece not in drawn:
                    result = self._drawn(run) or result
                run.piece += 1
            return job.state("done", result=result)
        except Cancelled:
            if self._closed:
                self._set(job.id, state="waiting", attempts=job.attempts - 1)
                return None
            return job.state("cancelled")
        except AtelierError as error:
            return job.state("failed", error=str(error))
        except Exception:
            number = secrets.token_hex(4)
            log.exception("job %s: failure %s", job.id, number)
            sentence = f"Something went wrong (id {number}); the log has the details. Try other settings."
            return job.state("failed", error=sentence)

    def _drawn(self, run):
        # the result of the piece at work, once it is kept; None if it is skipped
        piece = run.pieces[run.piece]

        def progressed(progress):
            with self._changed:
                run.progressed(progress, self._seconds(run.pieces[run.piece + 1 :]))
                if run.pace and work(piece):
                    self._paces[_kind(piece)] = run.pace * progress.count / work(piece)
                self._changed.notify_all()

        with self._changed:
            # looks that wait come between two pictures
            self._changed.wait_for(lambda: not self._aside[run.worker] or self._closed)
            if run.wish == "skip":  # which was meant for the piece before
                run.wish = ""
        try:
            result = run.worker.run(piece, progressed, lambda: self._closed or run.wish in ("stop", "skip"))
        except Cancelled:
            if run.wish == "skip" and not self._closed:
                return None
            raise
        with self._changed:
            if work(piece) and result.memory:
                self._memories[_shape(piece)] = result.memory
        with _on_disk(run.job.id):
            self._keep(run, result)
        return result

    def _keep(self, run, result):
        job, made = run.job, []
        known = {"piece": run.piece, "seconds": result.seconds, "memory": result.memory}
        if isinstance(result, requests.GenerateResult):
            made = [(picture.image, picture.record, picture.seed) for picture in result.pictures]
        elif isinstance(result, requests.ReconstructResult):
            made = [(result.reconstruction, result.record, None)]
        for image, record, seed in made:
            self._gallery.add(image, record | known, seed, job.id, job.user)

    # ------------------------------------------------------------ rows

    def _recover(self):
        with self._database() as connection:
            rows = connection.execute(
                "SELECT * FROM jobs WHERE state IN ('running', 'waiting') ORDER BY state = 'waiting', place"
            ).fetchall()
        for row in rows:
            try:
                if row["attempts"] >= ATTEMPTS:
                    raise BadRequest(
                        f"The studio was stopped {ATTEMPTS} times while this was drawn; try other settings."
                    )
                request = requests.from_json(row["request"])
                job = Job(row["id"], row["user"], request, row["attempts"], bool(row["held"]))
                assert job.pieces
                self._waiting[row["user"]].append(job)
            except BadRequest as error:
                self._finish(JobState(row["id"], "failed", error=str(error)))

    def _set(self, job, **values):
        with self._database() as connection:
            names = ", ".join(f"{name} = ?" for name in values)
            connection.execute(f"UPDATE jobs SET {names} WHERE id = ?", (*values.values(), job))

    def _finish(self, final):
        try:
            self._set(final.id, state=final.state, error=final.error)
        except sqlite3.Error:  # who watches is told all the same; the next start finds the row as it was
            log.exception("job %s: its end could not be written", final.id)
        self._latest[final.id] = final
        while len(self._latest) > RESULTS_KEPT:
            self._latest.popitem(last=False)
        self._changed.notify_all()


def _kind(request):
    # what is drawn at one pace
    return type(request), request.model, getattr(request, "sampler", "")


def _shape(request):
    # what takes one amount of memory
    size = None
    if isinstance(request, requests.GenerateRequest):
        size = request.width, request.height
    elif isinstance(request, requests.UpscaleRequest):
        size = request.tile, _times_seen(request)
    elif isinstance(request, requests.RefineRequest):
        size = _pixels(request) * request.scale**2
    return (request.model, size) if work(request) else None


def _no_such_job():
    return BadRequest("There is no such job; it may belong to another studio.")


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
