"""The engine as a library, and in a process of its own."""

import io
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from engines import engine, requests
from engines.checkpoints import files, models
from engines.engine import Engine
from engines.errors import AtelierError, BadRequest, Cancelled
from engines.runtime import PeakMemory, attention, autocast, choose_device
from engines.worker import Worker
from tests import tiny


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    tiny.save(home / "models" / "painter.safetensors", tiny.latent_diffusion())
    return home


def request(**fields):
    return tiny.request(**{"model": "painter"} | fields)


def reconstruction():
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(stream, "PNG")
    return requests.ReconstructRequest(model="mirror", image=stream.getvalue())


def test_the_record_makes_each_picture_again(home):
    engine = Engine(home, "cpu")
    result = engine.run(request(count=2, variation_seed=5, variation_strength=0.5))
    for picture in result.pictures:
        record = json.loads(json.dumps(picture.record))
        again = engine.run(requests.from_json(json.dumps(record["request"]))).pictures
        assert len(again) == 1 and again[0].seed == picture.seed == record["request"]["seed"]
        assert again[0].record == picture.record
        assert again[0].image.size == picture.image.size
    assert record["model_sha256"] == files.sha256(home / "models" / "painter.safetensors")
    assert (record["device"], record["precision"], record["versions"]["torch"]) == ("cpu", "float32", torch.__version__)


@pytest.mark.parametrize("budget, loaded", [
    (10**9, ["mirror", "painter"]),
    (0, ["mirror", "painter", "mirror", "painter"]),
], ids=["room for all", "room for one"])
def test_models_stay_loaded_until_others_need_their_room(home, monkeypatch, budget, loaded):
    seen, real = [], models.load
    monkeypatch.setattr(models, "load", lambda path, *parts: (seen.append(path.stem), real(path, *parts))[1])
    engine = Engine(home, "cpu", budget)
    for asked in (request(), request(seed=1), reconstruction(), request()):
        engine.run(asked)
    assert seen == loaded


def test_in_half_precision_it_draws_nearly_the_same_and_says_so(home, monkeypatch):
    exact = Engine(home, "cpu").run(request())
    monkeypatch.setattr(engine, "precision", lambda device: torch.bfloat16)
    half = Engine(home, "cpu").run(request())
    assert half.pictures[0].record["precision"] == half.record["precision"] == "bfloat16"
    found, expected = (np.asarray(made.pictures[0].image).astype(float) for made in (half, exact))
    assert 0 < np.abs(found - expected).mean() < 4 < expected.std()


def test_models_are_loaded_and_unloaded_when_asked(home):
    engine = Engine(home, "cpu")
    assert engine.run(requests.EngineRequest()).loaded == {}
    loaded = engine.run(requests.EngineRequest("load", "painter")).loaded
    assert set(loaded) == {"mirror", "painter"} and all(loaded.values())
    left = engine.run(requests.EngineRequest("unload", "painter"))
    assert set(left.loaded) == {"mirror"} and left.device and left.memory > left.budget > 0


def test_an_autoencoder_counts_once_beside_the_model_that_draws_with_it(home):
    engine = Engine(home, "cpu")
    engine.run(request())
    painter = tiny.latent_diffusion().state_dict()  # with its autoencoder, which was loaded by itself as well
    assert engine._held() == sum(tensor.nbytes for tensor in painter.values())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_most_memory_is_told_anew_each_time():
    peaks = []
    for size in (2**28, 2**20):
        with PeakMemory(torch.device("cpu")) as peak:
            torch.ones(size, dtype=torch.uint8)
        peaks.append(peak.bytes)
    assert 2**27 < peaks[0] - peaks[1] < 2**29


@pytest.mark.parametrize("device, precision, mixed", [
    ("cpu", "auto", False), ("cpu", "bfloat16", True), ("cpu", "float32", False),
    ("cuda", "auto", True), ("cuda", "bfloat16", True), ("cuda", "float32", False),
])  # fmt: skip
def test_a_training_is_mixed_where_it_is_asked_to_be(monkeypatch, device, precision, mixed):
    asked = []
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype, enabled: asked.append((kind, dtype, enabled)))
    autocast(torch.device(device), precision)
    assert asked == [(device, torch.bfloat16, mixed)]


def test_attention_of_a_training_on_a_processor_is_plain_products_and_the_same():
    q, k, v = torch.randn(3, 2, 4, 16, 8).unbind()
    wanted = F.scaled_dot_product_attention(q, k, v)
    assert torch.backends.cuda.flash_sdp_enabled()  # the switch of the processor's kernel, too
    with attention(torch.device("cpu")):
        assert not torch.backends.cuda.flash_sdp_enabled()
        torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v), wanted)
    assert torch.backends.cuda.flash_sdp_enabled()


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    for name in ("tpu", "cuda:99", "cpu:1", ""):
        with pytest.raises(BadRequest, match="no device"):
            choose_device(name)


@pytest.fixture(scope="module")
def worker(home):
    worker = Worker(home, "cpu")
    yield worker
    worker.close()


def test_a_worker_draws_what_the_engine_draws(worker, home):
    seen = []
    result = worker.run(request(), seen.append)
    assert [progress.index for progress in seen] == [1, 2, 3]
    assert result.pictures[0].image.tobytes() == Engine(home, "cpu").run(request()).pictures[0].image.tobytes()


def test_a_refused_request_leaves_the_worker_at_work(worker):
    with pytest.raises(BadRequest, match="no model called"):
        worker.run(request(model="nobody"))
    assert worker.run(reconstruction()).psnr > 0


def test_cancel_stops_within_a_step(worker):
    stop, seen = threading.Event(), []

    def report(progress):
        seen.append(progress.index)
        stop.set()

    with pytest.raises(Cancelled):
        worker.run(request(steps=150, width=256, height=256), report, stop.is_set)
    assert len(seen) < 149
    assert len(worker.run(request()).pictures) == 1


def test_a_killed_process_fails_its_one_request(worker):
    def kill(progress):
        os.kill(worker._process.pid, signal.SIGKILL)

    with pytest.raises(AtelierError, match="stopped in the middle.*starts again"):
        worker.run(request(steps=150, width=256, height=256), kill)
    assert len(worker.run(request()).pictures) == 1


def test_a_failing_listener_stops_its_own_task_alone(worker):
    def fail(progress):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        worker.run(request(steps=20), fail)
    assert [picture.seed for picture in worker.run(request(seed=11)).pictures] == [11]


def test_this_side_of_the_worker_imports_no_torch():
    code = "import sys, engines.worker, engines.catalog, engines.requests; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
