"""Evaluations as `evaluation.json` holds them, made up for the tests of reports."""

import numpy as np

from esmm_tf import keys

METRICS = {
    "auc": (0.66, 0.006),
    "gauc": (0.62, 0.007),
    "average_precision": (0.18, 0.006),
    "log_loss": (0.312, 0.004),
    "normalized_entropy": (0.957, 0.004),
    "calibration": (0.98, 0.03),
    "expected_calibration_error": (0.004, 0.002),
}
ORACLE = {
    "oracle_auc": (0.72, 0.005),
    "way_to_oracle": (0.727, 0.02),
    "oracle_log_loss": (0.301, 0.004),
    "regret": (0.011, 0.001),
    "bias": (-0.0021, 0.0009),
}
TASKS = {
    keys.CTR: ("all impressions", 100_703, 0.1),
    keys.CVR_CLICKED: ("clicked impressions", 10_221, 0.098),
    keys.CTCVR: ("all impressions", 100_703, 0.00995),
}
EVERY_METRIC = [*METRICS, *ORACLE]
HOSTILE = "<script>alert('x')</script>"


def build_result(*, slices=None, oracle=False, compared=False, **changes):
    """Returns an evaluation; `slices` maps fields to their values."""
    random = np.random.default_rng(7)
    tasks = dict(TASKS)
    if oracle:
        tasks[keys.CVR_ENTIRE] = ("all impressions, with their true rates", 100_703, 0.07)
    result = {
        "format_version": 2,
        "model_dir": "models/esmm",
        "weights": "ckpt-3:1234",
        "files": ["logs/test-00000-of-00002.tfrecord", "logs/test-00001-of-00002.tfrecord"],
        "data_hash": "0a1b2c3d4e5f6071",
        "negative_keep_rate": 1.0,
        "calibration": {},
        "used_in_training": [],
        "trained_impressions_per_second": 1234.5,
        "interval": {"level": 0.95, "method": "influence functions, summed within groups"},
        "impressions": 100_703,
        "clicks": 10_221,
        "conversions": 1_002,
        "groups": 1_733,
        "tasks": {name: _task(random, *task, oracle=oracle) for name, task in tasks.items()},
        "histograms": {
            name: _histogram(random, center)
            for name, center in (("pctr", -2.4), ("pcvr", -2.5), ("pctcvr", -4.9))
        },
        "slices": {
            field: _field_slices(random, values, tasks, oracle=oracle)
            for field, values in (slices or {}).items()
        },
    }
    if compared:
        result["comparison"] = _comparison()
    return result | changes


def empty_task():
    """Returns a task that no impression belongs to."""
    return {
        "space": "clicked impressions",
        "impressions": 0,
        "positives": 0,
        "gauc_groups": 0,
        "gauc_groups_skipped": 0,
        **dict.fromkeys(EVERY_METRIC),
        "intervals": dict.fromkeys(EVERY_METRIC),
        "reliability": [],
        "roc": {"false_positive_rate": [], "true_positive_rate": []},
        "precision_recall": {"recall": [], "precision": []},
    }


def without_numbers(tree):
    """Returns the same tree with null for what need not be defined, and without curves."""
    if isinstance(tree, dict):
        always = ("level", "negative_keep_rate")
        return {k: v if k in always else without_numbers(v) for k, v in tree.items()}
    if isinstance(tree, list):
        is_interval = len(tree) == 2 and all(isinstance(v, float) for v in tree)
        return None if is_interval else [v for v in tree if isinstance(v, str)]
    return None if isinstance(tree, float) else tree


def _metrics(random, impressions, rate, *, oracle, spread=1.0):
    known = METRICS | (ORACLE if oracle else {})
    values = {
        name: center + spread * error * random.normal() for name, (center, error) in known.items()
    }
    intervals = {
        name: [values[name] - 1.96 * spread * error, values[name] + 1.96 * spread * error]
        for name, (_, error) in known.items()
    }
    counts = {"impressions": impressions, "positives": round(impressions * rate)}
    groups = {"gauc_groups": 1_210, "gauc_groups_skipped": 523}
    return counts | groups | values | {"intervals": intervals}


def _task(random, space, impressions, rate, *, oracle):
    predictions = rate * np.geomspace(0.25, 4, 20)
    labels = random.binomial(impressions // 20, np.minimum(predictions, 1)) / (impressions // 20)
    errors = 1.96 * np.sqrt(labels * (1 - labels) / (impressions // 20))
    false = np.linspace(0, 1, 200)
    recall = np.linspace(0.005, 1, 200)
    return {
        "space": space,
        **_metrics(random, impressions, rate, oracle=oracle),
        "reliability": [
            {
                "mean_prediction": float(prediction),
                "mean_label": float(label),
                "label_interval": [float(max(label - error, 0)), float(label + error)]
                if label
                else None,
                "impressions": impressions // 20,
                "weight": float(impressions // 20),
            }
            for prediction, label, error in zip(predictions, labels, errors, strict=True)
        ],
        "roc": {
            "false_positive_rate": false.tolist(),
            "true_positive_rate": (false**0.5).tolist(),
        },
        "precision_recall": {
            "recall": recall.tolist(),
            "precision": np.minimum(rate * recall**-0.45, 1.0).tolist(),
        },
    }


def _histogram(random, center):
    clicked, edges = np.histogram(random.normal(center + 0.5, 0.8, 10_221), 60, (-9, 2))
    unclicked = np.histogram(random.normal(center, 0.8, 90_482), edges)[0]
    return {
        "logit_edges": edges.tolist(),
        "clicked": clicked.tolist(),
        "unclicked": unclicked.tolist(),
    }


def _field_slices(random, values, tasks, *, oracle):
    sizes = [40_000 // (place + 1) for place in range(len(values))]
    return {
        value: {
            "impressions": size,
            "tasks": {
                name: _metrics(random, size, rate, oracle=oracle, spread=(100_703 / size) ** 0.5)
                for name, (_, _, rate) in tasks.items()
            },
        }
        for value, size in zip(values, sizes, strict=True)
    }


def _comparison():
    def change(baseline, difference, error):
        interval = [difference - error, difference + error]
        return {
            "baseline": baseline,
            "difference": difference,
            "interval": interval,
            "p_value": 0.04,
        }

    return {
        "baseline": "models/base/evaluation.json",
        "tasks": {
            keys.CTR: {
                "auc": change(0.65, 0.01, 0.002),
                "log_loss": change(0.31, 0.002, 0.001),
                "calibration": change(0.9, 0.08, 0.01),
                "gauc": change(0.62, 0.001, 0.004),
            },
            keys.CTCVR: {
                "auc": change(0.66, 0.003, 0.009) | {"interval": None, "p_value": None},
                "log_loss": change(0.057, -0.0004, 0.0002) | {"p_value": 1e-6},
            },
        },
    }
