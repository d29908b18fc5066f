"""Ray is begun and ended without a trace in the caller's process, and only this machine can reach it."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from autocompress.errors import UsageError
from autocompress.search.options import Options
from autocompress.search.preflight import check_options
from autocompress.search.progress import Silent
from autocompress.search.workers.cluster import joined
from autocompress.search.workers.ray_session import begun, reserved, running

CALLERS = """
from concurrent.futures import ThreadPoolExecutor

import optuna
import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
state = ray.put(5)
from autocompress import compress

how = dict(runtimes=("fake",), workers=1, trials=2, epochs=0.1, final_epochs=0.1, out="run")
with ThreadPoolExecutor(1) as other:
    front = other.submit(compress, "my_study.py", "50ms", **how).result()
assert ray.is_initialized() and ray.get(state) == 5
assert ray.get(ray.remote(lambda: 6).remote(), timeout=60) == 6  # the CPU is free again
assert optuna.logging.get_verbosity() == optuna.logging.INFO
print(front.meets_target)
"""


def listening() -> set[str]:
    """Return the addresses on which this process and its descendants listen."""
    me = psutil.Process()
    return {
        connection.laddr.ip
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def loopback(address: str) -> bool:
    """Return whether only this machine reaches an address, of either version."""
    ip = ipaddress.ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def test_a_ray_of_ours_is_shut_off_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every port, those of worker processes among them, is on the loopback interface.

    Environment, log level and the handler of SIGTERM are restored, and no token is left in the home directory.
    """
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("HOME", str(tmp_path))
    logging.getLogger("ray").setLevel(logging.INFO)
    before = dict(os.environ), signal.getsignal(signal.SIGTERM)
    with begun(count=1) as ray:
        assert os.environ["RAY_AUTH_MODE"] == "token"
        pid, token = ray.get(ray.remote(lambda: (os.getpid(), os.environ["RAY_AUTH_TOKEN"])).remote())
        assert token == os.environ["RAY_AUTH_TOKEN"]
        assert psutil.Process(pid).is_running()
        found = listening()
    assert found
    assert {address for address in found if not loopback(address)} == set()
    assert (dict(os.environ), signal.getsignal(signal.SIGTERM)) == before
    assert logging.getLogger("ray").level == logging.INFO
    assert not running()
    assert list(tmp_path.iterdir()) == []


def test_one_thread_at_a_time_has_a_ray_of_its_own(tmp_path: Path) -> None:
    """Another thread is refused before anything is begun, unless it needs no Ray."""
    options = Options(target_ms=5.0, out=tmp_path, runtimes=("fake",))
    with reserved(), ThreadPoolExecutor(1) as other:
        with pytest.raises(UsageError, match=r"one study of a process at a time .*--workers 0.*ray\.init"):
            other.submit(check_options, "study", options).result()
        other.submit(
            check_options, "study", Options(target_ms=5.0, out=tmp_path, runtimes=("fake",), workers=0)
        ).result()
    with ThreadPoolExecutor(1) as other:
        other.submit(check_options, "study", options).result()


def test_a_ray_of_the_callers_is_checked_before_anything_else(tmp_path: Path) -> None:
    """Another cluster than the caller's is refused, and so is one whose CPUs are all taken."""
    import ray

    with begun(count=1):
        mine = ray.get_runtime_context().gcs_address

        def asked(**more: object) -> Options:
            return Options(target_ms=5.0, out=tmp_path, runtimes=("fake",), **more)  # type: ignore[arg-type]

        for address in (None, "auto", mine):
            check_options("study", asked(ray_address=address))
        with pytest.raises(UsageError, match=rf"{mine}; got '10\.0\.0\.1:6379'. Leave it out"):
            check_options("study", asked(ray_address="10.0.0.1:6379"))
        with joined(asked(), Silent()) as cluster:
            assert cluster is not None
            assert cluster.cpus == 1
        assert ray.is_initialized()

        @ray.remote(num_cpus=1)
        class Busy:
            """Takes the only CPU."""

            def there(self) -> bool:
                return True

        busy = Busy.remote()
        assert ray.get(busy.there.remote())
        with pytest.raises(UsageError, match=r"trials need a free CPU .*--workers 0"), joined(asked(), Silent()):
            pytest.fail("it was joined")
        with joined(asked(workers=0), Silent()) as cluster:
            assert cluster is None
        del busy


def test_a_ray_of_the_callers_outlives_a_run(tmp_path: Path) -> None:
    """A study is compressed in a Ray that its program has begun, in any of its threads; that Ray keeps running."""
    study = Path(__file__).parents[2] / "end_to_end" / "my_study.py"
    (tmp_path / "my_study.py").write_text(study.read_text())
    done = subprocess.run(
        [sys.executable, "-c", CALLERS], cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_a_thread_compresses(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run needs no main thread, and leaves the signals to those who have it."""
    from autocompress import compress

    study = Path(__file__).parents[2] / "end_to_end" / "my_study.py"
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = []

    def run() -> object:
        front = compress(
            study, "50ms", runtimes=("fake",), workers=workers, trials=2, epochs=0.1, final_epochs=0.1, out="run"
        )
        handlers.append({number: signal.getsignal(number) for number in before})
        return front.meets_target

    with ThreadPoolExecutor(1) as other:
        assert other.submit(run).result() is True
    assert handlers == [before]
