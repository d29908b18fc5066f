"""The configurations in the documentation are those that Ray itself would accept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def read(name: str) -> dict[str, Any]:
    """Return an example."""
    content: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text())
    return content


def test_every_example_is_checked() -> None:
    """No file lies there that this file does not know."""
    assert {path.name for path in EXAMPLES.iterdir()} == {"aws.yaml", "kuberay.yaml"}


def test_cluster_for_ray_up() -> None:
    """Ray's validator takes it, with the defaults it fills in; a wrong field would be refused."""
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config({**read("aws.yaml"), "cluster_synced_files": []})
    validate_config(config)
    with pytest.raises(ValidationError, match="min_worker"):
        validate_config(
            {**config, "available_node_types": {"head": {"node_config": {}, "resources": {}, "min_worker": 1}}}
        )
    resources = {name: kind["resources"] for name, kind in config["available_node_types"].items()}
    assert resources["serving"] == {"CPU": 0, "serving": 1}
    assert resources["head"]["CPU"] == 0


def test_cluster_for_kuberay() -> None:
    """Ray's autoscaler finds nodes that train, one that has the device, and a head that does neither."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    config = _derive_autoscaling_config_from_ray_cr(read("kuberay.yaml"))
    kinds = config["available_node_types"]
    cpus = {name: kind["resources"]["CPU"] for name, kind in kinds.items()}
    assert cpus == {config["head_node_type"]: 0, "trainers": 4, "serving": 0}
    assert kinds["serving"]["resources"]["serving"] == 1
    assert kinds["trainers"]["min_workers"] == 4


def test_clusters_ask_for_a_token() -> None:
    """Nobody runs code on the examples' nodes who only reaches their ports."""
    aws = read("aws.yaml")
    starts = [line for key in ("head", "worker") for line in aws[f"{key}_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2
    assert all(line.startswith("RAY_AUTH_MODE=token ") for line in starts)
    assert [path.endswith("/.ray/auth_token") for path in aws["file_mounts"]] == [True]
    assert read("kuberay.yaml")["spec"]["authOptions"] == {"mode": "token"}
