from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdcore.errors import RunError
from kdcore_graph.data.tables import Tables, read_table

NODES = """\
id,age,income,label,part,when
ann,30,1.5,good,train,2020-01-03
bob,40,2.5,bad,val,2020-01-01
cy,50,3.5,,test,2020-01-02
dee,60,4.5,good,,2020-01-05
eli,70,5.5,bad,train,2020-01-04
"""
EDGES = "source,target\nann,bob\nbob,cy\ndee,eli\ncy,dee\n"


def tables(folder: Path, nodes: str = NODES, edges: str = EDGES, **keys: object) -> Tables:
    (folder / "nodes.csv").write_text(nodes)
    (folder / "edges.csv").write_text(edges)
    keys = {"features": ["income", "age"], **keys}
    return Tables(nodes=folder / "nodes.csv", edges=folder / "edges.csv", **keys)  # type: ignore[arg-type]


def test_ids_labels_and_columns(tmp_path: Path) -> None:
    graph = tables(tmp_path).graph
    assert graph.features.tolist()[0] == [1.5, 30.0]
    assert graph.columns == ("income", "age")
    assert graph.names == ("ann", "bob", "cy", "dee", "eli")
    assert graph.class_names == ("bad", "good")
    assert graph.labels.tolist() == [1, 0, -100, 1, 0]
    assert graph.edges.shape == (2, 8)
    assert graph.split is None


def test_edges_with_a_direction(tmp_path: Path) -> None:
    assert tables(tmp_path, undirected=False).graph.edges.tolist() == [[0, 1, 3, 2], [1, 2, 4, 3]]


def test_split_by_a_column(tmp_path: Path) -> None:
    graph = tables(tmp_path, split="part").graph
    assert graph.split is not None
    assert graph.split.tolist() == [0, 1, 2, -1, 0]


def test_split_by_time(tmp_path: Path) -> None:
    graph = tables(tmp_path, time="when").graph
    assert graph.split is not None
    assert graph.split.tolist() == [0, 0, 0, 2, 1]


def test_times_that_are_numbers_are_no_text(tmp_path: Path) -> None:
    nodes = "id,age,label,when\n" + "".join(f"n{i},1,a,{when}\n" for i, when in enumerate([9, 10, 8, 11, 100]))
    edges = "source,target\nn0,n1\n"
    graph = tables(tmp_path, nodes, edges, time="when", features=["age"]).graph
    assert graph.split is not None
    assert graph.split.tolist() == [0, 0, 0, 1, 2]


def test_whole_numbers_as_labels_keep_their_order(tmp_path: Path) -> None:
    nodes = "id,age,label\na,1,10\nb,2,9\n"
    graph = tables(tmp_path, nodes, "source,target\na,b\n", features=None).graph
    assert graph.class_names == ("9", "10")
    assert graph.columns == ("age",)


def test_parquet_says_the_same(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    assert pyarrow
    plain = tables(tmp_path).graph
    for name in ("nodes", "edges"):
        parquet.write_table(csv.read_csv(tmp_path / f"{name}.csv"), tmp_path / f"{name}.parquet")
    same = Tables(nodes=tmp_path / "nodes.parquet", edges=tmp_path / "edges.parquet", features=["income", "age"]).graph
    assert same.features.tolist() == plain.features.tolist()
    assert same.edges.tolist() == plain.edges.tolist()
    assert same.labels.tolist() == plain.labels.tolist()


@pytest.mark.parametrize(
    ("nodes", "edges", "keys", "message"),
    [
        (NODES, "source,target\nann,zoe\n", {}, "edges.csv: row 1 has `zoe` as its target, and"),
        (NODES.replace("bob,40", "ann,40"), EDGES, {}, "nodes.csv: the id `ann` is in rows 1 and 2"),
        (NODES, EDGES, {"features": ["agee"]}, "nodes.csv has no column `agee`: did you mean `age`?"),
        (NODES, EDGES, {"features": ["when"]}, "node `ann` has `2020-01-03` in the column `when`, which is no number:"),
        (NODES.replace("50", ""), EDGES, {}, "node `cy` has `` in the column `age`, which is no number:"),
        (NODES.replace("50", "nan"), EDGES, {}, "NaN or infinity in 1 of 5 nodes, first column `age` of node `cy`:"),
        (
            NODES.replace("val", "dev"),
            EDGES,
            {"split": "part"},
            "node `bob` has `dev` in the column `part`: write train,",
        ),
        (NODES.replace(",40", ""), EDGES, {}, "nodes.csv: line 3 has 5 cells, the first line has 6"),
        ("", EDGES, {}, "nodes.csv is empty: the first line names the columns"),
        ("id,age,label\n", EDGES, {"features": ["age"]}, "edges.csv: row 1 has `ann` as its source, and"),
    ],
)
def test_what_is_refused(tmp_path: Path, nodes: str, edges: str, keys: dict[str, object], message: str) -> None:
    with pytest.raises(RunError) as caught:
        tables(tmp_path, nodes, edges, **keys).graph  # noqa: B018
    assert message in str(caught.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "n.xlsx").write_text("x")
    with pytest.raises(RunError, match=r"a table is `.csv` or `.parquet`"):
        read_table(tmp_path / "n.xlsx")
    pytest.importorskip("pyarrow")
    (tmp_path / "n.parquet").write_text("x")
    with pytest.raises(RunError, match=r"n.parquet is no Parquet file"):
        read_table(tmp_path / "n.parquet")


def test_one_split_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split='part' and time='when': the split comes from one of them"):
        tables(tmp_path, split="part", time="when")


def test_all_other_columns_are_features_unless_some_are_named(tmp_path: Path) -> None:
    graph = tables(tmp_path, features=None, split="part", time=None, label="label", nodes=NODES.replace("when", "id2"))
    assert graph  # columns are looked at when it is read
    with pytest.raises(RunError, match="node `ann` has `2020-01-03` in the column `id2`, which is no number: list the"):
        graph.graph  # noqa: B018
    timed = tables(tmp_path, features=None, time="when", nodes=NODES.replace("part,", "more,").replace("train", "1"))
    with pytest.raises(RunError, match="node `bob` has `val` in the column `more`"):
        timed.graph  # noqa: B018


def test_ends_may_be_called_anything(tmp_path: Path) -> None:
    edges = EDGES.replace("source,target", "from,to,since").replace("\n", ",1\n").replace("since,1", "since")
    graph = tables(tmp_path, edges=edges, source="from", target="to", undirected=False).graph
    assert graph.edges.tolist() == [[0, 1, 3, 2], [1, 2, 4, 3]]
    with pytest.raises(RunError, match=r"edges.csv has no column `source`: "):
        tables(tmp_path, edges=edges).graph  # noqa: B018


def test_ids_that_are_numbers(tmp_path: Path) -> None:
    graph = tables(tmp_path, "id,age,label\n7,1,a\n3,2,b\n", "source,target\n3,7\n", features=["age"]).graph
    assert graph.names == ("7", "3")
    assert graph.edges.tolist() == [[1, 0], [0, 1]]


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    source = tables(tmp_path)
    (tmp_path / "edges.csv").unlink()
    with pytest.raises(RunError, match=r"edges.csv: there is no such file"):
        source.graph  # noqa: B018


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "n.parquet").write_text("x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RunError, match=r"reading Parquet needs pyarrow: pip install kdcore-graph\[parquet\]"):
        read_table(tmp_path / "n.parquet")
