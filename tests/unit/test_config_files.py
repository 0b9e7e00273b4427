"""Files and paths of settings: where relative ones start, and what cannot be used."""

from pathlib import Path

import pytest

from components.image_example_gen.options import Options
from pipeline.config import (
    check_paths,
    load,
    parse_set,
)
from pipeline.errors import ConfigError, DataError
from tests.kit.settings_files import unwritable, write


class TestPaths:
    def test_relative_paths_of_a_file_start_at_its_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "conf"
        folder.mkdir()
        write(
            folder / "run.toml",
            "workspace = 'w'\ndata.source = '../photos'\ndata.schema_file = 's.pbtxt'\n"
            "push.directory = '/srv/models'\n",
        )
        monkeypatch.chdir(tmp_path)
        config = load(Path("conf/run.toml")).config
        assert config.workspace == folder / "w"
        assert config.data.source == str(tmp_path / "photos")
        assert config.data.folder == tmp_path / "photos"
        assert config.data.schema_file == folder / "s.pbtxt"
        assert config.push_directory == "/srv/models"

    def test_relative_paths_of_the_command_line_and_defaults_start_at_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        config = load(None, {"data.source": "photos"}).config
        assert config.data.folder == tmp_path / "photos"
        assert config.workspace == tmp_path / "workspace"
        assert config.push_directory == str(tmp_path / "workspace" / "serving" / "perennial")

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("gs://bucket/photos", "gs://bucket/photos"),
            ("tfds:cifar10", "tfds:cifar10"),
            ("tfrecord:s3://b/x", "tfrecord:s3://b/x"),
            ("manifest:list.txt", "manifest:{folder}/list.txt"),
            ("photos/{SPAN}", "{folder}/photos/{SPAN}"),
        ],
    )
    def test_only_what_is_a_path_in_a_source_is_made_absolute(
        self, tmp_path: Path, source: str, expected: str
    ) -> None:
        file = write(tmp_path / "run.toml", f"data.source = '{source}'")
        assert load(file).config.data.source == expected.replace("{folder}", str(tmp_path))

    def test_the_folder_of_spans_is_what_is_above_them(self, tmp_path: Path) -> None:
        source = f"{tmp_path}/photos/v{{SPAN}}/x"
        assert load(None, {"data.source": source}).config.data.folder == tmp_path / "photos"

    def test_what_ingest_is_told_follows_from_the_settings(self) -> None:
        data = load(
            None, {"data.depth": 2, "data.spans": 3, "data.max_bad_fraction": 0.5}
        ).config.data
        assert (data.options.depth, data.options.spans) == (2, 3)
        assert data.options.max_bad_fraction == 0.5
        # The gate's test is not the ingest's: alone, it takes whatever judges.
        assert load(None, {}).config.data.options == Options(min_eval=5)

    def test_a_tilde_is_the_home_folder_also_in_a_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", "/home/someone")
        file = write(tmp_path / "run.toml", "data.source = '~/photos'")
        assert load(file).config.data.source == "/home/someone/photos"

    def test_the_built_in_data_set_is_a_word_not_a_path(self, tmp_path: Path) -> None:
        config = load(write(tmp_path / "run.toml", "data.source = 'digits'")).config
        assert config.data.source == "digits"
        assert config.data.folder is None

    @pytest.mark.parametrize("key", ["workspace", "data.source", "push.directory"])
    @pytest.mark.parametrize("value", ["", "a\0b", "a\udcffb", "~no-such-user-here/x", 3, ["a"]])
    def test_an_unusable_path_is_refused(self, key: str, value: object) -> None:
        with pytest.raises(ConfigError, match=rf"^command line: {key} = "):
            load(None, {key: value})


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"[train]\nepochs = \n", r"not TOML: .*line 2, column 10"),
            (b"[train]\nepochs = 1\nepochs = 2\n", r"not TOML: .*line 3"),
            (b"name = 'a'\nworkspace = '\xff'\n", r"not UTF-8: .*0xff .*line 2"),
            (b"x = " + b"[" * 5000, r"not TOML: .*nested"),
            (b"a." * 100_000 + b"a = 1", r"not TOML: .*nested"),
            (b"[" + b"a." * 100_000 + b"a]", r"not TOML: .*nested"),
            (b"x = {" + b" a ." * 100_000 + b"a = 1}", r"not TOML: .*nested"),
            (b"\"a\" . 'b-c' ." * 100_000 + b"a = 1", r"not TOML: .*nested"),
            (b"train.epochs = " + b"9" * 5000, r"not TOML: "),
        ],
        ids=["no value", "twice", "latin-1", "deep", "dots", "table", "inline", "quoted", "huge"],
    )
    def test_a_broken_file_is_named_with_the_place(
        self, tmp_path: Path, content: bytes, message: str
    ) -> None:
        file = tmp_path / "run.toml"
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=f"run.toml: {message}") as caught:
            load(file)
        assert "\n" not in str(caught.value)

    def test_a_setting_of_too_many_parts_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"^--set .*nested") as caught:
            parse_set("a." * 100_000 + "a=1")
        assert len(str(caught.value)) < 200

    def test_a_long_value_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / "run.toml"
        text = "a" * 1_000_000 + ". " * 1_000_000
        file.write_text(f'name = "{text}"')
        with pytest.raises(ConfigError, match="name"):  # not for its depth
            load(file)

    def test_a_file_from_a_windows_editor_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / "run.toml"
        file.write_bytes(b"\xef\xbb\xbf[train]\r\nepochs = 3\r\n")
        assert load(file).config.train.epochs == 3

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"none\.toml"):
            load(tmp_path / "none.toml")

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=str(tmp_path)):
            load(tmp_path)

    def test_a_file_without_read_permission_is_refused(self, tmp_path: Path) -> None:
        file = write(tmp_path / "run.toml", "")
        with unwritable(tmp_path), pytest.raises(ConfigError, match=str(file)):
            load(file)


class TestCheckPaths:
    def check(self, tmp_path: Path, **overrides: object) -> None:
        keys = {key.replace("__", "."): value for key, value in overrides.items()}
        workspace = {"workspace": str(tmp_path / "workspace")}
        check_paths(load(None, workspace | keys).config)

    @pytest.mark.parametrize("name", ["exp [1]", "what?", "a*"])
    def test_a_workspace_that_beam_would_take_for_a_pattern(
        self, tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(ConfigError, match=r"^workspace"):
            self.check(tmp_path, workspace=str(tmp_path / name))

    @pytest.mark.parametrize(
        ("recipe", "key", "source"),
        [
            ("mobilenet", "weights", "no.h5"),
            ("bit", "weights.source", "no.npz"),
            ("vit_finetune", "weights.source", "~/no.npz"),
        ],
    )
    def test_weights_that_are_not_there_are_named_before_anything_is_done(
        self, tmp_path: Path, recipe: str, key: str, source: str
    ) -> None:
        key = f"train.hyperparameters.{key}"
        digest = {} if recipe == "mobilenet" else {f"{key[:-6]}sha256": "0" * 64}
        with pytest.raises(ConfigError, match=rf"{key}: .*no\.(h5|npz)"):
            self.check(tmp_path, **{"train.recipe": recipe, key: source, **digest})
        self.check(tmp_path, **{"train.recipe": recipe, key: f"https://host/{source}", **digest})

    def test_a_folder_and_the_built_in_data_set_are_accepted_and_nothing_is_made(
        self, tmp_path: Path
    ) -> None:
        photos = tmp_path / "photos"
        photos.mkdir()
        self.check(tmp_path)
        self.check(tmp_path, data__source=str(photos), push__directory=str(tmp_path / "a" / "b"))
        assert list(tmp_path.iterdir()) == [photos]

    def test_a_missing_folder_is_bad_data(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"^data\.source = '.*photos'"):
            self.check(tmp_path, data__source=str(tmp_path / "photos"))

    @pytest.mark.parametrize(
        ("name", "what"), [("1.jpg", "a file; "), ("photos.zip", "an archive; unpack ")]
    )
    def test_a_file_instead_of_a_folder_is_bad_data(
        self, tmp_path: Path, name: str, what: str
    ) -> None:
        file = write(tmp_path / name, "")
        with pytest.raises(DataError, match=rf"^data\.source = '{file}': .*{what}"):
            self.check(tmp_path, data__source=str(file))

    @pytest.mark.parametrize(
        "name", ["list.csv", "list.jsonl", "pets-train.tfrecord-00000-of-00001"]
    )
    def test_a_manifest_and_records_are_files(self, tmp_path: Path, name: str) -> None:
        self.check(tmp_path, data__source=str(write(tmp_path / name, "")))

    def test_a_file_of_any_name_where_its_kind_is_said(self, tmp_path: Path) -> None:
        file = write(tmp_path / "list.txt", "")
        self.check(tmp_path, data__source=f"manifest:{file}")

    def test_the_folder_of_spans_must_be_there(self, tmp_path: Path) -> None:
        self.check(tmp_path, data__source=f"{tmp_path}/{{YYYY}}-{{MM}}-{{DD}}", workspace="/tmp/x")
        with pytest.raises(DataError, match=r"^data\.source = .*photos"):
            self.check(tmp_path, data__source=f"{tmp_path}/photos/{{SPAN}}")

    def test_an_unreadable_folder_is_bad_data(self, tmp_path: Path) -> None:
        photos = tmp_path / "photos"
        photos.mkdir()
        with unwritable(photos), pytest.raises(DataError, match=r"^data\.source = .*photos"):
            self.check(tmp_path, data__source=str(photos))

    @pytest.mark.parametrize("key", ["workspace", "push__directory"])
    @pytest.mark.parametrize("place", [".", "workspace"])
    def test_output_among_the_images_is_refused(self, tmp_path: Path, key: str, place: str) -> None:
        photos = tmp_path / "photos"
        photos.mkdir()
        named = key.replace("__", ".")
        with pytest.raises(ConfigError, match=rf"^{named}: '{photos}.* data\.source '{photos}'"):
            self.check(tmp_path, data__source=str(photos), **{key: str(photos / place)})

    def test_output_among_the_images_is_noticed_through_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        (tmp_path / "link").symlink_to("photos")
        with pytest.raises(ConfigError, match=rf" data\.source '{tmp_path}"):
            self.check(
                tmp_path,
                data__source=str(tmp_path / "link"),
                workspace=str(tmp_path / "photos" / "workspace"),
            )

    def test_a_schema_file_that_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.pbtxt", tmp_path):
            with pytest.raises(ConfigError, match=r"^data\.schema_file: "):
                self.check(tmp_path, data__schema_file=str(path))

    def test_a_push_directory_below_a_file_is_refused(self, tmp_path: Path) -> None:
        file = write(tmp_path / "models", "")
        with pytest.raises(ConfigError, match=r"^push\.directory: '.*models'"):
            self.check(tmp_path, push__directory=str(file / "digits"))

    def test_a_push_directory_without_write_permission_is_refused(self, tmp_path: Path) -> None:
        models = tmp_path / "models"
        models.mkdir()
        with unwritable(models), pytest.raises(ConfigError, match=r"^push\.directory: "):
            self.check(tmp_path, push__directory=str(models))
