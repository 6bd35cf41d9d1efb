"""The studio under kills, stops and crowds, over and over.

    .venv/bin/python -m tests.endurance            everything, as often as the issue asks: about a quarter of an hour
    .venv/bin/python -m tests.endurance stops 50   one of STRAINS, so many times

Each strain raises `AssertionError` where something was lost, mixed up or left running, and returns what it counted.
The tests run each a few times.
"""

import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

from engines.errors import BadRequest
from engines.requests import GenerateRequest
from engines.worker import Worker
from studio import images
from studio.database import Database
from studio.gallery import Gallery, Search
from studio.jobs import FINAL, MAX_WAITING, Jobs
from tests import tiny
from tests.studio.conftest import StandIn

ROOT = Path(__file__).parent.parent
IDLE = 2.0  # seconds after a stop in which the worker must be idle
USERS, ACTIONS, FLOOD = 20, 50, 500
ACTS = ("submit", "submit", "again", "stop", "hold", "move", "look", "look", "star", "delete", "strange")

# A studio without a page, that draws for ever and tells of each picture once a page would see it.
DRAWING = """
import sys
from pathlib import Path
from engines.requests import GenerateRequest
from tests.endurance import opened
from tests.studio.conftest import StandIn
jobs = opened(Path(sys.argv[1]), StandIn())
print("ready", flush=True)
while True:
    told = set()
    for state in jobs.watch(jobs.submit(GenerateRequest(prompt="a fox", count=3, steps=3)), every=0.01):
        for entry in state.entries:
            if entry.id not in told:
                told.add(entry.id)
                print(entry.id, flush=True)
"""


def opened(home, worker):
    """The jobs of a home, drawn by `worker`."""
    (home / "gallery").mkdir(parents=True, exist_ok=True)
    database = Database(home / "atelier.db")
    return Jobs([worker], Gallery(home, database), database)


def sound(home, told):
    """Assert that the database is whole, that rows and files belong to each other, and that nothing told is lost."""
    with sqlite3.connect(home / "atelier.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    gallery = Gallery(home, Database(home / "atelier.db"))
    rows = {entry.id: entry for entry in gallery.find(Search(), 10**9)}
    files = {path for path in gallery.folder.rglob("*") if path.is_file()}
    assert told <= rows.keys(), "a picture that was told of is lost"
    assert {entry.path for entry in rows.values()} == files, "rows and files differ"
    for entry in rows.values():
        assert images.read_picture(entry.path).size == (16, 16)
    return len(rows)


def kills_of_the_studio(times, rng):
    """Kill a drawing studio at random moments; every picture that it told of is there afterwards."""
    told = set()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for _ in range(times):
            studio = subprocess.Popen(
                [sys.executable, "-c", DRAWING, folder], cwd=ROOT, text=True, stdout=subprocess.PIPE
            )
            assert studio.stdout.readline().strip() == "ready"
            time.sleep(rng.uniform(0, 0.4))
            studio.kill()
            told |= {line.strip() for line in studio.stdout.read().splitlines() if len(line.strip()) == 16}
            studio.wait()
            pictures = sound(home, told)
        jobs = opened(home, StandIn())
        left = [state for state in jobs.listed() if state.state not in FINAL]
        ends = [[*jobs.watch(state.id)][-1] for state in left]
        jobs.close()
        assert {end.state for end in ends} <= {"done", "failed"}
        assert all(end.error.endswith(".") for end in ends if end.state == "failed")
    return {"kills": times, "pictures told of": len(told), "pictures kept": pictures}


def kills_of_the_worker(times, rng):
    """Kill the engine at random moments; its one job fails with a sentence, and the next is drawn."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        tiny.save(home / "models" / "painter.safetensors", tiny.latent_diffusion())
        worker = Worker(home, "cpu")
        jobs = opened(home, worker)
        kept = _end(jobs, jobs.submit(_tiny(count=1))).entries
        for _ in range(times):
            job = jobs.submit(_tiny(count=4, steps=30))
            time.sleep(rng.uniform(0, 0.5))
            worker._process.kill()
            end = _end(jobs, job)
            assert end.state == "failed" and end.error.startswith("The engine stopped") or end.state == "done", end
            failed += end.state == "failed"
            kept += end.entries
            after = _end(jobs, jobs.submit(_tiny(count=1)))
            assert after.state == "done", after.error
            kept += after.entries
        assert all(images.read_picture(entry.path).size == (64, 64) for entry in kept)
        jobs.close()
        worker.close()
    return {"kills": times, "jobs that failed": failed, "pictures kept": len(kept)}


def stops(times, rng):
    """Stop jobs at random moments; the worker is idle soon, and never are two at work."""
    slowest, working = 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        tiny.save(home / "models" / "painter.safetensors", tiny.latent_diffusion())
        worker = Worker(home, "cpu")
        run = worker.run

        def spied(*arguments):
            working.append(1)
            assert len(working) == 1, "two jobs were at work on one device"
            try:
                return run(*arguments)
            finally:
                working.pop()

        worker.run = spied
        jobs = opened(home, worker)
        _end(jobs, jobs.submit(_tiny(count=1)))
        for _ in range(times):
            job = jobs.submit(_tiny(count=16, steps=150))
            time.sleep(rng.uniform(0, 0.3))
            stopped = time.monotonic()
            jobs.stop(job)
            assert _end(jobs, job).state == "cancelled"
            assert not working, "stopped, and the worker is at work"
            slowest = max(slowest, time.monotonic() - stopped)
        jobs.close()
        worker.close()
    assert slowest < IDLE, f"a stop took {slowest:.1f} s"
    return {"stops": times, "slowest, in seconds": round(slowest, 2)}


class Turns(dict):
    """Stands for the queue's own table of turns, and hears of each as it is taken."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def __setitem__(self, user, turn):
        self.events.append(("begin", user))
        super().__setitem__(user, turn)


def crowd(times, rng):
    """Let users do mixed things at once while one floods the queue: each sees their own, and nobody is overtaken."""
    refused = sum(_crowded(rng) for _ in range(times))
    return {"crowds": times, "users": USERS, "actions of each": ACTIONS, "refused of the flood": refused}


def _crowded(rng):
    refused, problems, events = [], [], []
    names = [f"user{number}" for number in range(USERS)]
    with tempfile.TemporaryDirectory() as folder:
        jobs = opened(Path(folder), StandIn())
        jobs._served = Turns(events)

        def flood(user=names[0]):
            for number in range(FLOOD):
                try:
                    jobs.submit(GenerateRequest(prompt=f"{user} {number}", steps=2), user)
                    events.append(("ask", user))
                except BadRequest as error:
                    refused.append(str(error))

        def act(user, seed):
            try:
                _act(jobs, user, names, random.Random(seed), events)
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=flood)]
        threads += [threading.Thread(target=act, args=(user, rng.random())) for user in names[1:]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for user in names:
            for state in jobs.listed(user):
                if state.state not in FINAL:
                    jobs.hold(state.id, False, user)
                    assert [*jobs.watch(state.id, user=user)][-1].state in FINAL
        jobs.close()
    if problems:
        raise problems[0]
    assert all(sentence.startswith(f"{MAX_WAITING} jobs of yours are waiting") for sentence in refused)
    _nobody_was_overtaken(events)
    return len(refused)


def _act(jobs, user, names, rng, events):
    # what one user does, and what they see of it
    gallery, mine = jobs._gallery, []
    for number in range(ACTIONS):
        action = rng.choice(ACTS)
        job = rng.choice(mine) if mine else None
        other = rng.choice([name for name in names if name != user])
        pictures = gallery.find(Search(), 20, user=user)
        assert all(entry.user == user and entry.prompt.split()[0] == user for entry in pictures)
        if action == "submit" or job is None:
            mine.append(jobs.submit(GenerateRequest(prompt=f"{user} {number}", steps=2, count=rng.randint(1, 2)), user))
            events.append(("ask", user))
        elif action == "again":
            mine.append(jobs.again(job, user))
            events.append(("ask", user))
        elif action in ("stop", "hold"):
            events.append(("leave", user))
            getattr(jobs, action)(job, user=user)
        elif action == "move":
            jobs.move(job, rng.choice((-1, 1)), user)
        elif action == "look":
            state = jobs.state(job, user)
            assert state.prompt.split()[0] == user
            assert all(entry.user == user for entry in state.entries)
            assert {state.prompt.split()[0] for state in jobs.listed(user)} == {user}
        elif action in ("star", "delete") and pictures:
            getattr(gallery, action)([rng.choice(pictures).id], user=user)
        elif action == "strange":
            jobs.stop(job, other)
            assert all(gallery.get(entry.id, other) is None for entry in pictures)
            try:
                jobs.state(job, other)
            except BadRequest:
                continue
            raise AssertionError("a user sees another's job")


def _nobody_was_overtaken(events):
    # While a user waits, every other has one turn at most. Who takes a job back may have none that waits, and counts
    # anew from the next.
    waiting, turns = Counter(), defaultdict(Counter)
    for event, user in events:
        if event == "ask":
            waiting[user] += 1
        elif event == "leave":
            waiting[user] = 0
            turns[user].clear()
        else:
            for other in (name for name in waiting if name != user and waiting[name] > 0):
                turns[other][user] += 1
                assert turns[other][user] == 1, f"{user} had two turns while {other} waited"
            waiting[user] = max(0, waiting[user] - 1)
            turns[user].clear()
    assert {user for event, user in events if event == "begin"} == {user for _, user in events}


def _tiny(**fields):
    return tiny.request(**{"model": "painter"} | fields)


def _end(jobs, job):
    return [*jobs.watch(job, every=0.05)][-1]


STRAINS = {
    "studio": (kills_of_the_studio, 100),
    "worker": (kills_of_the_worker, 100),
    "stops": (stops, 200),
    "crowd": (crowd, 1),
}


def main(argv):
    """Run the strains that are asked for, and print what they counted as JSON."""
    chosen = argv[:1] or list(STRAINS)
    for name in chosen:
        strain, times = STRAINS[name]
        found = strain(int(argv[1]) if len(argv) > 1 else times, random.Random(0))
        print(json.dumps({name: found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
