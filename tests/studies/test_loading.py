"""Loading a study by name, by path and by spec."""

import importlib
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

from autocompress.errors import StudyError
from autocompress.studies.loading import load
from autocompress.studies.names import BUILT_IN, study_name
from autocompress.studies.task import Task

STUDY = """
import torch
from torch import nn
from {sibling} import WIDTH, double

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        return self.head(double(x))

def loss(model, batch):
    return double(model(batch[0])).square().mean()

def task():
    from autocompress import Task
    data = [(torch.ones(2, WIDTH), torch.zeros(2).long())]
    return Task(Net(), torch.ones(1, WIDTH), train=data, validation=data, loss=loss)
"""

READER = """
import sys, cloudpickle
from pathlib import Path
task = cloudpickle.loads(Path(sys.argv[1]).read_bytes())
task.loss(task.model, next(iter(task.train))).backward()
print("loss ran", type(task).__module__)
"""


def write(folder: Path, text: str) -> str:
    """Write a study file and return its path as a user would type it."""
    path = folder / "my study.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_name_is_a_study(name: str) -> None:
    """A built-in study is a module that defines ``task()``, as a user's file is."""
    assert callable(importlib.import_module(f"autocompress.studies.{name}").task)


@pytest.mark.parametrize(
    ("study", "name"),
    [
        ("digits", "digits"),
        ("some/where/my_study.py", "my_study"),
        ("some/my study.py", "my-study"),
        ("torchvision:resnet18", "torchvision-resnet18"),
        ("timm:resnet18.a1_in1k", "timm-resnet18.a1_in1k"),
    ],
)
def test_study_name_is_fit_for_a_folder(study: str, name: str) -> None:
    """The short name holds nothing that a path could trip over."""
    assert study_name(study) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", r"SyntaxError: .* \(my study.py:1\)"),
        ("\nimport no_such_module_here", r"ModuleNotFoundError: .*no_such_module_here.* \(my study.py:2\)"),
        ("raise SystemExit(3)", r"SystemExit: 3 \(my study.py:1\)"),
        ("x = 1", "has none"),
        ("task = 3", "has none"),
        ("def task():\n    return 1 / 0", r"ZeroDivisionError: division by zero \(my study.py:2 in task\)"),
        ("def task():\n    return 42", "it returned int"),
    ],
)
def test_a_faulty_file_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    """Whatever is wrong with a study file becomes a StudyError that names the file and the fault."""
    study = write(tmp_path, text)
    with pytest.raises(StudyError, match=message) as caught:
        load(study)
    assert "my study.py" in str(caught.value)
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("study", "options", "message"),
    [
        ("digit", {}, "Did you mean 'digits'"),
        ("resnet", {}, "digits, fashion_mnist, a Python file"),
        ("nowhere/study.py", {}, "there is no file .*nowhere/study.py"),
        ("digits", {"data": "imagefolder:x"}, "--data belongs to torchvision"),
        ("digits", {"weights": Path("x.pth")}, "--weights belongs to torchvision"),
        ("digits", {"data_dir": Path("x")}, "takes data_dir; that of digits does not"),
        ("torchvision:resnet18", {"data_dir": Path("x")}, "--data-dir belongs to"),
    ],
)
def test_an_impossible_request_names_the_way_out(study: str, options: dict[str, object], message: str) -> None:
    """An unknown study, or an option that is not for it, is refused."""
    with pytest.raises(StudyError, match=message):
        load(study, **options)  # type: ignore[arg-type]


def test_data_dir_reaches_a_task_that_takes_it(tmp_path: Path) -> None:
    """A study's own `data_dir` argument is the folder that the user named."""
    study = write(tmp_path, "def task(data_dir=None):\n    raise ValueError(data_dir.name)")
    with pytest.raises(StudyError, match="ValueError: pictures"):
        load(study, data_dir=Path("pictures"))


@pytest.mark.parametrize("layout", ["sibling_module.py", "sibling_package/__init__.py"])
def test_a_study_with_siblings_runs_in_a_fresh_process(tmp_path: Path, layout: str) -> None:
    """A pickled task needs neither the study's file nor the modules beside it."""
    folder, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    sibling = folder / layout
    sibling.parent.mkdir(parents=True)
    elsewhere.mkdir()
    sibling.write_text("WIDTH = 4\n\ndef double(x):\n    return 2 * x\n")
    task = load(write(folder, STUDY.format(sibling=Path(layout).parts[0].removesuffix(".py"))))
    assert isinstance(task, Task)
    (elsewhere / "task.pickle").write_bytes(cloudpickle.dumps(task))
    folder.rename(tmp_path / "moved")
    command = [sys.executable, "-c", READER, "task.pickle"]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.stdout == "loss ran autocompress.studies.task\n", done.stderr


def test_an_environment_beside_a_study_is_not_pickled_by_value(tmp_path: Path) -> None:
    """Packages in a virtual environment inside the study's folder stay references."""
    packages = tmp_path / "venv" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "installed_for_study.py").write_text("")
    write(tmp_path, f"import sys\nsys.path.append({str(packages)!r})\nimport installed_for_study\nsys.path.pop()")
    with pytest.raises(StudyError, match="has none"):
        load(str(tmp_path / "my study.py"))
    assert "installed_for_study" not in cloudpickle.list_registry_pickle_by_value()
