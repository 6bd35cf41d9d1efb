"""The queue: order, cancel, failure, and what a killed studio leaves behind."""

import sqlite3

import pytest

from engines.errors import BadRequest
from engines.requests import GenerateRequest, alone
from studio import images
from studio.gallery import request_of
from studio.jobs import ATTEMPTS, FINAL


def request(prompt="a", **fields):
    return GenerateRequest(prompt=prompt, **{"steps": 3} | fields)


def finish(jobs, job):
    return list(jobs.watch(job, every=0.1))[-1]


def test_jobs_run_in_order_and_leave_their_pictures(open_jobs, worker):
    jobs = open_jobs()
    submitted = [jobs.submit(request(prompt, count=2, seed=5)) for prompt in "abc"]
    states = [finish(jobs, job) for job in submitted]
    assert worker.seen == ["a", "a", "b", "b", "c", "c"]
    for state, prompt in zip(states, "abc", strict=True):
        assert state.state == "done" and [entry.seed for entry in state.entries] == [5, 6]
        asked = request(prompt, count=2, seed=5)
        for entry in state.entries:
            assert entry.prompt == prompt and entry.path.exists()
            assert request_of(images.read_record(entry.path)) == alone(asked, entry.seed - 5)


def test_what_is_asked_aside_leaves_nothing_behind(open_jobs, tmp_path):
    jobs = open_jobs()
    assert len(jobs.aside(request("a", count=2)).pictures) == 2
    with pytest.raises(BadRequest, match="no model called"):
        jobs.aside(request("refused"))
    assert not list((tmp_path / "gallery").rglob("*.png"))
    with sqlite3.connect(tmp_path / "atelier.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM jobs").fetchone() == (0,)
    assert finish(jobs, jobs.submit(request("b"))).state == "done"


def test_a_watcher_sees_the_steps_and_who_is_before(open_jobs, worker):
    jobs = open_jobs()
    worker.hold.clear()
    first, second = jobs.submit(request("a")), jobs.submit(request("b"))
    for state in jobs.watch(first, every=0.1):
        if state.progress:
            break
    assert state.progress.index == 1 and state.seconds_left > 0
    assert jobs.state(second).state == "waiting" and jobs.state(second).ahead == 1
    worker.hold.set()
    assert finish(jobs, second).state == "done"


def test_a_waiting_job_is_taken_out(open_jobs, worker):
    jobs = open_jobs()
    worker.hold.clear()
    first, second = jobs.submit(request("a")), jobs.submit(request("b"))
    jobs.stop(second)
    assert jobs.state(second).state == "cancelled"
    worker.hold.set()
    finish(jobs, first)
    assert worker.seen == ["a"]


def test_cancelled_means_idle_and_the_next_job_runs(open_jobs, worker):
    jobs = open_jobs()
    worker.hold.clear()
    first, second = jobs.submit(request("a")), jobs.submit(request("b"))
    next(state for state in jobs.watch(first, every=0.1) if state.progress)
    jobs.stop(first)
    state = finish(jobs, first)
    worker.hold.set()
    assert state.state == "cancelled" and not state.entries
    assert finish(jobs, second).state == "done"


def test_a_finished_job_cannot_be_cancelled(open_jobs):
    jobs = open_jobs()
    job = jobs.submit(request())
    finish(jobs, job)
    jobs.stop(job)
    assert jobs.state(job).state == "done"


def test_a_refused_request_shows_its_sentence_and_the_next_works(open_jobs):
    jobs = open_jobs()
    failed, after = jobs.submit(request("refused")), jobs.submit(request())
    state = finish(jobs, failed)
    assert state.state == "failed" and state.error.startswith("There is no model called")
    assert finish(jobs, after).state == "done"


def test_an_unknown_failure_shows_an_id_and_no_detail(open_jobs, caplog):
    jobs = open_jobs()
    state = finish(jobs, jobs.submit(request("broken")))
    assert "Something went wrong (id " in state.error and "secret" not in state.error
    number = state.error.split("(id ")[1].split(")")[0]
    assert number in caplog.text and "secret detail" in caplog.text


def test_a_full_disk_fails_the_job_and_leaves_no_half_picture(open_jobs, tmp_path, monkeypatch):
    jobs = open_jobs()
    with monkeypatch.context() as patched:

        def full(*arguments):
            raise OSError("No space left on device")

        patched.setattr("studio.images.os.replace", full)
        state = finish(jobs, jobs.submit(request()))
    assert "make room on the disk" in state.error
    assert not [path for path in (tmp_path / "gallery").rglob("*") if path.is_file()]
    assert finish(jobs, jobs.submit(request())).state == "done"


def test_what_waits_is_run_after_a_restart(open_jobs, worker):
    jobs = open_jobs()
    worker.hold.clear()
    running, waiting = jobs.submit(request("a")), jobs.submit(request("b"))
    next(state for state in jobs.watch(running, every=0.1) if state.progress)
    jobs.close()
    worker.hold.set()
    jobs = open_jobs()
    assert finish(jobs, waiting).state == "done"
    assert jobs.state(running).state in FINAL


def test_a_job_that_takes_the_studio_down_is_not_begun_for_ever(open_jobs, tmp_path, worker):
    jobs = open_jobs()
    job = jobs.submit(request())
    finish(jobs, job)
    jobs.close()
    for attempts, state in ((ATTEMPTS - 1, "done"), (ATTEMPTS, "failed")):
        with sqlite3.connect(tmp_path / "atelier.db") as connection:
            connection.execute("UPDATE jobs SET state = 'running', attempts = ? WHERE id = ?", (attempts, job))
        jobs = open_jobs()
        final = finish(jobs, job)
        jobs.close()
        assert final.state == state
    assert f"stopped {ATTEMPTS} times while this was drawn" in final.error
    assert worker.seen == ["a"]  # its picture was there each time


def test_too_many_waiting_jobs_are_refused(open_jobs, worker, monkeypatch):
    monkeypatch.setattr("studio.jobs.MAX_WAITING", 2)
    jobs = open_jobs()
    worker.hold.clear()
    first = jobs.submit(request())
    next(state for state in jobs.watch(first, every=0.1) if state.progress)
    jobs.submit(request()), jobs.submit(request())
    with pytest.raises(BadRequest, match="2 jobs of yours are waiting"):
        jobs.submit(request())


def test_an_unknown_job_is_refused(open_jobs):
    with pytest.raises(BadRequest, match="no such job"):
        open_jobs().state("0000")
