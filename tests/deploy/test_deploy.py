"""The unit files and manifests of `deploy/`, and what the guide shows of them: what they start exists, and takes these options.

Kubernetes is not there: its manifests are held to a schema of their own, which knows no more than they use. systemd is asked
itself where it is installed; what matters to us is looked at in any case.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from aiki.api.server import GRACE
from aiki.cli.judging import HEARD_SECONDS
from aiki.cli.main import COMMANDS, aiki, load
from aiki.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
SCHEMA = json.loads((Path(__file__).parent / "kubernetes.schema.json").read_text())
PROGRAMS = {"aiki-worker": "worker", "aiki-server": "server"}


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """What a command of ours makes of its words: its name, and its options. Raises where it would refuse them."""
    program, *rest = words
    command: click.Command = load(PROGRAMS[program]) if program in PROGRAMS else aiki
    names = [PROGRAMS[program]] if program in PROGRAMS else []
    assert program in PROGRAMS or program == "aiki", words
    context = click.Context(command, info_name=program)
    while isinstance(command, click.Group):
        name = rest.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{words}: there is no {name}"
        names.append(name)
        command = found
    return " ".join(names), command.make_context(names[-1], rest).params


def variables() -> set[str]:
    """The names of all variables that processes of ours heed."""
    found = {f"AIKI_{name.upper()}" for name in Settings.__dataclass_fields__} | {"AIKI_LOG_FORMAT"}
    for name in COMMANDS:
        for parameter in load(name).params:
            envvar = getattr(parameter, "envvar", None)
            found |= {envvar} if isinstance(envvar, str) else set(envvar or ())
    return found


def check_settings(environment: dict[str, str], folder: Path, *, runs: str) -> Settings:
    """The settings that a process makes of these variables; each secret is a file that holds one."""
    assert set(environment) <= variables(), "a variable that nobody heeds"
    given = {}
    for name, value in environment.items():
        if name.endswith("_FILE"):
            path = folder / name
            path.write_text("a-secret-of-more-than-16-characters\n")
            value = str(path)
        given[name] = value
        assert not re.search(r"://[^/@]*:[^/@]+@", value), f"{name} has a password in it"
    made = Settings.load(given)
    needs = {"worker": ("broker_url",), "db upgrade": ("database_url",)}.get(runs, ("database_url", "broker_url"))
    made.need(*needs, what=f"aiki {runs}")
    return made


# ---------------------------------------------------------------- systemd
def unit(path: Path) -> dict[str, list[str]]:
    """The directives of a unit, by name."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def environment_of(directives: dict[str, list[str]]) -> dict[str, str]:
    shared = (DEPLOY / "systemd" / "aiki.env").read_text().splitlines()
    lines = [*(line for line in shared if line and not line.startswith("#")), *directives["Environment"]]
    return {line.partition("=")[0]: line.partition("=")[2] for line in lines}


def test_there_is_a_unit_for_each_process() -> None:
    assert [path.stem for path in UNITS] == ["aiki-migrate", "aiki-orchestrator", "aiki-server", "aiki-worker"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_starts_a_command_of_ours_with_settings_that_it_takes(path: Path, tmp_path: Path) -> None:
    directives = unit(path)
    [line] = directives["ExecStart"]
    program, *rest = shlex.split(line)
    assert program.startswith("/opt/aiki/bin/")
    name, options = parsed([Path(program).name, *rest])
    assert name in ("db upgrade", path.stem.removeprefix("aiki-"))
    environment = environment_of(directives)
    check_settings(environment, tmp_path, runs=name)
    credentials = {item.partition(":")[0]: item.partition(":")[2] for item in directives["LoadCredential"]}
    named = {value.removeprefix("%d/") for key, value in environment.items() if key.endswith("_FILE")}
    assert named == set(credentials), "each secret is handed over, and none that is not used"
    assert all(value.startswith("/etc/aiki/secrets/") for value in credentials.values())
    if name == "worker":
        assert options["drain_timeout"] + 5 <= float(directives["TimeoutStopSec"][0])
        assert directives["SuccessExitStatus"] == ["3"]
        assert directives["OOMPolicy"] == ["continue"], "systemd's own default stops the worker for what one task did"
        assert "AIKI_DATABASE_URL" not in environment
    if name == "server":
        assert float(directives["TimeoutStopSec"][0]) >= GRACE + 5
    if name != "db upgrade":
        assert directives["KillMode"] == ["mixed"], "TERM for the first process alone, which ends the others in order"
        assert directives["Restart"] == ["always"]
        assert directives["RestartPreventExitStatus"] == ["2"]
        assert int(directives["TasksMax"][0]) >= 64
        assert "MemoryMax" in directives


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_has_the_least_rights(path: Path) -> None:
    directives = unit(path)
    for name in ("DynamicUser", "NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "RestrictNamespaces"):
        assert directives[name] == ["yes"], name
    assert directives["ProtectSystem"] == ["strict"]
    assert directives["CapabilityBoundingSet"] == [""]
    assert "User" not in directives
    # A setting that is given twice is a slip in all but these.
    assert {name for name, values in directives.items() if len(values) > 1} <= {"Environment", "LoadCredential"}
    assert "=" not in "".join(directives), "a line that is no directive"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_can_be_read(path: Path) -> None:
    reader = configparser.RawConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    reader.read(path)
    assert reader.sections() == ["Unit", "Service", "Install"]


def test_systemd_agrees_where_it_is_there(tmp_path: Path) -> None:
    """With programs that exist here in place of those that are installed on the machine."""
    if shutil.which("systemd-analyze") is None:
        print("systemd-analyze is not installed: the units were read, and not by systemd", file=sys.__stderr__)
        return
    for path in UNITS:
        (tmp_path / path.name).write_text(
            re.sub(r"/opt/aiki/bin/[a-z-]+", shutil.which("true") or "/bin/true", path.read_text())
        )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.glob("*.service")))],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "aiki-" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


# ---------------------------------------------------------------- Kubernetes
def documents() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def pods() -> dict[str, dict[str, Any]]:
    """The specifications of pods, by component."""
    found = {}
    for item in documents():
        template = item.get("spec", {}).get("template") if item["kind"] in ("Deployment", "Job") else None
        if template is not None:
            found[template["metadata"]["labels"]["app.kubernetes.io/component"]] = {**template, "of": item}
    return found


def values_of(container: dict[str, Any]) -> dict[str, str]:
    maps = {item["metadata"]["name"]: item["data"] for item in documents() if item["kind"] == "ConfigMap"}
    shared = [maps[source["configMapRef"]["name"]] for source in container["envFrom"]]
    return {**{k: v for one in shared for k, v in one.items()}, **{item["name"]: item["value"] for item in container["env"]}}


def test_all_manifests_are_of_the_schema_and_are_listed() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for item in documents():
        of_its_kind = [kind for kind in SCHEMA["oneOf"] if kind["properties"]["kind"]["const"] == item["kind"]]
        assert of_its_kind, item["kind"]
        validator.evolve(schema={**of_its_kind[0], "$defs": SCHEMA["$defs"]}).validate(item)
        validator.validate(item)
    listed = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [path.name for path in MANIFESTS]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda item: item["spec"]["template"]["spec"]["containers"][0].update(livenesProbe={}), "livenesProbe"),
        (lambda item: item["spec"].update(replicas="2"), "'2' is not of type 'integer'"),
        (lambda item: item["spec"]["template"]["spec"].pop("securityContext"), "securityContext"),
    ],
)
def test_the_schema_refuses_slips(change: Any, said: str) -> None:
    [item] = [item for item in documents() if item["metadata"]["name"] == "shop-worker" and item["kind"] == "Deployment"]
    change(item)
    of_its_kind = next(kind for kind in SCHEMA["oneOf"] if kind["properties"]["kind"]["const"] == "Deployment")
    with pytest.raises(jsonschema.ValidationError, match=re.escape(said)):
        jsonschema.Draft202012Validator({**of_its_kind, "$defs": SCHEMA["$defs"]}).validate(item)


@pytest.mark.parametrize("component", ["migrate", "orchestrator", "server", "worker"])
def test_a_pod_starts_a_command_of_ours_with_settings_that_it_takes(component: str, tmp_path: Path) -> None:
    pod = pods()[component]
    [container] = pod["spec"]["containers"]
    name, options = parsed(container["command"])
    assert name in ("db upgrade", component)
    environment = values_of(container)
    made = check_settings(environment, tmp_path, runs=name)
    assert pod["spec"]["enableServiceLinks"] is False, "else a service called aiki sets variables AIKI_… in every pod"
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/run/secrets/aiki"]["readOnly"] is True
    for key, value in environment.items():
        assert not key.endswith("_FILE") or Path(value).parent == Path("/run/secrets/aiki"), key
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["spec"]["volumes"]}
    grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
    if component == "worker":
        assert options["drain_timeout"] + 10 <= grace
        assert made.database_url == ""
    if component == "server":
        stops = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert stops + GRACE + 5 <= grace
        assert options["bind"].endswith(f":{container['ports'][0]['containerPort']}")
        assert "AIKI_API_KEY_FILE" in environment, "it listens beyond loopback"


@pytest.mark.parametrize("component", ["orchestrator", "server", "worker"])
def test_the_three_probes_ask_what_they_should(component: str) -> None:
    [container] = pods()[component]["spec"]["containers"]
    asks = {"startupProbe": "started", "livenessProbe": "live", "readinessProbe": "ready"}
    for probe, asked in asks.items():
        name, options = parsed(container[probe]["exec"]["command"])
        assert (name, options["probe"]) == (f"alive {component}", asked)
        assert container[probe]["timeoutSeconds"] >= 5
    live = container["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] >= HEARD_SECONDS, "nobody is started anew in a hurry"


def test_names_and_labels_belong_together() -> None:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for item in documents():
        by_kind.setdefault(item["kind"], []).append(item)
    labels = [pod["metadata"]["labels"] for pod in pods().values()]
    for item in by_kind["Deployment"]:
        assert item["spec"]["selector"]["matchLabels"] == item["spec"]["template"]["metadata"]["labels"]
    for item in by_kind["PodDisruptionBudget"]:
        assert item["spec"]["selector"]["matchLabels"] in labels
    [service] = by_kind["Service"]
    assert service["spec"]["selector"] in labels
    accounts = {item["metadata"]["name"] for item in by_kind["ServiceAccount"]}
    assert {pod["spec"]["serviceAccountName"] for pod in pods().values()} == accounts


# ---------------------------------------------------------------- compose.yaml, and the guide
def compose_services() -> dict[str, Any]:
    text = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}|\$\{[^}]*\}", lambda match: match[1] or "set", (ROOT / "compose.yaml").read_text())
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


def test_compose_says_the_same() -> None:
    services = compose_services()
    for name in ("migrate", "orchestrator", "server", "worker"):
        assert set(services[name]["environment"]) <= variables(), name
        command, options = parsed(services[name]["command"])
        assert command in ("db upgrade", name)
        assert services[name]["read_only"] is True
        if name != "migrate":
            probe, asked = parsed(services[name]["healthcheck"]["test"][1:])
            assert (probe, asked["probe"]) == (f"alive {name}", "ready")
        if name == "worker":
            assert options["drain_timeout"] + 5 <= float(services[name]["stop_grace_period"].removesuffix("s"))
        if name == "server":
            assert float(services[name]["stop_grace_period"].removesuffix("s")) >= GRACE + 5


def secrets_of_the_guide(kind: str) -> dict[str, set[str]]:
    """What the guide has the reader make: names of secrets, with what is in them."""
    text = (ROOT / "docs" / "guides" / "deployment.md").read_text()
    if kind == "systemd":
        return {"": set(re.findall(r"/etc/aiki/secrets/([a-z-]+)\b", text))}
    found: dict[str, set[str]] = {}
    for name, rest in re.findall(r"kubectl create secret generic ([a-z-]+)((?: \\\n|[^\n])*)", text):
        found[name] = set(re.findall(r"--from-file=([a-z-]+)=", rest))
    return found


def test_the_guide_has_every_secret_made_that_is_used() -> None:
    of_units = {value.rpartition("/")[2] for path in UNITS for value in unit(path)["LoadCredential"]}
    assert secrets_of_the_guide("systemd")[""] == of_units
    of_pods: dict[str, set[str]] = {}
    for pod in pods().values():
        [volume] = [item for item in pod["spec"]["volumes"] if "secret" in item]
        files = {Path(v).name for k, v in values_of(pod["spec"]["containers"][0]).items() if k.endswith("_FILE")}
        of_pods[volume["secret"]["secretName"]] = files
    assert secrets_of_the_guide("kubernetes") == of_pods
