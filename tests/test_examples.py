"""The studies in the documentation are valid, and Ray itself accepts the configurations."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from autocompress.cli import app
from autocompress.commands.output import OK

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
TRAINED = {"classifier.py": "share of correct answers", "denoiser.py": "in dB"}
"""Studies that train their network when they are run, and what is printed of their metric."""


def read(name: str) -> dict[str, Any]:
    """Return an example."""
    content: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text())
    return content


def test_every_example_is_checked() -> None:
    """No file lies there that this file does not know."""
    assert {path.name for path in EXAMPLES.iterdir()} == {"aws.yaml", "kuberay.yaml", *TRAINED, "text_classifier.py"}


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


def checked(name: str) -> str:
    """Return what is printed of a study in this folder."""
    done = CliRunner().invoke(app, ["check-study", name], prog_name="autocompress")
    assert done.exit_code == OK, done.output
    return done.stdout


@pytest.mark.parametrize("name", TRAINED)
def test_studies_that_train_their_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copied example trains its network when it is run, and is a valid study then."""
    shutil.copy(EXAMPLES / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, name], check=True)
    assert TRAINED[name] in checked(name)


def test_study_of_a_text_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example for Hugging Face is a valid study of a checkpoint and a file of texts."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    monkeypatch.chdir(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(tmp_path / "my_checkpoint")
    BertForSequenceClassification(BertConfig(vocab_size=len(words), **size)).save_pretrained(tmp_path / "my_checkpoint")
    with (tmp_path / "my_texts.csv").open("w") as file:
        csv.writer(file).writerows([("text", "label"), *[("good film", 1), ("bad film", 0)] * 80])
    shutil.copy(EXAMPLES / "text_classifier.py", tmp_path)
    assert "6 batches, 96 examples" in checked("text_classifier.py")
