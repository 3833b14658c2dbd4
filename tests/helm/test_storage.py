"""Where files and batches are: in S3, or in a volume that every pod can have."""

from __future__ import annotations

import json
from typing import Any, Final

import kubernetes_validate
import pytest

from gateway.settings import load_settings
from gateway.storage.opening import open_storage
from tests.helm.rendering import NAME, Json, Refused, Rendered, rendered
from tests.helm.test_presets import VERSIONS
from tests.helm.test_sidecar import FORMS
from tests.helm.test_values import SCALED, SIDECAR

SHARED: Final[Json] = {"existingClaim": "files", "accessMode": "ReadWriteMany"}
ONE_POD: Final[tuple[Json, ...]] = (
    {"existingClaim": "files", "accessMode": "ReadWriteOnce"},
    {"existingClaim": "files", "accessMode": "ReadWriteOncePod"},
    {"emptyDirSize": "10Gi"},
)
S3: Final = "s3://bucket/files?region=eu-central-1"
VARIABLE: Final = "GATEWAY_STORAGE_URL"
STRATEGY_OF_ONE: Final = {"type": "Recreate"}


def pod_of(release: Rendered) -> Json:
    pod: Json = release.of("Deployment")["spec"]["template"]["spec"]
    return pod


def volume_of(release: Rendered) -> Json | None:
    found = [each for each in pod_of(release)["volumes"] if each["name"] == "files"]
    return found[0] if found else None


def strategy_of(release: Rendered) -> Json:
    strategy: Json = release.of("Deployment")["spec"]["strategy"]
    return strategy


def test_by_default_there_are_no_files() -> None:
    release = rendered()

    assert VARIABLE not in release.variables
    assert volume_of(release) is None
    assert "fsGroupChangePolicy" not in pod_of(release)["securityContext"]


@pytest.mark.parametrize("storage", [SHARED, *ONE_POD], ids=json.dumps)
async def test_files_are_in_the_volume_that_is_mounted(storage: Json) -> None:
    """In a folder of their own: the volume's root may hold what is not ours."""
    release = rendered(storage=storage, replicaCount=1)
    mounts = {each["name"]: each for each in release.container["volumeMounts"]}
    mount = mounts["files"]

    url = load_settings(release.variables).storage_url
    assert url is not None
    await open_storage(url).aclose()
    assert url.startswith(f"file://{mount['mountPath']}/")
    assert not mount.get("readOnly")
    assert release.container["securityContext"]["readOnlyRootFilesystem"]
    for manifest in release.all:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_a_volume_of_all_is_mounted_by_all() -> None:
    """However many there are, and while they are replaced one by one."""
    for values in ({"replicaCount": 3}, SCALED):
        release = rendered(storage=SHARED, **values)
        volume = volume_of(release)
        assert volume is not None
        assert {"claimName": "files"} == volume["persistentVolumeClaim"]
        assert "RollingUpdate" == strategy_of(release)["type"]


@pytest.mark.parametrize("storage", ONE_POD, ids=json.dumps)
def test_a_volume_of_one_pod_is_given_up_before_the_next_one_starts(
    storage: Json,
) -> None:
    """Two pods would wait for each other, or would see different files."""
    release = rendered(storage=storage, replicaCount=1, workers=4)

    assert STRATEGY_OF_ONE == strategy_of(release)


def test_the_pods_group_may_write_a_claim() -> None:
    """And its files are not all changed at each start."""
    context = pod_of(rendered(storage=SHARED, runAsUser=4321))["securityContext"]

    assert (4321, "OnRootMismatch") == (
        context["fsGroup"],
        context["fsGroupChangePolicy"],
    )


def test_what_one_pod_keeps_for_itself_is_bounded() -> None:
    """Or it would fill the node."""
    volume = volume_of(rendered(storage={"emptyDirSize": "10Gi"}, replicaCount=1))

    assert volume is not None
    assert {"sizeLimit": "10Gi"} == volume["emptyDir"]


def test_a_bucket_needs_no_volume() -> None:
    """Its credentials come from the upstream's Secret, where the pod has none."""
    release = rendered(storage={"url": S3}, upstream={"existingSecret": "llmtune"})

    assert S3 == release.variables[VARIABLE]
    assert volume_of(release) is None
    assert "from-a-secret" == release.variables["AWS_ACCESS_KEY_ID"]
    assert "RollingUpdate" == strategy_of(release)["type"]


@pytest.mark.parametrize("form", FORMS)
def test_a_sidecar_has_no_volume_of_the_gateways(form: str) -> None:
    """It is in the application's pod; a bucket is everywhere."""
    claimed = rendered(**SIDECAR, storage=SHARED)
    in_s3 = rendered(**SIDECAR, storage={"url": S3})

    patches = f"{NAME}-sidecar"
    assert VARIABLE not in claimed.of("ConfigMap", patches)["data"][f"{form}.yaml"]
    assert VARIABLE in in_s3.of("ConfigMap", patches)["data"][f"{form}.yaml"]


MISTAKES: Final[list[tuple[Json, str]]] = [
    *(({"storage": each}, "ReadWriteMany") for each in ONE_POD),
    *(({"storage": each, **SCALED, "replicaCount": 1}, "S3 url") for each in ONE_POD),
    ({"storage": {"existingClaim": "files"}}, "accessMode"),
    ({"storage": {"accessMode": "ReadWriteMany"}}, "existingClaim"),
    ({"storage": {**SHARED, "accessMode": "ReadOnlyMany"}}, "accessMode"),
    ({"storage": {**SHARED, "url": S3}}, "in one place"),
    ({"storage": {"url": S3, "emptyDirSize": "1Gi"}}, "in one place"),
    ({"storage": {"url": "file:///files"}}, "url"),
    ({"storage": {"url": "s3://key:secret@bucket"}}, "url"),
    ({"storage": {"emptyDirSize": "ten"}}, "emptyDirSize"),
    ({"storage": {"claim": "files"}}, "claim"),
    ({"settings": {VARIABLE: "file:///files"}}, VARIABLE),
]


@pytest.mark.parametrize(("values", "named"), MISTAKES)
def test_what_cannot_work_stops_the_render(values: Any, named: str) -> None:
    """Several pods that each see files of their own, above all."""
    with pytest.raises(Refused, match=named):
        rendered(**values)
