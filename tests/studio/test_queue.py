"""The queue under strain: full disks, lost watchers, what is told while a job runs, and what is kept of it."""

import json
import os
import sqlite3
import threading
import time

import pytest
from PIL import Image, PngImagePlugin

from engines import requests
from engines.errors import AtelierError, BadRequest
from engines.requests import (
    GenerateRequest,
    Progress,
    ReconstructRequest,
    ReconstructResult,
    ResampleRequest,
    ResampleResult,
)
from studio import images
from studio import jobs as queue
from studio.jobs import FINAL

RED = Image.new("RGB", (16, 16), "red")


@pytest.fixture
def jobs(open_jobs):
    return open_jobs()


def submit(jobs, prompt="a fox", **values):
    return jobs.submit(GenerateRequest(prompt=prompt, **{"steps": 4} | values))


def last(jobs, job):
    """The final state of a job."""
    return [*jobs.watch(job, every=0.05)][-1]


def begun(jobs, job):
    """The job, once its first step is done."""
    next(state for state in jobs.watch(job, every=0.05) if state.progress)
    return job


def full(*_):
    raise OSError(28, "No space left on device")


# ---------------------------------------------------------------- what is written, and when


def test_a_job_is_a_row_before_it_runs(jobs, worker, monkeypatch):
    seen, run = [], worker.run

    def spied(*arguments):
        with jobs._database() as connection:
            seen.append([tuple(row) for row in connection.execute("SELECT id, state FROM jobs")])
        return run(*arguments)

    monkeypatch.setattr(worker, "run", spied)
    job = submit(jobs)
    assert last(jobs, job).state == "done"
    assert seen == [[(job, "running")]]


def test_pictures_are_in_the_gallery_before_the_job_is_done(jobs, monkeypatch):
    seen, add = [], jobs._gallery.add

    def spied(image, record, seed, job):
        seen.append(jobs.state(job).state)
        return add(image, record, seed, job)

    monkeypatch.setattr(jobs._gallery, "add", spied)
    final = last(jobs, submit(jobs, count=3, seed=7))
    assert seen == ["running"] * 3
    assert [entry.seed for entry in final.entries] == [7, 8, 9]
    assert len(final.result.pictures) == 3 and final.seconds > 0


def test_tokens_drawn_anew_are_no_picture_yet_and_only_told(jobs, worker, monkeypatch):
    monkeypatch.setattr(worker, "run", lambda request, on_progress, cancelled: ResampleResult(b"tokens", 0.1))
    final = last(jobs, jobs.submit(ResampleRequest(prompt="a fox", tokens=b"old", mask=b"mask")))
    assert (final.state, final.result.tokens, list(final.entries)) == ("done", b"tokens", [])


def test_a_reconstruction_is_kept_as_well(jobs, worker, monkeypatch):
    def run(request, on_progress, cancelled):
        record = {"request": json.loads(requests.to_json(request))}
        return ReconstructResult(RED, 0.1, psnr=30.0, ssim=0.9, record=record)

    monkeypatch.setattr(worker, "run", run)
    final = last(jobs, jobs.submit(ReconstructRequest(image=images.png_bytes(RED))))
    assert final.result.psnr == 30
    assert [(entry.task, entry.seed) for entry in final.entries] == [("reconstruct", None)]


def test_results_are_held_for_the_latest_jobs_only(jobs):
    ids = [submit(jobs) for _ in range(queue.RESULTS_KEPT + 1)]
    finals = [last(jobs, job) for job in (ids[-1], ids[1], ids[0])]
    assert [final.result is not None for final in finals] == [True, True, False]
    assert all(final.state == "done" and len(final.entries) == 1 for final in finals)


# ---------------------------------------------------------------- disks


def test_pictures_before_the_disk_was_full_are_kept(jobs, monkeypatch):
    replaced, replace = [], os.replace

    def fills_up(*paths):
        replaced.append(paths)
        return replace(*paths) if len(replaced) < 3 else full()

    monkeypatch.setattr(os, "replace", fills_up)
    failed = last(jobs, submit(jobs, count=4))
    assert failed.state == "failed" and len(failed.entries) == 2
    assert all(images.read_picture(entry.path).size == RED.size for entry in failed.entries)
    assert len([path for path in jobs._gallery.folder.rglob("*") if path.is_file()]) == 2


def test_a_database_that_cannot_be_written_does_not_stop_the_queue(jobs, worker, monkeypatch):
    def broken(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_set", broken)
        failed = last(jobs, submit(jobs))
        assert failed.state == "failed" and "make room on the disk" in failed.error
        patch.setattr(jobs, "_database", broken)
        with pytest.raises(AtelierError, match="make room on the disk"):
            submit(jobs)
    assert worker.seen == []
    assert last(jobs, submit(jobs)).state == "done"


def test_what_fails_in_the_worker_is_not_blamed_on_the_disk(jobs, worker, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(worker, "run", full)
        assert last(jobs, submit(jobs)).error.startswith("Something went wrong (id ")
    assert last(jobs, submit(jobs)).state == "done"


def test_the_largest_request_leaves_a_png_that_opens():
    # Pillow opens no PNG with more text than this; what the record adds to the request is far below 1 MB
    assert queue.MAX_REQUEST + 10**6 < PngImagePlugin.MAX_TEXT_MEMORY


def test_a_larger_request_is_refused(jobs, monkeypatch):
    monkeypatch.setattr(queue, "MAX_REQUEST", 4000)
    with pytest.raises(BadRequest, match="make it smaller"):
        jobs.submit(ReconstructRequest(image=bytes(4000)))
    assert last(jobs, submit(jobs)).state == "done"


# ---------------------------------------------------------------- stopping and watching


def test_a_waiting_job_that_is_taken_out_moves_the_others_up(jobs, worker):
    worker.hold.clear()
    begun(jobs, submit(jobs, "a"))
    ids = [submit(jobs, prompt) for prompt in "bcd"]
    assert [jobs.state(job).ahead for job in ids] == [1, 2, 3]
    jobs.cancel(ids[0])
    jobs.cancel("never was")
    assert [jobs.state(job).ahead for job in ids[1:]] == [1, 2]
    worker.hold.set()
    assert last(jobs, ids[2]).state == "done"
    assert worker.seen == ["a", "c", "d"]


def test_a_running_job_tells_the_time_about_once_a_second(jobs, worker):
    worker.hold.clear()
    job = begun(jobs, submit(jobs))
    watcher = jobs.watch(job, every=0.02)
    first, second, third = (next(watcher) for _ in range(3))  # nothing changes but the clock
    assert first.progress == second.progress == third.progress == Progress(1, 4)
    assert first.seconds < second.seconds < third.seconds
    worker.hold.set()
    assert [*watcher][-1].state == "done"


def test_a_change_is_told_at_once(jobs, worker):
    worker.hold.clear()
    job = begun(jobs, submit(jobs))
    watcher = jobs.watch(job, every=600)  # far longer than a test may take
    next(watcher)
    worker.hold.set()
    assert [*watcher][-1].state == "done"


def test_the_pace_leaves_out_the_start_of_the_engine(jobs, worker, monkeypatch):
    worker.hold.clear()
    begun(jobs, submit(jobs))
    clock, left = [100.0], []
    with jobs._changed, monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: clock[0])
        jobs._started, jobs._paced = 0.0, None
        for index in (1, 2, 3):  # the first step after 100 seconds, then one every 2
            jobs._progressed(Progress(index, 4))
            left.append(jobs._running.seconds_left)
            clock[0] += 2
    assert left == [300, 4, 2]


def test_a_task_may_tell_that_nothing_is_done_yet(jobs, worker):
    worker.hold.clear()
    begun(jobs, submit(jobs))
    jobs._paced = None
    jobs._progressed(Progress(0, 4))
    assert jobs._running.seconds_left > 0


def test_a_preview_stays_until_the_next(jobs, worker):
    worker.hold.clear()
    begun(jobs, submit(jobs))
    jobs._progressed(Progress(2, 4, RED))
    jobs._progressed(Progress(3, 4))
    assert jobs._running.progress == Progress(3, 4, RED)


def test_a_vanished_watcher_does_not_disturb_the_job(jobs, worker):
    worker.hold.clear()
    job = submit(jobs)
    watcher = jobs.watch(job)
    next(watcher)
    watcher.close()
    worker.hold.set()
    assert last(jobs, job).state == "done"
    assert [state.state for state in jobs.watch(job)] == ["done"]  # who comes late is told at once


def test_many_watchers_see_one_end(jobs, worker):
    worker.hold.clear()
    job, ends = submit(jobs), []
    threads = [threading.Thread(target=lambda: ends.append([*jobs.watch(job)])) for _ in range(5)]
    for thread in threads:
        thread.start()
    worker.hold.set()
    for thread in threads:
        thread.join(30)
    assert [states[-1].state for states in ends] == ["done"] * 5
    assert all(state.state not in FINAL for states in ends for state in states[:-1])


def test_closing_stops_what_runs_and_leaves_what_waits(open_jobs, worker):
    jobs = open_jobs()
    worker.hold.clear()
    running = begun(jobs, submit(jobs, "a"))
    waiting = submit(jobs, "b")
    jobs.close()
    assert jobs.state(running).state == "cancelled"
    assert jobs.state(waiting).state == "waiting" and worker.seen == ["a"]
