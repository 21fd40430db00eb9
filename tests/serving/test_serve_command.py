"""The command: where it listens, what it says, what is the user's mistake, how it ends."""

import json
import pathlib
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from rest_requests import ask_url

from esmm_tf import serve
from esmm_tf.config import flags
from esmm_tf.config.serving import ServeConfig
from esmm_tf.errors import UserError
from esmm_tf.serving import golden, server

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
VERSION = 7


def test_main_says_where_it_listens_and_what_to_paste(export_dir, monkeypatch, capsys):
    def interrupt(versions, seconds):
        assert versions.find("esmm").version == VERSION
        assert seconds == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "poll", interrupt)

    with pytest.raises(SystemExit) as exit_info:
        flags.run(
            serve.main,
            ServeConfig,
            argv=["serve", f"--export_dir={export_dir}", "--port=0", "--rest_api_port=0"],
        )

    assert exit_info.value.code == 130
    printed = capsys.readouterr()
    assert printed.err == "\ninterrupted\n"
    lines = printed.out.splitlines()
    assert lines[:2] == [
        f"serving version {VERSION}",
        f"model  esmm, version {VERSION} of {export_dir}",
    ]
    (rest,) = re.findall(r"^REST   (http://127\.0\.0\.1:\d+/v1/models/esmm)$", lines[2])
    assert re.fullmatch(r"gRPC   127\.0\.0\.1:\d+", lines[3])
    request = export_dir / str(VERSION) / golden.REQUEST_FILE
    assert shlex.split(lines[4]) == ["try", "curl", "-d", f"@{request}", f"{rest}:predict"]


def test_versions_are_looked_for_until_a_signal_comes(monkeypatch):
    waited, refreshed = [], []

    class Event:
        def wait(self, seconds):
            waited.append(seconds)
            if len(waited) == 3:
                raise KeyboardInterrupt

    class Versions:
        def refresh(self):
            refreshed.append(len(waited))

    monkeypatch.setattr(server.threading, "Event", Event)

    with pytest.raises(KeyboardInterrupt):
        server.poll(Versions(), 2)

    assert waited == [2, 2, 2]
    assert refreshed == [1, 2]


@pytest.mark.parametrize("flag", ["port", "rest_api_port"])
def test_a_port_in_use_is_the_users_mistake(export_dir, flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"port": 0, "rest_api_port": 0} | {flag: port}
        config = ServeConfig(export_dir=str(export_dir), **ports)
        message = (
            rf"--{flag} is {port}, and 127.0.0.1:{port} cannot be listened on: Address already in "
            r"use\. Stop what listens there, or give another; 0 takes any free one\."
        )

        with pytest.raises(UserError, match=f"^{message}$"), server.serving(config):
            pass


def test_an_address_that_is_not_the_machines_is_the_users_mistake():
    config = ServeConfig(export_dir="export", host="no.such.host.invalid", port=0, rest_api_port=0)

    with (
        pytest.raises(UserError, match=r"no\.such\.host\.invalid:0 cannot be listened on: \w+"),
        server.serving(config),
    ):
        pass


def test_a_response_does_not_wait_for_acknowledgements():
    config = ServeConfig(export_dir="export", port=0, rest_api_port=0)

    with server._listen(config, "rest_api_port") as listener:
        no_delay = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    assert no_delay


@pytest.mark.parametrize("missing", ["uvicorn", "esmm_tf.serving.rest_api"])
def test_a_server_without_its_extra_names_it(export_dir, hide_module, missing):
    hide_module(missing)
    config = ServeConfig(export_dir=str(export_dir), port=0, rest_api_port=0)
    message = (
        r"The local server needs FastAPI and Uvicorn\. Install them with pip install "
        r"'esmm_tf\[serving\]'\."
    )

    with pytest.raises(UserError, match=f"^{message}$"), server.serving(config):
        pass


def test_an_empty_directory_is_the_users_mistake(tmp_path):
    config = ServeConfig(export_dir=str(tmp_path), port=0, rest_api_port=0)

    with (
        pytest.raises(UserError, match=r"Write one with python -m esmm_tf\.export"),
        server.serving(config),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": -1}, "--port is -1. Give 0 or more."),
        ({"rest_api_port": 65536}, "--rest_api_port is 65536. Give 65535 at most."),
        (
            {"file_system_poll_wait_seconds": -1},
            "--file_system_poll_wait_seconds is -1. Give 0 or more.",
        ),
        (
            {"model_name": "a/b"},
            "--model_name is 'a/b'. It is a part of addresses: give a name without '/' and ':'.",
        ),
    ],
)
def test_settings_that_cannot_be_served_are_refused(changes, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        ServeConfig(export_dir="export", **changes)


@pytest.mark.parametrize("client", ["rest", "grpc"])
def test_the_example_of_a_client_scores_the_golden_request(server, export_dir, client):
    path = ROOT / "examples" / f"{client}_client.py"
    address = getattr(server, client).removeprefix("http://")
    expected = json.loads((export_dir / str(VERSION) / golden.RESPONSE_FILE).read_bytes())

    done = subprocess.run(
        [sys.executable, str(path), f"--export_dir={export_dir}", f"--server={address}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["serving_default"] * 3 + ["rank"] * 3
    found = [[float(text) for text in line.split()[2::2]] for line in lines]
    scores = [[row[name] for name in ("pctr", "pcvr", "pctcvr")] for row in expected["predictions"]]
    np.testing.assert_allclose(found[:3], scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[3], scores[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("client", ["rest", "grpc"])
def test_the_example_of_a_client_scores_given_features(
    server, signatures, monkeypatch, capsys, client
):
    path = ROOT / "examples" / f"{client}_client.py"
    address = getattr(server, client).removeprefix("http://")
    features = [{"user": [3], "query": ["hats"], "age": [30.5], "item": [7], "price": [2.0]}]
    example = tf.train.Example()
    example.features.feature["user"].int64_list.value.append(3)
    example.features.feature["query"].bytes_list.value.append(b"hats")
    example.features.feature["age"].float_list.value.append(30.5)
    example.features.feature["item"].int64_list.value.append(7)
    example.features.feature["price"].float_list.value.append(2.0)

    argv = [str(path), f"--features={json.dumps(features)}", f"--server={address}"]
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(str(path), run_name="__main__")

    lines = capsys.readouterr().out.splitlines()
    outputs = signatures["serving_default"](tf.constant([example.SerializeToString()]))
    found = [[float(text) for text in line.split()[2::2]] for line in lines]
    expected = [outputs[name].numpy()[0] for name in ("pctr", "pcvr", "pctcvr")]
    np.testing.assert_allclose(found, [expected] * 2, rtol=0, atol=1e-6)


def test_the_command_serves_until_it_is_interrupted(export_dir):
    command = [sys.executable, "-m", "esmm_tf.serve", f"--export_dir={export_dir}"]
    # Where tests run in the background, the signal is ignored, which a new process inherits. Not by
    # preexec_fn: the copy of this process that runs it writes what gRPC's threads say into stderr.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [*command, "--port=0", "--rest_api_port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        lines = [process.stdout.readline().rstrip("\n") for _ in range(5)]
        *_, request, url = shlex.split(lines[4])
        body = pathlib.Path(request.removeprefix("@")).read_bytes()
        status, response = ask_url(url, body)

        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # else a server that goes on would be waited for

    assert process.returncode == 130
    assert status == 200
    assert len(response["predictions"]) == 3
    assert out == ""
    assert err == "\ninterrupted\n"
