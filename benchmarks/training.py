"""Training: ours against the loop of the paper, same images, batch, machine and threads, in turns.

The paper's loop is written anew from its section 5 and appendix F: float32, channels first, Adam one weight after the
other, 1,000 outputs, and every image decoded from its file and resized in every epoch. Ours is `training.train` in the
precision that the hardware has. Each epoch is timed in a process of its own, after a few images that warm it up, so
that no setting of one loop serves the other. Both are timed in two ways: one run on all cores, as the paper's code
goes, and one run a core, all at once, as a campaign goes, where images a second are those of all runs together. The
ratio is that of a campaign's images a second to those of the published loop; the ratios of equal ways stand beside.
Prints a table, and writes it to benchmarks/results/training.json.
--loss compares held-out losses over seeds on three image sets, and writes training_losses.json.

usage: python benchmarks/training.py [--small] [--turns N] [--size 64] [--images 1000] [--set NAME | --folder FOLDER]
                                     [--models NAME ...] [--loss SEEDS] [--output FOLDER]
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from neighbors import machine, mebibytes, product_rate, product_rates, write
from PIL import Image
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from intrinsic import images
from intrinsic.networks import convolutions, models, training

MODELS = ("resnet18", "resnet50", "vgg13")
GOAL = {"resnet18": 2.0, "resnet50": 2.0, "vgg13": 2.5}
FILE_SIZE = 256  # pixels a side of the files that are made from an embedded set
OUTPUTS = 1_000  # of the paper's networks
COUNTED = {"resnet18": 1_000, "resnet50": 480, "vgg13": 240}  # images of a timed epoch, at most
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WAYS = {"one run": 1, "one run a core": CORES}  # how many runs at a time, which share out the cores
LOSS_SETS = ("digits_4_9", "photo_patches", "brain_mri_patches")
GROUPS = {  # operators by the beginning of their names; what is in none is "rest"
    "convolutions": (
        *("aten::mkldnn_convolution", "aten::convolution", "aten::cudnn_convolution", "aten::_conv"),
        *("_Tiles", "_Shifts", "_Columns", "aten::_slow_conv2d"),
    ),
    "products": ("_PooledLinear", "aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "aten::mkldnn_linear"),
    "conversions and copies": ("aten::copy_", "aten::_to_copy", "aten::to", "aten::clone", "aten::contiguous"),
    "batch normalization": ("aten::native_batch_norm", "aten::batch_norm", "aten::cudnn_batch_norm"),
    "optimizer": ("aten::_fused_adam", "Optimizer.", "aten::_foreach", "aten::addcdiv", "aten::lerp", "aten::addcmul"),
    "activations, pooling, sums": (
        "aten::clamp_min",
        "aten::relu",
        "aten::threshold",
        "aten::max_pool",
        "aten::_adaptive",
        "aten::adaptive",
        "aten::add",
        "aten::mean",
        "aten::native_dropout",
        "aten::mul",
    ),
    "filling": ("aten::fill_", "aten::zero_", "aten::zeros"),
}


# ------------------------------------------------------------------------------------------------ the loops


def paper_network(name, seed=0):
    """torchvision's network with 1,000 outputs and a first convolution of one channel."""
    torch.manual_seed(seed)
    network = torchvision.models.get_model(name, weights=None, num_classes=OUTPUTS)
    if name.startswith("vgg"):
        network.features[0] = torch.nn.Conv2d(1, 64, 3, padding=1)
    else:
        network.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return network


def paper_epochs(network, files, labels, size, batch, epochs, rate, decoded=None):
    """Epochs of the paper's loop. decoded: a list that takes the seconds spent on files."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=1e-4, foreach=False, fused=False)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(files))
        right, total = 0, 0.0
        for chosen in order.split(batch):
            if len(chosen) < 2:
                continue
            started = time.perf_counter()
            x = torch.stack([read(files[i], size) for i in chosen])
            if decoded is not None:
                decoded.append(time.perf_counter() - started)
            y = labels[chosen]
            optimizer.zero_grad()
            outputs = network(x)
            loss = functional.cross_entropy(outputs, y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
            right += (outputs.argmax(1) == y).sum().item()


def read(path, size):
    """One file as a float tensor (1, size, size) in [0, 1]."""
    with Image.open(path) as picture:
        grey = picture.convert("L").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(grey, dtype=np.float32))[None] / 255


def our_epochs(network, x, labels, batch, epochs, rate):
    """Epochs of ours."""
    return training.train(
        network,
        x,
        labels,
        until="epochs",
        epochs=epochs,
        batch_size=batch,
        learning_rate=rate,
        precision=training.native_precision(),
        device="cpu",
    )


# ------------------------------------------------------------------------------------------------- the data


def made_files(name, folder, n):
    """n PNG files of FILE_SIZE pixels a side, from an image set, again from its beginning where it is small."""
    chosen = images.load(name)
    y = np.asarray(chosen.labels) % 2
    files = []
    for i in range(n):
        at = i % len(chosen.images)
        path = folder / f"{i:05d}.png"
        Image.fromarray(chosen.images[at]).convert("L").resize((FILE_SIZE, FILE_SIZE)).save(path)
        files.append(path)
    return files, torch.from_numpy(y[np.arange(n) % len(y)].astype(np.int64))


def found_files(folder, n):
    """n files of the folders of classes in a folder, in turn, with the class's number."""
    classes = [sorted(p for p in c.rglob("*") if p.is_file()) for c in sorted(folder.iterdir()) if c.is_dir()]
    pairs = [(path, y) for several in zip(*classes, strict=False) for y, path in enumerate(several)][:n]
    if len(pairs) < n:
        raise SystemExit(f"{folder} holds {len(pairs)} files in balanced folders of classes, {n} are needed: --images")
    return [path for path, _ in pairs], torch.tensor([y for _, y in pairs])


# ------------------------------------------------------------------------------------------------ measuring


def operations_per_image(name, size):
    """Floating-point operations of products and convolutions, forward and backward, by their definition."""
    network, x = models.create(name), torch.rand(2, 1, size, size)
    with convolutions.torchs_own(), FlopCounterMode(display=False) as counter:
        functional.cross_entropy(network(x), torch.arange(2)).backward()
    return counter.get_total_flops() / 2


def shares(name, x, labels, batch, rate):
    """Where the time of our steps goes: shares of the operators' own time, by group."""
    network, few = models.create(name), 4 * batch
    our_epochs(network, x[:few], labels[:few], batch, 1, rate)
    with profile(activities=[ProfilerActivity.CPU]) as told:
        our_epochs(network, x[:few], labels[:few], batch, 1, rate)
    found = dict.fromkeys([*GROUPS, "rest"], 0.0)
    for one in told.key_averages():
        group = next((g for g, names in GROUPS.items() if one.key.startswith(names)), "rest")
        found[group] += one.self_cpu_time_total
    total = sum(found.values())
    return {group: value / total for group, value in found.items()}


def in_processes(method, name, folder, size, batch, runs):
    """What one epoch took in each of some processes that run at once: seconds, those spent on files, bytes at its peak.

    folder holds the files by number and `labels.pt`. Every process has its share of the cores, and starts to count
    when all are ready. Bytes are those above what was held before the first step; None where there is no /proc.
    """
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import training; training.one_epoch()"
    command = [sys.executable, "-c", code, json.dumps([method, name, str(folder), size, batch])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(CORES // runs))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env={**os.environ, **threads}, **pipes) for _ in range(runs)]
    for process in processes:
        while (line := process.stdout.readline()) and line != "ready\n":
            pass
    for process in processes:
        if process.poll() is None:
            process.stdin.write("go\n")
            process.stdin.flush()
    told = [process.communicate() for process in processes]
    for process, (_, error) in zip(processes, told, strict=True):
        if process.returncode:
            raise SystemExit(f"an epoch of {name} ended with:\n{error}")
    return [json.loads(said.splitlines()[-1]) for said, _ in told]


def one_epoch():
    """The other end of `in_processes`: warms up, waits for the word, trains one epoch, prints."""
    method, name, folder, size, batch = json.loads(sys.argv[1])
    files = sorted(path for path in Path(folder).iterdir() if path.name != "labels.pt")[: COUNTED[name]]
    labels = torch.load(Path(folder) / "labels.pt", weights_only=True)[: len(files)]
    rate = models.default_learning_rate(name)
    network = paper_network(name) if method == "paper" else models.create(name)
    x = torch.stack([read(path, size) for path in files]) if method == "ours" else None
    decoded, before = [], None
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
        before = peak_bytes()
    for part in (slice(0, 3 * batch), slice(None)):  # the first one warms up
        if part.stop is None:
            print("ready", flush=True)
            sys.stdin.readline()
        decoded.clear()
        started = time.perf_counter()
        if method == "paper":
            paper_epochs(network, files[part], labels[part], size, batch, 1, rate, decoded)
        else:
            our_epochs(network, x[part], labels[part], batch, 1, rate)
        seconds = time.perf_counter() - started
    peak = None if before is None else peak_bytes() - before
    print(json.dumps({"seconds": seconds, "files": sum(decoded), "peak": peak}))


def peak_bytes():
    """Of this process so far."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def compare(name, folder, x, labels, size, turns, rates):
    """One row: images a second of both in both ways, ratios, memory, share of the machine's rate."""
    batch, rate, n = models.PAPER_BATCH[name], models.default_learning_rate(name), min(COUNTED[name], len(x))
    found = {(method, way): [] for method in ("paper", "ours") for way in WAYS}
    for _ in range(turns):
        for (method, way), told in found.items():
            told.append(in_processes(method, name, folder, size, batch, WAYS[way]))
    speeds = {
        key: np.array([len(runs) * n / max(one["seconds"] for one in runs) for runs in told])
        for key, told in found.items()
    }
    operations, precision = operations_per_image(name, size), training.native_precision()
    best = max((speeds["ours", way] for way in WAYS), key=np.median)
    alone = [runs[0] for runs in found["paper", "one run"]]
    return {
        "model": name,
        "size": size,
        "batch": batch,
        "n": n,
        "images_per_second": {way: float(np.median(speeds["ours", way])) for way in WAYS},
        "paper_images_per_second": {way: float(np.median(speeds["paper", way])) for way in WAYS},
        "ratio": spread(best / speeds["paper", "one run"]),
        "ratios_of_equal_ways": {way: spread(speeds["ours", way] / speeds["paper", way]) for way in WAYS},
        "goal": GOAL[name],
        "paper_share_in_files": float(np.median([one["files"] / one["seconds"] for one in alone])),
        "gflop_per_image": operations / 1e9,
        "share_of_product_rate": operations * float(np.median(best)) / 1e9 / rates[precision],
        "peak_memory_mib": {method: peak(found[method, "one run"]) for method in ("ours", "paper")},
        "shares": shares(name, x, labels, batch, rate),
    }


def peak(told):
    """Mebibytes at the peak of any run, or None."""
    return mebibytes(max((run["peak"] for runs in told for run in runs), key=lambda bytes_: bytes_ or 0))


def spread(values):
    """Median, least and greatest over turns."""
    return {"median": float(np.median(values)), "low": float(values.min()), "high": float(values.max())}


def said(ratio):
    """A spread in words."""
    return f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


# ---------------------------------------------------------------------------------------------- held-out loss


def losses(seeds, output, epochs=20, n_train=256, size=32):
    """Held-out loss of ours and of the paper's loop over seeds, same split and epochs: paired, in log.

    The difference of log losses, ours less theirs, has a t interval over seeds, for each set and over all. Each pair is
    stored as soon as it is trained, and what is stored at these settings is not trained again.
    """
    settings = {"epochs": epochs, "n_train": n_train, "size": size, "processor": machine()["processor"]}
    path = output / "training_losses.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    pairs = stored["losses"] if stored.get("settings") == settings else {}
    for name in LOSS_SETS:
        data = images.match(images.load(name), size=size, channels=1)
        found = pairs.setdefault(name, [])
        for seed in range(len(found), seeds):
            split = images.split(data, n_train, seed)
            x, y = images.as_unit(data[split.train]), torch.tensor(data[split.train].labels)
            x_test, y_test = images.as_unit(data[split.test]), data[split.test].labels
            ours = models.create("resnet18", n_classes=len(data.classes), seed=seed)
            our_epochs(ours, x, y, models.PAPER_BATCH["resnet18"], epochs, 1e-3)
            theirs = paper_network("resnet18", seed)
            with tempfile.TemporaryDirectory() as folder:
                files = []
                for i, picture in enumerate(data[split.train].images):
                    files.append(Path(folder) / f"{i}.png")
                    Image.fromarray(picture).save(files[-1])
                paper_epochs(theirs, files, y, size, models.PAPER_BATCH["resnet18"], epochs, 1e-3)
            found.append([training.evaluate(net, x_test, y_test)["test_loss_nats"] for net in (ours, theirs)])
            about = {"machine": machine(), "settings": settings, "losses": pairs}
            write(about | judged(pairs), output, "training_losses")
        print(name, judged({name: found})["rows"], flush=True)
    print("over all sets:", judged(pairs)["all"])


def judged(pairs):
    """Mean of log(ours / theirs) with its interval, for each set with two seeds or more, and over all."""
    differences = {name: np.diff(np.log(np.array(found)))[:, 0] * -1 for name, found in pairs.items() if len(found) > 1}
    rows = [{"set": name, "seeds": len(one), **interval(one)} for name, one in differences.items()]
    return {"rows": rows, "all": interval(np.concatenate(list(differences.values()))) if rows else None}


def interval(values):
    """Mean with a t interval of 95 %."""
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": float(values.mean()), "low": float(values.mean() - half), "high": float(values.mean() + half)}


def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few images, one turn: two minutes")
    parser.add_argument("--turns", type=int, default=3, help="counted epochs of each loop (3)")
    parser.add_argument("--size", type=int, default=64, help="pixels a side (64)")
    parser.add_argument("--images", type=int, default=1_000, help="files (1,000)")
    parser.add_argument("--set", default="photo_patches", help=f"image set whose files are made, {FILE_SIZE} pixels")
    parser.add_argument("--folder", type=Path, help="folders of classes with files of one's own, instead of --set")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--loss", type=int, default=0, metavar="SEEDS", help="compare held-out losses instead (slow)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.loss:
        losses(arguments.loss, arguments.output)
        return
    n, turns = (120, 1) if arguments.small else (arguments.images, arguments.turns)
    a = torch.rand(2048, 4096).to(torch.bfloat16)
    rates = {"bfloat16": product_rate(lambda: a @ a.T), "float32": product_rates()["float32"]}
    about = machine()
    about["versions"]["torchvision"] = torchvision.__version__.split("+")[0]
    found = {"machine": about, "turns": turns, "rates": rates}
    found |= {"precision": training.native_precision(), "rows": []}
    told = ", ".join(f"{precision} {rate:.0f}" for precision, rate in rates.items())
    print(f"{about['processor']}, {about['threads']} threads; products in GFLOP/s: {told}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if arguments.folder:
            chosen, labels = found_files(arguments.folder, n)
            files = [folder / f"{i:05d}{path.suffix}" for i, path in enumerate(chosen)]
            for link, path in zip(files, chosen, strict=True):
                link.symlink_to(path.resolve())
            found["files"] = "of a folder given"
        else:
            files, labels = made_files(arguments.set, folder, n)
            found["files"] = f"PNG, {FILE_SIZE} pixels a side, from {arguments.set}"
        torch.save(labels, folder / "labels.pt")
        started = time.perf_counter()
        x = torch.stack([read(path, arguments.size) for path in files])
        found["seconds_of_reading_once"] = time.perf_counter() - started
        for name in arguments.models:
            row = compare(name, folder, x, labels, arguments.size, turns, rates)
            found["rows"].append(row)
            print(f"{name}, batch {row['batch']}: ratio {said(row['ratio'])} (goal {row['goal']})", flush=True)
            for way in WAYS:
                print(
                    f"   {way:<14}: {row['images_per_second'][way]:6.1f} images/s, paper "
                    f"{row['paper_images_per_second'][way]:6.1f}, ratio {said(row['ratios_of_equal_ways'][way])}"
                )
            print(
                f"   {row['share_of_product_rate']:.0%} of the rate of products; MiB of one run: "
                f"{row['peak_memory_mib']['ours']}, paper {row['peak_memory_mib']['paper']}; "
                f"{row['paper_share_in_files']:.0%} of the paper's time in files"
            )
            print("   " + ", ".join(f"{group} {share:.0%}" for group, share in row["shares"].items()), flush=True)
            write(found, arguments.output, "training")


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
