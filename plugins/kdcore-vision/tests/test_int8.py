from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kdcore.errors import RunError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kdcore_vision import int8
from kdcore_vision.data.fashion import NAMES, FashionMNIST
from kdcore_vision.data.folders import Folders
from kdcore_vision.exporters import open_session
from kdcore_vision.task import ClassifyImages


@pytest.fixture
def trained(fashion: Path) -> tuple[nn.Module, FashionMNIST]:
    """A net that tells the made pictures apart, as it is shipped."""
    data = FashionMNIST(path=fashion, validation=20)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))
    shipped = ClassifyImages(classes=10).deploy(net)
    optimizer, columns = torch.optim.Adam(net.parameters(), 0.01), data.split("train").columns
    net.train()
    for _ in range(40):
        optimizer.zero_grad()
        cross_entropy(net(columns["image"].float() / 255), columns["labels"]).backward()
        optimizer.step()
    return shipped.eval(), data


def test_a_trained_net_in_8_bits(
    trained: tuple[nn.Module, FashionMNIST], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shipped, data = trained
    example: Tensor = data.split("val").columns["image"][:4]
    with torch.no_grad():
        files = int8.onnx_int8(shipped, (example,), tmp_path, data=data, card={"class_names": list(NAMES)})
    assert [path.name for path in files] == ["model.int8.onnx", "model.int8.json"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["model.int8.json", "model.int8.onnx"]
    scores = json.loads(files[1].read_text())
    validation = data.split("val").columns
    with torch.no_grad():
        exact = (shipped(validation["image"]).argmax(-1) == validation["labels"]).double().mean()
    assert scores["accuracy_of_the_net"] == pytest.approx(float(exact))
    assert scores["accuracy_of_the_net"] > 0.9
    assert scores["accuracy"] >= scores["accuracy_of_the_net"] - 0.05
    assert (scores["samples"], scores["split"]) == (20, "val")
    assert "model.int8.onnx: accuracy" in capsys.readouterr().out
    session = open_session(files[0])
    assert session.get_inputs()[0].type == "tensor(uint8)"
    _, names = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    assert set(names) <= set(NAMES)
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == list(NAMES)
    weights = {one.data_type for one in _model(files[0]).graph.initializer if len(one.dims) == 4}
    assert weights == {3}  # onnx.TensorProto.INT8


def _model(path: Path):
    import onnx

    return onnx.load(str(path))


def test_it_is_calibrated_on_pictures_from_all_over_the_training_set(folders: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(int8, "CALIBRATION", 6)
    monkeypatch.setattr(int8, "BATCH", 4)
    for keep in ("memory", "disk"):
        data = Folders(path=folders, keep=keep)  # type: ignore[arg-type]
        batches = list(int8._batches(data, "input"))
        assert [len(one["input"]) for one in batches] == [4, 2]
        assert batches[0]["input"].dtype.name == "uint8"
        reds = [int(one[0, 0, 0]) for batch in batches for one in batch["input"]]
        assert len(set(reds)) > 2


def test_labels_that_are_missing_do_not_count(trained: tuple[nn.Module, FashionMNIST], monkeypatch: pytest.MonkeyPatch):
    shipped, data = trained

    class Session:
        def get_inputs(self):
            return [type("Input", (), {"name": "input"})]

        def run(self, names, given):
            return [shipped(torch.from_numpy(given["input"])).detach().numpy()]

    validation = data.split("val")
    validation.columns["labels"][:15] = -100
    monkeypatch.setattr(int8, "open_session", lambda path: Session())
    scores = int8._score(Path(__file__), shipped, data)
    assert scores["samples"] == 5
    assert scores["accuracy"] == scores["accuracy_of_the_net"]
    assert scores["agreement"] == 1.0


def test_without_data_there_is_nothing_to_calibrate_on(tmp_path: Path):
    with pytest.raises(RunError, match="calibrates on training pictures and was given no data: call it through export"):
        int8.onnx_int8(nn.Identity(), (torch.zeros(1),), tmp_path)


def test_what_onnxruntime_does_not_manage_is_named(tmp_path: Path):
    (tmp_path / "broken.onnx").write_bytes(b"no net")
    with pytest.raises(RunError, match="the net cannot be quantised by onnxruntime: "):
        int8._quantise(tmp_path / "broken.onnx", tmp_path / "out.onnx", iter(()))
