"""What README and the documentation tell to type: every command is one that there is, every block of Python runs.

A block of commands holds nothing else; what is printed stands in a block of ``text``. A block with
``<!-- not run: why -->`` before it is parsed or compiled only, and `NOT_RUN` lists it.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from markdown_it import MarkdownIt

from autocompress.cli import app
from autocompress.commands.groups import DEFAULT
from autocompress.studies.names import BUILT_IN

Command = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IN_ORDER = ("your-model.md", "README.md", "index.md", "choosing.md", "report.md", "runtimes.md", "dashboard.md")
"""Pages that are run, one after the other in one folder: the first one makes a study that takes seconds."""

STUDY = "my_study.py"
"""What is run in place of the studies that come with the package, which take minutes."""

TARGET = "50ms"
QUICK = {"trials": 2, "workers": 0, "epochs": 0.1, "final_epochs": 0.1}

NOT_RUN = {
    "README.md: downloads a network, needs a folder of photographs": 1,
    "clusters.md: needs a cluster": 6,
    "your-model.md: downloads a network, needs a folder of photographs": 2,
    "your-model.md: the network is yours": 1,
}
"""Blocks that are not run, and why."""


@dataclass(frozen=True)
class Block:
    """A block of code on a page: its language (empty for commands), its text, and why it is not run."""

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, where its first line is a comment with one."""
        named = re.match(r"# ([\w.]+\.py)\n", self.text)
        return named[1] if named else None

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(path: Path) -> Iterator[Block]:
    """Yield the blocks of code of a page."""
    before = ""
    for token in MarkdownIt().parse(path.read_text()):
        if token.type in ("fence", "code_block"):
            marked = re.fullmatch(r"<!-- not run: (.+) -->\s*", before)
            line = token.map[0] + 1 if token.map else 0
            yield Block(path.name, line, token.info, token.content, marked[1] if marked else "")
        before = token.content if token.type == "html_block" else ""


BLOCKS = [block for path in PAGES for block in blocks_of(path)]
COMMANDS = [block for block in BLOCKS if not block.language]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def parse(words: list[str]) -> None:
    """Let the command line read its words as it would before it runs; what it would refuse raises."""
    group = typer.main.get_command(app)
    context = group.make_context("autocompress", list(words))
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest, parent=context)


def parse_ray(words: list[str]) -> None:
    """Let Ray's command line read its words."""
    from ray.scripts.scripts import cli

    command = cli.commands[words[0]]
    command.make_context(words[0], list(words[1:]))


def check_script(words: list[str]) -> None:
    """Check that a script is there, and has the options that it is given."""
    path = ROOT / words[0]
    if not path.exists():
        assert path.name in {"load.py", *(block.file for block in PYTHON)}, words[0]
        return
    known = {
        constant.value
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument"
        for constant in call.args
        if isinstance(constant, ast.Constant)
    }
    assert {word for word in words if word.startswith("--")} <= known, words
    assert path.parent == ROOT / "bench", f"{words[0]} is not run in CI"  # `scripts/benches` runs all that are there


def check_pip(words: list[str]) -> None:
    """Check that the extras of ours that are to be installed are there."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert words[0] == "install"
    for word in words[1:]:
        named = re.fullmatch(r"(?:autocompress|\.)\[([\w,-]+)\]", word)
        assert {*(named[1].split(",") if named else ())} <= {*extras}, word


def check(words: list[str]) -> None:
    """Check one command; a program that is not known here fails."""
    while re.match(r"\w+=", words[0]):
        words = words[1:]
    program, rest = words[0], words[1:]
    if program.endswith("autocompress"):
        parse(rest)
    elif program == "python":
        check_script(rest)
    elif program == "pip":
        check_pip(rest)
    elif program == "uvx":
        assert rest[:2] == ["--from", "."]
        check(rest[2:])
    elif program == "scripts/run":
        parse(rest)
    elif program == "ray":
        parse_ray(rest)
    elif program in ("optuna-dashboard", "tensorboard"):  # tests/search starts the one and reads what the other does
        assert Path(sys.prefix, "bin", program).exists()
    elif program == "kubectl":
        if "autocompress" in rest:
            check(rest[rest.index("autocompress") :])
    elif program == "export":
        assert all(re.match(r"\w+=", word) for word in rest)
    elif program == "source":
        assert rest == [".venv/bin/activate"]
    else:
        path = ROOT / program
        assert program.startswith("scripts/"), f"what is {program!r}? Output stands in a block of text"
        assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_every_command_is_one_that_there_is(block: Block) -> None:
    """Each line is a command whose program exists and takes these options."""
    assert block.commands
    for words in block.commands:
        check(words)


def test_wrong_commands_are_seen() -> None:
    """An option that there is not, an unknown command, a script that is away: all of them fail."""
    wrong = (
        "autocompress --target-latncy 5ms",
        "autocompress --trials few",
        "autocompress doctor --quick",
        "ray start --haed",
    )
    for line in wrong:
        with pytest.raises(Exception, match=r"option|whole number"):
            check(shlex.split(line))
    for line in ("python bench/nothing.py", "python bench/study.py --fast", "pip install '.[gpu]'", "make all"):
        with pytest.raises(AssertionError):
            check(shlex.split(line))


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_block_of_python_compiles(block: Block) -> None:
    """It is Python."""
    compile(block.text, str(block), "exec")


def test_other_languages() -> None:
    """There are few, and what says to be JSON is JSON."""
    assert {block.language for block in BLOCKS} <= {"", "python", "json", "text"}
    for block in BLOCKS:
        if block.language == "json":
            json.loads(block.text)


def test_options_in_sentences_exist() -> None:
    """An option that the text speaks of is one of ours; those of other programs are few."""
    group = typer.main.get_command(app)
    ours = {opt for c in group.commands.values() for param in c.params for opt in (*param.opts, *param.secondary_opts)}
    benches = "".join(path.read_text() for path in (ROOT / "bench").rglob("*.py"))
    text = "".join(re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL) for path in PAGES)
    named = {*re.findall(r"`(--[a-z][a-z-]+)", text)}
    assert len(named) > 20
    of_others = {"--num-cpus", "--mode", "--torch-backend", "--dev"}
    assert {name for name in named - ours if f'"{name}"' not in benches} <= of_others


def test_tables_of_options_are_right() -> None:
    """What a table gives as an option with its value is taken by a study's command line."""
    rows = [row for path in PAGES for row in re.findall(r"^\| `(--[^`]+)` \|", path.read_text(), flags=re.MULTILINE)]
    assert len(rows) >= 10
    for row in rows:
        parse(["--target-latency", "5ms", *shlex.split(row)])


def test_what_is_not_run_is_known() -> None:
    """Each block of ours is run, or marked with a reason, and stands in the list."""
    commands = [
        block for block in COMMANDS if any("autocompress" in (Path(w).name for w in words) for words in block.commands)
    ]
    ours = [*PYTHON, *commands]
    marked = Counter(f"{block.page}: {block.not_run}" for block in ours if block.not_run)
    assert marked == NOT_RUN
    assert [str(block) for block in ours if not block.not_run and block.page not in IN_ORDER] == []


def quick(words: list[str]) -> list[str]:
    """Return the words of a command as it is run here: with a small study, and settings that take seconds."""
    group = typer.main.get_command(app)
    name = words[0] if words[0] in group.commands else DEFAULT
    if name != DEFAULT:
        return [*words, *{"measure": ["--quick"], "doctor": ["--runtime", "onnxruntime"]}.get(name, [])]
    study, *rest = words if not words[0].startswith("--") else [BUILT_IN[0], *words]
    changed = {f"--{key.replace('_', '-')}": str(value) for key, value in QUICK.items()} | {"--target-latency": TARGET}
    left = [word for before, word in zip(["", *rest], rest, strict=False) if not {before, word} & changed.keys()]
    return [STUDY if study in BUILT_IN else study, *left, *(word for pair in changed.items() for word in pair)]


QUICKLY = f"""
import importlib
module = importlib.import_module("autocompress.search.compress")
as_it_is = module.compress
module.compress = lambda study, target_latency, **given: as_it_is(
    study, {TARGET!r}, **{{**given, **{QUICK!r}}}
)
"""
"""What goes before a block of Python, so that its calls are as quick as the commands."""

EXAMINE = """
import copy, sys
sys.path.insert(0, "")
import my_network, torch
from autocompress.studies import loading
from autocompress.studies.validate import validate

torch.save(my_network.network().state_dict(), "my_weights.pth")
for name in sys.argv[1:]:
    task = loading.load(name)
    validate(task)
    if task.fit is not None:
        student = copy.deepcopy(task.model)
        task.fit(student, task.model, 0.1)
        before, after = ({k: v.clone() for k, v in net.state_dict().items()} for net in (task.model, student))
        assert any((before[name] != after[name]).any() for name in before), "fit trains nothing"
    print(name)
"""


class Reader:
    """Does what pages tell, in one folder; the same command is typed once."""

    def __init__(self, folder: Path, command: Command, script: Command) -> None:
        self.folder, self.command, self.script = folder, command, script
        self.printed: dict[tuple[str, ...], str] = {}

    def follow(self, block: Block) -> None:
        """Do what a block tells; what fails fails the test."""
        if block.language == "python" and block.file is not None:
            (self.folder / block.file).write_text(block.text)
        elif block.language == "python":
            self.once(self.script, QUICKLY + block.text)
        elif not block.language:
            for words in block.commands:
                self.type(words)

    def type(self, words: list[str]) -> None:
        """Type a command, if it is ours or a script of the reader's."""
        if words[0] == "python" and (self.folder / words[1]).exists():
            self.once(self.script, RUN, words[1])
        elif words[0].endswith("autocompress"):
            for name, source in GIVEN.items():
                if any(word.startswith(name) for word in words):
                    self.give(name, source)
            self.once(self.command, *quick(words[1:]))

    def give(self, name: str, source: str) -> None:
        """Put something where a reader has it."""
        copy, found = self.folder / name, next(self.folder.glob(source))
        if not copy.exists():
            (shutil.copytree if found.is_dir() else shutil.copyfile)(found, copy)

    def once(self, call: Command, *words: str) -> None:
        """Start a process, if the same one did not run already, and keep what it prints."""
        if words not in self.printed:
            self.printed[words] = succeeded(call(self.folder, *words))


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a process printed, if it ended well."""
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"

GIVEN = {
    "runs/digits": "runs/my_study",
    "runs/digits-openvino": "runs/my_study",
    "int8.onnx": "runs/my_study/models/*/model.onnx",
    "float.onnx": "runs/my_study/baseline/model.onnx",
    "model.onnx": "runs/my_study/baseline/model.onnx",
}
"""Files that a reader has, and what they are here."""


@pytest.mark.slow
@pytest.mark.timeout(840)
def test_a_reader_who_types_it_all(tmp_path: Path, warm: Command, script: Command) -> None:
    """Commands and blocks of Python of the pages end well, in their order, in an empty folder."""
    reader = Reader(tmp_path, warm, script)
    for page in IN_ORDER:
        for block in BLOCKS:
            if block.page == page and not block.not_run:
                reader.follow(block)
    assert "uniform int8" in "".join(reader.printed.values())


def test_every_study_of_the_pages_is_one(tmp_path: Path, script: Command) -> None:
    """Each study that a page shows loads, is valid, and its own training trains."""
    files = [block for block in PYTHON if block.file is not None and not block.not_run]
    for block in files:
        (tmp_path / str(block.file)).write_text(block.text)
    studies = sorted({str(block.file) for block in files if "def task(" in block.text})
    assert len(studies) >= 5
    assert succeeded(script(tmp_path, EXAMINE, *studies)).split() == studies
