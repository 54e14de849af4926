"""Runs of made-up image sets whose truth is known, for tests and simulations of the claims' procedures."""

import itertools
import math

import numpy as np
import pandas as pd


def simulated(n_sets, seed=0, *, excess=0.0, slope=0.0, fragility=0.0, ratio=0.0, spread=0.05, models=2):
    """Runs of sets whose truth is known; sets have effects of their own, shared by all of their runs.

    log loss = set + model + slope log K_F - (1/d + excess + set) log(N/128);
    penalty = set + model + fragility K_F; log(d_repr / d_data) = ratio + set.
    `spread` is the standard deviation between sets.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n_sets):
        d, log_k_f, own = rng.uniform(4, 15), rng.normal(-1.5, 0.4), rng.normal(0, spread, 4)
        for model, n_train, run in itertools.product(range(models), (64, 128, 256), range(2)):
            noise = rng.normal(0, 0.05, 3)
            exponent = 1 / d + excess + own[1]
            log_loss = own[0] + model + slope * log_k_f - exponent * math.log(n_train / 128) + noise[0]
            rows.append(
                {
                    "dataset": f"set{i}",
                    "domain": ("medical", "natural")[i % 2],
                    "model": ("resnet18", "vgg13", "vgg16")[model],
                    "n_train": n_train,
                    "seed": run,
                    "fitted": True,
                    "test_loss_nats": math.exp(log_loss),
                    "d_data": d,
                    "d_data_low": 0.9 * d,
                    "d_data_high": 1.1 * d,
                    "k_f": math.exp(log_k_f),
                    "loss_penalty_nats_eps2": 1 + model + own[2] + fragility * math.exp(log_k_f) + noise[1],
                    "d_data_same_images": d,
                    "d_repr": d * math.exp(ratio + own[3] + noise[2]),
                    "d_repr_untrained": 0.9 * d,
                    "d_repr_random_map": d,
                }
            )
    return pd.DataFrame(rows)
