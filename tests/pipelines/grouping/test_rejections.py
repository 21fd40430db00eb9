"""Rejected rows are listed and counted, and too many of them end a job."""

import re

import pytest

from esmm_pipelines.grouping.rejections import RejectedRows, check_share
from esmm_tf.errors import UserError


def read_rows(directory):
    return (directory / "rejected" / "rows.csv").read_text(encoding="utf-8")


def test_rejected_rows_are_listed_with_their_reason_and_counted(tmp_path):
    with RejectedRows(str(tmp_path), ("file", "line")) as rejected:
        rejected.add(("a.csv", 3), "no label")
        rejected.add(('say "yes", é', None), "no label")
        rejected.add(("two\nlines", 5), "no item")

    assert read_rows(tmp_path) == (
        'file,line,reason\na.csv,3,no label\n"say ""yes"", é",,no label\n"two\nlines",5,no item\n'
    )
    assert rejected.counts == {"no label": 2, "no item": 1}
    assert rejected.path == str(tmp_path / "rejected" / "rows.csv")


def test_what_is_no_text_is_listed_escaped(tmp_path):
    with RejectedRows(str(tmp_path), ("group",)) as rejected:
        rejected.add(("half \ud800",), "no item")

    assert read_rows(tmp_path) == "group,reason\nhalf \\ud800,no item\n"


def test_there_is_no_file_if_nothing_was_rejected(tmp_path):
    with RejectedRows(str(tmp_path / "out"), ("group",)) as rejected:
        pass

    assert list(tmp_path.iterdir()) == []
    assert not rejected.counts


def test_the_list_of_an_earlier_run_is_replaced_or_removed(tmp_path):
    for group in ("first", "second"):
        with RejectedRows(str(tmp_path), ("group",)) as rejected:
            rejected.add((group,), "no item")
    assert read_rows(tmp_path) == "group,reason\nsecond,no item\n"

    with RejectedRows(str(tmp_path), ("group",)):
        pass

    assert list(tmp_path.iterdir()) == []


def reject_and_fail(directory):
    with RejectedRows(str(directory), ("group",)) as rejected:
        rejected.add(("second",), "no item")
        raise KeyboardInterrupt


def test_a_run_that_fails_leaves_the_list_of_an_earlier_one(tmp_path):
    with RejectedRows(str(tmp_path), ("group",)) as rejected:
        rejected.add(("first",), "no item")

    with pytest.raises(KeyboardInterrupt):
        reject_and_fail(tmp_path)

    assert [path.name for path in (tmp_path / "rejected").iterdir()] == ["rows.csv"]
    assert read_rows(tmp_path) == "group,reason\nfirst,no item\n"


@pytest.mark.parametrize(
    ("rejected", "total", "share"), [({}, 0, 0.0), ({"a": 1}, 100, 0.01), ({"a": 2}, 2, 1.0)]
)
def test_as_many_rows_may_be_rejected_as_the_share_allows(rejected, total, share):
    check_share(rejected, total=total, max_rejected=share, path="unused")


def test_too_many_rejected_rows_are_told_with_the_commonest_reasons_and_where_they_are():
    rejected = {"rare": 1, "often": 1500, "at times": 20, "seldom": 3}
    message = (
        "1,524 of 3,000 rows were rejected, a share of 0.51, and --max_rejected is 0.5. The "
        "commonest reasons: often (1,500), at times (20), seldom (3). They are listed in "
        "'out/rejected/rows.csv'. Mend the rows, or give a higher --max_rejected."
    )

    with pytest.raises(UserError, match=re.escape(message)):
        check_share(rejected, total=3_000, max_rejected=0.5, path="out/rejected/rows.csv")
