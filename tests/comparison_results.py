"""Comparisons as `comparison.json` holds them, made up for the tests of their report."""

import numpy as np

from esmm_tf import keys

TITLES = {
    "base": "BASE",
    "aman": "AMAN",
    "oversampling": "OVERSAMPLING",
    "unbias": "UNBIAS",
    "division": "DIVISION",
    "esmm_ns": "ESMM-NS",
    "esmm": "ESMM",
}
RATES = {"aman": (0.1, 0.2), "oversampling": (2.0, 10.0), "unbias": (0.5, 0.0)}
HOSTILE = "<script>alert('x')</script>|*x*"

# Metrics that every log shows, then those for which the truth must be known: their centers.
METRICS = {"auc": 0.66, "gauc": 0.62, "log_loss": 0.31, "calibration": 0.98}
TRUTH = {"way_to_oracle": 0.7, "regret": 0.011, "bias": -0.002}


def spread(mean, std=0.002, number=3):
    """Returns what is known of a metric: one value has no standard deviation."""
    values = [mean + std * z for z in (-1.0, 0.0, 1.0, 0.5, -0.5)[:number]]
    return {"mean": mean, "std": std if number > 1 else None, "values": values}


def build_result(*, methods=tuple(TITLES), seeds=3, fractions=("1",), oracle=False, **changes):
    """Returns a comparison in which each method is a little better than the one before it."""
    tasks = {
        fraction: {
            name: _tasks(place, name, seeds, oracle, gain=0.02 * np.log10(float(fraction)))
            for place, name in enumerate(methods)
        }
        for fraction in fractions
    }
    found = {
        name: _method(place, name, seeds, oracle) | {"tasks": tasks[fractions[-1]][name]}
        for place, name in enumerate(methods)
    }
    for name, method in found.items():
        others = [other for other in methods if other != name]
        if others:
            method["against_best_other"] = _against(others[-1], seeds, oracle)
        if "base" in others:
            method["against_base"] = _against("base", seeds, oracle)
    result = {
        "format_version": 1,
        "machine": {"processor": "x86_64", "cores": 2, "python": "3.11.9", "tensorflow": "2.21.0"},
        "data": {
            "directory": "logs/records",
            "splits": {
                "train": {"impressions": 2_000_000, "clicks": 80_000, "conversions": 9_000},
                "validation": {"impressions": 500_000, "clicks": 20_000, "conversions": 2_000},
                "test": {"impressions": 500_001, "clicks": 20_001, "conversions": 2_001},
            },
        },
        "settings": {
            "compare": {"schema": "", "learning_rates": [0.001, 0.0003], "epochs": 3},
            "model": {"embedding_dim": 18, "hidden_units": [360, 200, 80]},
            "input": {"batch_size": 1024},
        },
        "methods": found,
        "ctr_network": _ctr_network(seeds),
        "fractions": tasks,
        "fractions_against_base": {
            fraction: {
                name: _against("base", seeds, oracle)["tasks"] for name in methods if name != "base"
            }
            for fraction in fractions
            if "base" in methods
        },
    }
    return result | changes


def _tasks(place, name, seeds, oracle, gain):
    known = METRICS | (TRUTH if oracle else {})
    tasks = {
        task: {
            metric: spread(center + gain + 0.003 * place + shift, number=seeds)
            for metric, center in known.items()
        }
        for task, shift in ((keys.CTR, 0.0), (keys.CVR_CLICKED, 0.01), (keys.CTCVR, 0.02))
    }
    if oracle:
        tasks[keys.CVR_ENTIRE] = {
            metric: spread(center + gain + 0.002 * place, number=seeds)
            for metric, center in known.items()
            if metric != "gauc"
        }
    if name == "division":
        for task in {keys.CVR_CLICKED, keys.CVR_ENTIRE} & set(tasks):
            tasks[task]["share_above_1"] = spread(0.0123, 0.0004, number=seeds)
            del tasks[task]["log_loss"]
    return tasks


def _method(place, name, seeds, oracle):
    rates = RATES.get(name, (None,))
    return {
        "title": TITLES.get(name, name),
        "learning_rate": 0.0003,
        "sampling_rate": rates[-1],
        "best_epochs": [1, 2, 3, 2, 1][:seeds],
        "epochs": [2, 3, 3, 3, 2][:seeds],
        "impressions_an_epoch": spread(80_000.0 * (place + 1), 0.0, number=seeds),
        "seconds": spread(100.0 + place, 2.5, number=seeds),
        "parameters": 1_234_567 + place,
        "candidates": [
            _candidate(rate, learning_rate, 0.6 + 0.01 * n, oracle)
            for n, rate in enumerate(rates)
            for learning_rate in (0.001, 0.0003)
        ],
    }


def _ctr_network(seeds):
    candidates = [_candidate(None, 0.001, 0.61), _candidate(None, 0.0003, 0.6)]
    return _method(0, "ctr", seeds, False) | {
        "title": "CTR network",
        "learning_rate": 0.001,
        "candidates": candidates,
    }


def _candidate(rate, learning_rate, auc, oracle=False):
    aucs = {keys.CTR: auc - 0.01, keys.CVR_CLICKED: auc, keys.CTCVR: auc + 0.01}
    return {
        "learning_rate": learning_rate,
        "sampling_rate": rate,
        "criterion": auc,
        "best_epoch": 2,
        "aucs": aucs | ({keys.CVR_ENTIRE: auc - 0.02} if oracle else {}),
    }


def _against(other, seeds, oracle):
    clear = {"difference": 0.0042, "interval": [0.0011, 0.0073], "p_value": 0.0123}
    unclear = {"difference": -0.001, "interval": [-0.003, 0.001], "p_value": 0.3}
    tasks = {keys.CTR: unclear, keys.CVR_CLICKED: clear, keys.CTCVR: unclear}
    if oracle:
        tasks[keys.CVR_ENTIRE] = clear
    if seeds == 1:
        tasks = {task: of | {"interval": None, "p_value": None} for task, of in tasks.items()}
    return {"method": other, "tasks": tasks}
