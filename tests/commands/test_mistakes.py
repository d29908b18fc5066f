"""A mistake on the command line is reported by its rule, value and way out, before torch is loaded."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autocompress.cli import app
from autocompress.commands.output import USAGE
from autocompress.search.options import Options
from autocompress.storage.run_directory import RunDirectory

RUNNER = CliRunner()
NET = "net.py --target-latency 5ms --runtime fake --out new"
IDENTITY = {
    "study": "net",
    "runtime": "fake",
    "threads": "1",
    "batch": "as in the task",
    "percentile": "50",
    "device": "this machine",
}

MISTAKES = {
    "": ("--target-latency must be the latency", "such as 5ms", "--help"),
    "net.py --out asked": ("--target-latency must be the latency", "The last run in 'asked' had --target-latency 3ms."),
    "net.py --target-latency 5": ("--target-latency must be", "unit", "such as 5ms", "'5'"),
    "net.py more --target-latency 5ms": ("One study", "'more'", "--out DIR"),
    "mesure model.onnx": ("'mesure' is neither a study nor a command", "Did you mean 'measure'?"),
    "doctr": ("'doctr' is neither", "Did you mean 'doctor'?"),
    f"{NET} --trails 3": ("No such option: --trails", "--trials"),
    f"{NET} --trials many": ("--trials", "a whole number, such as 2", "'many'"),
    f"{NET} --trials 1.5": ("--trials", "a whole number, such as 2", "'1.5'"),
    f"{NET} --trials 0": ("--trials must be 1 or more", "got 0"),
    f"{NET} --workers -1": ("--workers must be 0 or more", "got -1"),
    f"{NET} --threads 0": ("--threads must be 1 or more", "got 0"),
    f"{NET} --batch 0": ("--batch must be 1 or more", "got 0"),
    f"{NET} --percentile high": ("--percentile", "a number, such as 2 or 0.5", "'high'"),
    f"{NET} --percentile 100": ("--percentile must be between 1 and 99", "got 100"),
    f"{NET} --epochs -1": ("--epochs must be 0 or more", "got -1"),
    f"{NET} --time-budget 10": ("--time-budget must be", "unit (s, m or h)", "such as 10m", "'10'"),
    f"{NET} --trial-timeout soon": ("--trial-timeout must be", "such as 10m", "'soon'"),
    f"{NET} --trial-memory 8GB --workers 0": ("--trial-memory ends", "--workers 0", "Give --workers 1 or more"),
    f"{NET} --max-size 4": ("--max-size must be", "such as 4MB", "'4'"),
    f"{NET} --min-accuracy good": ("--min-accuracy must be", "0.88", "-0.5%", "'good'"),
    f"{NET} --sampler cmaes": ("--sampler must be one of: surrogate", "'cmaes'"),
    f"{NET} --runtime tpu": ("--runtime must be one of: onnxruntime", "'tpu'"),
    f"{NET} --runtime openvino:int3": ("--runtime openvino must be one of: openvino", "'openvino:int3'"),
    f"{NET} --runtime mine.py": ("a Python file with VARIANTS", "mine.py", "is no file"),
    f"{NET} --measure-on jetson": ("--measure-on jetson needs --ray-address",),
    f"{NET} --ray-address nonsense": ("--ray-address must be auto, HOST:PORT", "'nonsense'"),
    f"{NET} --storage nonsense": ("--storage must be the URL of a database", "postgresql://", "'nonsense'"),
    f"{NET} --artifacts nonsense://x": ("--artifacts must be the URL of a place", "s3://", "'nonsense://x'"),
    f"{NET} --tensorboard net.py": ("--tensorboard must be a folder", "'net.py' is a file"),
    "net.py --target-latency 5ms --runtime fake --out photos": ("--out must be", "'photos'", "--out DIR"),
    "net.py --target-latency 5ms --runtime fake --out asked --threads 2": ("threads '1'", "'2'", "--out DIR"),
    "net.py --target-latency 5ms --runtime fake --out far": ("--artifacts URL again", "'file:///far'", "--out DIR"),
    "net.py --target-latency 5ms --runtime fake --out small": ("--compact again", "--out DIR"),
    "measure none.onnx": ("must be a file", "'none.onnx'"),
    "measure net.py": ("must end with one of", ".onnx", "'net.py'"),
    "pack none.onnx": ("must be a file", "'none.onnx'"),
    "unpack model.onnx": ("must be a compact file", "autocompress pack", "'model.onnx'"),
    "report photos": ("must be a run directory", "'photos'", "asked"),
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a study that is never loaded, a folder of photos, and a few runs."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("raise AssertionError('a mistake is reported before the study is loaded')\n")
    Path("photos").mkdir()
    Path("photos", "cat.jpg").write_text("a cat")
    asked = Options(target_ms=3.0, out=Path("asked"), runtimes=("fake",)).invocation("net.py")
    RunDirectory(Path("asked"), IDENTITY, asked.to_dict()).close()
    RunDirectory(Path("far"), {**IDENTITY, "artifacts": "file:///far"}).close()
    RunDirectory(Path("small"), {**IDENTITY, "sizes": "of compact files"}).close()
    return tmp_path


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told(desk: Path, line: str) -> None:
    """The exit code is 2, stdout is empty, nothing is written, and the message leaves nobody alone."""
    before = sorted(desk.rglob("*"))
    done = RUNNER.invoke(app, shlex.split(line), prog_name="autocompress", env={"COLUMNS": "80"})
    message = " ".join(done.stderr.replace("│", " ").split())
    assert done.exit_code == USAGE, message
    assert [part for part in MISTAKES[line] if part not in message] == [], message
    assert done.stdout == ""
    assert sorted(desk.rglob("*")) == before
