"""The tables of a comparison: their figures, what stands out, and what is left out."""

import doctest
import re

import pytest
from comparison_results import HOSTILE, build_result, spread

from esmm_tf.reports import comparison_setup, comparison_tables, tables, words
from esmm_tf.reports.tables import Cell, Column, Section, Table


def build_sections(result):
    """Returns the sections of both modules by their keys."""
    modules = (comparison_tables, comparison_setup)
    return {part.key: part for module in modules for part in module.build_sections(result)}


def heads(table):
    return [column.name for column in table.columns]


def texts(table):
    """Returns the texts of the rows, by the method that each names first."""
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def bold(table):
    """Returns the places of the cells in bold: the method's name and the column's."""
    return [
        (row[0].text, column.name)
        for row in table.rows
        for cell, column in zip(row, table.columns, strict=True)
        if cell.is_bold
    ]


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(tables).failed == 0


def test_the_main_table_begins_as_the_papers_second_one():
    table = comparison_tables.build_main_table(build_result())

    assert heads(table) == [
        "Method",
        "CVR AUC (clicked)",
        "CTCVR AUC (all)",
        "CTR AUC (all)",
        "Calibration (pCVR, clicked)",
        "Calibration (pCTCVR, all)",
        "Above 1 (pCVR, clicked)",
    ]
    assert list(texts(table)) == [
        "BASE",
        "AMAN",
        "OVERSAMPLING",
        "UNBIAS",
        "DIVISION",
        "ESMM-NS",
        "ESMM",
    ]
    assert texts(table)["DIVISION"] == [
        "0.6820 ± 0.0020",
        "0.6920 ± 0.0020",
        "0.6720 ± 0.0020",
        "1.002",
        "1.012",
        "1.23 %",
    ]


def test_the_truth_adds_its_columns():
    table = comparison_tables.build_main_table(build_result(oracle=True))

    assert heads(table)[3] == "CVR AUC (entire space)"
    assert "Calibration (pCVR, entire space)" in heads(table)
    assert heads(table)[-1] == "Above 1 (pCVR, entire space)"


def test_without_a_method_that_divides_no_share_above_1_is_shown():
    table = comparison_tables.build_main_table(build_result(methods=("base", "esmm"), oracle=True))

    assert not any("Above 1" in head for head in heads(table))


def test_one_seed_has_no_standard_deviation():
    result = build_result(seeds=1)

    sections = build_sections(result)

    assert texts(sections["results"].tables[0])["BASE"][0] == "0.6700"
    assert sections["results"].sentences[0].startswith("One model of each method")
    assert "With one seed there is neither interval" in " ".join(sections["differences"].sentences)
    assert texts(sections["differences"].tables[0])["ESMM"][:3] == ["+0.0042", "—", "—"]
    assert bold(sections["differences"].tables[0]) == []


def test_the_best_of_each_auc_is_bold_and_nothing_else():
    result = build_result(methods=("base", "division", "esmm"), oracle=True)
    result["methods"]["base"]["tasks"]["ctcvr"]["auc"] = spread(0.9)

    table = comparison_tables.build_main_table(result)

    assert sorted(bold(table)) == [
        ("BASE", "CTCVR AUC (all)"),
        ("ESMM", "CTR AUC (all)"),
        ("ESMM", "CVR AUC (clicked)"),
        ("ESMM", "CVR AUC (entire space)"),
    ]


def test_methods_that_look_equally_good_are_all_bold():
    result = build_result(methods=("base", "aman", "esmm"))
    for name, auc in (("base", 0.650004), ("aman", 0.649996), ("esmm", 0.6499)):
        result["methods"][name]["tasks"]["ctr"]["auc"] = spread(auc)

    table = comparison_tables.build_main_table(result)

    found = [method for method, column in bold(table) if column == "CTR AUC (all)"]
    assert found == ["BASE", "AMAN"]


def test_one_method_alone_is_not_the_best_and_differs_from_nothing():
    sections = build_sections(build_result(methods=("esmm",)))

    assert bold(sections["results"].tables[0]) == []
    assert "differences" not in sections


@pytest.mark.parametrize("nothing", [None, {"mean": None, "std": None, "values": []}])
def test_what_is_not_defined_is_a_dash(nothing):
    result = build_result(oracle=True)
    tasks = result["methods"]["division"]["tasks"]
    for metric in ("auc", "calibration"):
        tasks["cvr_clicked"][metric] = nothing
    tasks["cvr_entire"]["share_above_1"] = nothing
    del tasks["ctcvr"]

    table = comparison_tables.build_main_table(result)

    row = dict(zip(heads(table)[1:], texts(table)["DIVISION"], strict=True))
    assert {name for name, text in row.items() if text == "—"} == {
        "CVR AUC (clicked)",
        "CTCVR AUC (all)",
        "Calibration (pCVR, clicked)",
        "Calibration (pCTCVR, all)",
    }


def test_the_papers_two_columns_stand_though_nothing_is_known():
    result = build_result(methods=("base", "esmm"))
    for method in result["methods"].values():
        method["tasks"] = {}

    table = comparison_tables.build_main_table(result)

    assert texts(table) == {"BASE": ["—", "—"], "ESMM": ["—", "—"]}


def test_differences_stand_with_interval_and_p_value_for_each_auc():
    section = build_sections(build_result(oracle=True))["differences"]

    clicked, ctcvr, entire = section.tables
    assert [table.caption for table in section.tables] == [
        "CVR AUC (clicked)",
        "CTCVR AUC (all)",
        "CVR AUC (entire space)",
    ]
    assert heads(clicked)[1] == "minus BASE"
    assert texts(clicked)["ESMM"] == [
        *("+0.0042", "[+0.0011, +0.0073]", "0.012"),
        *("ESMM-NS", "+0.0042", "[+0.0011, +0.0073]", "0.012"),
    ]
    assert texts(clicked)["BASE"][:4] == ["—", "—", "—", "ESMM"]
    assert texts(ctcvr)["ESMM"][:3] == ["-0.0010", "[-0.0030, +0.0010]", "0.300"]
    assert ("ESMM", "minus BASE") in bold(entire)
    assert bold(ctcvr) == []


def test_it_is_said_how_intervals_are_made_and_that_p_values_are_not_corrected():
    sentences = " ".join(build_sections(build_result())["differences"].sentences)

    assert "users of the test set" in sentences
    assert "the seeds, and takes its width from Student's t" in sentences
    assert "not corrected for their number" in sentences


def test_without_base_only_the_best_other_is_compared_with():
    section = build_sections(build_result(methods=("esmm_ns", "esmm")))["differences"]

    assert heads(section.tables[0])[1:3] == ["Best other", "minus best other"]
    assert texts(section.tables[0])["ESMM-NS"][:2] == ["ESMM", "+0.0042"]


def test_fractions_come_in_rising_order_one_table_an_auc():
    result = build_result(methods=("base", "esmm"), fractions=("1", "0.05", "0.5"))

    section = build_sections(result)["fractions"]

    assert heads(section.tables[0]) == ["Method", "5 %", "50 %", "100 %"]
    assert texts(section.tables[0])["BASE"][2] == "0.6700 ± 0.0020"
    assert bold(section.tables[2]) == [("ESMM", name) for name in ("5 %", "50 %", "100 %")]


def test_each_fraction_shows_how_methods_differ_from_base_and_how_sure_that_is():
    result = build_result(methods=("base", "aman", "esmm"), fractions=("0.05", "1"))
    result["fractions_against_base"]["0.05"]["esmm"]["cvr_clicked"] |= {
        "difference": 0.0301,
        "interval": [-0.001, 0.0612],
        "p_value": 0.0571,
    }
    del result["fractions_against_base"]["0.05"]["aman"]["cvr_clicked"]

    table = build_sections(result)["fractions"].tables[1]

    assert table.caption == "CVR AUC (clicked) minus BASE"
    assert texts(table) == {
        "AMAN": ["—", "+0.0042 (0.012)"],
        "ESMM": ["+0.0301 (0.057)", "+0.0042 (0.012)"],
    }
    assert bold(table) == [("AMAN", "100 %"), ("ESMM", "100 %")]


def test_without_base_fractions_have_no_differences():
    result = build_result(methods=("esmm_ns", "esmm"), fractions=("0.05", "1"))

    section = build_sections(result)["fractions"]

    assert [table.caption for table in section.tables] == ["CVR AUC (clicked)", "CTCVR AUC (all)"]
    assert "ifference" not in " ".join(section.sentences)


def test_one_fraction_has_no_table():
    assert "fractions" not in build_sections(build_result())


def test_further_metrics_tell_how_far_the_truth_is_where_it_is_known():
    known = build_sections(build_result(oracle=True))["further"].tables
    unknown = build_sections(build_result())["further"].tables

    assert [table.caption for table in known] == [
        "CVR, clicked",
        "CTCVR",
        "CVR, entire space",
        "CTR",
    ]
    assert heads(known[2])[1:] == ["Log loss", "Calibration", "Way to oracle", "Regret", "Bias"]
    assert heads(unknown[0])[1:] == ["GAUC", "Log loss", "Calibration"]
    assert texts(known[0])["DIVISION"][1] == "—"


def test_every_candidate_is_shown_and_the_chosen_one_marked():
    section = build_sections(build_result(methods=("aman", "unbias", "esmm")))["tuning"]

    rows = [[cell.text for cell in row] for row in section.tables[0].rows]
    assert len(rows) == 2 + 4 + 4 + 2
    assert [row[:3] for row in rows if row[-1] == "chosen"] == [
        ["CTR network", "0.001", "—"],
        ["AMAN", "0.0003", "0.2"],
        ["UNBIAS", "0.0003", "0"],
        ["ESMM", "0.0003", "—"],
    ]
    assert rows[2] == ["AMAN", "0.001", "0.1", "2", "0.6000", "0.6100", "0.5900", "0.6000", ""]
    assert "on the validation split alone and never on the test split" in " ".join(
        section.sentences
    )


def test_a_ctr_network_that_is_compared_itself_is_not_listed_twice():
    result = build_result(methods=("ctr", "esmm"))

    rows = build_sections(result)["tuning"].tables[0].rows

    assert [row[0].text for row in rows] == ["ctr", "ctr", "ESMM", "ESMM"]


def test_without_a_ctr_network_none_is_listed():
    result = build_result(methods=("esmm",), ctr_network=None)

    rows = build_sections(result)["tuning"].tables[0].rows

    assert [row[0].text for row in rows] == ["ESMM", "ESMM"]


def test_candidates_without_an_auc_are_shown():
    result = build_result(methods=("esmm",), ctr_network=None)
    result["methods"]["esmm"]["candidates"][0]["aucs"]["cvr_clicked"] = None

    rows = build_sections(result)["tuning"].tables[0].rows

    assert rows[0][4].text == "—"


def test_the_budget_lists_what_each_method_took():
    section = build_sections(build_result(methods=("base", "aman")))["budget"]

    assert texts(section.tables[0])["AMAN"] == [
        *("0.0003", "0.2", "160,000", "2, 3, 3", "1, 2, 3", "101.0 ± 2.5", "1,234,568"),
    ]


def test_a_sampled_epoch_has_its_standard_deviation():
    result = build_result(methods=("unbias",))
    result["methods"]["unbias"]["impressions_an_epoch"] = spread(76_000.0, 120.0)

    section = build_sections(result)["budget"]

    assert texts(section.tables[0])["UNBIAS"][2] == "76,000 ± 120"


def test_data_settings_and_machine_are_listed():
    sections = build_sections(build_result())

    assert sections["data"].sentences == ["From logs/records."]
    assert texts(sections["data"].tables[0])["train"] == [
        *("2,000,000", "80,000", "4 %", "9,000", "11.2 %"),
    ]
    compare, model, _, machine = map(texts, sections["settings"].tables)
    assert compare == {"--schema": ["—"], "--learning_rates": ["0.001,0.0003"], "--epochs": ["3"]}
    assert model["--hidden_units"] == ["360,200,80"]
    assert machine["tensorflow"] == ["2.21.0"]


def test_every_column_of_the_main_table_is_defined():
    result = build_result(oracle=True)

    found = tables.definitions(build_sections(result).values())

    assert set(heads(comparison_tables.build_main_table(result))) - set(found) == {"Method"}
    assert all(text == text.strip() for text in found.values())


def table_of(rows):
    columns = [Column(title="Name", is_text=True), Column(title="AUC", note="all")]
    return Table(caption="", columns=columns, rows=rows)


def test_markdown_is_aligned_and_bold_where_a_cell_stands_out():
    table = table_of([[Cell("a"), Cell("0.5", True)], [Cell("女装"), Cell("—")]])
    section = Section(key="x", title="Title", sentences=["One.", "Two."], tables=[table])

    assert tables.format_markdown(section) == (
        "## Title\n\n"
        "One. Two.\n\n"
        "| Name | AUC (all) |\n"
        "|:-----|----------:|\n"
        "| a    |   **0.5** |\n"
        "| 女装 |         — |\n"
    )


def test_a_terminal_shows_titles_above_notes():
    table = table_of([[Cell("a\n\x1b[2J"), Cell("0.5", True)]])

    assert tables.format_text(table) == "Name    AUC\n        all\na �[2J  0.5"


def test_a_table_without_notes_has_no_line_of_them():
    columns = [Column(title="Name\x1b[2J", is_text=True), Column(title="AUC")]

    assert tables.format_rows(columns, [("a", "0.5")]) == "Name�[2J  AUC\na         0.5"


def test_text_from_outside_breaks_no_table():
    result = build_result(methods=("base", HOSTILE))
    result["data"]["directory"] = f"{HOSTILE}\n# heading"

    shown = [tables.format_markdown(section) for section in build_sections(result).values()]

    for text in shown:
        assert "<script" not in text.replace("\\<", "")
        assert not re.search(r"^# heading", text, re.MULTILINE)
    lines = [line for line in shown[0].splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


@pytest.mark.parametrize(
    ("values", "decimals", "shown"),
    [
        ({"mean": 0.000123, "std": 0.00001}, 4, "0.000123 ± 0.000010"),
        ({"mean": -0.00001, "std": None}, 3, "-0.0000100"),
        ({"mean": 0.0, "std": 0.0}, 4, "0.0000 ± 0.0000"),
        ({"mean": 1234567.8, "std": None}, 0, "1,234,568"),
        ({"mean": 19.8944, "std": 0.2}, 3, "19.894 ± 0.200"),
        ({"mean": 1e-12, "std": None}, 4, "0.0000000"),
        ({"mean": None, "std": None}, 4, words.DASH),
    ],
)
def test_small_means_have_the_decimals_they_need(values, decimals, shown):
    assert tables.spread(values, decimals) == shown
