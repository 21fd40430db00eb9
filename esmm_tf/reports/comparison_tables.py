"""What the methods of a comparison reached on the test split, as tables.

`result` is everywhere the content of `comparison.json`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esmm_tf.metrics import intervals
from esmm_tf.reports import words
from esmm_tf.reports.comparison_measures import (
    METHOD,
    TASKS,
    Measure,
    Tasks,
    auc_column,
    build_cells,
    compared_tasks,
    fractions,
    has,
    main_measures,
    seeds,
)
from esmm_tf.reports.tables import Cell, Column, Section, Table
from esmm_tf.reports.words import METRIC_TITLES, METRICS, task_title

_FURTHER = (
    ("gauc", 4),
    ("log_loss", 5),
    ("calibration", 3),
    ("way_to_oracle", 3),
    ("regret", 5),
    ("bias", 5),
)


def build_sections(result: Mapping[str, Any]) -> Iterator[Section]:
    """Yields what the methods reached, how they differ, and what else was measured."""
    yield Section(
        key="results",
        title="Results",
        sentences=_explain_main(result),
        tables=[build_main_table(result)],
    )
    if len(result["methods"]) > 1:
        yield _differences(result)
    if len(result["fractions"]) > 1:
        yield _fractions(result)
    yield _further(result)


def _explain_main(result: Mapping[str, Any]) -> list[str]:
    number = seeds(result)
    if number == 1:
        how = "One model of each method, measured on the test split."
    else:
        how = (
            f"AUCs are the mean ± the standard deviation over {number} models of each method that "
            "differ in their seed, all else is the mean, measured on the test split."
        )
    return [how, "The best of each AUC is bold."]


def build_main_table(result: Mapping[str, Any]) -> Table:
    """Returns the paper's Table 2, with what else tells the methods apart: one row per method."""
    measures = [
        measure
        for measure in main_measures()
        if measure.is_always_shown or has(result, measure.task, measure.metric)
    ]
    by_method = {name: method["tasks"] for name, method in result["methods"].items()}
    return _measured("", result, measures, by_method)


def _measured(
    caption: str,
    result: Mapping[str, Any],
    measures: Sequence[Measure],
    by_method: Mapping[str, Tasks],
) -> Table:
    columns = [build_cells(measure, list(by_method.values())) for measure in measures]
    names = [Cell(result["methods"][name]["title"]) for name in by_method]
    return Table(
        caption=caption,
        columns=[METHOD, *(measure.column for measure in measures)],
        rows=list(zip(names, *columns, strict=True)),
    )


def _differences(result: Mapping[str, Any]) -> Section:
    level = words.percent(intervals.LEVEL)
    sentences = [
        "Differences of mean AUCs over the same seeds, on the same test impressions; in bold where "
        "the interval leaves out 0.",
        f"Each {level} interval adds what varies with the users of the test set (influences "
        "summed by user, or by whatever groups the impressions) and what varies with the seeds, "
        "and takes its width from Student's t.",
        "The p-values are two-sided and not corrected for their number: of those below, one in "
        "twenty falls under 0.05 by chance where nothing differs.",
        "The best other method is the one with the highest CTCVR AUC in this very table, which "
        "flatters it.",
    ]
    if seeds(result) == 1:
        sentences.append("With one seed there is neither interval nor p-value.")
    return Section(
        key="differences",
        title="Differences",
        sentences=sentences,
        tables=[_difference_table(result, task) for task in compared_tasks(result)],
    )


def _base(result: Mapping[str, Any]) -> str:
    """Returns the method that the others are compared with; nothing if it is not among them."""
    methods = result["methods"].values()
    return next((m["against_base"]["method"] for m in methods if "against_base" in m), "")


def _difference_table(result: Mapping[str, Any], task: str) -> Table:
    methods = result["methods"]
    base = _base(result)
    columns, rows = [METHOD], [[Cell(method["title"])] for method in methods.values()]
    bounds = f"{words.percent(intervals.LEVEL)} interval"
    if base:
        title = methods[base]["title"]
        columns += [Column(title=f"minus {title}"), Column(title=bounds), Column(title="p-value")]
        for row, method in zip(rows, methods.values(), strict=True):
            row += _difference_cells(method.get("against_base"), task)
    columns += [
        Column(title="Best other", is_text=True),
        Column(title="minus best other"),
        Column(title=bounds),
        Column(title="p-value"),
    ]
    for row, method in zip(rows, methods.values(), strict=True):
        against = method["against_best_other"]
        row += [Cell(methods[against["method"]]["title"]), *_difference_cells(against, task)]
    return Table(caption=auc_column(task).name, columns=columns, rows=rows)


def _difference_cells(against: Mapping[str, Any] | None, task: str) -> list[Cell]:
    difference = (against or {}).get("tasks", {}).get(task) or {}
    if not difference:
        return [Cell(words.DASH)] * 3
    interval = difference["interval"]
    bounds = f"[{interval[0]:+.4f}, {interval[1]:+.4f}]" if interval else words.DASH
    return [_difference_cell(difference), Cell(bounds), Cell(words.p_value(difference["p_value"]))]


def _difference_cell(difference: Mapping[str, Any]) -> Cell:
    """Returns a difference, bold where its interval leaves out 0."""
    interval = difference["interval"]
    is_clear = interval is not None and not interval[0] <= 0 <= interval[1]
    return Cell(f"{difference['difference']:+z.4f}", is_clear)


def _fractions(result: Mapping[str, Any]) -> Section:
    base, tables = _base(result), []
    sentences = [
        "The paper's Figure 3: each method trained again, as chosen on all training data, on a "
        "share of the training groups. The best of each share is bold."
    ]
    if base:
        sentences.append(
            "Differences are as above: in bold where the interval leaves out 0, with the p-value."
        )
    for task in compared_tasks(result):
        tables.append(_fraction_table(result, task))
        if base:
            tables.append(_fraction_difference_table(result, task, base))
    return Section(
        key="fractions",
        title="AUC by share of the training data",
        sentences=sentences,
        tables=tables,
    )


def _fraction_table(result: Mapping[str, Any], task: str) -> Table:
    column = auc_column(task)
    measure = Measure(task=task, metric="auc", column=column, is_best_bold=True)
    names = list(result["methods"])
    cells = [
        build_cells(measure, [result["fractions"][fraction].get(name, {}) for name in names])
        for fraction in fractions(result)
    ]
    return _by_fraction(result, column.name, names, cells)


def _fraction_difference_table(result: Mapping[str, Any], task: str, base: str) -> Table:
    against_base = result["fractions_against_base"]
    names = [name for name in result["methods"] if name != base]
    cells = [
        [_fraction_difference(against_base[fraction][name].get(task)) for name in names]
        for fraction in fractions(result)
    ]
    caption = f"{auc_column(task).name} minus {result['methods'][base]['title']}"
    return _by_fraction(result, caption, names, cells)


def _by_fraction(
    result: Mapping[str, Any], caption: str, names: Sequence[str], cells: Sequence[Sequence[Cell]]
) -> Table:
    """Returns a table of one row per method and, in `cells`, one column per fraction."""
    titles = [Cell(result["methods"][name]["title"]) for name in names]
    shares = [Column(title=words.percent(float(fraction))) for fraction in fractions(result)]
    rows = list(zip(titles, *cells, strict=True))
    return Table(caption=caption, columns=[METHOD, *shares], rows=rows)


def _fraction_difference(difference: Mapping[str, Any] | None) -> Cell:
    if difference is None:
        return Cell(words.DASH)
    cell = _difference_cell(difference)
    p_value = words.p_value(difference["p_value"])
    return dataclasses.replace(cell, text=f"{cell.text} ({p_value})")


def _further(result: Mapping[str, Any]) -> Section:
    by_method = {name: method["tasks"] for name, method in result["methods"].items()}
    details = {metric.name: f"{metric.definition} ({metric.aim})" for metric in METRICS}
    tables = []
    for task in TASKS:
        measures = [
            Measure(
                task=task,
                metric=name,
                decimals=decimals,
                column=Column(title=METRIC_TITLES[name], definition=details[name]),
            )
            for name, decimals in _FURTHER
            if has(result, task, name)
        ]
        if measures:
            tables.append(_measured(task_title(task), result, measures, by_method))
    return Section(key="further", title="Further metrics", sentences=[], tables=tables)
