"""Seconds a step of our UNet and of diffusers' on the same weights, and a picture of the quickest model.

    python app.py bench

Everything is measured in turns in one run, so that the ratios hold on a busy machine too. The table
goes to standard error and one JSON object to standard output.
"""

import json
import statistics
import sys
import time

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from engines import catalog, requests
from engines.engine import Engine
from tests.peers import published_key

ROUNDS = 15


def peer_of(net):
    """diffusers' UNet with the weights of ours."""
    config = net.config
    levels = range(len(config.ch_mult))
    theirs = UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.channels,
        layers_per_block=config.num_res_blocks,
        down_block_types=[f"{'CrossAttn' * (i in config.attention_levels)}DownBlock2D" for i in levels],
        up_block_types=[f"{'CrossAttn' * (i in config.attention_levels)}UpBlock2D" for i in reversed(levels)],
        cross_attention_dim=config.context_dim,
        attention_head_dim=config.num_heads,
        norm_num_groups=config.norm_groups,
        class_embed_type="projection" if config.adm_dim else None,
        projection_class_embeddings_input_dim=config.adm_dim or None,
    ).eval()
    weights = net.state_dict()
    theirs.load_state_dict({key: weights[published_key(key, config)] for key in theirs.state_dict()})
    return theirs


def seconds(run, device):
    """Wall-clock seconds of one call."""
    _wait(device)
    started = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - started


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


@torch.inference_mode()
def compare(net, batch, device):
    """Medians of `ROUNDS` turns of our net, the peer's and a matrix product, for pictures of the model's own size."""
    config = net.config
    x = torch.randn(batch, config.in_channels, 16, 16, device=device)
    t = torch.full((batch,), 500.0, device=device)
    context = torch.randn(batch, 24, config.context_dim, device=device)
    vector = torch.randn(batch, config.adm_dim, device=device) if config.adm_dim else None
    theirs = peer_of(net).to(device)
    square = torch.randn(1024, 1024, device=device)
    runs = {
        "ours": lambda: net(x, t, context, vector),
        "diffusers": lambda: theirs(x, t, context, class_labels=vector).sample,
        "matrix product": lambda: square @ square,
    }
    difference = (runs["ours"]() - runs["diffusers"]()).norm() / runs["ours"]().norm()
    if difference > 1e-4:
        raise SystemExit(f"The nets are not the same: their outputs differ by {difference:.2e}.")
    with FlopCounterMode(display=False) as counter:
        runs["ours"]()
    taken = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            taken[name].append(seconds(run, device))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    flop, product = counter.get_total_flops(), 2 * 1024**3
    return {
        "batch": batch,
        "ours_seconds": medians["ours"],
        "diffusers_seconds": medians["diffusers"],
        "ratio": medians["ours"] / medians["diffusers"],
        "ours_gflops": flop / medians["ours"] / 1e9,
        "diffusers_gflops": flop / medians["diffusers"] / 1e9,
        "matrix_product_gflops": product / medians["matrix product"] / 1e9,
    }


def a_picture(engine, row, side=256):
    """Medians of a picture by the model of `row`, of its first preview, and of a large matrix product, by turns."""
    request = requests.GenerateRequest(
        prompt="red heart", style="glossy", model=row.id, width=side, height=side, **requests.SUITED[row.family]
    )
    square = torch.randn(4096, 4096, device=engine.device)
    taken = {"picture": [], "preview": [], "matrix product": []}
    for _ in range(ROUNDS // 3):
        taken["matrix product"].append(seconds(lambda: square @ square, engine.device))
        previews, started = [], time.perf_counter()
        engine.run(request, _note(previews))
        taken["picture"].append(time.perf_counter() - started)
        taken["preview"].append(previews[0] - started)
    return {"model": row.id, "side": side} | {f"{name} seconds": statistics.median(x) for name, x in taken.items()}


def _note(previews):
    # what notes when a preview comes
    return lambda at: at.preview and previews.append(time.perf_counter())


def main():
    engine = Engine()
    device = engine.device
    quickest = a_picture(engine, catalog.find("", "generate"))
    row = next(row for row in catalog.catalog().values() if row.family == "latent-diffusion")
    net = engine.load(row).unet
    rows = [compare(net, batch, device) for batch in (1, 2, 8)]
    say = sys.stderr.write
    say(f"UNet of {row.id}, {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M parameters, on {device}, float32\n")
    say(f"{'batch':>6} {'ours':>12} {'diffusers':>12} {'ratio':>7} {'ours':>14} {'matrix product':>16}\n")
    for r in rows:
        say(
            f"{r['batch']:>6} {r['ours_seconds'] * 1e3:>9.1f} ms {r['diffusers_seconds'] * 1e3:>9.1f} ms "
            f"{r['ratio']:>7.2f} {r['ours_gflops']:>7.1f} GFLOP/s {r['matrix_product_gflops']:>8.1f} GFLOP/s\n"
        )
    product, side = quickest["matrix product seconds"], quickest["side"]
    picture, preview = (quickest[f"{name} seconds"] / product for name in ("picture", "preview"))
    say(
        f"{quickest['model']}, {side}x{side} pixels: {picture:.2f} times a product of 4096x4096 matrices "
        f"({product:.2f} s), its first preview {preview:.2f}\n"
    )
    print(json.dumps({"picture": quickest, "model": row.id, "device": str(device), "rows": rows}))


if __name__ == "__main__":
    main()
