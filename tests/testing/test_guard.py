"""What a guard finds, and what it puts back."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from kdcore.testing.guard import Guard, NetworkRefusedError, _Counts

ADVICE = (
    "a test that needs the network fails elsewhere. Make small data and weights in the test, and name them by a path "
    "or `file://`"
)


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Guard:
    """One that does not look for hooks, which takes a second."""
    monkeypatch.setattr("kdcore.testing.guard._hooks", _Counts)
    return Guard()


def test_a_run_that_leaves_nothing_behind():
    guard = Guard()
    with guard.watching():
        nn.Linear(1, 1)(torch.zeros(1, 1))
    guard.finish()


# ---- environment


def test_variables_are_found_and_put_back(guard: Guard, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KDCORE_TEST_KEPT", "1")
    monkeypatch.setenv("KDCORE_TEST_GONE", "2")
    monkeypatch.delenv("KDCORE_TEST_NEW", raising=False)
    with guard.watching():
        os.environ["KDCORE_TEST_NEW"] = "3"
        os.environ["KDCORE_TEST_KEPT"] = "4"
        del os.environ["KDCORE_TEST_GONE"]
    assert guard.found == [
        f"the environment variable KDCORE_TEST_{what}: put it back when the run ends, or pass the value on"
        for what in ("GONE is gone", "KEPT became `4`", "NEW was set to `3`")
    ]
    assert os.environ["KDCORE_TEST_KEPT"] == "1"
    assert os.environ["KDCORE_TEST_GONE"] == "2"
    assert "KDCORE_TEST_NEW" not in os.environ
    with pytest.raises(
        AssertionError, match=r"^the run left something behind:\n- the environment variable KDCORE_TEST_G"
    ):
        guard.finish()


def test_variables_are_put_back_after_an_error_too(guard: Guard):
    def run() -> None:
        with guard.watching():
            os.environ["KDCORE_TEST_NEW"] = "3"
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert "KDCORE_TEST_NEW" not in os.environ
    assert len(guard.found) == 1


def test_what_libraries_set_for_themselves_is_no_leak(guard: Guard, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    with guard.watching():
        os.environ["PL_GLOBAL_SEED"] = "1"
    guard.finish()


def test_what_a_test_sets_between_runs_is_no_leak(guard: Guard, monkeypatch: pytest.MonkeyPatch):
    with guard.watching():
        pass
    monkeypatch.setenv("KDCORE_TEST_NEW", "1")
    with guard.watching():
        pass
    guard.finish()


# ---- hooks

KEPT = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("register", "what"),
    [
        ("register_forward_hook", "forward hooks"),
        ("register_forward_pre_hook", "forward pre hooks"),
        ("register_full_backward_hook", "backward hooks"),
    ],
)
def test_a_hook_that_is_left_on_a_module(register: str, what: str):
    guard = Guard()
    handle = getattr(KEPT, register)(lambda *_: None)
    with pytest.raises(AssertionError) as caught:
        guard.finish()
    assert str(caught.value) == (
        f"the run left something behind:\n- 1 of the {what} of Linear are left: keep the handle and call its remove(), "
        "or use a tap"
    )
    handle.remove()


def test_hooks_from_before_and_of_nets_that_are_gone_are_no_leak():
    handle = KEPT.register_forward_hook(lambda *_: None)
    guard = Guard()
    nn.Linear(1, 1).register_forward_hook(lambda *_: None)
    guard.finish()
    handle.remove()


def test_a_net_that_waits_to_be_collected_hides_no_hook():
    gc.disable()
    try:
        circle = [nn.Linear(1, 1)]
        circle[0].register_forward_hook(lambda *_: None)
        circle.append(circle)  # type: ignore[arg-type]
        del circle
        guard = Guard()
        handle = KEPT.register_forward_hook(lambda *_: None)
        gc.collect()
        with pytest.raises(AssertionError, match="1 of the forward hooks of Linear are left"):
            guard.finish()
        handle.remove()
    finally:
        gc.enable()


def test_a_hook_for_all_modules():
    guard = Guard()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(
            AssertionError, match=r"1 of the hooks of torch.nn.modules.module._global_forward_hooks are le"
        ):
            guard.finish()
    finally:
        handle.remove()


# ---- network


def test_other_machines_are_refused(guard: Guard):
    with guard.watching(), socket.socket() as one, pytest.raises(NetworkRefusedError) as caught:
        one.connect(("192.0.2.1", 80))
    assert str(caught.value) == f"something connected to 192.0.2.1: {ADVICE}"
    with pytest.raises(AssertionError, match=r"- something connected to 192\.0\.2\.1: a test that needs the network"):
        guard.finish()


@pytest.mark.parametrize("how", ["connect_ex", "getaddrinfo", "sendto"])
def test_there_is_no_other_way(guard: Guard, how: str):
    host = ("example.com", 443)
    with guard.watching(), socket.socket() as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        calls = {
            "getaddrinfo": lambda: socket.getaddrinfo(*host),
            "connect_ex": lambda: stream.connect_ex(host),
            "sendto": lambda: datagrams.sendto(b"x", host),
        }
        with pytest.raises(OSError, match=r"something connected to example\.com"):
            calls[how]()
    assert guard.found == [f"something connected to example.com: {ADVICE}"]


def test_one_that_hides_its_failure_is_found_all_the_same(guard: Guard):
    with guard.watching():
        for _ in range(3):
            try:
                socket.create_connection(("example.com", 443), timeout=1)
            except OSError:
                continue
    assert guard.found == [f"something connected to example.com: {ADVICE}"]


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=server.accept, daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_may_be_reached(guard: Guard, port: int, host: str):
    with guard.watching(), socket.create_connection((host, port), timeout=5):
        pass
    guard.finish()


def test_sockets_are_their_own_again(guard: Guard):
    before = socket.socket.connect, socket.getaddrinfo
    with guard.watching():
        assert socket.socket.connect is not before[0]
    assert (socket.socket.connect, socket.getaddrinfo) == before
