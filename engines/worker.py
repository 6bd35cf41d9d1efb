"""The process that holds the models and runs tasks; this side of it never imports torch.

A task that takes the process down (out of memory, a driver fault) fails alone: the next one starts a
new process.
"""

import logging
import multiprocessing
import signal
import threading
import uuid
from pathlib import Path

from engines.errors import AtelierError, Cancelled

POLL_SECONDS = 0.1
LOG = "atelier.log"  # in the home

log = logging.getLogger(__name__)


class Worker:
    """Runs requests one after the other in a process of its own, which starts with the first of them or `start`."""

    def __init__(self, home=None, device="auto"):
        self.home, self.device = home, device
        self._context = multiprocessing.get_context("spawn")
        self._lock = threading.Lock()
        self._process = self._connection = self._stop = None

    def start(self):
        """Start the process ahead of the first request, so that torch is loaded by then."""
        with self._lock:
            self._ensure()

    def run(self, request, on_progress=None, cancelled=None):
        """The result of `request`; blocks. `on_progress(Progress)` is called on the way.

        `cancelled() -> bool` is asked ten times a second; once true, the task stops within its step
        and `Cancelled` is raised. Raises `AtelierError` with a sentence if the request fails.
        """
        with self._lock:
            self._ensure()
            self._stop.clear()
            try:
                self._connection.send(request)
                return self._await(on_progress, cancelled)
            except (EOFError, OSError) as error:
                self._end()
                raise AtelierError(
                    "The engine stopped in the middle of this picture, most likely for want of memory; "
                    "ask for fewer or smaller pictures. It starts again with the next one."
                ) from error

    def close(self):
        """End the process."""
        if self._stop:
            self._stop.set()
        with self._lock:
            self._end()

    def _ensure(self):
        if self._process and self._process.is_alive():
            return
        self._end()
        self._connection, theirs = self._context.Pipe()
        self._stop = self._context.Event()
        self._process = self._context.Process(
            target=_serve, args=(theirs, self._stop, self.home, self.device), name="atelier-engine", daemon=True
        )
        self._process.start()
        theirs.close()

    def _await(self, on_progress, cancelled):
        try:
            while True:
                if cancelled and cancelled():
                    self._stop.set()
                if not self._connection.poll(POLL_SECONDS):
                    continue
                kind, value = self._connection.recv()
                if kind == "result":
                    return value
                if kind == "error":
                    break
                if on_progress:
                    on_progress(value)
        except (EOFError, OSError):
            raise
        except BaseException:
            # The caller's own functions failed: the task is stopped, and what it still says is no answer to the next.
            self._stop.set()
            while self._connection.recv()[0] == "progress":
                pass
            raise
        raise value

    def _end(self):
        if self._process:
            self._connection.close()
            self._process.join(2)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        self._process = None


def start_log(home, name):
    """Write what the process called `name` logs to standard error and, where there is one, into the home's log."""
    handlers = [logging.StreamHandler()]
    if home:
        path = Path(home) / LOG
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
    logging.basicConfig(format=f"%(asctime)s {name} %(levelname)s %(message)s", handlers=handlers)


def _serve(connection, stop, home, device):
    # The other side: the studio's Ctrl+C is the studio's to handle, and a closed pipe is the end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start_log(home, "engine")
    try:
        from engines.engine import Engine

        engine = Engine(home, device, paths=False)
        while True:
            request = connection.recv()
            try:
                message = "result", engine.run(request, lambda progress: _report(connection, stop, progress))
            except (AtelierError, Cancelled) as error:
                message = "error", type(error)(*error.args)
            except Exception:
                number = uuid.uuid4().hex[:8]
                log.exception("failure %s", number)
                message = "error", AtelierError(
                    f"Something went wrong in the engine (id {number}); the log has the details. Try other settings."
                )
            connection.send(message)
    except (EOFError, OSError):
        pass


def _report(connection, stop, progress):
    if stop.is_set():
        raise Cancelled
    connection.send(("progress", progress))
