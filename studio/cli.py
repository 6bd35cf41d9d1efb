"""The commands of `app.py`. Results go to standard output, everything else to standard error."""

import argparse
import contextlib
import dataclasses
import getpass
import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from engines import catalog, requests
from engines.checkpoints import pickles
from engines.errors import AtelierError, BadRequest, Cancelled
from engines.pictures import SUFFIXES
from studio import comparison, images
from studio.logins import Logins

DEFAULT_HOME = Path("~/atelier")


def main(argv):
    """Run one command line; returns the exit code: 0, 1 for a failure while running, 2 for a wrong argument."""
    arguments = _parser().parse_args(argv)
    try:
        found = arguments.run(arguments)
    except BadRequest as error:
        _say(f"atelier: {error}")
        return 2
    except AtelierError as error:
        _say(f"atelier: {error}")
        return 1
    except (KeyboardInterrupt, Cancelled):
        _say("\natelier: stopped.")
        return 1
    if arguments.json and found is not None:
        print(json.dumps(found, ensure_ascii=False))
    return 0


# ---------------------------------------------------------------- arguments


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one sentence, as `main` prints them; exits with 2."""

    def error(self, message):
        _say(f"atelier: {message}. See `python app.py --help`.")
        sys.exit(2)


def _parser():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    common.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    common.add_argument("--home", type=Path, default=DEFAULT_HOME, help="the folder of your models and pictures")
    about = "Atelier, a local art studio. Without a command: the studio."
    tests = "`python app.py test` runs every test; what follows goes to pytest."
    parser = Parser(prog="app.py", description=about, epilog=tests, parents=[common])
    parser.add_argument("--host", default="127.0.0.1", help="the address of this machine that the page listens on")
    parser.add_argument("--port", type=int, default=7860, help="the port of the page")
    parser.add_argument("--listen", action="store_true", help="let other machines in, each by a login")
    parser.add_argument("--devices", default="", help="several devices that draw at once, such as cuda:0,cuda:1")
    parser.set_defaults(run=_studio)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)

    def command(name, function, text):
        made = commands.add_parser(name, help=text, description=text, parents=[common])
        made.set_defaults(run=function)
        return made

    generate = command("generate", _generate, "Words or noise to pictures.")
    generate.add_argument("prompt", nargs="?", default="", help="what to draw; nothing draws from noise alone")
    generate.add_argument("--out", type=Path, required=True, help="the folder for the pictures")
    generate.add_argument("--size", help="WxH in pixels; without it, the size that suits the model")
    generate.add_argument("--image", help="a picture to start from; - reads standard input")
    for name in (
        "model", "vae", "negative", "style", "steps", "sampler", "scheduler", "cfg_scale", "cfg_rescale", "cfg_start",
        "cfg_end", "seed", "count", "variation_seed", "variation_strength", "strength", "order", "temperature", "top_k",
        "top_p", "corrections",
    ):  # fmt: skip
        _add_control(generate, requests.GenerateRequest, name)
    generate.set_defaults(**dict.fromkeys(requests.SUGGESTED))  # as suits the model

    reconstruct = command("reconstruct", _reconstruct, "A picture through a VQGAN and back.")
    reconstruct.add_argument("image", help="the picture, or its tokens as .npz; - reads a picture from standard input")
    reconstruct.add_argument("--out", required=True, help="the PNG to write; - writes standard output")
    reconstruct.add_argument("--save-tokens", type=Path, help="write the picture as tokens, too: an .npz to open again")
    for name in ("model", "max_side"):
        _add_control(reconstruct, requests.ReconstructRequest, name)

    inpaint = command("inpaint", _inpaint, "What is under a mask painted anew, and nothing else.")
    inpaint.add_argument("image", help="the picture; - reads standard input")
    inpaint.add_argument("mask", nargs="?", help="a picture of the same size: white is painted anew; not for new space")
    inpaint.add_argument("--out", required=True, help="the PNG to write; - writes standard output")
    for name in (
        "prompt", "model", "vae", "negative", "style", "steps", "sampler", "scheduler", "cfg_scale", "seed", "strength",
        "begin", "area", "margin", "feather", "match", "jumps", "left", "right", "top", "bottom", "order",
        "temperature", "top_k", "top_p", "corrections",
    ):  # fmt: skip
        _add_control(inpaint, requests.InpaintRequest, name)
    inpaint.set_defaults(**dict.fromkeys(requests.SETTINGS))  # as suits the model

    upscale = command("upscale", _upscale, "A picture at more pixels.")
    upscale.add_argument("image", nargs="+", help="the picture, or pictures and folders; - reads standard input")
    upscale.add_argument(
        "--out", required=True, help="the PNG to write, the folder for those of many; - writes standard output"
    )
    cleaning = [item.name for item in dataclasses.fields(requests.Cleaned) if item.name != "image"]
    for name in ("model", "scale", "denoise", "detail", "looks", "seed", "tile", *cleaning):
        _add_control(upscale, requests.UpscaleRequest, name)

    refine = command("refine", _refine, "A picture made bigger and drawn over, for more detail.")
    refine.add_argument("image", help="the picture; - reads standard input")
    refine.add_argument("--out", type=Path, required=True, help="the folder for the pictures")
    for name in (
        "prompt", "model", "vae", "upscaler", "scale", "strength", "overlap", "negative", "style", "steps", "sampler",
        "scheduler", "cfg_scale", "cfg_rescale", "cfg_start", "cfg_end", "seed", "count",
    ):  # fmt: skip
        _add_control(refine, requests.RefineRequest, name)
    refine.set_defaults(**dict.fromkeys(requests.SETTINGS))

    adjust = command("adjust", _adjust, "A picture cleaned up by plain means: colours, contrast, sharpness.")
    adjust.add_argument("image", help="the picture; - reads standard input")
    adjust.add_argument("--out", required=True, help="the PNG to write; - writes standard output")
    for name in cleaning:
        _add_control(adjust, requests.AdjustRequest, name)

    login = command("login", _login, "Let somebody in when the studio listens to other machines.")
    login.add_argument("name", help="small letters, digits, - and _; the password is asked for")

    compare = command("compare", _compare, "Several models on the same words or the same picture.")
    compare.add_argument("--models", required=True, help="names of the catalog or paths, separated by commas")
    compare.add_argument("--image", help="a picture that VQGANs read and redraw; without, models draw the prompt")
    compare.add_argument("--mask", help="with --image: what models paint anew, white in a picture of the same size")
    compare.add_argument("--scale", type=float, help="with --image: how many times as large upscalers make it")
    compare.add_argument("--out", type=Path, required=True, help="the folder for the pictures, the sheet and the JSON")
    for name in ("prompt", "style", "steps", "cfg_scale", "seed"):
        _add_control(compare, requests.GenerateRequest, name)
    compare.set_defaults(**dict.fromkeys(requests.SUGGESTED))

    command("models", _models, "What is in the catalog.")

    convert = command("convert", _convert, "An old checkpoint, a pickle, to safetensors; nothing that it holds is run.")
    convert.add_argument("checkpoint", type=Path, help="a file of torch: .ckpt, .pt, .pth or .bin")
    convert.add_argument("--out", type=Path, help="the .safetensors file to write; without, beside the other")

    relink = command("relink", _relink, "A model that draws with another file of its autoencoder, or of its teacher.")
    relink.add_argument("model", help="a name of the catalog or a path; what it drew with must still be here")
    relink.add_argument("--to", required=True, help="what it is to draw with: of the same latents, or the same teacher")
    relink.add_argument("--out", type=Path, required=True, help="the folder for its model.safetensors, not there yet")

    export = command("export", _export, "A model as a folder that diffusers opens and runs.")
    export.add_argument("model", help="a name of the catalog or a path: one that draws, a VQGAN or a KL autoencoder")
    export.add_argument("--out", type=Path, required=True, help="the folder to write, not there yet")

    train = command("train", _train, "Train a model on a folder of pictures.")
    kinds = ("vqgan", "text", "tokens", "diffusion", "few-steps", "upscaler")
    train.add_argument("kind", choices=kinds, help="what to train")
    train.add_argument("--data", type=Path, required=True, help="pictures with metadata.jsonl or .txt, or IDX digits")
    train.add_argument("--out", type=Path, required=True, help="the folder of the run")
    train.add_argument("--preset", default="icons", help="the recipe: icons, or digits for a VQGAN")
    train.add_argument("--steps", type=int, help="how many steps")
    train.add_argument("--minutes", type=float, help="as many steps as fit into this time")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    train.add_argument("--first-stage", default="", help="the VQGAN whose latents or tokens are learned")
    train.add_argument("--text", default="", help="whose text encoder is taken over, or the CLIP that few steps please")
    train.add_argument("--from", dest="start", default="", help="the model to go on from")
    train.add_argument("--teacher", default="", help="for few steps gone on from: their teacher, trained on since")
    train.add_argument("--drawer", default="", help="the model whose drawing a VQGAN's second head learns to decode")
    train.add_argument("--precision", default="", help="bfloat16 where a processor computes it itself, or float32")
    train.add_argument("--lpips", default="", help="LPIPS weights (safetensors) for a VQGAN's perceptual loss")
    train.add_argument("--licence", default="", help="the licence of the weights, for the card")

    evaluate = command("evaluate", _evaluate, "Measure a model on held-out pictures and write its card.")
    evaluate.add_argument("model", help="a name of the catalog or a path")
    evaluate.add_argument("--data", type=Path, required=True, help="the pictures it was trained on")
    evaluate.add_argument("--out", type=Path, required=True, help="the folder for the card")

    bench = command("bench", _bench, "Speed beside diffusers, or with --quality what models draw.")
    bench.add_argument("--quality", action="store_true", help="measure on held-out pictures instead; needs --data")
    bench.add_argument("--model", default="", help="the one model to measure; without, every one")
    bench.add_argument("--data", type=Path, help="the pictures that the models were trained on")
    bench.add_argument("--out", type=Path, default=Path("quality"), help="the folder for quality.json and the cards")
    return parser


def _add_control(parser, request, name):
    # one option for a field of a request, from the field's own table
    meta = requests.control(request, name)
    kind = type(meta["default"]) if "low" in meta else str
    flags = ["--" + name.replace("_", "-")] + (["--cfg"] if name == "cfg_scale" else [])
    # the help of argparse reads % as a format
    parser.add_argument(*flags, dest=name, type=kind, default=meta["default"], help=meta["help"].replace("%", "%%"))


def _asked(arguments, request, **more):
    names = {item for item in request.__dataclass_fields__ if item in vars(arguments)} - more.keys()
    return request(**{name: getattr(arguments, name) for name in names}, **more)


# ---------------------------------------------------------------- commands


def _studio(arguments):
    from studio import server

    devices = [name.strip() for name in (arguments.devices or arguments.device).split(",")]
    server.serve(_home(arguments), arguments.host, arguments.port, devices, arguments.listen)


def _login(arguments):
    password = getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    home = _home(arguments)
    home.mkdir(parents=True, exist_ok=True)
    Logins(home).add(arguments.name, password)
    _say(f"{arguments.name} may come in; `python app.py --listen` opens the studio to others.")
    return {"login": arguments.name}


def _generate(arguments):
    if arguments.size:
        width, cross, height = arguments.size.lower().partition("x")
        if not (cross and width.isdigit() and height.isdigit()):
            raise BadRequest(f"The size “{arguments.size}” cannot be read; write it as WxH, for example 128x128.")
        arguments.width, arguments.height = int(width), int(height)
    _suit(arguments, catalog.find(arguments.model, "generate", _home(arguments)))
    image = _picture(arguments.image, 2 * max(arguments.width, arguments.height)) if arguments.image else None
    return _drawn(arguments, _asked(arguments, requests.GenerateRequest, image=image))


def _refine(arguments):
    _suit(arguments, catalog.find(arguments.model, "refine", _home(arguments)))
    image = _whole(arguments.image)
    return _drawn(arguments, _asked(arguments, requests.RefineRequest, image=image))


def _drawn(arguments, request):
    # what is drawn of a request, each to a file by its seed
    result = _engine(arguments).run(request, _progress)
    rows = []
    for picture in result.pictures:
        path = arguments.out / f"{picture.seed}.png"
        images.write_png(path, picture.image, picture.record)
        rows.append({"path": str(path), "seed": picture.seed, "seconds": result.seconds / len(result.pictures)})
        _say(f"{path}")
    return {"pictures": rows, "model": result.record["request"]["model"], "seconds": result.seconds}


def _suit(arguments, row):
    # what was not asked for, as it suits the model
    vars(arguments).update(requests.suited(row.family, vars(arguments), row.size))


def _inpaint(arguments):
    _suit(arguments, catalog.find(arguments.model, "inpaint", _home(arguments)))
    result = _engine(arguments).run(_inpainting(arguments), _progress)
    made = _one_written(arguments.out, result, f"{result.changed} pixels changed outside the mask")
    model = result.record["request"]["model"]
    return {"pictures": made, "model": model, "changed": result.changed} if made else None


def _inpainting(arguments):
    mask = _whole(arguments.mask) if arguments.mask else b""
    return _asked(arguments, requests.InpaintRequest, image=_whole(arguments.image), mask=mask)


def _upscale(arguments):
    engine, outs = _engine(arguments), _outs(arguments.image, arguments.out)
    made = []
    for name, out in outs:
        result = engine.run(_asked(arguments, requests.UpscaleRequest, image=_whole(name)), _progress)
        width, height = result.pictures[0].image.size
        made += _one_written(out, result, f"{width}x{height} pixels")
    return {"pictures": made, "model": result.record["request"]["model"]} if made else None


def _outs(names, out):
    # each picture of files and folders, with where its result goes: one to a file, many into a folder
    folders = [name for name in names if name != "-" and Path(name).is_dir()]
    if len(names) == 1 and not folders:
        return [(names[0], out)]
    if out == "-":
        raise BadRequest("Many pictures go into a folder, and not to standard output: name one with --out.")
    paths = []
    for name in names:
        if name in folders:
            paths += sorted(path for path in Path(name).iterdir() if path.suffix.lower() in SUFFIXES)
        else:
            paths.append(Path(name))
    if not paths:
        raise BadRequest(f"There is no picture in {', '.join(folders)}: PNG, JPEG and WebP are read.")
    outs = [Path(out) / f"{path.stem}.png" for path in paths]
    twice = {str(path) for path in outs if outs.count(path) > 1}
    if twice:
        raise BadRequest(f"Several pictures would be written to {', '.join(sorted(twice))}: give them other names.")
    return list(zip(map(str, paths), map(str, outs), strict=True))


def _adjust(arguments):
    request = _asked(arguments, requests.AdjustRequest, image=_whole(arguments.image))
    made = _one_written(arguments.out, _engine(arguments).run(request), "cleaned up")
    return {"pictures": made} if made else None


def _one_written(out, result, told):
    # the one picture of a result, to the file or to standard output, where nothing else may be; what there is to tell
    (picture,) = result.pictures
    if out == "-":
        sys.stdout.buffer.write(images.png_bytes(picture.image))
        return []
    images.write_png(Path(out), picture.image, picture.record)
    _say(f"{out}: {told}")
    return [{"path": out, "seed": picture.seed, "seconds": result.seconds}]


def _reconstruct(arguments):
    if arguments.image.lower().endswith(".npz"):
        source = {"image": b"", "tokens": _bytes(arguments.image)}
    else:
        source = {"image": _picture(arguments.image, arguments.max_side)}
    request = _asked(arguments, requests.ReconstructRequest, **source)
    result = _engine(arguments).run(request, _progress)
    if arguments.save_tokens:
        if result.tokens is None:
            raise BadRequest("This model has no tokens to write; choose a VQGAN.")
        images.write_bytes(arguments.save_tokens, result.tokens)
    if arguments.out == "-":
        sys.stdout.buffer.write(images.png_bytes(result.reconstruction))
        return None
    images.write_png(Path(arguments.out), result.reconstruction, result.record)
    facts = [] if result.psnr is None else [f"PSNR {result.psnr:.2f} dB", f"SSIM {result.ssim:.3f}"]
    if result.bits_per_pixel is not None:
        facts += [f"{result.bits_per_pixel:.3f} bits per pixel", f"{result.codes_used} of {result.n_embed} codes"]
    _say(f"{arguments.out}: {', '.join(facts)}")
    return {
        "pictures": [{"path": arguments.out, "seed": None, "seconds": result.seconds}],
        "psnr": result.psnr,
        "ssim": result.ssim,
        "bits_per_pixel": result.bits_per_pixel,
        "codes_used": result.codes_used,
        "perplexity": result.perplexity,
    }


def _compare(arguments):
    home = _home(arguments)
    if (arguments.mask or arguments.scale) and not arguments.image:
        raise BadRequest("A mask or a scale needs its picture: give --image as well.")
    if arguments.mask and arguments.scale:
        raise BadRequest("A picture is inpainted or enlarged: give --mask or --scale.")
    tasks = {"inpaint": arguments.mask, "upscale": arguments.scale, "reconstruct": arguments.image}
    task = next((task for task, given in tasks.items() if given), "generate")
    rows = [catalog.find(name.strip(), task, home) for name in arguments.models.split(",")]
    _suit(arguments, rows[0])  # `of_models` fits the others
    if task == "inpaint":
        base = _inpainting(arguments)
    elif task == "upscale":
        image = _whole(arguments.image)
        base = requests.UpscaleRequest(image=image, scale=arguments.scale)
    elif task == "reconstruct":
        base = requests.ReconstructRequest(image=_picture(arguments.image, requests.ReconstructRequest.max_side))
    else:
        base = _asked(arguments, requests.GenerateRequest)
    known = catalog.catalog(home)
    rows = [row if row.id in known else dataclasses.replace(row, id=str(row.path)) for row in rows]
    request = requests.CompareRequest(base, (comparison.of_models(base, rows),))
    cells, engine, pictures, records, made = request.cells(), _engine(arguments), {}, {}, []
    for place in request.order():
        result = engine.run(cells[place], _progress)
        pictures[place] = result.reconstruction if task == "reconstruct" else result.pictures[0].image
        records[place] = result.record
        path = arguments.out / comparison.file_of(place)
        images.write_png(path, pictures[place], result.record)
        seed = getattr(cells[place], "seed", None)
        made.append({"path": str(path), "seed": seed, "seconds": result.seconds, "model": cells[place].model})
    distances = comparison.apart(request, pictures, lambda *two: comparison.measured(engine.run, *two))
    for row, place in zip(made, request.order(), strict=True):
        if place in distances:
            row["apart"] = comparison.facts(distances[place])
            _say(f"{row['path']}: {_apart(distances[place])}")
    sheet = comparison.sheet(request, pictures)
    images.write_bytes(arguments.out / comparison.SHEET, images.png_bytes(sheet))
    images.write_bytes(arguments.out / comparison.TABLE, comparison.table(request, records, distances).encode())
    _say(f"{arguments.out / comparison.SHEET}")
    return {"pictures": made, "sheet": str(arguments.out / comparison.SHEET)}


def _apart(found):
    if not found.largest:
        return "identical to the first model's"
    differences = f"{found.largest}/255 at most, {found.mean:.2f}/255 on average"
    return f"from the first model's {differences}, PSNR {found.psnr:.2f} dB"


def _models(arguments):
    rows = [
        {
            "id": row.id,
            "family": row.family,
            "tasks": list(row.tasks),
            "path": row.path and str(row.path),
            "bytes": row.bytes,
            "licence": row.licence,
        }
        for row in catalog.catalog(_home(arguments)).values()
    ]
    for row in rows:
        size = f"{row['bytes'] / 1e6:.1f} MB"
        _say(f"{row['id']:24} {row['family']:18} {', '.join(row['tasks']):18} {size:>9}  {row['licence']}")
    return {"models": rows}


def _convert(arguments):
    source = arguments.checkpoint
    target = arguments.out or source.with_suffix(".safetensors")
    report = pickles.convert(source, target)
    try:
        family = catalog.read(target).family
    except AtelierError as error:  # tensors all the same
        family = None
        _say(str(error))
    left_out = f"; left out: {', '.join(report['left_out'])}" if report["left_out"] else ""
    _say(f"{target}: {report['tensors']} tensors, {report['bytes'] / 1e6:.1f} MB{left_out}")
    return {"path": str(target), "family": family} | report


def _relink(arguments):
    from engines.checkpoints.relink import relink
    from engines.engine import Engine

    row = catalog.find(arguments.model, None, _home(arguments))
    before, after = catalog.drawn_with(row, _home(arguments)), catalog.find(arguments.to, None, _home(arguments))
    if before is None:
        raise BadRequest(f"“{row.id}” draws with no other model; there is nothing to link anew.")
    engine = Engine(_home(arguments), "cpu")
    path = arguments.out / "model.safetensors"
    relink(row, engine.load(before), engine.load(after), path)
    _say(f"{path}: {row.id}, which draws with {after.id}")
    return {"path": str(path), "model": row.id, "draws_with": after.id}


def _export(arguments):
    from engines.checkpoints import export
    from engines.engine import Engine

    row = catalog.find(arguments.model, None, _home(arguments))
    engine = Engine(_home(arguments), "cpu")  # on a GPU, it takes a UNet in half precision
    export.write(engine.load(row), arguments.out, catalog.card(row))
    written = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
    _say(f"{arguments.out}: {row.id}, {written / 1e6:.1f} MB")
    return {"path": str(arguments.out), "model": row.id, "family": row.family, "bytes": written}


def _train(arguments):
    from engines.training import run

    started = time.monotonic()
    command = "python app.py " + shlex.join(["train", arguments.kind, *_spelled(arguments)])
    stopped = False
    with _signals_set() as stop:

        def report(row):
            nonlocal stopped
            _training_progress(row)
            if stop.is_set():
                stopped = True
                raise Cancelled

        steps = run.train(
            arguments.kind,
            arguments.data,
            arguments.out,
            preset=arguments.preset,
            steps=arguments.steps,
            minutes=arguments.minutes,
            resume=arguments.resume,
            first_stage=arguments.first_stage,
            text=arguments.text,
            start=arguments.start,
            teacher=arguments.teacher,
            drawer=arguments.drawer,
            lpips=arguments.lpips,
            precision=arguments.precision or "auto",
            licence=arguments.licence,
            command=command,
            home=_home(arguments),
            device=arguments.device,
            report=report,
        )
        if stopped:
            _say(f"\nStopped and saved after {steps} steps; the same command with --resume goes on.")
        else:
            _say(f"\n{steps} steps; the run is in {arguments.out}")
    return {
        "out": str(arguments.out),
        "steps": steps,
        "seconds": time.monotonic() - started,
        "model": None if stopped else str(arguments.out / "model.safetensors"),
    }


@contextlib.contextmanager
def _signals_set():
    """An event that Ctrl+C and SIGTERM set instead of breaking off; a second one breaks off."""
    event, before = threading.Event(), {}

    def stop(number, _):
        event.set()
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, stop)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _spelled(arguments):
    # the run as a stranger would repeat it: folders by their names alone
    words = ["--data", arguments.data.name, "--out", arguments.out.name, "--preset", arguments.preset]
    for name in ("steps", "minutes", "first_stage", "text", "teacher", "drawer", "lpips", "precision"):
        if getattr(arguments, name):
            words += ["--" + name.replace("_", "-"), str(getattr(arguments, name))]
    return words + (["--from", arguments.start] if arguments.start else [])


def _evaluate(arguments):
    from engines.training import evaluate

    return evaluate.evaluate(arguments.model, arguments.data, arguments.out, _home(arguments), arguments.device, _say)


def _bench(arguments):
    if arguments.quality:
        from engines.training import evaluate

        if not arguments.data:
            raise BadRequest("Quality is measured on pictures; name their folder by --data.")
        where = arguments.data, arguments.out, _home(arguments), arguments.device
        return evaluate.evaluate_all(arguments.model, *where, _say)
    # The benchmarks live with the tests, where the peer may be imported, and no module here imports tests.
    finished = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench"],
        cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if finished.returncode:
        raise AtelierError("The benchmark did not finish; see what it printed above.")
    return json.loads(finished.stdout)


# ---------------------------------------------------------------- what the commands share


def _say(text, end="\n"):
    print(text, end=end, file=sys.stderr, flush=True)


def _home(arguments):
    return arguments.home.expanduser()


def _engine(arguments):
    from engines.engine import Engine

    return Engine(_home(arguments), arguments.device)


def _bytes(name):
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise BadRequest(f"{name} cannot be opened; check that the file is there and readable.") from error


def _picture(name, max_side):
    return images.source_bytes(_source(name), max_side)


def _whole(name):
    # a picture of which every pixel counts; what of its file does not is said
    source = _source(name)
    for key in images.losses(source):
        _say(f"{name}: {images.LOSSES[key]}")
    return images.full_bytes(source)


def _source(name):
    return sys.stdin.buffer.read() if name == "-" else name


def _progress(progress):
    _say(f"\rstep {progress.index} of {progress.count}", end="\n" if progress.index == progress.count else "")


def _training_progress(row):
    if "encoded" in row:
        _say(f"\rencoding pictures: {row['encoded']} of {row['of']}", end="")
        return
    pace = ("step", "steps", "pictures_per_second", "seconds_left")
    losses = {name: value for name, value in row.items() if name not in pace}
    shown = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
    _say(
        f"\rstep {row['step']} of {row['steps'] or '?'}  {row['pictures_per_second']:.1f} pictures/s  "
        f"{row['seconds_left'] / 60:.1f} min left  {shown}   ",
        end="",
    )
