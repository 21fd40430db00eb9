"""What is done about a finding."""

import pytest

from esmm_tf.config.evaluation import EvaluateConfig
from esmm_tf.config.training import GuardConfig
from esmm_tf.errors import UserError
from esmm_tf.training import findings

FINDING = findings.Finding(guard="unnested_labels", message="A rule, and 3 break it. Mend them.")


def test_nothing_found_is_nothing_done(capsys):
    findings.act(None, GuardConfig())

    assert capsys.readouterr() == ("", "")


def test_a_guard_that_is_off_is_silent(capsys):
    findings.act(FINDING, GuardConfig(on_unnested_labels="off"))

    assert capsys.readouterr() == ("", "")


def test_a_warning_is_one_line_on_standard_error(capsys):
    findings.act(FINDING, GuardConfig(on_unnested_labels="warn"))

    assert capsys.readouterr() == ("", "warning: A rule, and 3 break it. Mend them.\n")


def test_a_stop_tells_how_to_go_on_all_the_same():
    message = r"^A rule, and 3 break it\. Mend them\. To go on all the same, give --on_unnested_la"

    with pytest.raises(UserError, match=message):
        findings.act(FINDING, GuardConfig(on_unnested_labels="stop"))


def test_each_command_has_its_own_guards():
    finding = findings.Finding(guard="used_data", message="Seen before.")

    with pytest.raises(UserError, match=r"^Seen before\. To go on all the same, give --on_used_da"):
        findings.act(finding, EvaluateConfig(on_used_data="stop"))
