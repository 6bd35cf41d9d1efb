"""The queue on the Generate tab: what runs, what waits and what came of the last, to be moved, held and tried again."""

from types import SimpleNamespace

import gradio as gr

from engines.errors import BadRequest
from studio.jobs import FINAL
from studio.tabs.common import QUIET, guard, left
from studio.texts import say, t

EVERY = 1.0  # seconds between two looks while the list is open
LATEST = 6  # finished jobs that are listed
WORDS = 40  # characters of a prompt that are shown


def draw():
    """Draw the list; returns its parts."""
    with gr.Accordion(t("queue"), open=False, elem_id="queue") as panel:
        jobs = gr.Radio([], show_label=False, container=False, elem_id="queue-jobs", elem_classes="jobs")
        nothing = gr.Markdown(t("queue.nothing"), elem_classes="hint")
        with gr.Row(elem_classes=["actions", "wrapped"]):
            verbs = {
                verb: gr.Button(t(f"queue.{verb}"), size="sm", elem_id=f"queue-{verb}")
                for verb in ("sooner", "later", "hold", "remove", "again")
            }
    return SimpleNamespace(panel=panel, jobs=jobs, nothing=nothing, verbs=verbs, clock=gr.Timer(EVERY, active=False))


def wire(studio, parts, followed):
    """Wire the list; a drawing that is queued again is put into `followed`, the state of the tab's own job."""

    def look(chosen, request: gr.Request):
        states = studio.jobs.listed(latest=LATEST)
        ids = [state.id for state in states]
        choices = [(_row(state, request), state.id) for state in states]
        return {
            parts.jobs: gr.Radio(choices, value=chosen if chosen in ids else None),
            parts.nothing: gr.Markdown(visible=not states),
        }

    def verb(act):
        def acted(chosen, request: gr.Request):
            if not chosen:
                raise BadRequest(say(request, "queue.none_chosen"))
            act(chosen)
            return look(chosen, request)

        return guard(acted)

    def hold(job):
        studio.jobs.hold(job, studio.jobs.state(job).state != "held")

    def again(chosen, request: gr.Request):
        if not chosen:
            raise BadRequest(say(request, "queue.none_chosen"))
        if studio.jobs.state(chosen).state not in FINAL:
            raise BadRequest(say(request, "queue.not_over"))
        job = studio.jobs.again(chosen)
        return job if studio.jobs.state(job).task == "generate" else gr.skip()

    shown = [parts.jobs, parts.nothing]
    parts.clock.tick(guard(look), parts.jobs, shown, **QUIET)
    parts.panel.expand(lambda: gr.Timer(active=True), None, parts.clock, **QUIET)
    parts.panel.collapse(lambda: gr.Timer(active=False), None, parts.clock, **QUIET)
    acts = {
        "sooner": lambda job: studio.jobs.move(job, -1),
        "later": lambda job: studio.jobs.move(job, 1),
        "hold": hold,
        "remove": lambda job: studio.jobs.stop(job),
    }
    for name, act in acts.items():
        parts.verbs[name].click(verb(act), parts.jobs, shown, **QUIET)
    return parts.verbs["again"].click(guard(again), parts.jobs, followed, **QUIET)


def _row(state, request):
    # what is drawn, and how it stands
    words = state.prompt or say(request, "without_words" if state.task == "generate" else state.task)
    if len(words) > WORDS:
        words = words[: WORDS - 1] + "…"
    if state.progress:
        index, count = state.progress.index, state.progress.count
        standing = f"{say(request, 'state.running')}, {index * 100 // count}%"
    else:
        standing = say(request, f"state.{state.state}")
    if state.seconds_left is not None:
        standing += f", {left(state.seconds_left, request)}"
    return f"{words} · {standing}"
