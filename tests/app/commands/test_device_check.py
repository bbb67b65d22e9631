"""doctor --check: what really did the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.commands import diagnostics as examination
from app.commands.client import Answer, CallFailed
from app.commands.device_check import check_device
from backends.inventory import cpu_inventory
from tests.support.server import Running


class Server:
    """Answers as a server with one deployment."""

    def __init__(self, **state: Any) -> None:
        self.calls: list[str] = []
        self._state = {
            "engine": "onnx",
            "device": "cpu",
            "dtype": "int8",
            "reason": "",
            "error": None,
            "footprint_bytes": 5,
        }
        self._state |= {"detail": {}} | state

    def post_json(self, path: str, document: object) -> Answer:
        self.calls.append(path)
        return Answer(b"{}", {})

    def get(self, path: str) -> Answer:
        import json

        self.calls.append(path)
        return Answer(json.dumps({"deployments": {"whisper-1": self._state}}).encode(), {})


def device_check(name: str = "whisper-1", **state: Any):  # type: ignore[no-untyped-def]
    return check_device(Server(**state), name)  # type: ignore[arg-type]


GPU_NODES = {
    "encoder": {"DmlExecutionProvider": 300, "CPUExecutionProvider": 4},
    "decoder": {"DmlExecutionProvider": 500},
}


def test_it_loads_then_checks() -> None:
    server = Server()
    assert check_device(server, "whisper-1").where == "onnx on cpu in int8"  # type: ignore[arg-type]
    assert server.calls == ["/admin/load/whisper-1", "/health?deep=1"]


def test_kernels_that_were_given_up_are_told() -> None:
    given_up = {"packed bfloat16 weights": "plain products are used, which are slower (no AVX-512)"}
    assert device_check(detail={"kernels": given_up}).kernels == given_up
    assert device_check().kernels == {}


def test_a_gpu_that_holds_the_graph_is_no_failure() -> None:
    found = device_check(device="directml:0", detail={"nodes": GPU_NODES})
    assert found.failure == ""
    assert found.nodes == GPU_NODES


@pytest.mark.parametrize(
    "providers", [{"CPUExecutionProvider": 500}, {"CPUExecutionProvider": 500, "DmlExecutionProvider": 0}]
)
def test_a_gpu_that_holds_nothing_is_found_out(providers: dict[str, int]) -> None:
    found = device_check(device="directml:0", detail={"nodes": GPU_NODES | {"decoder": providers}})
    assert found.failure == "all nodes of the decoder lie on the processor, although directml:0 was chosen"


def test_a_fall_back_to_the_processor_is_told() -> None:
    assert "no directml" in device_check(reason="cpu, because there is no better device: no directml").failure
    assert device_check(reason="cpu: espeak wants no other device").failure == ""


def test_a_failed_check_is_an_error() -> None:
    with pytest.raises(CallFailed, match="canary: it hangs"):
        device_check(error="canary: it hangs")
    with pytest.raises(CallFailed, match="no deployment"):
        device_check("nobody")


def test_against_a_running_server(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "run_probe", lambda python="": cpu_inventory())
    result = CliRunner().invoke(cli, ["doctor", "--check", "fake-asr", "--server", served.url])
    assert result.exit_code == 0, result.output
    assert "fake on cpu in float32" in result.stdout
    missing = CliRunner().invoke(cli, ["doctor", "--check", "nobody", "--server", served.url])
    assert missing.exit_code == 1
    assert "nobody" in missing.stderr


def test_the_server_of_the_configuration_is_the_one_that_is_checked(
    served: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(examination, "run_probe", lambda python="": cpu_inventory())
    file = tmp_path / "mine.toml"
    file.write_text(f"[server]\nport = {served.port}\n", encoding="utf-8")
    result = CliRunner().invoke(cli, ["doctor", "--check", "fake-asr", "--config", str(file)])
    assert result.exit_code == 0, result.output
    assert "fake on cpu in float32" in result.stdout
