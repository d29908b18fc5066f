"""Make the stored runs again with the autocompress that is installed; see README.md.

    python make.py FOLDER [NAME…]

The folder must be new. The archives are written beside this file: all of them, or those that are named.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from small_study import WEIGHTS, Net, batches
from torch import nn

import autocompress

HERE = Path(__file__).parent
STUDY = ("small_study.py", "small_weights.safetensors")
LARGE = {".html", ".png", ".svg"}
"""Suffixes of the files that are left out; `autocompress report` writes them."""

TEXT = {".csv", ".journal", ".json", ".md", ".txt"}

COMMON = ("small_study.py", "--runtime", "fake", "--target-latency")
ALONE = (*COMMON, "90us", "--workers", "0")
DATABASE = ("--storage", "sqlite:///study.db")
DEVICES = {"gpu0": "20000,10,4", "edge": "15000,20,40"}
"""Nanoseconds of a layer, of a weight in float and of one in INT8."""


def train() -> None:
    """Train the network and write its weights."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(20):
        for images, labels in batches(12, 0):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    save_file(net.state_dict(), WEIGHTS)


def begin(folder: Path, *line: object) -> subprocess.Popen[bytes]:
    """Begin the command in a folder."""
    command = [str(Path(sys.executable).with_name("autocompress")), *map(str, line)]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"})


def stop(folder: Path, line: tuple[str, ...], trial: int, number: signal.Signals) -> None:
    """Run the command, and send it a signal in the middle of a trial, or of a later one."""
    process = begin(folder, *line)
    at_work = folder / "interrupted" / "trials"
    while not any(path.is_dir() and int(path.name) >= trial for path in at_work.glob("*")):
        assert process.poll() is None, "it ended too early"
        time.sleep(0.01)
    process.send_signal(number)
    process.wait()


def finished(folder: Path) -> None:
    """Make a complete run with infeasible trials."""
    line = (*ALONE, "--trials", "10", "--sampler", "random", "--seed", "1", "--out", "finished")
    assert begin(folder, *line).wait() == 0


def interrupted(folder: Path, *more: str) -> None:
    """Make a run that Ctrl-C ends in the middle of a trial; resume it, and kill it in the middle of another."""
    line = (*ALONE, "--trials", "9", "--out", "interrupted", *more)
    stop(folder, line, 5, signal.SIGINT)
    stop(folder, line, 7, signal.SIGKILL)


def in_database(folder: Path) -> None:
    """Make the same in a database."""
    interrupted(folder, *DATABASE)


def two_devices(folder: Path) -> dict[str, str]:
    """Make a run on two devices of a cluster, under limits; return the cluster's address and what to write instead."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for name, times in DEVICES.items():
        nodes.add_node(num_cpus=0, resources={name: 1}, env_vars={"AUTOCOMPRESS_FAKE_NS": times})
    address = nodes.address
    on = [word for name in DEVICES for word in ("--measure-on", name)]
    limits = ("--max-size", "8kB", "--min-accuracy", "-10%")
    line = (*COMMON, "120us", "--trials", 6, *limits, "--ray-address", address, *on, "--out", "two_devices")
    code = begin(folder, *line).wait()
    nodes.shutdown()
    assert code == 0
    return {address: "head:6379"}


def neutral(folder: Path, words: Mapping[str, str]) -> None:
    """Replace what names this machine in all text of a folder."""
    for path in folder.rglob("*"):
        if path.suffix in TEXT and path.is_file():
            text = path.read_text()
            for word, instead in words.items():
                text = text.replace(word, instead)
            path.write_text(text)
    for path in folder.glob("*.db"):
        with sqlite3.connect(path) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for _, column, kind, *_ in database.execute(f"PRAGMA table_info({table})").fetchall():
                    if kind.startswith(("TEXT", "VARCHAR")):
                        for pair in words.items():
                            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", pair)
        database.execute("VACUUM")
        database.close()


def pack(folder: Path) -> None:
    """Write the archive of a folder."""

    def member(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return None if Path(info.name).suffix in LARGE or Path(info.name).name == "__pycache__" else info

    with tarfile.open(HERE / f"{folder.name}.tar.xz", "w:xz") as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in STUDY:
                archive.add(path, path.name, filter=member)


def main(root: Path, *names: str) -> None:
    """Make the runs that are named, by default all."""
    if not WEIGHTS.exists():
        train()
    libraries, package = Path(sysconfig.get_path("purelib")), Path(str(autocompress.__file__)).parents[1]
    words = {str(path): "/opt/site-packages" for path in (libraries, libraries.resolve(), package)}
    for make in (finished, interrupted, in_database, two_devices):
        if names and make.__name__ not in names:
            continue
        folder = root / make.__name__
        folder.mkdir(parents=True)
        for name in STUDY:
            shutil.copyfile(HERE / name, folder / name)
        more = make(folder) or {}
        neutral(folder, {platform.platform(): "Linux", str(folder.resolve()): "/home/user", **words, **more})
        pack(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
