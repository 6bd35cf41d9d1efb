"""The Compare tab: models on the same input, one model over axes, and a vote without names."""

import dataclasses
import functools
import html
import io
import itertools
import secrets
from types import SimpleNamespace
from urllib.parse import quote

import gradio as gr

from engines.catalog import catalog
from engines.errors import BadRequest
from engines.requests import CompareRequest, ReconstructRequest
from studio import comparison, images
from studio.jobs import FINAL
from studio.pair_view import MODES, PairView
from studio.tabs import inpaint, upscale
from studio.tabs.common import (
    QUIET,
    Latest,
    control,
    guard,
    model_choices,
    named,
    remembered,
    standing,
    temporary,
    upload,
)
from studio.tabs.generate import requested
from studio.texts import say, t

MOST = 4  # models at once
COMPARED = ("generate", "reconstruct", "inpaint", "upscale")  # tasks
AXES = ("across", "down", "pages")
CHOOSE = """element.addEventListener('click', event => {
  const cell = event.target.closest('[data-cell]');
  if (cell) trigger('choose', {cell: Number(cell.dataset.cell)});
});"""


def draw(studio):
    """Draw the tab; returns its parts."""
    models = {
        task: gr.CheckboxGroup(
            choices, value=[model for _, model in choices[:2]], label=t("compare.models"),
            info=t("compare.models.help"), elem_id=f"compare-{task}-models", render=False,
        )
        for task, choices in _models(studio).items()
    }  # fmt: skip
    with gr.Row(elem_id="compare-page", elem_classes="page"):
        with gr.Column(elem_classes="ask"):
            what = gr.Radio(
                [(t("compare.words"), "generate"), (t("compare.picture"), "reconstruct"),
                 (t("compare.mask"), "inpaint"), (t("compare.larger"), "upscale")],
                value="generate", label=t("compare.what"), elem_id="compare-what",
            )  # fmt: skip
            with gr.Column() as words:
                prompt = gr.Textbox(label=t("prompt"), info=t("compare.prompt.help"), lines=2, elem_id="compare-prompt")
                seed = gr.Number(0, label=t("seed"), info=t("compare.seed.help"), precision=0, elem_id="compare-seed")
                models["generate"].render()
            with gr.Column(visible=False) as picture:
                image = upload("compare", 260)
                max_side = control(ReconstructRequest, "max_side", "compare")
                models["reconstruct"].render()
            with gr.Column(visible=False) as mask:
                gr.Markdown(t("compare.mask.help"), elem_classes="hint")
                models["inpaint"].render()
            with gr.Column(visible=False) as larger:
                gr.Markdown(t("compare.larger.help"), elem_classes="hint")
                models["upscale"].render()
            blind = gr.Checkbox(label=t("compare.blind"), info=t("compare.blind.help"), elem_id="compare-blind")
            with gr.Row(elem_classes="actions"):
                run = gr.Button(t("compare"), variant="primary", elem_id="compare-run", elem_classes="run")
                stop = gr.Button(t("stop"), interactive=False, elem_id="compare-stop", elem_classes="halt")
        with gr.Column(elem_classes="result"):
            line = gr.HTML(elem_id="compare-status", elem_classes="line")
            gr.Markdown(t("compare.empty"), elem_id="compare-empty", elem_classes=["hint", "empty"])
            grid = gr.HTML(elem_id="compare-grid", js_on_load=CHOOSE)
            with gr.Column(visible=False, elem_classes="stage-free") as closer:
                mode = gr.Radio(
                    [(t(f"compare.{name}"), name) for name in MODES], value="slider", show_label=False,
                    container=False, elem_id="compare-mode", elem_classes="modes",
                )  # fmt: skip
                view = PairView(elem_id="compare-view")
                with gr.Row(elem_classes="actions", visible=False) as ballot:
                    votes = {
                        share: gr.Button(t(f"compare.{name}"), size="sm", elem_id=f"compare-{name}")
                        for share, name in ((1.0, "one"), (0.5, "tie"), (0.0, "other"))
                    }
                measures = gr.HTML(elem_id="compare-measures")
            with gr.Row(elem_classes="actions", visible=False) as exports:
                sheet = gr.DownloadButton(t("compare.sheet"), size="sm", elem_id="compare-sheet")
                folder = gr.DownloadButton(t("compare.folder"), size="sm", elem_id="compare-folder")
        with gr.Column(elem_classes="settings"):
            with gr.Accordion(t("compare.axes"), open=False, elem_id="compare-axes") as axes_of_words:
                gr.Markdown(t("compare.axes.help"), elem_classes="hint")
                axes = []
                for name in AXES:
                    with gr.Row():
                        field = gr.Dropdown(
                            [(t("compare.none"), ""), *((t(field), field) for field in comparison.fields())],
                            value="", label=t(f"compare.{name}"), elem_id=f"compare-{name}",
                        )  # fmt: skip
                        values = gr.Textbox(
                            label=t("compare.values"), placeholder="1, 2, 3", elem_id=f"compare-{name}-values",
                            max_lines=3,
                        )  # fmt: skip
                        axes.append((field, values))
            with gr.Accordion(t("compare.ranking"), open=False, elem_id="compare-ranking"):
                ranking = gr.HTML(elem_id="compare-ranks")
                gr.Markdown(t("compare.ranking.help"), elem_classes="hint")
    return SimpleNamespace(
        what=what, words=words, picture=picture, mask=mask, larger=larger, prompt=prompt, seed=seed, image=image,
        max_side=max_side, models=models, blind=blind, run=run, stop=stop, line=line, grid=grid, closer=closer,
        mode=mode, view=view, ballot=ballot, votes=votes, measures=measures, exports=exports, sheet=sheet,
        folder=folder, axes_of_words=axes_of_words, axes=axes, ranking=ranking,
        pair=gr.State(()),
    )  # fmt: skip


def wire(studio, parts, parts_of, tabs, demo):
    """Wire the tab; what it does not ask for itself is as set on the tabs Generate, Inpaint and Upscale."""
    form, inpainting, upscaling = parts_of["generate"].asked, parts_of["inpaint"], parts_of["upscale"]
    # Outside of the tab: a browser reads what it remembers only where it is drawn, and a tab is drawn when visited.
    job = gr.BrowserState("", storage_key="atelier-compare-job", secret="atelier")
    # The votes to come: the places of two cells each, the first of which is shown as A.
    stored = gr.BrowserState([], storage_key="atelier-compare-ballots", secret="atelier")
    looked = Latest()  # which two cells each page looks at, and how
    asked = {
        "what": parts.what, "prompt": parts.prompt, "seed": parts.seed, "image": parts.image,
        "max_side": parts.max_side, "blind": parts.blind, "models": parts.models["generate"],
        "readers": parts.models["reconstruct"], "painters": parts.models["inpaint"], "key": inpainting.key,
        "enlargers": parts.models["upscale"], "small": upscaling.key,
        **{f"{name} {part}": component for name, pair in zip(AXES, parts.axes, strict=True)
           for part, component in zip(("field", "values"), pair, strict=True)},
    }  # fmt: skip
    shown = [
        parts.line, parts.run, parts.stop, parts.grid, parts.closer, parts.view, parts.ballot, parts.measures,
        parts.exports, parts.sheet, parts.folder, parts.ranking, parts.pair, stored,
    ]  # fmt: skip

    def submit(values, request: gr.Request):
        given = named(asked, values)
        if given["what"] == "generate":
            compared = _of_words(given, named(form, values), request)
        elif given["what"] == "reconstruct":
            compared = _of_picture(given, request)
        elif given["what"] == "inpaint":
            base = inpaint.requested(studio, given["key"], named(inpainting.fields, values) | {"count": 1}, request)
            compared = CompareRequest(base, (_of_models(base, given["painters"], request),))
        else:
            base = upscale.requested(studio, given["small"], named(upscaling.asked, values), request)
            compared = CompareRequest(base, (_of_models(base, given["enlargers"], request),))
        looked[request.session_hash] = (), values[parts.mode]
        return studio.jobs.submit(compared), _ballots(compared) if given["blind"] else [], ()

    def _of_words(given, generate, request):
        own = {"seed": given["seed"] or 0, "count": 1, "random_seed": False}
        if given["prompt"].strip():
            own |= {"prompt": given["prompt"], "noise_only": False}
        base = requested(studio, generate | own)
        axes = [
            comparison.points(base, given[f"{name} field"], given[f"{name} values"])
            for name in AXES if given[f"{name} field"]
        ]  # fmt: skip
        models = _of_models(base, given["models"], request)
        if len(models) == 1:
            base = dataclasses.replace(base, **models[0])
        return CompareRequest(base, (models, *axes) if len(models) > 1 else tuple(axes))

    def _of_picture(given, request):
        if not given["image"]:
            raise BadRequest(say(request, "no_picture"))
        base = ReconstructRequest(
            image=images.source_bytes(given["image"], given["max_side"]), max_side=given["max_side"]
        )
        return CompareRequest(base, (tuple({"model": name} for name in given["readers"]),))

    def _of_models(base, names, request):
        rows = catalog(studio.home)
        if len(names) > MOST:
            raise BadRequest(say(request, "compare.too_many", most=MOST))
        return comparison.of_models(base, [rows[name] for name in names if name in rows])

    def _ballots(compared):
        # two cells that differ in the model alone, in an order and on sides that tell nothing
        cells = compared.cells()
        pairs = [
            (one, other) for one, other in itertools.combinations(cells, 2)
            if cells[one].model != cells[other].model
            and sum(a != b for a, b in zip(one, other, strict=True)) == 1
        ]  # fmt: skip
        chance = secrets.SystemRandom()
        return [chance.sample(pair, 2) for pair in chance.sample(pairs, len(pairs))]

    def follow(job, ballots, mode, request: gr.Request):
        shown = None  # how many cells, and whether that was all
        for state in studio.jobs.watch(job):
            now = len(state.entries), state.state in FINAL
            if now == shown:
                yield standing(state, request, parts.line, parts.run, parts.stop)
            else:
                pair, mode = looked.get(request.session_hash, ((), mode))
                yield view(state, pair, ballots, mode, request)
            shown = now

    def opened(job, ballots, mode, request: gr.Request):
        # gradio takes a handler that yields nothing for one that empties its outputs
        yield {parts.ranking: ranks(request)}
        if remembered(studio, job):
            yield from follow(job, ballots, mode, request)

    def view(state, pair, ballots, mode, request):
        # everything that is shown of a comparison
        compared = studio.jobs.request(state.id)
        over, found = state.state in FINAL, comparison.by_place(compared, state.entries)
        ballots = [vote for vote in map(_places, ballots) if not over or set(vote) <= found.keys()]
        if ballots:
            pair = ballots[0] if over else ()
        elif len(pair) < 2:
            pair = tuple(found)[:2]
        pair = tuple(place for place in pair if place in found)
        two = [found[place] for place in pair] if len(pair) == 2 else []
        return standing(state, request, parts.line, parts.run, parts.stop) | {
            parts.grid: waiting(ballots, over, request) if ballots else cells(compared, found, pair, request),
            parts.closer: gr.Column(visible=bool(two)),
            parts.view: _pair(two, ("A", "B") if ballots else _names(compared, pair, request), mode) if two else None,
            parts.ballot: gr.Row(visible=bool(ballots) and over),
            parts.measures: "",
            **({} if over and not ballots else {parts.exports: gr.Row(visible=False)}),
            parts.ranking: ranks(request),
            parts.pair: pair,
            stored: ballots,
        }

    @functools.lru_cache(maxsize=128)  # pictures in the gallery stay as they are
    def distances(one, other):
        return comparison.measured(studio.jobs.aside, images.read_picture(one), images.read_picture(other))

    def apart(compared, found):
        return comparison.apart(compared, {place: entry.path for place, entry in found.items()}, distances)

    def export(job, ballots, request: gr.Request):
        state = remembered(studio, job)
        if state is None or state.state not in FINAL or not state.entries or ballots:
            return gr.skip(), gr.skip(), gr.skip()
        compared, stream = studio.jobs.request(job), io.BytesIO()
        found = comparison.by_place(compared, state.entries)
        comparison.write_folder(compared, state.entries, apart(compared, found), stream)
        pictures = {place: images.read_picture(entry.path) for place, entry in found.items()}
        sheet = comparison.sheet(compared, pictures, functools.partial(say, request))
        return (
            gr.Row(visible=True),
            gr.DownloadButton(value=temporary(comparison.SHEET, images.png_bytes(sheet))),
            gr.DownloadButton(value=temporary("comparison.zip", stream.getvalue())),
        )

    def again(job, pair, ballots, mode, request):
        looked[request.session_hash] = pair, mode
        return view(studio.jobs.state(job), pair, ballots, mode, request)

    def choose(job, pair, ballots, mode, event: gr.EventData, request: gr.Request):
        # the one chosen longer ago makes way
        place = list(studio.jobs.request(job).cells())[event.cell]
        pair = pair if place in pair[-1:] else (*pair[-1:], place)
        return again(job, pair, ballots, mode, request)

    def look(job, pair, ballots, mode, request: gr.Request):
        return again(job, pair, ballots, mode, request)

    def vote(share):
        def voted(job, pair, ballots, mode, request: gr.Request):
            if not ballots:
                raise BadRequest(say(request, "compare.voted"))
            compared = studio.jobs.request(job).cells()
            one, other = (compared[place].model for place in _places(ballots[0]))
            studio.votes.add(one, other, share, job)
            return again(job, pair, ballots[1:], mode, request)

        return guard(voted)

    def measure(job, pair, ballots, request: gr.Request):
        if len(pair) < 2 or ballots:
            return ""
        compared = studio.jobs.request(job)
        found = comparison.by_place(compared, studio.jobs.state(job).entries)
        told = _measures(distances, compared, [found[place] for place in pair], request)
        return told + _from_the_first(compared, found, apart(compared, found), request)

    def ranks(request):
        rows = studio.votes.ranking()
        if not rows:
            return f'<div class="status">{say(request, "compare.no_votes")}</div>'
        body = "".join(
            f"<tr><td>{html.escape(rank.model)}</td><td>{rank.points:.0f}</td><td>{rank.votes}</td></tr>"
            for rank in rows
        )
        head = "".join(f"<th>{say(request, key)}</th>" for key in ("model", "compare.points", "compare.votes"))
        return f'<table class="facts-table"><tr>{head}</tr>{body}</table>'

    def waiting(ballots, over, request):
        words = say(request, "compare.to_vote", count=len(ballots)) if over else say(request, "compare.hidden")
        return f'<div class="status">{words}</div>'

    def cells(compared, found, pair, request):
        across, down, pages = comparison.labels(compared, functools.partial(say, request))
        number, blocks = {place: i for i, place in enumerate(compared.cells())}, []
        for page, title in enumerate(pages):
            head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in across)
            rows = []
            for row, text in enumerate(down):
                line = "".join(
                    f"<td>{_cell((column, row, page), number, found, pair, request)}</td>"
                    for column in range(len(across))
                )
                rows.append(f'<tr><th scope="row">{html.escape(text)}</th>{line}</tr>')
            blocks.append(
                f"<table><caption>{html.escape(title)}</caption><tr><td></td>{head}</tr>{''.join(rows)}</table>"
            )
        return f'<div class="cells">{"".join(blocks)}</div>'

    def _cell(place, number, found, pair, request):
        entry = found.get(place)
        if entry is None:
            return '<div class="cell missing"></div>'
        mark = "AB"[pair.index(place)] if place in pair else ""
        seconds = say(request, "seconds", seconds=entry.record.get("seconds", 0.0))
        return (
            f'<button class="cell" data-cell="{number[place]}" aria-pressed="{str(bool(mark)).lower()}">'
            f'<img src="{_address(studio.gallery.thumbnail(entry))}" alt="{html.escape(entry.prompt, quote=True)}">'
            f"<span>{mark and f'<b>{mark}</b> '}{seconds}</span></button>"
        )

    follower = {"outputs": shown, "concurrency_limit": None, **QUIET}
    watched = [job, stored, parts.mode]
    state = [job, parts.pair, stored, parts.mode]
    measured = [job, parts.pair, stored]
    exporting = [job, stored], [parts.exports, parts.sheet, parts.folder]
    parts.what.change(
        lambda what: [gr.Column(visible=what == "generate"), gr.Column(visible=what == "reconstruct"),
                      gr.Column(visible=what == "inpaint"), gr.Column(visible=what == "upscale"),
                      gr.Accordion(visible=what == "generate")],
        parts.what, [parts.words, parts.picture, parts.mask, parts.larger, parts.axes_of_words], **QUIET,
    )  # fmt: skip
    asking = parts.run.click(
        guard(submit),
        {*asked.values(), *form.values(), *inpainting.fields.values(), *upscaling.asked.values(), parts.mode},
        [job, stored, parts.pair], **QUIET,
    )  # fmt: skip
    for shows in (asking.success(guard(follow), watched, **follower), demo.load(guard(opened), watched, **follower)):
        shows.success(guard(measure), measured, parts.measures, **QUIET).success(guard(export), *exporting, **QUIET)
    parts.stop.click(guard(lambda job: studio.jobs.stop(job)), job, None, **QUIET)
    parts.grid.choose(guard(choose), state, shown, **QUIET).success(guard(measure), measured, parts.measures, **QUIET)
    parts.mode.input(guard(look), state, shown, **QUIET).success(guard(measure), measured, parts.measures, **QUIET)
    for share, button in parts.votes.items():
        button.click(vote(share), state, shown, **QUIET).success(
            guard(measure), measured, parts.measures, **QUIET
        ).success(guard(export), *exporting, **QUIET)


def _models(studio):
    # what there is to compare, by task
    rows = catalog(studio.home).values()
    return {task: model_choices(row for row in rows if task in row.tasks) for task in COMPARED}


def _places(ballot):
    # the two places of a vote, as the browser kept them
    return tuple(tuple(place) for place in ballot)


def _address(path):
    return f"gradio_api/file={quote(str(path))}"


def _called(compared, place, request):
    # in the language of the page
    return comparison.called(compared, place, functools.partial(say, request))


def _names(compared, pair, request):
    names = [_called(compared, place, request) for place in pair]
    return [f"{letter} · {name}" for letter, name in zip("AB"[: len(names)], names, strict=True)]


def _pair(two, names, mode):
    one, other = (_address(entry.path) for entry in two)
    return {"one": one, "other": other, "names": list(names), "mode": mode}


def _measures(distances, compared, two, request):
    # time and memory of two pictures, how far they are from each other, and of reconstructions from the source
    rows = [
        ("compare.time", [say(request, "seconds", seconds=entry.record.get("seconds", 0.0)) for entry in two]),
        ("compare.memory", [_megabytes(entry.record.get("memory")) for entry in two]),
    ]
    if isinstance(compared.base, ReconstructRequest):
        found = [distances(compared.base.image, entry.path) for entry in two]
        rows += [(f"compare.{name}", [_value(result, name) for result in found]) for name in DISTANCES]
    body = "".join(
        f'<tr><th scope="row">{say(request, key)}</th><td>{one}</td><td>{other}</td></tr>'
        for key, (one, other) in rows
    )
    between = distances(*(entry.path for entry in two))
    apart = " · ".join(f"{say(request, f'compare.{name}')} {_value(between, name)}" for name in DISTANCES)
    if between and not between.largest:
        apart = say(request, "compare.identical")
    return (
        f'<table class="facts-table"><tr><td></td><th scope="col">A</th><th scope="col">B</th></tr>{body}</table>'
        f'<p class="apart">{say(request, "compare.apart")} {apart}</p>'
        f'<p class="apart">{say(request, "compare.distance.help")}</p>'
    )


def _from_the_first(compared, found, apart, request):
    # of each picture by another model than the first; of a comparison of two, all is said by then
    if len(found) < 3 or not apart:
        return ""
    first = compared.cells()[next(iter(comparison.firsts(compared).values()))].model
    head = "".join(f'<th scope="col">{say(request, f"compare.{name}")}</th>' for name in DISTANCES)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(_called(compared, place, request))}</th>{_row(result, request)}</tr>'
        for place, result in apart.items()
    )
    title = html.escape(say(request, "compare.from_first", model=first))
    return f'<table class="facts-table"><caption>{title}</caption><tr><td></td>{head}</tr>{rows}</table>'


def _row(result, request):
    if not result.largest:
        return f'<td colspan="{len(DISTANCES)}">{say(request, "compare.identical")}</td>'
    return "".join(f"<td>{_value(result, name)}</td>" for name in DISTANCES)


DISTANCES = {
    "largest": "{}/255", "mean": "{:.2f}/255", "psnr": "{:.2f} dB", "ssim": "{:.3f}", "distance": "{:.4f}",
}  # fmt: skip


def _value(result, name):
    return DISTANCES[name].format(getattr(result, name)) if result else "–"


def _megabytes(memory):
    return f"{memory / 2**20:.0f} MiB" if memory else "–"
