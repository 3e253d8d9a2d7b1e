from __future__ import annotations

import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from plugin_factory import PluginFactory, described, problem

from kdcore import discovery
from kdcore.plugins import Plugins
from kdcore.registry import Component


class TestDiscover:
    def test_reads_metadata_and_imports_nothing(self, plugins: PluginFactory) -> None:
        plugins.install("speech", "raise RuntimeError('imported')", version="2.1")
        plugins.install("detection")

        found = Plugins().discover()

        assert [(info.name, info.value, info.distribution, info.version, info.reason) for info in found] == [
            ("detection", "kdcore_detection.plugin", "kdcore-detection", "1.0", ""),
            ("speech", "kdcore_speech.plugin", "kdcore-speech", "2.1", ""),
        ]
        assert not [name for name in sys.modules if name.startswith(("kdcore_detection", "kdcore_speech"))]

    def test_a_distribution_found_twice_counts_once(self, plugins: PluginFactory) -> None:
        plugins.install("detection")
        plugins.install("detection", distribution="kdcore_detection", site=plugins.add_site("editable"))

        assert [(info.name, info.reason) for info in Plugins().discover()] == [("detection", "")]

    def test_the_first_version_on_the_path_shadows_the_others(self, plugins: PluginFactory) -> None:
        plugins.install("detection", version="1.0")
        plugins.install("detection", version="2.0", site=plugins.add_site("newer"))

        assert [info.version for info in Plugins().discover()] == ["2.0"]

    @pytest.mark.parametrize("value", ["", "another_module.plugin"])
    def test_a_clash_names_both_distributions(self, plugins: PluginFactory, value: str) -> None:
        plugins.install("detection")
        plugins.install("detection", distribution="rival", version="3.0", value=value)

        (info,) = Plugins().discover()
        found = problem(Plugins().find("loss", "detection.fgd"))

        other = value or "kdcore_detection.plugin"
        assert info.reason == (
            f"the name is claimed by kdcore-detection 1.0 (kdcore_detection.plugin) and rival 3.0 ({other}); "
            "uninstall all but one"
        )
        assert info.reason in found

    @pytest.mark.parametrize("name", ["kdcore", "local"])
    def test_reserved_names_are_broken(self, plugins: PluginFactory, name: str) -> None:
        plugins.install(name, distribution="rogue")

        (info,) = Plugins().discover()

        assert info.reason == f"the name `{name}` is reserved; the entry point needs another"

    def test_a_reserved_name_does_not_replace_the_core(self, plugins: PluginFactory) -> None:
        plugins.install("kdcore", distribution="rogue")
        items = [(item["distribution"], item["status"]) for item in Plugins().describe() if item["name"] == "kdcore"]

        assert items == [("kdcore", "ok"), ("rogue", "broken")]
        assert isinstance(Plugins().find("loss", "kl"), Component)

    def test_a_name_that_cannot_prefix_others_is_broken(self, plugins: PluginFactory) -> None:
        plugins.install("x", distribution="rogue", entry_points="[kdcore]\nmy-plugin = kdcore_x.plugin\n")

        assert described("my-plugin")["reason"].startswith("`my-plugin` cannot prefix names")

    def test_malformed_metadata_of_others_hides_nobody(self, plugins: PluginFactory) -> None:
        plugins.install("detection")
        plugins.install("bad", entry_points="[kdcore]\nno equals sign here\n")
        plugins.write("nameless-1.dist-info/entry_points.txt", "[kdcore]\nspeech = kdcore_speech.plugin\n")

        found = {info.name: info.version for info in Plugins().discover()}

        assert found == {"detection": "1.0", "speech": "?"}

    def test_hundred_plugins_are_found_quickly(self, plugins: PluginFactory) -> None:
        for number in range(100):
            plugins.install(f"p{number:03}", "raise RuntimeError('imported')")

        start = time.process_time()
        found = Plugins().discover()
        took = time.process_time() - start

        assert len(found) == 100
        assert took < 1.0  # the goal is 50 ms, see benchmarks; this only catches an import or a quadratic search


class TestShippedRecipes:
    def test_the_core_s_own(self, plugins: PluginFactory) -> None:
        found = Plugins().shipped_recipes()

        assert all(path.is_file() and path.suffix == ".yaml" for path in found.values())
        assert all("." not in name for name in found)

    def test_a_plugin_s_are_found_without_importing_it(
        self, plugins: PluginFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = plugins.install("detection", "raise RuntimeError('imported')")
        coco = plugins.write(f"{package}/recipes/coco.yaml", "kdcore: 1")
        first = plugins.write(f"{package}/recipes/detection.yaml", "kdcore: 1")
        plugins.write(f"{package}/recipes/new.yaml", "a template")
        plugins.install("gone", value="nowhere.plugin")

        found = {name: path for name, path in Plugins().shipped_recipes().items() if name.startswith("detection")}
        monkeypatch.setenv("KDCORE_PLUGINS", "")
        without = Plugins().shipped_recipes()

        assert found == {"detection.coco": coco, "detection": first}
        assert "detection.coco" not in without
        assert package not in sys.modules


class TestCore:
    """Runs from a checkout and installed; the two must say the same."""

    @pytest.fixture
    def checkout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(name: str) -> Any:
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(discovery, "version", missing)
        monkeypatch.setattr(discovery, "requires", missing)

    @pytest.mark.usefixtures("checkout")
    def test_of_a_checkout(self) -> None:
        assert discovery.core_version() == "0.1.0"
        assert any(line.startswith("torch>=") for line in discovery.core_requirements())
        assert any(
            line.startswith("scikit-learn>=") and 'extra == "digits"' in line for line in discovery.core_requirements()
        )

    def test_as_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(discovery, "version", {"kdcore": "9.9"}.__getitem__)
        monkeypatch.setattr(discovery, "requires", {"kdcore": ["torch>=2.10"]}.__getitem__)

        assert discovery.core_version() == "9.9"
        assert discovery.core_requirements() == ["torch>=2.10"]

    def test_recipes_inside_the_wheel_win(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "kdcore"
        (package / "recipes").mkdir(parents=True)
        (package / "recipes" / "quickstart.yaml").touch()
        monkeypatch.setattr(discovery, "_ROOT", package)

        assert discovery.shipped_recipes() == {"quickstart": package / "recipes" / "quickstart.yaml"}


@pytest.mark.parametrize(
    ("text", "distribution", "same"),
    [
        ("kdcore_Detection>=1", "kdcore-detection", True),
        ("kdcore-detection[extra]", "kdcore.detection", True),
        ("kdcore-detection", "kdcore", False),
        ("kdcore>>1", "kdcore", False),
    ],
)
def test_names(text: str, distribution: str, same: bool) -> None:
    assert discovery.names(text, distribution) is same
