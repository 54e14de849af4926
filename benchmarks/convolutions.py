"""What convolutions written by hand are worth: seconds of a training step, one thread, against torch's own.

Each measurement runs in a process of its own; the variants take turns. Processor seconds count, since other processes
share the machine: with one thread they are the seconds of a quiet one. The least over turns and steps is stored.

usage: python benchmarks/convolutions.py [--turns N] [--steps N]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

VARIANTS = ("hand-written float32", "float32 contiguous", "float32 channels-last", "bfloat16 channels-last")
NETWORKS = {"resnet18": 64, "resnet50": 64, "vgg13": 16}
SIZE, WARM_UP = 64, 2


def one(network, variant, steps):
    """Print the seconds of each step: [processor, wall]."""
    import torch
    import torchvision
    from torch.nn import functional

    from intrinsic.networks import convolutions, models, training

    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = NETWORKS[network]
    x, y = torch.rand(batch, 1, SIZE, SIZE), torch.arange(batch) % 2
    own = variant.startswith("hand")
    model = models.create(network)
    if not own:
        stock = torchvision.models.get_model(network, weights=None, num_classes=2)
        models._replace_first_convolution(stock, network, 1)
        model = stock
    layout = torch.contiguous_format if variant.endswith("contiguous") else torch.channels_last
    model, x = model.to(memory_format=layout).train(), x.to(memory_format=layout)
    if own:
        assert any(isinstance(module, convolutions.Conv2d) for module in model.modules())
        _, step, _ = training._begin(model, 1e-4, 1e-4, "float32", "none", None, 0)

        def run():
            step(x, y, 1)
    else:
        adam = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)

        def run():
            adam.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=variant.startswith("bfloat16")):
                logits = model(x)
            functional.cross_entropy(logits.float(), y).backward()
            adam.step()

    def timed():
        told = []
        for _ in range(WARM_UP + steps):
            began = time.process_time(), time.perf_counter()
            run()
            told.append([time.process_time() - began[0], time.perf_counter() - began[1]])
        return told[WARM_UP:]

    print(json.dumps(training.reused_memory()(timed)() if own else timed()))


def main():
    """Measure, print, write after every turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--one", nargs=2)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one, arguments.steps)
        return
    from neighbors import machine

    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    found = {
        "what": "least processor seconds of a training step (forward, backward, Adam), one thread",
        "machine": machine()
        | {
            "instructions": [f for f in flags if f.startswith(("amx", "avx512_bf16", "avx512_vnni", "avx512_fp16"))],
            "load_at_start": os.getloadavg(),
        },
        "size": SIZE,
        "batch": NETWORKS,
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
    }
    times = {network: {variant: [] for variant in VARIANTS} for network in NETWORKS}
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    for turn in range(arguments.turns):
        for network, variants in times.items():
            for variant, told in variants.items():
                command = [sys.executable, __file__, "--steps", str(arguments.steps), "--one", network, variant]
                said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
                told.append(json.loads(said.splitlines()[-1]))
        rows = []
        for network, variants in times.items():
            least = {variant: min(step[0] for one in told for step in one) for variant, told in variants.items()}
            wall = {variant: min(step[1] for one in told for step in one) for variant, told in variants.items()}
            medians = {
                variant: sorted(min(step[0] for step in one) for one in told)[len(told) // 2]
                for variant, told in variants.items()
            }
            ratio = {variant: value / least["hand-written float32"] for variant, value in least.items()}
            rows.append(
                {
                    "network": network,
                    "seconds": least,
                    "median_of_turns": medians,
                    "wall_seconds": wall,
                    "over_hand_written": ratio,
                }
            )
            print(network, " ".join(f"{v}: {least[v]:.3f} s ({ratio[v]:.2f})" for v in VARIANTS), flush=True)
        found |= {"turns": turn + 1, "steps": arguments.steps, "load_at_end": os.getloadavg(), "rows": rows}
        path = Path(__file__).parent / "results" / "convolutions.json"
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
