"""`new-recipe graph.nodes` on tables of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Lab

from kdcore.errors import RecipeError
from kdcore.new_recipe import new_recipe


@pytest.fixture
def text(lab: Lab) -> str:
    nodes = lab.folder / "nodes.csv"
    rows = "".join(f"n{number},c{number % 2},{number % 2},{number % 5}\n" for number in range(40))
    nodes.write_text("id,label,x,y\n" + rows)
    edges = "".join(f"n{number},n{(number + step) % 40}\n" for number in range(40) for step in (2, 4))
    (lab.folder / "edges.csv").write_text("source,target\n" + edges)
    return new_recipe("graph.nodes", teacher=None, data=str(nodes), plugins=lab.plugins)


def test_it_asks_for_what_it_cannot_know(lab: Lab, text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        lab.read(text=text)
    assert [(problem.path, problem.message) for problem in caught.value.problems] == [
        ("data.source.edges", "is still to be given (`???`)"),
        ("data.source.features", "is still to be given (`???`)"),
    ]


def test_with_these_it_is_sound_and_reads_the_tables(lab: Lab, text: str) -> None:
    given = (f"data.source.edges={lab.folder / 'edges.csv'}", "data.source.features=[x,y]", "data.val_per_class=2")
    recipe = lab.read(*given, "data.train_per_class=5", text=text)
    assert lab.plugins.check_recipe(recipe) == []
    data = lab.builder(*given, "data.train_per_class=5", text=text).data(recipe.stages["teach"].data)
    assert (data.facts["classes"], data.facts["features"]) == (2, 2)


def test_links_have_another(lab: Lab) -> None:
    text = new_recipe("graph.links", teacher=None, data=None, plugins=lab.plugins)
    assert "use: graph.links" in text
    assert "graph.nodes" not in text.partition("\ndata:")[0]


def test_the_data_that_is_named_is_in_it(lab: Lab, text: str) -> None:
    assert f"nodes: {lab.folder / 'nodes.csv'}" in text.replace('"', "")
    assert Path(lab.folder / "nodes.csv").is_file()
