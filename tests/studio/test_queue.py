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
    InpaintRequest,
    Progress,
    ReconstructRequest,
    ReconstructResult,
    ResampleRequest,
    ResampleResult,
    UpscaleRequest,
)
from studio import images
from studio import jobs as queue
from studio.database import Database
from studio.gallery import Gallery
from studio.jobs import FINAL
from tests.tiny import png

RED = Image.new("RGB", (16, 16), "red")


@pytest.fixture
def jobs(open_jobs):
    return open_jobs()


def submit(jobs, prompt="a fox", **values):
    return jobs.submit(GenerateRequest(prompt=prompt, **{"steps": 4} | values))


def last(jobs, job, **whose):
    """The final state of a job."""
    return [*jobs.watch(job, every=0.05, **whose)][-1]


def begun(jobs, job, **whose):
    """The job, once its first step is done."""
    next(state for state in jobs.watch(job, every=0.05, **whose) if state.progress)
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

    def spied(image, record, seed, job, user):
        seen.append(jobs.state(job).state)
        return add(image, record, seed, job, user)

    monkeypatch.setattr(jobs._gallery, "add", spied)
    final = last(jobs, submit(jobs, count=3, seed=7))
    assert seen == ["running"] * 3
    assert [entry.seed for entry in final.entries] == [7, 8, 9]
    assert final.seconds > 0


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


def test_a_request_that_no_seed_can_draw_is_refused_and_the_queue_lives(jobs):
    seed = next(seed for seed in range(99) if requests.choose("{|a red fox}", seed) == "")
    with pytest.raises(BadRequest, match="there are none"):
        jobs.submit(GenerateRequest(prompt="{|a red fox}", seed=seed))
    assert jobs.listed() == [] and last(jobs, submit(jobs)).state == "done"


def test_what_was_drawn_before_the_studio_closed_is_not_drawn_again(open_jobs, worker):
    jobs = open_jobs()
    worker.hold_seed(2)
    job = jobs.submit(GenerateRequest(prompt="a", count=3, steps=3, seed=1))
    next(state for state in jobs.watch(job) if state.progress and state.progress.index > 3)
    jobs.close()
    worker.hold.set()
    again = open_jobs()
    final = [*again.watch(job)][-1]
    assert final.state == "done" and [entry.seed for entry in final.entries] == [1, 2, 3]
    assert len(worker.seen) == 4  # the second picture was begun twice


def test_a_finished_job_is_no_resumed_one(jobs):
    assert not last(jobs, submit(jobs)).resumed


def test_stop_is_not_taken_back_by_skip(jobs, worker):
    worker.hold.clear()
    job = begun(jobs, submit(jobs, count=2))
    jobs.stop(job)
    jobs.skip(job)
    assert last(jobs, job).state == "cancelled"


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
    def broken(*_, **__):
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
    jobs.stop(ids[0])
    jobs.stop("never was")
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


def run_of(count=1, steps=4):
    request = GenerateRequest(prompt="a fox", steps=steps, count=count)
    return queue.Run(queue.Job("id", "", request), worker=None)


def test_the_pace_leaves_out_the_start_of_the_engine(monkeypatch):
    run, clock, left = run_of(), [100.0], []
    run.started = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for index in (1, 2, 3):  # the first step after 100 seconds, then one every 2
        run.progressed(Progress(index, 4))
        left.append(run.seconds_left)
        clock[0] += 2
    assert left == [300, 4, 2]


def test_progress_is_that_of_all_pictures():
    run = run_of(count=3)
    run.piece = 1
    run.progressed(Progress(2, 4))
    assert run.progress == Progress(6, 12)


def test_a_task_may_tell_that_nothing_is_done_yet():
    run = run_of()
    run.progressed(Progress(0, 4))
    assert run.seconds_left > 0


def test_a_preview_stays_until_the_next():
    run = run_of()
    run.progressed(Progress(2, 4, RED))
    run.progressed(Progress(3, 4))
    assert run.progress == Progress(3, 4, RED)


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


def test_closing_stops_what_runs_and_leaves_it_for_the_next_start(open_jobs, worker):
    jobs = open_jobs()
    worker.hold.clear()
    running, waiting = begun(jobs, submit(jobs, "a")), submit(jobs, "b")
    jobs.close()
    assert worker.seen == ["a"]
    worker.hold.set()
    jobs = open_jobs()
    assert [last(jobs, job).state for job in (running, waiting)] == ["done", "done"]
    assert worker.seen == ["a", "a", "b"]


# ---------------------------------------------------------------- stop, finish, skip


def until(jobs, job, right):
    return next(state for state in jobs.watch(job, every=0.05) if right(state))


@pytest.mark.parametrize(("verb", "state", "seeds"), [
    ("stop", "cancelled", [1]),
    ("finish", "done", [1, 2]),
    ("skip", "done", [1, 3, 4]),
])  # fmt: skip
def test_the_three_verbs_keep_what_is_finished(jobs, worker, verb, state, seeds):
    worker.hold_seed(2)
    job = submit(jobs, count=4, seed=1)
    until(jobs, job, lambda state: state.progress and state.progress.index == 5)
    getattr(jobs, verb)(job)
    if verb == "finish":
        worker.hold.set()
    final = last(jobs, job)
    assert (final.state, [entry.seed for entry in final.entries]) == (state, seeds)
    assert last(jobs, submit(jobs)).state == "done"


def test_pictures_are_told_one_after_the_other(jobs, worker):
    worker.hold_seed(3)
    job = submit(jobs, count=4, seed=1)
    state = until(jobs, job, lambda state: state.progress and state.progress.index == 9)
    assert [entry.seed for entry in state.entries] == [1, 2]
    assert state.progress == Progress(9, 16)
    worker.hold.set()
    assert len(last(jobs, job).entries) == 4


# ---------------------------------------------------------------- turns


def test_users_take_turns_and_one_who_floods_holds_nobody_up(jobs, worker, monkeypatch):
    monkeypatch.setattr(queue, "MAX_WAITING", 5)
    worker.hold.clear()
    first = submit_as(jobs, "flood", "f0")
    begun(jobs, first, user="flood")
    flood = [submit_as(jobs, "flood", f"f{i}") for i in range(1, 6)]
    with pytest.raises(BadRequest, match="5 jobs of yours"):
        submit_as(jobs, "flood", "too many")
    others = [submit_as(jobs, user, f"{user}{i}") for i in range(2) for user in ("ann", "bo")]
    assert jobs.state(flood[0], "flood").ahead == 3  # the one at work, and a turn of ann and of bo
    assert [jobs.state(job, user).ahead for job, user in zip(others, ("ann", "bo") * 2, strict=True)] == [1, 2, 4, 5]
    worker.hold.set()
    for job in flood:
        last(jobs, job, user="flood")
    assert worker.seen == ["f0", "ann0", "bo0", "f1", "ann1", "bo1", "f2", "f3", "f4", "f5"]


def submit_as(jobs, user, prompt):
    return jobs.submit(GenerateRequest(prompt=prompt, steps=4), user)


def test_of_another_user_a_job_never_was(jobs, worker):
    worker.hold.clear()
    running, waiting = submit_as(jobs, "ann", "a"), submit_as(jobs, "ann", "b")
    begun(jobs, running, user="ann")
    for job in (running, waiting):
        for verb in (jobs.stop, jobs.finish, jobs.skip):
            verb(job, "bo")
        jobs.hold(job, user="bo")
        jobs.move(job, -1, "bo")
        for asked in (jobs.state, jobs.again):
            with pytest.raises(BadRequest, match="no such job"):
                asked(job, "bo")
    assert jobs.listed("bo") == []
    worker.hold.set()
    assert [last(jobs, job, user="ann").state for job in (running, waiting)] == ["done", "done"]
    assert [state.prompt for state in jobs.listed("ann")] == ["b", "a"]
    with pytest.raises(BadRequest, match="no such job"):
        jobs.state(running, "bo")


def test_two_workers_draw_two_jobs_at_a_time(tmp_path, worker):
    pair = worker, type(worker)()
    for one in pair:
        one.hold.clear()
    database = Database(tmp_path / "two.db")
    jobs = queue.Jobs(pair, Gallery(tmp_path, database), database)
    ids = [submit(jobs, prompt) for prompt in "abc"]
    for job in ids[:2]:
        begun(jobs, job)
    assert jobs.state(ids[2]).ahead == 2 and sorted(pair[0].seen + pair[1].seen) == ["a", "b"]
    for one in pair:
        one.hold.set()
    assert [last(jobs, job).state for job in ids] == ["done"] * 3
    jobs.close()


# ---------------------------------------------------------------- order, holding, trying again


def test_waiting_jobs_are_moved_held_and_let_go(open_jobs, worker):
    jobs = open_jobs()
    worker.hold.clear()
    begun(jobs, submit(jobs, "a"))
    b, c, d, e = (submit(jobs, prompt) for prompt in "bcde")
    jobs.move(d, -2)
    jobs.move(b, -9)
    jobs.hold(c)
    assert [jobs.state(job).ahead for job in (b, d, e)] == [1, 2, 3] and jobs.state(c).state == "held"
    jobs.close()  # and all of it is found again
    jobs = open_jobs()
    assert [jobs.state(job).state for job in (b, c, d, e)] == ["waiting", "held", "waiting", "waiting"]
    worker.hold.set()
    last(jobs, e)
    jobs.hold(c, False)
    assert last(jobs, c).state == "done"
    assert worker.seen == ["a", "a", "b", "d", "e", "c"]


def test_an_earlier_job_is_queued_again(jobs, worker):
    failed = submit(jobs, "refused")
    assert last(jobs, failed).state == "failed"
    assert last(jobs, jobs.again(failed)).state == "failed"
    assert worker.seen == ["refused"] * 2
    assert [(state.state, state.task) for state in jobs.listed()] == [("failed", "generate")] * 2


def test_looks_come_between_two_pictures(jobs, worker):
    worker.hold_seed(1)
    job = submit(jobs, count=2, seed=1)
    begun(jobs, job)
    looks = []
    look = threading.Thread(target=lambda: looks.append(jobs.aside(GenerateRequest(prompt="look", steps=1, seed=9))))
    look.start()
    while not jobs._aside[worker]:
        time.sleep(0.01)
    worker.hold.set()
    last(jobs, job)
    look.join(30)
    assert worker.seen == ["a fox", "look", "a fox"] and len(looks) == 1


# ---------------------------------------------------------------- how long it will take


def test_the_time_is_told_from_what_was_measured(jobs, worker):
    request = GenerateRequest(prompt="a", steps=10, count=2, width=128, height=64)
    assert jobs.estimate(request) == (None, None)
    jobs._paces[GenerateRequest, "", "dpmpp_2m"] = 1e-5
    # with guidance, each step looks twice
    assert jobs.estimate(request)[0] == pytest.approx(2 * 10 * 128 * 64 * 2 * 1e-5)
    worker.hold.clear()
    running, waiting = begun(jobs, submit(jobs, "a")), submit(jobs, "b")
    left, own = jobs.state(running).seconds_left, jobs.estimate(GenerateRequest(prompt="b", steps=4))[0]
    assert jobs.state(waiting).seconds_left == pytest.approx(left + own)


def test_drawing_measures_the_pace(jobs, worker):
    last(jobs, submit(jobs))
    assert jobs.estimate(GenerateRequest(prompt="a"))[0] > 0
    assert jobs.estimate(GenerateRequest(prompt="a", sampler="heun"))[0] is None


def test_an_enlargement_takes_as_long_as_its_pixels_and_looks(jobs):
    image = png(Image.new("RGB", (50, 40)))
    faithful = UpscaleRequest(image=image, scale=4)
    assert jobs.estimate(faithful) == (None, None)
    jobs._paces[UpscaleRequest, "", ""] = 1e-3
    assert jobs.estimate(faithful)[0] == pytest.approx(50 * 40 * 1e-3)
    inventive = UpscaleRequest(image=image, scale=4, detail=0.5, looks=3)
    assert jobs.estimate(inventive)[0] == pytest.approx(3 * 50 * 40 * 1e-3)
    twice = UpscaleRequest(image=image, scale=8)  # four times, and what came of it twice
    assert jobs.estimate(twice)[0] == pytest.approx(17 * 50 * 40 * 1e-3)


def test_nobody_can_tell_how_long_the_parts_of_a_mask_take(jobs):
    asked = {"image": b"picture", "mask": b"mask", "prompt": "a", "steps": 4}
    jobs._paces[InpaintRequest, "", "dpmpp_2m"] = 1.0
    assert jobs.estimate(InpaintRequest(**asked))[0] == pytest.approx(8)
    assert jobs.estimate(InpaintRequest(**asked, area="parts"))[0] is None
