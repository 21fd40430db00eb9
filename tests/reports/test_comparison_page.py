"""The report of a comparison: its files, its page, and what both say."""

import copy
import os
import pathlib
import re

import jinja2
import pytest
from comparison_results import HOSTILE, build_result
from test_evaluation_page import Page

from esmm_tf.errors import UserError
from esmm_tf.reports import comparison_page, comparison_plots

FRACTIONS = ("0.1", "1")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Returns a function that writes a report, whose figures are built and not painted."""
    monkeypatch.setattr(comparison_plots, "to_png", lambda figure: b"\x89PNG\r\n\x1a\n")

    def write_unpainted(result):
        directory = tmp_path / "new"
        comparison_page.write_report(result, str(directory))
        page = Page((directory / "index.html").read_text(encoding="utf-8"))
        return page, (directory / "table.md").read_text(encoding="utf-8"), directory

    return write_unpainted


@pytest.mark.parametrize(
    ("changes", "figures"),
    [
        ({}, ["auc.png", "calibration.png"]),
        ({"oracle": True}, ["auc.png", "calibration.png", "bias.png"]),
        ({"fractions": FRACTIONS}, ["auc.png", "auc_by_fraction.png", "calibration.png"]),
    ],
)
def test_the_paths_of_what_is_written_are_returned(tmp_path, monkeypatch, changes, figures):
    monkeypatch.setattr(comparison_plots, "to_png", lambda figure: b"")
    directory = str(tmp_path / "new")

    paths = comparison_page.write_report(build_result(**changes), directory)

    names = ["table.md", *figures, "index.html"]
    assert paths == [os.path.join(directory, name) for name in names]
    assert sorted(os.listdir(directory)) == sorted(names)


def test_equal_comparisons_give_equal_files_and_are_not_changed(tmp_path):
    result = build_result(methods=("base",), oracle=True, fractions=FRACTIONS)
    before = copy.deepcopy(result)

    first, second = (
        comparison_page.write_report(result, str(tmp_path / name)) for name in ("a", "b")
    )

    assert result == before
    for one, other in zip(first, second, strict=True):
        assert pathlib.Path(one).read_bytes() == pathlib.Path(other).read_bytes()


def test_every_file_is_renamed_from_a_temporary_name(write, monkeypatch):
    renamed = []
    rename = os.replace

    def watch(source, target):
        renamed.append((os.path.basename(source), os.path.basename(target)))
        rename(source, target)

    monkeypatch.setattr(os, "replace", watch)

    write(build_result())

    names = ["table.md", "auc.png", "calibration.png", "index.html"]
    assert renamed == [(f"{name}.tmp", name) for name in names]


def test_a_report_that_fails_keeps_the_older_one(write):
    _, _, directory = write(build_result())
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    broken = build_result(methods=("base",))
    del broken["data"]["splits"]["test"]["clicks"]

    with pytest.raises((jinja2.UndefinedError, KeyError)):
        write(broken)

    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_the_page_needs_no_other_file_and_runs_no_script(write):
    page, _, directory = write(build_result(oracle=True, fractions=FRACTIONS))

    for image in page.attributes("img"):
        assert image["src"].startswith("data:image/png;base64,iVBOR")
    assert {name for name, _ in page.tags} & {"script", "link", "iframe", "object"} == set()
    anchors = {attributes["href"] for attributes in page.attributes("a")}
    assert anchors == {f"#{a['id']}" for a in page.attributes("section")}
    text = (directory / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|src=\"(?!data:)", text)


def test_every_picture_has_words_and_every_header_a_scope(write):
    page, _, _ = write(build_result(oracle=True))

    alts = [image["alt"] for image in page.attributes("img")]
    assert alts[0] == (
        "AUC by method: CVR, clicked from 0.6700 (BASE) to 0.6880 (ESMM); CTCVR from 0.6800 (BASE) "
        "to 0.6980 (ESMM); CVR, entire space from 0.6600 (BASE) to 0.6720 (ESMM)."
    )
    assert [alt.split(" ")[0] for alt in alts] == ["AUC", "Mean", "Mean"]
    assert {header["scope"] for header in page.attributes("th")} == {"col", "row"}
    assert page.attributes("html") == [{"lang": "en"}]


def test_the_figure_by_share_says_where_the_smallest_share_ends(write):
    result = build_result(methods=("base", "esmm"), fractions=FRACTIONS)
    smallest = result["fractions"]["0.1"]
    smallest["base"]["cvr_clicked"]["auc"]["mean"] = 0.55
    smallest["esmm"]["cvr_clicked"]["auc"]["mean"] = 0.56
    del smallest["base"]["ctcvr"]["auc"], smallest["esmm"]["ctcvr"]["auc"]

    page, _, _ = write(result)

    assert page.attributes("img")[1]["alt"] == (
        "AUC against the share of the training data (10 %, 100 %). "
        "With 10 %, CVR, clicked from 0.5500 (BASE) to 0.5600 (ESMM); CTCVR not defined."
    )


def test_an_auc_that_nobody_has_is_said_to_be_undefined(write):
    result = build_result(methods=("base", "esmm"))
    for method in result["methods"].values():
        del method["tasks"]["cvr_clicked"]["auc"]

    page, _, _ = write(result)

    assert "CVR, clicked not defined; CTCVR from" in page.attributes("img")[0]["alt"]


def test_the_page_shows_what_the_markdown_shows(write):
    page, markdown, _ = write(build_result(oracle=True, fractions=FRACTIONS))

    headings = re.findall(r"^## (.+)$", markdown, re.MULTILINE)
    assert headings == [
        "Results",
        "Figures",
        "Differences",
        "AUC by share of the training data",
        "Further metrics",
        "Tuning",
        "Budget",
        "Data",
        "Settings and machine",
        "Definitions",
    ]
    assert all(heading in page.text for heading in headings)
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert len(lines) == len(page.rows)
    for line, row in zip(lines, page.rows, strict=True):
        cells = [cell.strip(" *").replace("\\", "") for cell in line.strip("|").split(" | ")]
        assert re.sub(r"[ ()]", "", "".join(cells)) == re.sub(r"[ ()]", "", "".join(row))


def test_the_head_of_the_page_tells_what_was_compared(write):
    page, _, _ = write(build_result(methods=("base", "esmm"), fractions=FRACTIONS))

    assert "Comparison of 2 methods on logs/records Methods BASE, ESMM Seeds 3" in page.text
    assert "Shares of the training data 10 %, 100 %" in page.text
    assert "Test 500,001 impressions, 20,001 clicks, 2,001 conversions" in page.text


def test_the_best_is_strong_and_columns_are_defined(write):
    page, markdown, _ = write(build_result())

    assert len(page.attributes("strong")) > 0
    assert "| **0.6880 ± 0.0020** | **0.6980 ± 0.0020** |" in markdown
    assert "CTCVR AUC (all) Chance that an impression with a conversion" in page.text
    assert "* CTCVR AUC (all): Chance that an impression with a conversion" in markdown
    assert "A dash stands for what is not defined" in page.text


def test_markdown_names_the_figures_beside_it(write):
    _, markdown, directory = write(build_result(oracle=True))

    figures = re.findall(r"\]\((\S+)\)", markdown)
    assert figures == ["auc.png", "calibration.png", "bias.png"]
    assert all((directory / name).exists() for name in figures)


def test_text_from_outside_is_shown_and_never_run(tmp_path):
    result = build_result(methods=("base", HOSTILE, '"><img src=x>'), fractions=FRACTIONS)
    result["data"]["directory"] = HOSTILE
    result["machine"]["processor"] = HOSTILE
    result["settings"]["compare"]["schema"] = HOSTILE

    comparison_page.write_report(result, str(tmp_path / "new"))

    page = Page((tmp_path / "new" / "index.html").read_text(encoding="utf-8"))
    assert page.attributes("script") == []
    assert len(page.attributes("img")) == 3
    assert page.text.count(HOSTILE) > 10
    markdown = (tmp_path / "new" / "table.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<", markdown)


def test_undefined_values_are_dashes_and_never_none(write):
    result = build_result(seeds=1, oracle=True, fractions=FRACTIONS)
    for method in result["methods"].values():
        for values in method["tasks"].values():
            for name in values:
                values[name] = None
        for candidate in method["candidates"]:
            candidate["aucs"] = dict.fromkeys(candidate["aucs"])

    page, markdown, _ = write(result)

    assert page.row("ESMM")[1:3] == ["—", "—"]
    for text in (page.text, markdown):
        assert "None" not in text
        assert not re.search(r"\bnan\b", text.lower())


def test_the_terminal_gets_the_main_table():
    lines = comparison_page.format_table(build_result(methods=("base", "esmm"))).splitlines()

    assert [line.split()[0] for line in lines] == ["Method", "clicked", "BASE", "ESMM"]
    assert lines[3].split()[1:4] == ["0.6730", "±", "0.0020"]


@pytest.mark.parametrize("missing", ["esmm_tf.reports.comparison_plots", "jinja2"])
def test_without_the_extra_it_is_said_what_to_install(hide_module, missing):
    hide_module(missing)
    message = (
        "A report needs Matplotlib and Jinja2. Install them with pip install 'esmm_tf[report]'."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        comparison_page.check_installed()
