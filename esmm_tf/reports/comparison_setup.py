"""What a comparison was made with, as tables: choices on validation, budgets, data, settings.

`result` is everywhere the content of `comparison.json`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esmm_tf import keys
from esmm_tf.reports import comparison_measures, words
from esmm_tf.reports.comparison_measures import METHOD
from esmm_tf.reports.tables import Cell, Column, Section, Table, spread
from esmm_tf.reports.words import DASH, count, percent, share

CHOSEN = "chosen"

_LEARNING_RATE = Column(title="Learning rate", definition="Step size of Adam.")
_SAMPLING_RATE = Column(
    title="Sampling rate",
    definition="AMAN: the share of unclicked impressions taken as negatives. OVERSAMPLING: how "
    "often a conversion is trained on. UNBIAS: 0 rejects a click with probability pCTR; f above 0 "
    "keeps it with probability min(1, f * share of clicks / pCTR).",
)


def build_sections(result: Mapping[str, Any]) -> Iterator[Section]:
    """Yields how methods were tuned, what they cost, and the data and settings of all."""
    yield _tuning(result)
    yield _budget(result)
    yield _data(result)
    yield _settings(result)


def _tuning(result: Mapping[str, Any]) -> Section:
    return Section(
        key="tuning",
        title="Tuning",
        sentences=[
            "All candidates of each method, trained with one seed on all training data; their AUCs "
            "on the validation split.",
            "Every choice was made on the validation split alone and never on the test split.",
            "The criterion is the mean of CVR AUC (clicked) and CTCVR AUC, for the CTR network "
            "that the others share the AUC of CTR. The highest is chosen; what only the truth of "
            "simulated logs can tell has no part in it.",
        ],
        tables=[_tuning_table(result)],
    )


def _tuning_table(result: Mapping[str, Any]) -> Table:
    tried = list(_tried(result))
    tasks = [
        task
        for task in comparison_measures.TASKS
        if any(task in candidate["aucs"] for _, candidate, _ in tried)
    ]
    columns = [
        METHOD,
        _LEARNING_RATE,
        _SAMPLING_RATE,
        Column(title="Best epoch"),
        *map(comparison_measures.auc_column, tasks),
        Column(title="Criterion"),
        Column(title="Choice", is_text=True),
    ]
    rows = [
        [
            Cell(title),
            Cell(_rate(candidate["learning_rate"])),
            Cell(_rate(candidate["sampling_rate"])),
            Cell(count(candidate["best_epoch"])),
            *(Cell(_auc(candidate["aucs"].get(task))) for task in tasks),
            Cell(_auc(candidate["criterion"]), is_chosen),
            Cell(CHOSEN if is_chosen else ""),
        ]
        for title, candidate, is_chosen in tried
    ]
    return Table(caption="", columns=columns, rows=rows)


def _tried(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Yields the title, the candidate, and whether it was chosen; the shared CTR network first."""
    for method in _trained(result):
        for candidate in method["candidates"]:
            rates = ("learning_rate", "sampling_rate")
            is_chosen = all(candidate[name] == method[name] for name in rates)
            yield method["title"], candidate, is_chosen


def _trained(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns what was trained: the CTR network that methods share, and each method."""
    network = result["ctr_network"]
    own = [] if network is None or keys.CTR in result["methods"] else [network]
    return [*own, *result["methods"].values()]


def _budget(result: Mapping[str, Any]) -> Section:
    sentences = [
        "All methods have the same features, towers, optimiser and rule of early stopping; the "
        "rates are those that validation chose. Values in one cell are of the seeds, in order, or "
        "their mean ± standard deviation.",
        "The parameters of a shared CTR network count among those of each method that takes pCTR "
        "from it; its training is counted once, in its own row.",
    ]
    columns = [
        METHOD,
        _LEARNING_RATE,
        _SAMPLING_RATE,
        Column(
            title="Impressions per epoch",
            definition="What one pass trains on, after sampling: copies count.",
        ),
        Column(title="Epochs", note="trained"),
        Column(
            title="Epochs",
            note="best",
            definition="The epoch with the lowest validation loss, whose weights are kept.",
        ),
        Column(
            title="Seconds",
            definition="Time in training steps; start, validation and test are not in it.",
        ),
        Column(title="Parameters"),
    ]
    rows = [_budget_row(method) for method in _trained(result)]
    return Section(
        key="budget",
        title="Budget",
        sentences=sentences,
        tables=[Table(caption="", columns=columns, rows=rows)],
    )


def _budget_row(method: Mapping[str, Any]) -> list[Cell]:
    impressions = method["impressions_an_epoch"]
    if impressions["std"] == 0:
        impressions = {**impressions, "std": None}
    return [
        Cell(method["title"]),
        Cell(_rate(method["learning_rate"])),
        Cell(_rate(method["sampling_rate"])),
        Cell(spread(impressions, 0)),
        Cell(", ".join(map(count, method["epochs"]))),
        Cell(", ".join(map(count, method["best_epochs"]))),
        Cell(spread(method["seconds"], 1)),
        Cell(count(method["parameters"])),
    ]


def _data(result: Mapping[str, Any]) -> Section:
    columns = [
        Column(title="Split", is_text=True),
        Column(title="Impressions"),
        Column(title="Clicks"),
        Column(title="Clicks / impressions"),
        Column(title="Conversions"),
        Column(title="Conversions / clicks"),
    ]
    rows = [
        [
            Cell(split),
            Cell(count(counts["impressions"])),
            Cell(count(counts["clicks"])),
            Cell(percent(share(counts["clicks"], counts["impressions"]))),
            Cell(count(counts["conversions"])),
            Cell(percent(share(counts["conversions"], counts["clicks"]))),
        ]
        for split, counts in result["data"]["splits"].items()
    ]
    return Section(
        key="data",
        title="Data",
        sentences=[f"From {result['data']['directory']}."],
        tables=[Table(caption="", columns=columns, rows=rows)],
    )


def _settings(result: Mapping[str, Any]) -> Section:
    tables = [
        _pairs(title, {f"--{name}": value for name, value in result["settings"][part].items()})
        for part, title in (
            ("compare", "Comparison"),
            ("model", "Model"),
            ("input", "Input"),
        )
        if part in result["settings"]
    ]
    tables.append(_pairs("Machine and versions", result["machine"]))
    return Section(key="settings", title="Settings and machine", sentences=[], tables=tables)


def _pairs(title: str, pairs: Mapping[str, Any]) -> Table:
    columns = [Column(title="Name", is_text=True), Column(title="Value", is_text=True)]
    rows = [[Cell(name), Cell(_value(value))] for name, value in pairs.items()]
    return Table(caption=title, columns=columns, rows=rows)


def _value(value: Any) -> str:
    """Returns a setting as its flag takes it; a dash for none."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(_value, value))
    if value is None or value == "":
        return DASH
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _rate(value: float | None) -> str:
    return DASH if value is None else f"{value:g}"


def _auc(value: float | None) -> str:
    return words.DASH if value is None else f"{value:.4f}"
