"""The words of a report: names and definitions of what it shows, and readable numbers."""

import dataclasses
import math
from collections.abc import Sequence

from esmm_tf import keys

DASH = "—"  # an undefined value; longer than a minus sign

TASK_TITLES = {
    keys.CTR: "CTR",
    "cvr": "CVR",
    keys.CVR_CLICKED: "CVR, clicked",
    keys.CTCVR: "CTCVR",
    keys.CVR_ENTIRE: "CVR, entire space",
}
TASK_SCORES = {
    keys.CTR: keys.PCTR,
    keys.CVR_CLICKED: keys.PCVR,
    keys.CTCVR: keys.PCTCVR,
    keys.CVR_ENTIRE: keys.PCVR,
}
SCORE_TITLES = {keys.PCTR: "pCTR", keys.PCVR: "pCVR", keys.PCTCVR: "pCTCVR"}

HIGHER, LOWER, ONE, ZERO = "higher is better", "lower is better", "best at 1", "best at 0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """What a metric is called, where its best value lies, and what it is."""

    name: str
    title: str
    aim: str
    definition: str


METRICS = (
    Metric(
        name="auc",
        title="AUC",
        aim=HIGHER,
        definition="Chance that a positive scores higher than a negative; ties count one half. "
        "0.5 is a coin, 1 is perfect.",
    ),
    Metric(
        name="gauc",
        title="GAUC",
        aim=HIGHER,
        definition="AUC within each group (a user or a request), averaged with the groups' "
        "impressions as weights. Groups with only positives or only negatives say nothing and "
        "are skipped.",
    ),
    Metric(
        name="average_precision",
        title="Average precision",
        aim=HIGHER,
        definition="Area under the precision-recall steps. A random order reaches the base rate.",
    ),
    Metric(
        name="log_loss",
        title="Log loss",
        aim=LOWER,
        definition="Mean of -log of the probability given to what happened, in nats.",
    ),
    Metric(
        name="normalized_entropy",
        title="Normalized entropy",
        aim=LOWER,
        definition="Log loss / log loss of the base rate as prediction: 1 means nothing learnt.",
    ),
    Metric(
        name="calibration",
        title="Calibration",
        aim=ONE,
        definition="Mean prediction / mean label. Above 1 the model promises too much.",
    ),
    Metric(
        name="expected_calibration_error",
        title="Expected calibration error",
        aim=LOWER,
        definition="Mean distance of the mean prediction from the mean label, over the bins of "
        "the reliability diagram. Chance alone keeps it above 0.",
    ),
    Metric(
        name="oracle_auc",
        title="Oracle AUC",
        aim=HIGHER,
        definition="AUC of the true probabilities on the same impressions: what no model can beat.",
    ),
    Metric(
        name="way_to_oracle",
        title="Way to oracle",
        aim=HIGHER,
        definition="(AUC - 0.5) / (oracle AUC - 0.5).",
    ),
    Metric(
        name="oracle_log_loss",
        title="Oracle log loss",
        aim=LOWER,
        definition="Log loss of the true probabilities on the same impressions.",
    ),
    Metric(
        name="regret",
        title="Regret",
        aim=LOWER,
        definition="Log loss - oracle log loss, in nats.",
    ),
    Metric(
        name="bias",
        title="Bias",
        aim=ZERO,
        definition="Mean prediction - mean true probability.",
    ),
)


METRIC_TITLES = {metric.name: metric.title for metric in METRICS}


def task_title(task: str) -> str:
    """Returns what a task is called."""
    return TASK_TITLES.get(task, task)


def number(value: float | None, interval: Sequence[float] | None = None) -> str:
    """Returns a value with the decimals that its interval makes meaningful.

    Without an interval it has four significant digits.

    >>> number(0.661234, [0.655, 0.667]), number(0.0123456), number(1234.5), number(None)
    ('0.6612', '0.01235', '1,234.5', '—')
    """
    if value is None:
        return DASH
    if 0 < abs(value) < 1e-6:
        return f"{value:.2e}"
    return f"{value:z,.{_decimals(value, interval)}f}"


def bounds(value: float | None, interval: Sequence[float] | None) -> str:
    """Returns an interval with the decimals of its value; nothing where there is none.

    >>> bounds(0.661234, [0.655, 0.667])
    '[0.6550, 0.6670]'
    """
    if interval is None or value is None:
        return ""
    decimals = _decimals(value, interval)
    return f"[{interval[0]:z,.{decimals}f}, {interval[1]:z,.{decimals}f}]"


def signed(value: float | None, interval: Sequence[float] | None = None) -> str:
    """Returns a difference with its sign.

    >>> signed(0.0042, [0.001, 0.0074]), signed(-0.5)
    ('+0.00420', '-0.5000')
    """
    shown = number(value, interval)
    return f"+{shown}" if value is not None and value > 0 else shown


def _decimals(value: float, interval: Sequence[float] | None) -> int:
    width = interval[1] - interval[0] if interval is not None else 0.0
    if width > 0:
        digits = 2 - math.floor(math.log10(width))
    else:
        digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    return min(max(digits, 3 if abs(value) < 10 else 1), 7)


def count(value: float | None) -> str:
    """Returns a number of things: whole from 100 on, else with its fraction.

    >>> count(100703), count(12.25), count(7.0), count(None)
    ('100,703', '12.2', '7', '—')
    """
    if value is None:
        return DASH
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def percent(value: float | None) -> str:
    """Returns a share with three significant digits.

    >>> percent(0.1), percent(0.0099512), percent(1.0)
    ('10 %', '0.995 %', '100 %')
    """
    return DASH if value is None else f"{100 * value:.3g} %"


def share(part: float | None, whole: float | None) -> float | None:
    """Returns a part of a whole; None where that has no meaning."""
    return None if part is None or not whole else part / whole


def p_value(value: float | None) -> str:
    """Returns a p-value.

    >>> p_value(0.0421), p_value(1e-9), p_value(None)
    ('0.042', '< 0.001', '—')
    """
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
