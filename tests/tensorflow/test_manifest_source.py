"""Manifests as a source of images: CSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from components.errors import BadDataError
from components.image_example_gen.dataset import list_data
from components.image_example_gen.options import Options
from tests.kit.data_sources import digest, items, labels, problems
from tests.kit.image_folders import put


class TestManifest:
    def test_csv(self, tmp_path: Path) -> None:
        put(tmp_path / "photos", "a b.png", "ü.png", "c.png")
        manifest = tmp_path / "list.csv"
        with manifest.open("w", encoding="utf-8-sig", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["Label", "path", "Split", "remark"])
            rows.writerow(["cat, black", "photos/a b.png", "train", "x"])
            rows.writerow(["dog", "photos/ü.png", "VAL", ""])
            rows.writerow(["dog", str(tmp_path / "photos" / "c.png"), "", ""])
        found = items(manifest)
        assert sorted((item.label, item.split) for item in found.values()) == [
            ("cat, black", "train"),
            ("dog", ""),
            ("dog", "eval"),
        ]
        assert all(item.load()[:4] == b"\x89PNG" for item in found.values())

    def test_json_lines(self, tmp_path: Path) -> None:
        put(tmp_path, "1.png", "2.png")
        manifest = tmp_path / "list.jsonl"
        manifest.write_text('{"path": "1.png", "label": "a"}\n\n{"label": 7, "path": "2.png"}\n')
        assert labels(manifest) == {"1.png": "a", "2.png": "7"}

    def test_each_bad_line_is_told(self, tmp_path: Path) -> None:
        put(tmp_path, "1.png")
        manifest = tmp_path / "list.jsonl"
        manifest.write_text(
            '{"path": "1.png"}\n{oops\n[1]\n{"label": "a"}\n{"path": "no.png", "label": "a"}\n'
            '{"path": "1.png", "label": "a", "split": "holiday"}\n'
        )
        data = list_data(str(manifest), Options())
        found = [item.problem for unit in data.units for item in unit.items()]
        told = "\n".join(sorted(": ".join(problem or ()) for problem in found)[:4])
        assert re.fullmatch(
            r"manifest: line 1: .*label\n"
            r"manifest: line 6: .*split 'holiday'\n"
            r"manifest: .*path\n"
            r"manifest: not JSON: .*line 1 column 2 \(char 1\)",
            told,
        )
        assert data.inputs == 6
        assert None not in found

    def test_columns_that_are_not_there_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_text("file;label\n1.png;a\n")
        with pytest.raises(
            BadDataError, match=r"list\.csv: .*path, label .*path and label .*file;label"
        ):
            list_data(str(tmp_path / "list.csv"), Options())

    @pytest.mark.parametrize(
        ("value", "label"),
        [
            ('"cat"', "cat"),
            ('" cat "', "cat"),
            ("7", "7"),
            ("-1", "-1"),
            ("true", None),
            ('["cat"]', None),
            ('{"name": "cat"}', None),
            ("NaN", None),
            ("Infinity", None),
            ("7.0", None),
            ("null", None),
            ('""', None),
            ('"  "', None),
        ],
    )
    def test_labels_are_texts_and_whole_numbers(
        self, tmp_path: Path, value: str, label: str | None
    ) -> None:
        put(tmp_path, "1.png")
        manifest = tmp_path / "list.jsonl"
        manifest.write_text(f'{{"path": "1.png", "label": {value}}}\n')
        (item,) = items(manifest).values()
        if label is None:
            assert item.problem is not None
            assert (item.problem[0], item.label) == ("manifest", "")
        else:
            assert (item.problem, item.label) == (None, label)

    @pytest.mark.parametrize(
        "row", ['{"path": "1.png", "label": "a", "label": "b"}', '{"path": 7, "label": "a"}']
    )
    def test_other_rows_that_mean_nothing(self, tmp_path: Path, row: str) -> None:
        put(tmp_path, "1.png")
        (tmp_path / "list.jsonl").write_text(row)
        (problem,) = problems(tmp_path / "list.jsonl").values()
        assert problem.startswith("manifest: ")

    @pytest.mark.parametrize(
        ("path", "told"),
        [
            ("no.png", " {root}$"),
            ("photos\\1.png", " {root}; .*and photos/1.png .*: .* /$"),
            ("photos\\2.png", " {root}; .*but photos/2.png "),
            ("C:\\photos\\1.png", "; .*Windows"),
            ("photos/1", " {root}; 1.png .*extension"),
            ("photos/7", " {root}; .*extension"),
        ],
    )
    def test_where_a_file_was_looked_for_is_told(
        self, tmp_path: Path, path: str, told: str
    ) -> None:
        put(tmp_path, "photos/1.png")
        (tmp_path / "list.csv").write_text(f"path,label\n{path},cat\n")
        (problem,) = problems(tmp_path / "list.csv").values()
        assert problem.startswith("unreadable: line 2: No such file")
        assert re.search(told.format(root=tmp_path), problem)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("list.tsv", b"path\tlabel\n1.png\tcat\n"),
            ("list.csv", b"path;label\r\n1.png;cat\r\n"),
            ("list.csv", b"path\tlabel\r\n1.png\tcat\r\n"),
            ("list.csv", "path,label\n1.png,cat\n".encode("utf-16")),
            ("list.csv", b"path,label,,\n1.png,cat,,\n,,,\n , ,,\n"),
            ("list.csv", b"path,label\n1.png,cat,,\n,,\n"),
        ],
    )
    def test_what_spreadsheets_write(self, tmp_path: Path, name: str, content: bytes) -> None:
        put(tmp_path, "1.png")
        (tmp_path / name).write_bytes(content)
        data = list_data(str(tmp_path / name), Options())
        found = [(item.name, item.label, item.problem) for u in data.units for item in u.items()]
        assert found == [("1.png", "cat", None)]
        assert data.ignored["empty row"] == content.count(b"\n,") + content.count(b"\n ,")

    def test_parquet(self, tmp_path: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        put(tmp_path, "1.png", "2.png", "3.png")
        columns = {"path": ["1.png", "2.png"], "Label": ["cat", "dog"], "split": ["val", None]}
        parquet.write_table(pa.table({**columns, "more": [1, 2]}), tmp_path / "list.parquet")
        found = items(tmp_path / "list.parquet")
        assert [(i.label, i.split) for i in found.values()] == [("cat", "eval"), ("dog", "")]
        parquet.write_table(
            pa.table({"path": ["1.png"], "label": [7.0]}), tmp_path / "floats.parquet"
        )
        assert "label 7.0 " in str(problems(tmp_path / "floats.parquet"))
        parquet.write_table(pa.table({"file": ["1.png"]}), tmp_path / "other.parquet")
        with pytest.raises(BadDataError, match=r"other\.parquet: .*path and label .*\['file'\]"):
            list_data(str(tmp_path / "other.parquet"), Options())

    def test_latin_1_is_named_with_its_line(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_bytes(b"path,label\n1.png,cat\n2.png,caf\xe9\n")
        with pytest.raises(BadDataError, match=r"line 3: .*0xe9 .*Windows-1252"):
            list_data(str(tmp_path / "list.csv"), Options())

    def test_a_column_that_is_named_twice_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_text("path,label,label\n1.png,a,b\n")
        with pytest.raises(BadDataError, match=r"list\.csv: .* label twice$"):
            list_data(str(tmp_path / "list.csv"), Options())

    def test_a_file_uri_is_a_path(self, tmp_path: Path) -> None:
        put(tmp_path, "a b.png")
        (tmp_path / "list.csv").write_text(f"path,label\nfile://{tmp_path}/a%20b.png,cat\n")
        assert labels(tmp_path / "list.csv") == {f"{tmp_path}/a b.png": "cat"}

    @pytest.mark.parametrize("uri", ["http://x.org/1.png", "https://x.org/1.png", "odd://x/1.png"])
    def test_a_row_that_nothing_reads_ends_nothing(self, tmp_path: Path, uri: str) -> None:
        put(tmp_path, "1.png")
        (tmp_path / "list.csv").write_text(f"path,label\n1.png,cat\n{uri},dog\n")
        assert labels(tmp_path / "list.csv") == {"1.png": "cat", uri: ""}
        assert problems(tmp_path / "list.csv")[uri].startswith("unreachable: ")
        assert digest(tmp_path / "list.csv") == digest(tmp_path / "list.csv")

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b'path,label\n"1.png,a\n'])
    def test_what_is_no_csv_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "list.csv").write_bytes(content)
        with pytest.raises(BadDataError, match=r"list\.csv"):
            list_data(str(tmp_path / "list.csv"), Options())
