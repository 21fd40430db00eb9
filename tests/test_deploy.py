"""The deployment is valid, and says the same in all its files as the code does."""

import http.server
import itertools
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
import threading

import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2
from yamllint import linter
from yamllint.config import YamlLintConfig

import esmm_tf
from esmm_tf.config import flags
from esmm_tf.config.serving import ExportConfig
from esmm_tf.serving import server_config

ROOT = pathlib.Path(__file__).parents[1]
BIN = pathlib.Path(sys.executable).parent
MODEL = ExportConfig(model_dir="model", export_dir="export").model_name
USER = "10001:10001"


def _load(path):
    return yaml.safe_load((ROOT / path).read_text())


COMPOSE = _load("docker-compose.yml")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
README = (ROOT / "deploy" / "README.md").read_text()
SETUP = (ROOT / "setup.py").read_text()
KUBERNETES = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
YAML = [ROOT / "docker-compose.yml", ROOT / "deploy" / "prometheus.yml", *KUBERNETES]
DEPLOYED = [ROOT / "Dockerfile", ROOT / "deploy" / "README.md", *YAML]
MANIFESTS = [
    manifest
    for path in KUBERNETES
    if path.name != "kustomization.yaml"
    for manifest in yaml.safe_load_all(path.read_text())
]

YAML_STYLE = YamlLintConfig(
    "{extends: default, rules: {document-start: disable, line-length: {max: 110}}}"
)


def _kind(kind):
    return [manifest for manifest in MANIFESTS if manifest["kind"] == kind]


def _pods():
    kinds = ("Deployment", "Job", "Pod")
    return [m["spec"].get("template", m)["spec"] for m in MANIFESTS if m["kind"] in kinds]


(DEPLOYMENT,) = _kind("Deployment")
(SERVER,) = DEPLOYMENT["spec"]["template"]["spec"]["containers"]


def _shell_commands():
    """Returns the words of each command in the README's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def _module_commands():
    """Returns the words of each command, from its module on, wherever one is given."""
    commands = [service.get("command", []) for service in COMPOSE["services"].values()]
    for pod in _pods():
        commands += [c.get("args", []) for c in pod.get("initContainers", []) + pod["containers"]]
    return list(filter(None, map(_from_module, commands + _shell_commands())))


def _from_module(words):
    is_module = re.compile(r"(esmm_tf|pipelines)\.\w+").fullmatch
    return list(itertools.dropwhile(lambda word: not is_module(word), words))


def _server_flags():
    """Returns the flags that the server is started with, by where that stands."""
    (words,) = [w for w in _shell_commands() if any(word.startswith("tensorflow/") for word in w)]
    return {
        "compose": COMPOSE["services"]["serving"]["command"],
        "kubernetes": SERVER["args"],
        "readme": [word for word in words if word.startswith("--") and "=" in word],
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Returns the text of each configuration file that an export writes, by its name."""
    directory = tmp_path_factory.mktemp("export")
    server_config.write_configs(str(directory), model_name=MODEL, batch_sizes=(1, 8))
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def base_path(written):
    """Returns where the server expects the versions."""
    config = text_format.Parse(
        written[server_config.MODELS], model_server_config_pb2.ModelServerConfig()
    )
    return config.model_config_list.config[0].base_path


# Each file by itself.


@pytest.mark.slow
def test_the_dockerfile_passes_its_linter():
    result = subprocess.run(
        [BIN / "hadolint", "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True
    )

    assert result.stdout + result.stderr == ""
    assert result.returncode == 0


@pytest.mark.slow
def test_the_compose_file_follows_the_compose_specification():
    schema = ["--builtin-schema", "vendor.compose-spec"]

    result = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *schema, ROOT / "docker-compose.yml"],
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_a_manifest_follows_the_schema_of_kubernetes(manifest, version):
    validated = kubernetes_validate.validate(manifest, version, strict=True)

    assert validated == version


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_has_no_key_twice_and_no_bad_style(path):
    problems = list(linter.run(path.read_text(), YAML_STYLE))

    assert problems == []


# The image.


def test_docker_is_sent_what_the_dockerfile_copies_and_nothing_else():
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    sources = {source for line in copied for source in line}

    sent = {line[1:] for line in ignored if line.startswith("!")}

    assert "*" in ignored
    assert sent == {pathlib.PurePath(source).parts[0] for source in sources}
    assert all((ROOT / source).exists() for source in sources)


def test_the_image_holds_every_package_that_setup_py_names():
    (directories,) = re.findall(r"package_dir=\{(.*?)\}", SETUP, flags=re.DOTALL)

    folders = {path.split("/")[0] for path in re.findall(r': "(.*?)"', directories)} | {"esmm_tf"}

    assert folders == {"esmm_tf", "pipelines", "tfrecords_schema"}
    assert all(f"COPY {name} {name}" in DOCKERFILE for name in folders)


def test_the_extras_of_the_image_exist_in_setup_py():
    (extras,) = re.findall(r"extras_require=\{(.*?)\}", SETUP, flags=re.DOTALL)
    (installed,) = re.findall(r"'\.\[(.*?)\]'", DOCKERFILE)

    unknown = set(installed.split(",")) - set(re.findall(r'"(\w+)":', extras))

    assert unknown == set()


def test_the_trainers_image_has_the_version_of_the_package_everywhere():
    tags = {
        tag for path in DEPLOYED for tag in re.findall(r"\besmm_tf:([\w.-]+)", path.read_text())
    }

    assert tags == {esmm_tf.__version__}


def test_every_image_has_one_version_in_all_files():
    texts = "".join(path.read_text() for path in DEPLOYED)
    images = {service["image"] for service in COMPOSE["services"].values()}
    images |= {c["image"] for pod in _pods() for c in pod["containers"]}

    names = {image.split(":")[0] for image in images}
    versions = {name: set(re.findall(rf"{name}:(v?\d[\w.-]*)", texts)) for name in names}

    assert all(re.search(r":v?\d", image) for image in images)
    assert {name: len(found) for name, found in versions.items()} == dict.fromkeys(names, 1)


def test_the_server_is_no_older_than_the_newest_tensorflow_that_exports():
    above = max(map(int, re.findall(r'"tensorflow>=[\d.]+,<2\.(\d+)"', SETUP)))

    (server,) = re.findall(r"serving:2\.(\d+)", SERVER["image"])

    assert int(server) >= above - 1


def test_the_user_of_the_image_is_the_one_of_pods_and_services():
    pods = {"{runAsUser}:{runAsGroup}".format(**pod["securityContext"]) for pod in _pods()}
    services = {s["user"] for s in COMPOSE["services"].values() if "user" in s}

    assert f"USER {USER}\n" in DOCKERFILE
    assert pods == {USER}
    assert services == {f"${{RUN_AS:-{USER}}}"}


# What the commands are given.


@pytest.mark.parametrize("command", _module_commands(), ids=lambda command: command[0])
def test_every_flag_is_known_to_its_command(command, monkeypatch):
    run, configs, received = flags.run, [], []
    path = ROOT / f"{command[0].replace('.', '/')}.py"
    monkeypatch.setattr(flags, "run", lambda main, *classes: configs.extend(classes))
    runpy.run_path(str(path), run_name="__main__")

    with pytest.raises(SystemExit) as stop:
        run(lambda *parsed: received.extend(parsed), *configs, argv=command)

    assert stop.value.code == 0
    assert configs
    assert [type(config) for config in received] == configs


def test_a_job_is_not_tried_again_after_a_users_mistake():
    (job,) = _kind("Job")
    rules = {rule["action"]: rule for rule in job["spec"]["podFailurePolicy"]["rules"]}

    with pytest.raises(SystemExit) as mistake:
        flags.run(lambda config: None, ExportConfig, argv=["command", "--no_such_flag"])

    assert rules["FailJob"]["onExitCodes"]["values"] == [mistake.value.code]


# What the server is given.


@pytest.mark.parametrize("place", ["compose", "kubernetes", "readme"])
def test_the_server_reads_the_files_that_an_export_writes(place, base_path, written):
    given = dict(flag.removeprefix("--").split("=") for flag in _server_flags()[place])

    assert given["model_config_file"] == f"{base_path}/{server_config.MODELS}"
    assert given["batching_parameters_file"] == f"{base_path}/{server_config.BATCHING}"
    assert given["monitoring_config_file"] == f"{base_path}/{server_config.MONITORING}"
    assert given["enable_batching"] == "true"
    assert sorted(written) == ["batching.config", "models.config", "monitoring.config"]


def test_the_server_has_the_same_flags_wherever_it_runs():
    found = _server_flags()

    assert found["compose"] == found["kubernetes"] == found["readme"]


def test_the_export_is_mounted_where_the_server_expects_it_and_read_only(base_path):
    (volume,) = COMPOSE["services"]["serving"]["volumes"]
    mounts = {mount["name"]: mount for mount in SERVER["volumeMounts"]}

    assert (volume["target"], volume["read_only"]) == (base_path, True)
    assert (mounts["export"]["mountPath"], mounts["export"]["readOnly"]) == (base_path, True)
    assert f'-v "$PWD/export:{base_path}:ro"' in README


@pytest.mark.parametrize("path", DEPLOYED, ids=lambda path: path.name)
def test_every_request_names_the_model_that_is_exported(path):
    names = re.findall(r"/v1/models/(\w+)", path.read_text())

    assert set(names) <= {MODEL}


def test_ports_agree():
    (prometheus,) = _load("deploy/prometheus.yml")["scrape_configs"]
    ports = {port["name"]: port["containerPort"] for port in SERVER["ports"]}
    annotations = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    probes = [SERVER[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]

    published = [port.rsplit(":")[-1] for port in COMPOSE["services"]["serving"]["ports"]]

    assert ports == {"grpc": 8500, "rest": 8501}  # what the image's entry point listens on
    assert published == ["8500", "8501"]
    assert annotations["prometheus.io/port"] == "8501"
    assert {probe["port"] for probe in probes} == {"rest"}
    assert prometheus["static_configs"] == [{"targets": ["serving:8501"]}]
    for service in _kind("Service"):
        assert all(ports[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])


def test_metrics_are_scraped_where_the_server_has_them(written):
    (path,) = re.findall(r'path: "(.*)"', written[server_config.MONITORING])
    (prometheus,) = _load("deploy/prometheus.yml")["scrape_configs"]
    annotations = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]

    assert prometheus["metrics_path"] == path
    assert annotations["prometheus.io/path"] == path
    assert f"http://localhost:8501{path}" in README


@pytest.mark.parametrize("block", re.findall(r"```proto\n(.*?)```", README, flags=re.DOTALL))
def test_a_configuration_of_the_readme_is_one_that_the_server_reads(block, base_path):
    config = text_format.Parse(block, model_server_config_pb2.ModelServerConfig())

    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == (MODEL, base_path)
    assert set(model.version_labels.values()) <= set(model.model_version_policy.specific.versions)


# How manifests refer to each other.


def test_whatever_selects_pods_selects_the_servers():
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    (budget,), (scaler,) = _kind("PodDisruptionBudget"), _kind("HorizontalPodAutoscaler")
    spread = DEPLOYMENT["spec"]["template"]["spec"]["topologySpreadConstraints"]

    selectors = [DEPLOYMENT["spec"]["selector"]["matchLabels"]]
    selectors += [budget["spec"]["selector"]["matchLabels"]]
    selectors += [constraint["labelSelector"]["matchLabels"] for constraint in spread]
    selectors += [service["spec"]["selector"] for service in _kind("Service")]

    assert all(selector == labels for selector in selectors)
    assert scaler["spec"]["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]


def test_every_claim_and_every_mount_has_its_volume():
    claims = {claim["metadata"]["name"] for claim in _kind("PersistentVolumeClaim")}

    for pod in _pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        used = [
            v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "emptyDir" not in v
        ]
        containers = pod.get("initContainers", []) + pod["containers"]
        mounted = {mount["name"] for c in containers for mount in c["volumeMounts"]}

        assert set(used) <= claims
        assert mounted == set(volumes)


def test_a_manifest_is_applied_with_the_others_or_by_a_command_of_the_readme():
    together = _load("deploy/kubernetes/kustomization.yaml")["resources"]
    alone = re.findall(r"kubectl (?:apply|create) -f deploy/kubernetes/(\S+)", README)

    assert {*together, *alone, "kustomization.yaml"} == {path.name for path in KUBERNETES}


# The health check, run.

STATUS = (
    '{"model_version_status": [{"version": "1", "state": "%s", "status": {"error_code": "%s"}}]}'
)


@pytest.fixture
def answer():
    """Returns a function that starts a server with one answer and returns its port."""
    servers = []

    def start(body):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                found = self.path == f"/v1/models/{MODEL}"
                self.send_response(200 if found else 404)
                self.end_headers()
                self.wfile.write(body.encode() if found else b"{}")

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "error", "is_healthy"),
    [("AVAILABLE", "OK", True), ("LOADING", "OK", False), ("END", "UNAVAILABLE", False)],
)
def test_the_server_is_healthy_when_a_version_is_available(answer, state, error, is_healthy):
    command = COMPOSE["services"]["serving"]["healthcheck"]["test"]
    port = answer(STATUS % (state, error))

    check = [word.replace("/8501", f"/{port}") for word in command[1:]]
    result = subprocess.run(check, timeout=10)

    assert command[0] == "CMD"
    assert (result.returncode == 0) == is_healthy


@pytest.mark.slow
def test_the_server_is_not_healthy_while_its_port_is_closed():
    command = COMPOSE["services"]["serving"]["healthcheck"]["test"]

    check = [word.replace("/8501", "/1") for word in command[1:]]
    result = subprocess.run(check, timeout=10, capture_output=True)

    assert result.returncode != 0
