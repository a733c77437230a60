"""The files under deploy/ fit the code and each other: flags, ports, paths, names, limits, and every metric."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import yaml
from absl import flags
from promql import named
from runs import ROOT
from support import once
from test_serve import opened

import jaxft
from jaxft.cli import arguments
from jaxft.modes import exporting, serving
from jaxft.report.exporter import LOGGED, Exporter
from jaxft.report.watch import Watch
from jaxft.serve.guard import OPEN
from jaxft.serve.limits import Limits
from jaxft.serve.measures import Measures

DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
YAML = sorted(file for file in DEPLOY.rglob("*") if file.suffix in (".yaml", ".yml"))
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())


def load(*path: str) -> Any:
    return yaml.safe_load(DEPLOY.joinpath(*path).read_text(encoding="utf-8"))


@cache
def exposed() -> dict[str, frozenset[str]]:
    """Name -> labels of each series that the registries of a service and of a run that trains have."""
    measures, watch = Measures(), Watch()
    measures.begin("m", "t", ["a"])
    measures.requests.labels("r", "200")
    measures.total.labels("r")
    watch.begin({"run": "r"}, 10, 5, lambda: 1)
    watch.note("train", dict.fromkeys([*LOGGED, "skipped"], 1.0))
    watch.note("validation", {"loss": 1.0})
    families = [*measures.registry.collect(), *Exporter(watch).registry.collect()]
    assert all(family.samples for family in families)
    return {sample.name: frozenset(sample.labels) for family in families for sample in family.samples}


@cache
def known() -> dict[str, frozenset[str]]:
    """The same with what Prometheus adds, itself and by our recording rules."""
    target = {"job", "instance"}
    found = {name: labels | target for name, labels in exposed().items()} | {"up": frozenset(target)}
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = frozenset(named(rule["expr"]).labels)
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in load("prometheus", "rules.yml")["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def check(expression: str) -> None:
    """Each metric exists and has the labels that it is selected by; what is grouped by, one of them has."""
    found = named(expression)
    assert found.metrics, expression
    for metric, labels in found.metrics.items():
        assert metric in known(), f"{metric} of {expression}"
        assert labels <= known()[metric], f"{metric} of {expression}"
    assert found.labels <= set().union(*(known()[metric] for metric in found.metrics)), expression


def test_what_an_expression_names():
    found = named('0.5 * sum by (le, job) (rate(a_b{x=~"y, z", u!="v"}[5m])) / on (i) group_left c:d:e offset 1w > 1e3')
    assert found.metrics == {"a_b": {"x", "u"}, "c:d:e": set()} and found.labels == {"le", "job", "i"}
    for wrong in ("rat(a)", "a{b", "a ? b"):
        with pytest.raises(ValueError):
            named(wrong)
    for wrong in ("jaxft_request_total", 'jaxft_ready{route="/"}', "sum by (route) (jaxft_ready)", "1"):
        with pytest.raises(AssertionError):
            check(wrong)


def test_rules_name_metrics_that_exist():
    assert {"page", "look"} == {rule["labels"]["severity"] for rule in rules() if "alert" in rule}
    for rule in rules():
        check(rule["expr"])
        for label in re.findall(r"\$labels\.(\w+)", str(rule.get("annotations"))):
            assert label in set().union(*(known()[metric] for metric in named(rule["expr"]).metrics))
    cases = load("prometheus", "rules_test.yml")["tests"]
    for series in (one["series"] for case in cases for one in case["input_series"]):
        check(series)
    fired = {one["alertname"] for case in cases for one in case["alert_rule_test"] if one["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}, "each alert has a test"


def test_the_page_names_every_alert_and_file():
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(Jaxft\w+)`", page)) == {rule["alert"] for rule in rules() if "alert" in rule}
    listed = {name for line in page.splitlines() if line.startswith("|") for name in re.findall(r"`(\w+\.yaml)`", line)}
    assert listed == {file.name for file in KUBERNETES}
    for path in re.findall(r"(?<![\w/])deploy/[\w./]+", page):
        assert (ROOT / path).exists(), path
    assert "[docs/deploy.md](docs/deploy.md)" in (ROOT / "README.md").read_text()


def test_the_dashboard_names_metrics_that_exist():
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    targets = [(target["expr"], target["legendFormat"]) for panel in panels() for target in panel["targets"]]
    for expression, legend in targets:
        check(expression)
        labels = set().union(*(known()[metric] for metric in named(expression).metrics))
        assert set(re.findall(r"{{(\w+)}}", legend)) <= labels, legend
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    assert used == set(variables)
    for one in variables.values():
        if one["type"] == "query":
            ((metric, label),) = re.findall(r"^label_values\((\w+), (\w+)\)$", one["query"]["query"])
            assert label in known()[metric]
    shown = {metric for expression, _ in targets for metric in named(expression).metrics}
    bases = {re.sub("_(bucket|sum|count|created)$", "", name) for name in shown}
    apart = {"jaxft_train_examples_per_second", "jaxft_train_model_flops_utilization", "jaxft_predictions_total"}
    every = {re.sub("_(bucket|sum|count|created)$", "", name) for name in exposed() if not name.endswith("_created")}
    assert every - bases == apart, "what there is, is shown"


def test_no_panel_lies_on_another():
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        own = {(grid["x"] + i, grid["y"] + j) for i in range(grid["w"]) for j in range(grid["h"])}
        assert not own & cells and max(x for x, _ in own) < 24, panel["title"]
        cells |= own
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("file", YAML, ids=lambda file: file.name)
def test_yaml_is_read(file):
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(file.read_text(encoding="utf-8")))


def parsed(args: list[str]) -> flags.FlagValues:
    """The flags of a command line of jaxft, as it reads them itself."""
    values = flags.FlagValues()
    arguments.define(values, ["jaxft", *args])
    assert values(["jaxft", *args]) == ["jaxft"]
    arguments.check_used(values)
    return values


@cache
def image() -> dict[str, list[str]]:
    """Instruction -> what follows it, each time, of the Dockerfile."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            instruction, rest = line.split(maxsplit=1)
            found.setdefault(instruction, []).append(" ".join(rest.split()))
    return found


def test_the_image_starts_a_service():
    served = parsed(json.loads(image()["CMD"][0]))
    assert json.loads(image()["ENTRYPOINT"][0]) == ["jaxft"]
    assert (served.mode, served.host, [str(served.port)]) == ("serve", "0.0.0.0", image()["EXPOSE"])
    code = json.loads(image()["HEALTHCHECK"][0].split(" CMD ")[1])[2]
    ((port, path),) = re.findall(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)'", code)
    assert int(port) == served.port and path in OPEN
    compile(code, "HEALTHCHECK", "exec")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = image()["ARG"][0].removeprefix("EXTRAS=").split(",")
    assert set(extras) <= set(project["optional-dependencies"]) and "serve" in extras
    python = re.fullmatch(r"python:3\.(\d+)-slim", image()["FROM"][0])
    assert python and int(python[1]) >= int(project["requires-python"].removeprefix(">=3."))
    (user,) = image()["USER"]
    assert int(user) > 0 and f"--uid {user} " in image()["RUN"][0]


def test_the_image_has_all_that_an_installation_takes(tmp_path):
    """What it copies from the checkout, less what is ignored, gives the wheel that the checkout gives."""
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*"
    sources = [source for line in image()["COPY"] for source in line.split()[:-1]]
    assert {f"!{source}" for source in sources} == {entry for entry in ignored if entry.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"} < set(sources)
    assert {f"{pattern.rstrip('*')}" for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]} < set(
        sources
    )
    assert (ROOT / "jaxft" / "configs").readlink() == Path("../configs") and "configs" in sources


def test_compose_joins_its_services():
    compose = load("compose.yaml")
    services, (secret,) = compose["services"], compose["secrets"]
    port = image()["EXPOSE"][0]
    assert serving.KEY in services["jaxft"]["environment"] and compose["secrets"][secret] == {
        "environment": serving.KEY
    }
    assert services["prometheus"]["secrets"] == [secret]
    build = services["jaxft"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    assert all(one.startswith("127.0.0.1:") for service in services.values() for one in service["ports"])
    mounted = {service: [one.rsplit(":", 2)[1:] for one in services[service]["volumes"]] for service in services}
    assert mounted["jaxft"] == [[parsed(json.loads(image()["CMD"][0])).workdir, "ro"]]
    for service in ("prometheus", "grafana"):
        for source, *_ in (one.split(":") for one in services[service]["volumes"]):
            assert source in compose["volumes"] or (DEPLOY / source).exists()
    config = services["prometheus"]["command"][0].removeprefix("--config.file=")
    assert ["/etc/prometheus", "ro"] in mounted["prometheus"] and config == "/etc/prometheus/prometheus.yml"
    scrape = {job["job_name"]: job for job in load("prometheus", "prometheus.yml")["scrape_configs"]}
    assert scrape["jaxft"]["static_configs"] == [{"targets": [f"jaxft:{port}"]}]
    assert scrape["jaxft"]["authorization"] == {"credentials_file": f"/run/secrets/{secret}"}
    ((training,),) = [one["targets"] for one in scrape["jaxft_train"]["static_configs"]]
    host, training_port = training.split(":")
    assert services["prometheus"]["extra_hosts"] == [f"{host}:host-gateway"]
    assert f"--metrics_port={training_port} --host=0.0.0.0" in (DEPLOY / "compose.yaml").read_text()
    (source,) = load("grafana", "provisioning", "datasources", "prometheus.yaml")["datasources"]
    assert services["prometheus"]["ports"] == [f"127.0.0.1:{source['url'].removeprefix('http://prometheus:')}:9090"]
    (provider,) = load("grafana", "provisioning", "dashboards", "jaxft.yaml")["providers"]
    shown = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert shown == f"{provider['options']['path']}/dashboard.json" and [shown, "ro"] in mounted["grafana"]
    assert {job["job_name"] for job in scrape.values()} >= set(
        re.findall(r'job="(\w+)"', json.dumps(rules()).replace("\\", ""))
    )
    limit, grace = Limits().seconds + serving.SETTLE + serving.LAST, services["jaxft"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > limit


def pod(name: str) -> dict[str, Any]:
    """The pod of the Deployment, or of KServe's InferenceService."""
    if name == "deployment":
        return load("kubernetes", "deployment.yaml")["spec"]["template"]["spec"]
    return load("kserve", "inference_service.yaml")["spec"]["predictor"]


@pytest.mark.parametrize("name", ["deployment", "inference_service"])
def test_a_pod_is_the_service_that_the_image_has(name):
    spec = pod(name)
    (container,) = spec["containers"]
    served, (port,) = parsed(container["args"]), container["ports"]
    assert (served.mode, served.host, served.port) == ("serve", "0.0.0.0", port["containerPort"])
    assert container["image"] == f"jaxft:{jaxft.__version__}"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in OPEN and asked["port"] in (port["name"], port["containerPort"])
        assert asked["path"].endswith("live" if probe == "livenessProbe" else "ready")
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in spec["volumes"]}
    assert mounts["model"]["mountPath"] == served.workdir and mounts["model"]["readOnly"] is True
    env = " ".join(image()["ENV"])
    assert f"HOME={mounts['tmp']['mountPath']} " in env, "the only place that it writes to"
    assert spec["securityContext"]["runAsNonRoot"] and str(spec["securityContext"]["runAsUser"]) == image()["USER"][0]
    own = container["securityContext"]
    assert (
        own["readOnlyRootFilesystem"]
        and not own["allowPrivilegeEscalation"]
        and own["capabilities"] == {"drop": ["ALL"]}
    )
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_what_stands_around_the_deployment_names_it():
    by_kind = {one["kind"]: one for one in map(yaml.safe_load, (file.read_text() for file in KUBERNETES))}
    kinds = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "HTTPRoute"}
    assert by_kind.keys() == kinds | {"PodMonitor"} and len(by_kind) == len(KUBERNETES)
    specs = {kind: one["spec"] for kind, one in by_kind.items()}
    (name,) = {one["metadata"]["name"] for one in by_kind.values()}
    deployment = specs["Deployment"]
    labels, (container,) = deployment["template"]["metadata"]["labels"], pod("deployment")["containers"]
    selectors = [deployment["selector"], specs["PodDisruptionBudget"]["selector"], specs["PodMonitor"]["selector"]]
    selectors += [specs["NetworkPolicy"]["podSelector"], {"matchLabels": specs["Service"]["selector"]}]
    assert all(selector == {"matchLabels": labels} for selector in selectors)
    (own,), (port,) = container["ports"], specs["Service"]["ports"]
    (rule,) = specs["HTTPRoute"]["rules"]
    assert port["targetPort"] == own["name"] and rule["backendRefs"] == [{"name": name, "port": port["port"]}]
    assert [one["port"] for one in specs["NetworkPolicy"]["ingress"][0]["ports"]] == [own["name"]]
    (scraped,) = specs["PodMonitor"]["podMetricsEndpoints"]
    assert (scraped["port"], scraped["path"]) == (own["name"], "/metrics")
    (key,) = container["env"]
    assert key["name"] == serving.KEY and scraped["authorization"]["credentials"] == key["valueFrom"]["secretKeyRef"]
    scaler = specs["HorizontalPodAutoscaler"]
    (metric,) = scaler["metrics"]
    (adapted,) = load("prometheus", "adapter.yaml")["rules"]["custom"]
    metric = metric["pods"]["metric"]["name"]
    assert metric == adapted["name"]["as"] == adapted["seriesQuery"].split("{")[0] and metric in exposed()
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    assert "replicas" not in deployment and scaler["minReplicas"] > specs["PodDisruptionBudget"]["maxUnavailable"]
    limit, waits = Limits().seconds, container["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod("deployment")["terminationGracePeriodSeconds"]
    assert grace > waits + limit + serving.SETTLE + serving.LAST
    assert int(rule["timeouts"]["request"].removesuffix("s")) > limit
    assert pod("inference_service")["timeout"] > limit


@pytest.mark.parametrize(
    "file", [*KUBERNETES, DEPLOY / "kserve" / "inference_service.yaml"], ids=lambda file: file.stem
)
def test_kubernetes_knows_each_field(file):
    """By the schemas of Kubernetes itself, strictly. Of KServe's resource it knows the pod, and of others nothing."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate (108 MB) is not installed")
    resource = yaml.safe_load(file.read_text(encoding="utf-8"))
    if resource["kind"] == "InferenceService":
        spec = {key: value for key, value in pod("inference_service").items() if key not in SCALING}
        resource = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "jaxft"}, "spec": spec}
    try:
        validate.validate(resource, "1.34.0", strict=True)
    except validate.SchemaNotFoundError:
        assert resource["kind"] in ("HTTPRoute", "PodMonitor")


SCALING = ("minReplicas", "maxReplicas", "timeout")
"""KServe's own fields of a predictor, beside those of a pod."""


@pytest.mark.parametrize("name", once(["classes", "choices", "embeddings"], "classes"))
def test_triton_is_told_what_the_graph_has(tmp_path, name):
    opened(name, tmp_path / "export")
    exporting.export(str(tmp_path / "export"), ["onnx"])
    command = [
        sys.executable,
        str(DEPLOY / "triton" / "repository.py"),
        str(tmp_path / "export"),
        str(tmp_path / "all"),
    ]
    done = subprocess.run([*command, "mine"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    folder = tmp_path / "all" / "mine"
    assert [file.relative_to(folder).as_posix() for file in folder.rglob("*.*")] == ["config.pbtxt", "1/model.onnx"]
    text = (folder / "config.pbtxt").read_text()
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    sides = {"input": session.get_inputs(), "output": session.get_outputs()}
    kinds = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
    for side, values in sides.items():
        part = re.search(rf"^{side} \[\n(.*?)\n\]$", text, re.MULTILINE | re.DOTALL)
        assert part
        told = re.findall(r'{ name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \] }', part[1])
        sizes = {one.name: [size if isinstance(size, int) else -1 for size in one.shape] for one in values}
        assert all(size[0] == -1 for size in sizes.values())
        assert told == [(one.name, kinds[one.type], ", ".join(map(str, sizes[one.name][1:]))) for one in values]
    assert 'name: "mine"' in text and len(sides["input"]) == 3
    again = subprocess.run([*command, "mine"], capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.startswith(f"error: {folder} is there already")


def test_triton_needs_a_graph(tmp_path):
    spec = importlib.util.spec_from_file_location("repository", DEPLOY / "triton" / "repository.py")
    assert spec and spec.loader
    repository = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(repository)
    assert repository.main(str(tmp_path), str(tmp_path / "all"), "m") == (
        f"there is no {tmp_path}/onnx/model.onnx; write it by: python run.py --mode=export --workdir={tmp_path} "
        "--format=onnx"
    )
    assert not (tmp_path / "all").exists()


needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool (Debian: prometheus) is not installed"
)


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "--syntax-only", "prometheus.yml"],
        ["rules", "rules.yml"],
    ],
    ids=["config", "rules"],
)
def test_promtool_reads_it(arguments):
    done = subprocess.run(["promtool", "check", *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True)
    assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stderr


@needs_promtool
@pytest.mark.matrix
def test_alerts_fire_when_they_should():
    command = ["promtool", "test", "rules", str(DEPLOY / "prometheus" / "rules_test.yml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
