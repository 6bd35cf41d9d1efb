"""The endpoints that scripts call: one a task, typed and documented by the requests' own table."""

import dataclasses
import inspect

import gradio as gr

from engines import requests
from engines.catalog import catalog, find
from engines.errors import AtelierError
from studio import images, wildcards
from studio.jobs import FINAL
from studio.tabs.common import file_of, guard, sent

AT_ONCE = 4  # calls that wait for their pictures; each holds a thread of the page
SIDE = 2048  # pixels of the longer side of a picture that is drawn from


def publish(studio):
    """Give the page its endpoints; to be called inside its `gr.Blocks`."""

    def finished(request, sources=()):
        job = studio.jobs.submit(request)
        for state in studio.jobs.watch(job):
            if state.state in FINAL:
                break
        if state.state != "done":
            raise AtelierError(state.error or "The job was stopped.")
        pictures = [
            {"id": entry.id, "seed": entry.seed, "file": file_of(entry.path),
             "record": images.whole_record(entry.path)}
            for entry in state.entries
        ]
        notes = [images.LOSSES[key] for source in sources for key in images.losses(source)]
        return {"job": job, "seconds": state.seconds, "pictures": pictures, "notes": notes}

    def worded(task, given):
        # words filled from their lists, and what is left open as it suits the model
        row = find(given["model"], task, studio.home, paths=False)
        given["prompt"] = wildcards.fill(given["prompt"], studio.home)
        return requests.suited(row.family, given, row.size)

    def generate(**given):
        if given["image"]:
            given["image"] = images.source_bytes(sent(given["image"]), SIDE)
        return finished(requests.GenerateRequest(**worded("generate", given)))

    def inpaint(**given):
        sources = {name: sent(given[name]) for name in ("image", "mask") if given[name]}
        for name in ("image", "mask"):
            given[name] = images.full_bytes(sources[name]) if name in sources else b""
        return finished(requests.InpaintRequest(**worded("inpaint", given)), sources.values())

    def reconstruct(**given):
        given["image"] = images.source_bytes(sent(given["image"]), given["max_side"])
        return finished(requests.ReconstructRequest(**given))

    def on_whole_picture(name):
        def act(**given):
            source = sent(given["image"])
            given["image"] = images.full_bytes(source)
            if "prompt" in given:
                given = worded(name, given)
            return finished(requests.TASKS[name](**given), [source])

        return act

    def models() -> list[dict]:
        """The models of the catalog: id, family, tasks and licence."""
        return [
            {"id": row.id, "family": row.family, "tasks": list(row.tasks), "licence": row.licence}
            for row in catalog(studio.home).values()
        ]

    endpoint("generate", requests.GenerateRequest, generate, left_open=requests.SUGGESTED)
    endpoint("inpaint", requests.InpaintRequest, inpaint, left_open=requests.SETTINGS)
    for name in ("upscale", "refine", "adjust"):
        left_open = requests.SETTINGS if name == "refine" else ()
        endpoint(name, requests.TASKS[name], on_whole_picture(name), left_open=left_open)
    endpoint("reconstruct", requests.ReconstructRequest, reconstruct, leave_out=("tokens",))
    gr.api(guard(models), api_name="models")


def endpoint(name, kind, act, leave_out=(), left_open=()):
    """Publish `act` as `/name`, with the fields of the request class `kind` as its typed parameters.

    Those `left_open` are None where they are not given.
    """
    fields = [item for item in dataclasses.fields(kind) if item.name not in leave_out]
    types = {item.name: dict if bytes in (item.type, *getattr(item.type, "__args__", ())) else item.type
             for item in fields}  # fmt: skip
    types |= {name: types[name] | None for name in left_open}

    def call(*values):
        return act(**{item.name: value for item, value in zip(fields, values, strict=True)})

    call.__name__ = name
    call.__doc__ = f"{kind.__doc__.splitlines()[0]}\n\n" + "\n".join(
        f"{item.name}: {item.metadata['help']}" for item in fields
    )
    call.__annotations__ = types | {"return": dict}
    parameters = [
        inspect.Parameter(
            item.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=types[item.name],
            default=None if types[item.name] is dict or item.name in left_open else item.default,
        )
        for item in fields
    ]  # fmt: skip
    call.__signature__ = inspect.Signature(parameters, return_annotation=dict)
    gr.api(guard(call), api_name=name, api_description=call.__doc__, concurrency_limit=AT_ONCE, concurrency_id="api")
