import pytest

from gpuvec.errors import NotFoundError, QueryError
from gpuvec.settings import Config, parse_memory


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder for files, and none of the caller's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path


def test_set_wins_over_environment_over_file_over_user_over_default(place, monkeypatch):
    (place / "home/gpuvec").mkdir(parents=True)
    (place / "home/gpuvec/gpuvec.yaml").write_text("threads: 1\nflush:\n  age_s: 5\n")
    assert Config()["threads"] == 1
    (place / "gpuvec.yaml").write_text("threads: 2\n")
    assert (Config()["threads"], Config().origin("threads")) == (2, "gpuvec.yaml")
    monkeypatch.setenv("GPUVEC_THREADS", "3")
    assert (Config()["threads"], Config().origin("threads")) == (3, "GPUVEC_THREADS")
    config = Config()
    config.set(threads=4)
    assert (config["threads"], config.origin("threads")) == (4, "set")
    assert (config["flush.age_s"], config.origin("durability")) == (5.0, "default")


def test_a_with_block_puts_settings_back(place):
    config = Config()
    with config.set(progress=False, flush__age_s=1):
        assert (config["progress"], config["flush.age_s"]) == (False, 1.0)
    assert (config["progress"], config["flush.age_s"]) == (True, 60.0)


def test_nested_variables_are_read(place, monkeypatch):
    monkeypatch.setenv("GPUVEC_DEVICE__MEMORY_LIMIT", "0.8")
    assert Config()["device.memory_limit"] == 0.8


def test_a_function_may_take_progress(place):
    config = Config()
    config.set(progress=print)
    assert config["progress"] is print


def test_unknown_names_are_refused_with_the_nearest(place):
    with pytest.raises(NotFoundError, match=r'GV-701.*"thread"\. Did you mean "threads"'):
        Config().set(thread=1)
    (place / "gpuvec.yaml").write_text("durabilty: os\n")
    with pytest.raises(NotFoundError, match='Did you mean "durability"'):
        Config()["threads"]


def test_a_wrong_value_names_setting_and_place(place, monkeypatch):
    with pytest.raises(QueryError, match=r'GV-702.*"threads".*-1'):
        Config().set(threads=-1)
    monkeypatch.setenv("GPUVEC_DURABILITY", "maybe")
    with pytest.raises(QueryError, match="it came from GPUVEC_DURABILITY"):
        Config()["durability"]


def test_a_variable_that_is_no_setting_is_refused(place, monkeypatch):
    monkeypatch.setenv("GPUVEC_DATA", "/data")
    assert Config()["threads"] == 0
    monkeypatch.setenv("GPUVEC_TREADS", "3")
    with pytest.raises(NotFoundError, match='Did you mean "GPUVEC_THREADS"'):
        Config()["threads"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("20GiB", 20 * 2**30),
        ("1.5 MB", 1_500_000),
        (4096, 4096),
        ("0.8", 0.8),
        (1, 1.0),
        (None, None),
    ],
)
def test_memory_is_bytes_or_a_share(text, wanted):
    assert parse_memory(text) == wanted


@pytest.mark.parametrize("text", ["much", "-1", True, "20 gallons", [1]])
def test_memory_that_is_neither_is_refused(text):
    with pytest.raises(ValueError, match="20GiB"):
        parse_memory(text)
