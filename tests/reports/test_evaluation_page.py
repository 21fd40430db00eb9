"""The page of an evaluation: what it says, what it escapes, and the files beside it."""

import html.parser
import os
import pathlib
import re

import jinja2
import pytest
from evaluation_results import HOSTILE, build_result, empty_task, without_numbers

from esmm_tf import keys
from esmm_tf.errors import UserError
from esmm_tf.reports import evaluation_page, evaluation_plots
from esmm_tf.reports.evaluation_result import Evaluation

VOID = {"meta", "img"}


class Page(html.parser.HTMLParser):
    """A page read: text, tags with their attributes, and cells of tables by row."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self._open, self._parts = [], [], [], []
        self.feed(text)
        assert self._open == []
        self.text = " ".join(" ".join(self._parts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self._parts.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] = " ".join((self.rows[-1][-1] + " " + data).split())

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def row(self, start):
        """Returns the cells of the first row whose header begins so."""
        return next(cells for cells in self.rows if cells[0].startswith(start))


def write_report(result, directory):
    """Returns the path of the page of an evaluation's tree."""
    return pathlib.Path(evaluation_page.write_report(Evaluation.from_json(result), str(directory)))


@pytest.fixture(scope="module")
def unpainted():
    """Returns a function that writes a report, whose figures are built and not painted."""

    def write_unpainted(result, directory):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluation_plots, "_png", lambda figure: b"\x89PNG\r\n\x1a\n")
            path = write_report(result, directory)
        return Page(path.read_text(encoding="utf-8")), path.parent

    return write_unpainted


@pytest.fixture
def write(tmp_path, unpainted):
    """Returns a function that writes a report of its own, unpainted."""
    return lambda result: unpainted(result, tmp_path / "new")


@pytest.fixture(scope="module")
def plain(unpainted, tmp_path_factory):
    """Returns the page of an evaluation without truth, baseline and slices."""
    page, _ = unpainted(build_result(), tmp_path_factory.mktemp("plain"))
    return page


@pytest.fixture(scope="module")
def sliced(unpainted, tmp_path_factory):
    """Returns page and directory of an evaluation with a baseline, and a field of one value."""
    result = build_result(slices={"301": ["1"]}, compared=True)
    return unpainted(result, tmp_path_factory.mktemp("sliced"))


@pytest.fixture(scope="module")
def long(unpainted, tmp_path_factory):
    """Returns the page of an evaluation with a field of forty values."""
    result = build_result(slices={"121": [f"profile {i}" for i in range(40)]})
    intervals = [[0.5, 0.9], [1.1, 1.2], [1.1, 1.2], None, *[[0.9, 1.1]] * 36]
    for part, interval in zip(result["slices"]["121"].values(), intervals, strict=True):
        part["tasks"]["ctr"]["intervals"]["calibration"] = interval
    page, _ = unpainted(result, tmp_path_factory.mktemp("long"))
    return page


def keep_task(result, task):
    """Leaves one task alone of an evaluation, and no histogram."""
    result["tasks"] = {task: result["tasks"][task]}
    result["histograms"] = {}
    for field in result["slices"].values():
        for part in field.values():
            part["tasks"] = {task: part["tasks"][task]}


def test_the_page_and_its_plots_lie_in_the_directory_and_nothing_else_does(sliced):
    _, directory = sliced

    plots = [
        f"{kind}_{task}.png"
        for kind in ("reliability", "roc", "precision_recall")
        for task in ("ctr", "cvr_clicked", "ctcvr")
    ]
    plots += [f"histogram_{score}.png" for score in ("pctr", "pcvr", "pctcvr")]
    plots += [
        f"slice_1_301_{task}_{metric}.png"
        for task in ("ctr", "cvr_clicked", "ctcvr")
        for metric in ("auc", "calibration")
    ]
    assert sorted(os.listdir(directory)) == sorted([*plots, "index.html"])


def test_the_page_needs_no_other_file_and_runs_no_script(sliced):
    page, directory = sliced

    for image in page.attributes("img"):
        assert image["src"].startswith("data:image/png;base64,iVBOR")
    assert {name for name, _ in page.tags} & {"script", "link", "iframe", "object"} == set()
    anchors = {attributes["href"] for attributes in page.attributes("a")}
    assert anchors == {f"#{a['id']}" for a in page.attributes("section")}
    text = (directory / "index.html").read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text


def test_every_picture_has_words_and_every_header_a_scope(sliced):
    page, _ = sliced

    assert all(len(image["alt"]) > 20 for image in page.attributes("img"))
    assert {header["scope"] for header in page.attributes("th")} == {"col", "row", "rowgroup"}
    assert page.attributes("html") == [{"lang": "en"}]


def test_equal_evaluations_give_equal_files(tmp_path):
    result = build_result(slices={"301": ["1", "2"]})
    histogram = result["histograms"]["pctr"]
    keep_task(result, "ctr")
    result["histograms"]["pctr"] = histogram

    for name in ("first", "second"):
        write_report(result, tmp_path / name)

    for name in os.listdir(tmp_path / "first"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_the_head_tells_what_was_measured(write):
    page, _ = write(
        build_result(negative_keep_rate=0.125, calibration={"ctr": "platt", "cvr": "isotonic"})
    )

    assert "Evaluation of models/esmm" in page.text
    assert "Impressions 100,703 Clicks 10,221 (10.1 % of impressions)" in page.text
    assert "Conversions 1,002 (9.8 % of clicks) Groups 1,733" in page.text
    assert "Sampling 12.5 % of the unclicked impressions were kept" in page.text
    assert "Calibrated after training CTR (platt), CVR (isotonic)" in page.text
    assert "New to the model yes" in page.text
    assert "logs/test-00000-of-00002.tfrecord, logs/test-00001-of-00002.tfrecord" in page.text


def test_metrics_stand_with_their_intervals_one_column_a_task(write):
    result = build_result()
    for place, task in enumerate(result["tasks"].values()):
        task["auc"] = 0.61 + place / 100
        task["intervals"]["auc"] = [0.6 + place / 100, 0.62 + place / 100]

    page, _ = write(result)

    assert page.row("AUC") == [
        "AUC higher is better",
        "0.6100 [0.6000, 0.6200]",
        "0.6200 [0.6100, 0.6300]",
        "0.6300 [0.6200, 0.6400]",
    ]
    assert page.row("Impressions")[1:] == ["100,703", "10,221", "100,703"]


def test_what_only_the_truth_can_tell_is_shown_where_it_is_there(write, plain):
    with_truth, _ = write(build_result(oracle=True))

    for name in ("Oracle AUC", "Way to oracle", "Oracle log loss", "Regret", "Bias"):
        assert len(with_truth.row(name)) == 5
        assert name not in plain.text
    assert "CVR, entire space" in with_truth.text


def test_without_groups_there_is_no_gauc(write):
    result = build_result(groups=None)
    for task in result["tasks"].values():
        for name in ("gauc", "gauc_groups", "gauc_groups_skipped"):
            del task[name]
        del task["intervals"]["gauc"]

    page, _ = write(result)

    assert "GAUC" not in page.text
    assert "Groups none" in page.text


def test_a_comparison_marks_what_chance_does_not_explain(write):
    page, _ = write(build_result(compared=True))

    table = page.rows[page.rows.index(["CTR"]) :]
    verdicts = [(row[0].split(" ")[0], row[-1]) for row in table if len(row) == 6]
    assert verdicts == [
        ("AUC", "▲ better"),
        ("GAUC", "unclear"),
        ("Log", "▼ worse"),
        ("Calibration", "▲ better"),
        ("AUC", "unclear"),
        ("Log", "▲ better"),
    ]
    assert "+0.01000 [0.00800, 0.01200]" in table[1]
    assert [row[4] for row in table if len(row) == 6][-2:] == ["—", "< 0.001"]


def test_without_a_baseline_there_is_no_comparison(plain):
    assert "baseline" not in plain.text.lower()


def test_thirty_values_of_a_field_are_shown_and_the_others_are_said_to_be_elsewhere(long):
    assert "By 121: 40 values" in long.text
    assert "Shown are the 30 with the most impressions; evaluation.json has all" in long.text
    assert [row[0] for row in long.rows if row[1] == "profile 29"] == ["30"] * 3
    assert "profile 30" not in long.text


def test_intervals_of_calibration_that_leave_out_1_are_counted_over_all_values(long):
    assert "CTR 3 of 39 calibration intervals leave out 1." in long.text


def test_values_come_by_falling_number_of_impressions(write):
    result = build_result(slices={"301": ["rare", "common"]})
    result["slices"]["301"]["rare"]["impressions"] = 5

    page, _ = write(result)

    assert page.text.index("common") < page.text.index("rare")
    assert "By 301: 2 values" in page.text


def test_a_field_with_one_value_is_shown(sliced):
    page, _ = sliced

    assert "By 301: 1 value " in page.text


def test_without_slices_there_is_no_section_of_them(plain):
    assert "Slices" not in plain.text


def test_text_from_outside_is_shown_and_never_run(tmp_path):
    values = [HOSTILE, "../../x", "$\\frac{$", "女装", "a\nb", "x" * 300, ""]
    result = build_result(
        slices={HOSTILE: values},
        model_dir=f'"{HOSTILE}',
        files=[f"{HOSTILE}{i}" for i in range(5)],
        used_in_training=[HOSTILE],
        data_hash=HOSTILE,
    )
    keep_task(result, "ctr")

    path = write_report(result, tmp_path / "new")

    page = Page(path.read_text(encoding="utf-8"))
    assert page.attributes("script") == []
    assert page.text.count(HOSTILE) > 10
    assert "女装" in page.text
    assert all(re.fullmatch(r"[\w-]+\.(png|html)", name) for name in os.listdir(path.parent))
    assert os.listdir(tmp_path) == ["new"]


def test_fields_that_differ_only_in_odd_characters_keep_their_own_plots(write):
    _, directory = write(build_result(slices={"a b": ["1"], "a/b": ["1"]}))

    names = [name for name in os.listdir(directory) if name.endswith("_ctr_auc.png")]
    assert sorted(names) == ["slice_1_a_b_ctr_auc.png", "slice_2_a_b_ctr_auc.png"]


def test_what_is_not_defined_is_a_dash(write):
    result = build_result(slices={"301": ["1", "2"]}, oracle=True, compared=True)

    page, _ = write(without_numbers(result))

    assert page.row("AUC") == ["AUC higher is better", *["—"] * 4]
    assert "None" not in page.text
    assert "nan" not in page.text.lower()


def test_a_task_without_impressions_is_named_and_shown_empty(write):
    result = build_result()
    result["tasks"][keys.CVR_CLICKED] = empty_task()

    page, _ = write(result)

    assert "warning : CVR, clicked has no impressions." in page.text
    assert page.row("AUC")[2] == "—"
    assert any(
        image["alt"] == "ROC curve of CVR, clicked. AUC is not defined."
        for image in page.attributes("img")
    )


@pytest.mark.parametrize("missing", ["esmm_tf.reports.evaluation_plots", "jinja2"])
def test_without_the_extra_it_is_said_what_to_install(hide_module, missing):
    hide_module(missing)
    message = (
        "A report needs Matplotlib and Jinja2. Install them with pip install 'esmm_tf[report]', or "
        "leave out --report_dir."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        evaluation_page.check_installed()


def test_a_report_that_fails_keeps_the_older_one(write):
    _, directory = write(build_result())
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    broken = build_result()
    del broken["model_dir"]

    with pytest.raises(jinja2.UndefinedError, match="has no attribute 'model_dir'"):
        write(broken)

    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
