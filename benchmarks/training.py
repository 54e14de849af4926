"""Training: an epoch of ours in float32 and bfloat16 against the paper's way, same images, batch and threads.

The paper's loop is written anew from its section 5 and appendix F: float32, channels first, Adam one weight after the
other, 1,000 outputs, and every image decoded from its file and resized in every epoch. Ours is `training.train`.
Prints a table and writes it to benchmarks/results/training.json.

usage: python benchmarks/training.py [--small] [--turns N] [--output FOLDER]
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from measuring import in_turn, said, settings, spread, write
from PIL import Image
from torch.nn import functional

from intrinsic import images
from intrinsic.networks import models, training

SET, FILE_SIZE, SIZE = "photo_patches", 256, 64  # pixels a side of the files, and of what is trained on
OUTPUTS = 1_000  # of the paper's networks
COUNTED = {"resnet18": 1_000, "resnet50": 480, "vgg13": 240}  # images of an epoch
SMALL = {"resnet18": 8}


def paper_network(name):
    """torchvision's network with 1,000 outputs and a first convolution of one channel."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, num_classes=OUTPUTS)
    if name.startswith("vgg"):
        network.features[0] = torch.nn.Conv2d(1, 64, 3, padding=1)
    else:
        network.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return network


def paper_epoch(network, files, labels, batch, rate):
    """One epoch of the paper's loop; the seconds that it spends on files."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=1e-4, foreach=False, fused=False)
    network.train()
    on_files = 0.0
    for chosen in torch.randperm(len(files)).split(batch):
        if len(chosen) < 2:
            continue
        started = time.perf_counter()
        x = torch.stack([read(files[i]) for i in chosen])
        on_files += time.perf_counter() - started
        optimizer.zero_grad()
        outputs = network(x)
        loss = functional.cross_entropy(outputs, labels[chosen])
        loss.backward()
        optimizer.step()
        loss.item(), (outputs.argmax(1) == labels[chosen]).sum().item()
    return on_files


def read(path):
    """One file as a float tensor (1, SIZE, SIZE) in [0, 1]."""
    with Image.open(path) as picture:
        grey = picture.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(grey, dtype=np.float32))[None] / 255


def made_files(folder, n):
    """n PNG files of FILE_SIZE pixels a side, from an embedded set, again from its beginning where it is small."""
    chosen, files = images.load(SET), []
    for i in range(n):
        files.append(folder / f"{i:05d}.png")
        picture = Image.fromarray(chosen.images[i % len(chosen)]).convert("L")
        picture.resize((FILE_SIZE, FILE_SIZE)).save(files[-1])
    return files, torch.from_numpy(np.asarray(chosen.labels)[np.arange(n) % len(chosen)].astype(np.int64) % 2)


def compare(name, files, labels, x, turns):
    """One row: images a second of each way, and how many times as fast as the paper's ours is."""
    batch, rate = training.PAPER_BATCH[name], training.protocol("fit", name)["learning_rate"]
    theirs = paper_network(name)

    def our_epoch(network, precision):
        how = {"until": "epochs", "epochs": 1, "batch_size": batch, "learning_rate": rate, "warmup_steps": 0}
        training.train(network, x, labels, precision=precision, device="cpu", **how)

    ways = {"paper": lambda: paper_epoch(theirs, files, labels, batch, rate)}
    for precision in training.PRECISIONS:
        network = models.create(name)
        ways[precision] = lambda network=network, precision=precision: our_epoch(network, precision)
    seconds, last = in_turn(ways, turns)
    return {
        "model": name,
        "size": SIZE,
        "batch": batch,
        "n": len(x),
        "images_per_second": {way: spread(len(x) / times) for way, times in seconds.items()},
        "times_as_fast": {
            precision: spread(seconds["paper"] / seconds[precision]) for precision in training.PRECISIONS
        },
        "paper_share_in_files": last["paper"] / float(seconds["paper"][-1]),
    }


def main(argv=None):
    """Measure, print, write."""
    chosen, rows = settings(__doc__, argv, turns=3), []
    counted = SMALL if chosen.small else COUNTED
    with tempfile.TemporaryDirectory() as folder:
        files, labels = made_files(Path(folder), max(counted.values()))
        x = torch.stack([read(path) for path in files])
        for name, n in counted.items():
            row = compare(name, files[:n], labels[:n], x[:n], chosen.turns)
            rows.append(row)
            print(f"{name}, batch {row['batch']}, {row['paper_share_in_files']:.0%} of the paper's time in files")
            for way, speed in row["images_per_second"].items():
                ratio = row["times_as_fast"].get(way)
                print(f"   {way:<9} {said(speed)} images/s" + (f", {said(ratio)} times" if ratio else ""), flush=True)
    found = {"turns": chosen.turns, "precision": training.native_precision("cpu"), "rows": rows}
    write(found, chosen.output, "training")


if __name__ == "__main__":
    main()
