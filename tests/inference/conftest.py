import numpy as np
import pandas as pd
import pytest

NETWORKS = ("resnet18", "resnet50", "vgg13")


@pytest.fixture
def runs():
    """Frames of runs whose coefficients are known: families of one or two sets, three networks, three sizes N."""

    def make(families=12, seed=0, *, b=2.0, c=2.0, loss_slope=1.0, noise=0.3, ratio=-0.5, least_bound=0.5, excess=0.1):
        rng = np.random.default_rng(seed)
        rows = []
        for f in range(families):
            log_k, log_d, off = rng.normal(-1.7, 0.4), rng.normal(2.5, 0.25), rng.normal(0, noise, 3)
            for s in range(1 + (f % 4 == 0)):
                for i, model in enumerate(NETWORKS):
                    for n in (250, 500, 1000):
                        for run in range(2 if model == "resnet18" else 1):
                            log_loss = loss_slope * log_k + i - (np.exp(-log_d) + excess) * np.log(n / 500) + off[0]
                            rows.append({
                                "dataset": f"set{f}.{s}", "family": f"family{f}", "model": model, "n_train": n,
                                "seed": run, "domain": "medical" if f % 2 else "natural", "fitted": True,
                                "k_f": np.exp(log_k),
                                "d_data": np.exp(log_d), "test_loss_nats": np.exp(log_loss), "least_bound": least_bound,
                                "loss_penalty_nats_eps2": np.exp(b * log_k + c * log_d - 2 + i + off[1]),
                                "d_data_same_images": np.exp(log_d),
                                "d_repr": np.exp(log_d + ratio * (i - 0.5) + off[2]),
                            })  # fmt: skip
        return pd.DataFrame(rows)

    return make
