"""The report of a comparison: tables in Markdown, figures, and a page with all of it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esmm_tf import files, keys
from esmm_tf.reports import (
    comparison_measures,
    comparison_setup,
    comparison_tables,
    page,
    tables,
    words,
)
from esmm_tf.reports.page import Plot
from esmm_tf.reports.tables import Section

TABLE = "table.md"
PAGE = "index.html"

_UNDEFINED = "A dash stands for what is not defined, such as an AUC without positives."


def check_installed() -> None:
    """Checks that a report can be made, so that hours of training do not end in an error.

    Raises:
      UserError: if the extra `report` is not installed.
    """
    page.load_extra("comparison_plots")


def write_report(result: Mapping[str, Any], directory: str) -> list[str]:
    """Returns the paths of `table.md`, the figures and `index.html`, written in this order.

    Equal comparisons give equal files. Each is written under a temporary name and renamed, and
    none before all of them are made.

    Args:
      result: the content of `comparison.json`.
      directory: made if it is missing.

    Raises:
      UserError: if the extra `report` is not installed.
    """
    drawing, jinja2 = page.load_extra("comparison_plots")
    sections = [
        *comparison_tables.build_sections(result),
        *comparison_setup.build_sections(result),
    ]
    plots = list(_draw(drawing, result))
    contents = {
        TABLE: _render_markdown(sections, plots).encode("utf-8"),
        **{plot.file: plot.png for plot in plots},
        PAGE: _render_page(jinja2, result, sections, plots).encode("utf-8"),
    }
    for name, content in contents.items():
        files.write_bytes(os.path.join(directory, name), content)
    return [os.path.join(directory, name) for name in contents]


def format_table(result: Mapping[str, Any]) -> str:
    """Returns the paper's Table 2 for a terminal."""
    return tables.format_text(comparison_tables.build_main_table(result))


def _draw(drawing: Any, result: Mapping[str, Any]) -> Iterator[Plot]:
    tasks = comparison_measures.compared_tasks(result)
    whole = {name: method["tasks"] for name, method in result["methods"].items()}
    alt = f"AUC by method: {_describe(result, whole, tasks, 'auc')}."
    yield Plot(file="auc.png", png=drawing.draw_auc(result), alt=alt)
    if len(result["fractions"]) > 1:
        shares = comparison_measures.fractions(result)
        fewest = _describe(result, result["fractions"][shares[0]], tasks, "auc")
        alt = (
            f"AUC against the share of the training data ({', '.join(map(_percent, shares))}). "
            f"With {_percent(shares[0])}, {fewest}."
        )
        yield Plot(file="auc_by_fraction.png", png=drawing.draw_auc_by_fraction(result), alt=alt)
    ratios = _describe(result, whole, tasks, "calibration")
    alt = f"Mean prediction / mean label by method, on a logarithmic axis: {ratios}."
    yield Plot(file="calibration.png", png=drawing.draw_calibration(result), alt=alt)
    if comparison_measures.has(result, keys.CVR_ENTIRE, "bias"):
        alt = (
            "Mean pCVR less the mean true conversion probability, over all impressions: "
            f"{_describe(result, whole, [keys.CVR_ENTIRE], 'bias')}."
        )
        yield Plot(file="bias.png", png=drawing.draw_bias(result), alt=alt)


def _percent(fraction: str) -> str:
    return words.percent(float(fraction))


def _describe(
    result: Mapping[str, Any], by_method: Mapping[str, Any], tasks: Sequence[str], metric: str
) -> str:
    """Returns in words the lowest and the highest value of a metric of each task."""
    return "; ".join(
        f"{words.task_title(task)} {_range(result, by_method, task, metric)}" for task in tasks
    )


def _range(result: Mapping[str, Any], by_method: Mapping[str, Any], task: str, metric: str) -> str:
    known = [
        (mean, result["methods"][name]["title"])
        for name, values in by_method.items()
        if (mean := comparison_measures.mean_of(values, task, metric)) is not None
    ]
    if not known:
        return "not defined"
    (low, lowest), (high, highest) = min(known), max(known)
    return f"from {words.number(low)} ({lowest}) to {words.number(high)} ({highest})"


def _render_markdown(sections: Sequence[Section], plots: Sequence[Plot]) -> str:
    shown = [tables.format_markdown(section) for section in sections]
    figures = "\n\n".join(f"![{tables.escape_markdown(plot.alt)}]({plot.file})" for plot in plots)
    shown.insert(1, f"## Figures\n\n{figures}\n")
    meanings = "\n".join(
        f"* {tables.escape_markdown(name)}: {tables.escape_markdown(meaning)}"
        for name, meaning in tables.definitions(sections).items()
    )
    shown.append(f"## Definitions\n\n{_UNDEFINED}\n\n{meanings}\n")
    return "\n".join(["# Comparison of methods\n", *shown])


def _render_page(
    jinja2: Any, result: Mapping[str, Any], sections: Sequence[Section], plots: Sequence[Plot]
) -> str:
    template = page.build_environment(jinja2).get_template("comparison.html")
    return template.render(
        result=result,
        seeds=comparison_measures.seeds(result),
        sections=sections,
        plots=plots,
        definitions=tables.definitions(sections),
        undefined=_UNDEFINED,
    )
