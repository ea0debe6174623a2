"""The Helm chart, linted and rendered by Helm itself: the program, or the package of its SDK."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli

from qres_core.attacks.scenario import SECTIONS
from qres_core.kernel.config import parse

CHART = Path(__file__).resolve().parents[2] / "deploy/helm/qres"
PROGRAM = shutil.which("helm")
SDK = importlib.util.find_spec("helm_python") is not None
MEMBERS = [
    {"key": f"{number:02x}" * 32, "peerId": f"12D3KooW{'abcdefghijk'[number] * 44}"}
    for number in range(5)
]
VALUES: Mapping[str, Any] = {"members": MEMBERS}

pytestmark = pytest.mark.skipif(
    PROGRAM is None and not SDK,
    reason="needs Helm: the program helm, or pip install helm-python-sdk",
)


class RefusedError(Exception):
    """Helm refuses the values."""


def rendered(values: Mapping[str, Any], tmp_path: Path) -> list[dict[str, Any]]:
    """The objects of a release ``demo`` in the namespace ``lab``."""
    if PROGRAM is not None:
        path = tmp_path / "values.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        words = [PROGRAM, "template", "demo", str(CHART), "--namespace", "lab", "--values"]
        done = subprocess.run([*words, path], capture_output=True, check=False, text=True)
        if done.returncode:
            raise RefusedError(done.stderr)
        texts = [done.stdout]
    else:
        import helm_python  # noqa: PLC0415 - it may be missing

        with helm_python.Chart.load(CHART) as chart:
            try:
                made = chart.render(dict(values), name="demo", namespace="lab")
            except helm_python.HelmError as error:
                raise RefusedError(str(error)) from error
        texts = list(made.values())
    yaml = pytest.importorskip("ruamel.yaml", reason="needs ruamel.yaml").YAML(typ="safe")
    return [item for text in texts for item in yaml.load_all(text) if item]


def keygen(path: Path) -> dict[str, str]:
    """A key file, and its names."""
    qres = [sys.executable, "-P", "-m", "qres_core.cli", "keygen", str(path)]
    done = subprocess.run(
        [*qres, "--no-passphrase", "--json"], capture_output=True, check=True, text=True
    )
    names: dict[str, str] = json.loads(done.stdout)
    return names


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [item for item in objects if item["kind"] == kind]
    return found


def test_helm_finds_nothing_to_mend(tmp_path: Path) -> None:
    if PROGRAM is not None:
        path = tmp_path / "values.json"
        path.write_text(json.dumps(VALUES), encoding="utf-8")
        words = [PROGRAM, "lint", "--strict", str(CHART), "--values", str(path)]
        done = subprocess.run(words, capture_output=True, check=False, text=True)
        assert done.returncode == 0, done.stdout
        return
    import helm_python  # noqa: PLC0415 - it may be missing

    report = helm_python.lint(CHART, dict(VALUES), strict=True)
    information = 1  # a chart may have an icon
    assert report["total_charts_linted"] == 1
    assert not [item for item in report["messages"] if item["severity"] > information], report


def test_the_file_of_the_pods_is_a_configuration(tmp_path: Path) -> None:
    objects = rendered(VALUES, tmp_path)
    raw = tomli.loads(of_kind(objects, "ConfigMap")["data"]["node.toml"])
    config = parse(raw, source="chart", sections=SECTIONS)
    assert config.swarm.nodes == len(config.swarm.roster) == 5
    assert list(config.swarm.roster) == [member["key"] for member in MEMBERS]
    peers = config.plugins["libp2p"]["peers"]
    assert peers == [
        f"/dns4/demo-qres-{index}.demo-qres.lab.svc/tcp/4001/p2p/{member['peerId']}"
        for index, member in enumerate(MEMBERS)
    ]
    assert config.plugins["ed25519"]["key"] == "/run/qres/node.key"
    assert {"replay", "reputation", "median"} <= set(config.plugins)


def test_each_pod_is_shown_its_own_key_alone(tmp_path: Path) -> None:
    stateful = of_kind(rendered(VALUES, tmp_path), "StatefulSet")["spec"]
    assert (stateful["replicas"], stateful["podManagementPolicy"]) == (5, "Parallel")
    pod = stateful["template"]["spec"]
    (init,), (node,) = pod["initContainers"], pod["containers"]
    (secret,) = [item for item in init["volumeMounts"] if item["name"] == "secret"]
    assert secret["subPathExpr"] == "$(POD_NAME)"
    (mode,) = [item["secret"]["defaultMode"] for item in pod["volumes"] if "secret" in item]
    assert mode == 0o440
    assert "secret" not in {item["name"] for item in node["volumeMounts"]}
    for container in (init, node):
        (env,) = container["env"]
        assert env["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize(
    ("number", "held", "starts"), [(0, 0, True), (2, 2, True), (0, 1, False), (3, 0, False)]
)
def test_a_pod_starts_with_the_key_of_its_entry_alone(
    tmp_path: Path, number: int, held: int, *, starts: bool
) -> None:
    """Two pods with one key would vote twice as one node; a fourth pod has no entry."""
    names = [keygen(tmp_path / str(index)) for index in range(3)]
    members = [{"key": it["public_key"], "peerId": it["peer_id"]} for it in names]
    stateful = of_kind(rendered({"members": members}, tmp_path), "StatefulSet")
    (init,) = stateful["spec"]["template"]["spec"]["initContainers"]
    (script,) = init["args"]
    for place, here in {"/run/secret/key": tmp_path / str(held), "/run/qres": tmp_path}.items():
        assert place in script
        script = script.replace(place, str(here))
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*init["command"], script],
        env={**env, "POD_NAME": f"demo-qres-{number}"},
        capture_output=True,
        check=False,
        text=True,
    )
    copy = tmp_path / "node.key"
    assert (done.returncode == 0) == starts, done.stderr
    if starts:
        assert copy.stat().st_mode & 0o777 == 0o600
    elif number < len(members):
        assert "is not that of its entry" in done.stderr
        assert not copy.exists()


def test_a_pod_that_starts_again_finds_its_files_as_they_were(tmp_path: Path) -> None:
    pod = of_kind(rendered(VALUES, tmp_path), "StatefulSet")["spec"]["template"]["spec"]
    # The folder of the state is below the volume's root, which stays as the cluster made it.
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    (mount,) = [it for it in pod["containers"][0]["volumeMounts"] if it["name"] == "data"]
    raw = tomli.loads(of_kind(rendered(VALUES, tmp_path), "ConfigMap")["data"]["node.toml"])
    assert Path(raw["node"]["data_dir"]).parent == Path(mount["mountPath"])


def test_probes_restart_who_hangs_and_not_who_waits(tmp_path: Path) -> None:
    objects = rendered(VALUES, tmp_path)
    (node,) = of_kind(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    probes = {name: node[name]["httpGet"]["path"] for name in node if name.endswith("Probe")}
    assert probes == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    service = of_kind(objects, "Service")["spec"]
    # Else none is ready before the others are found, and none is found before it is ready.
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert of_kind(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_members_of_others_are_in_the_roster_and_are_dialled(tmp_path: Path) -> None:
    away = "/dns4/node.example/tcp/4001/p2p/12D3KooWx"
    outside = {"keys": ["ab" * 32], "peers": [away]}
    objects = rendered({**VALUES, "outside": outside}, tmp_path)
    raw = tomli.loads(of_kind(objects, "ConfigMap")["data"]["node.toml"])
    assert (raw["swarm"]["nodes"], raw["swarm"]["roster"][-1]) == (6, "ab" * 32)
    assert raw["plugins"]["libp2p"]["peers"][-1] == away
    assert of_kind(objects, "StatefulSet")["spec"]["replicas"] == 5


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"members": [{"key": "not a key", "peerId": MEMBERS[0]["peerId"]}]},
        {**VALUES, "swarm": {"name": 's"\nnodes = 1', "byzantine": 1, "quorum": 4}},
        {**VALUES, "replicas": 3},
        {**VALUES, "logLevel": "loud"},
        {**VALUES, "image": {"repositroy": "registry.example/qres"}},  # else the default is run
        {**VALUES, "image": {"repository": "registry.example/qres", "tag": 1.10}},
        {**VALUES, "storage": {"volume": "40Gi"}},
        {"members": [*MEMBERS, MEMBERS[0]]},
    ],
)
def test_values_that_make_no_swarm_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        rendered(values, tmp_path)
