"""What README.md says about the configuration is what the check knows."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tickring.daemon.config import ClickHouse, Front, Instance, Log, SupervisorConfig
from tickring.daemon.errors import ConfigError
from tickring.daemon.kinds import KINDS
from tickring.daemon.loading import RESERVED, parse
from tickring.daemon.meaning import NO_FILE

ROOT = Path(__file__).resolve().parents[2]
# a line that a reader may bring in by taking away the mark of the comment
OPTIONAL = re.compile(r"^# (?=\[?[a-z_.]+(\]| = ))", re.MULTILINE)
TABLES = {
    "instance": [Instance], "log": [Log], "supervisor": [SupervisorConfig],
    **{kind.table: [kind.config_type] for kind in KINDS.values()},
}  # fmt: skip
TABLES["front"].append(Front)
TABLES["clickhouse"].append(ClickHouse)


def blocks() -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_readme_shows_a_configuration():
    assert len(blocks()) >= 2


@pytest.mark.parametrize("optional", [False, True], ids=["as it stands", "with every line"])
def test_configuration_of_the_readme_passes_the_check(optional, tmp_path):
    text = "\n".join(blocks())
    text = OPTIONAL.sub("", text) if optional else text
    assert ("ssl_ca_file" in re.sub("#.*", "", text)) == optional
    try:
        parse(f'{text}\n[instance]\ndata = "{tmp_path}"\n', "README.md")
    except ConfigError as error:
        # files and CPUs are those of the reader's machine
        wrong = [one for one in error.mistakes if one.problem != NO_FILE and not one.path.startswith("cpus.")]
        assert not wrong, str(error)


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md"])
def test_keys_that_a_document_names_with_their_table_are_known(document):
    """Such as `writer.spool_max_bytes` and `front.ws.connections_per_address_max`."""
    text = (ROOT / document).read_text()
    named = re.findall(r"`(?:tickring\.)?([a-z]+(?:\.[a-z_]+)+)(?: = [^`]*)?`", text)
    settings = [name for name in named if name.split(".")[0] in TABLES]
    assert settings
    assert not [name for name in settings if not is_key(name)]


def is_key(name: str) -> bool:
    table, *keys = name.split(".")
    structs = TABLES[table]
    if any(keys[0] in RESERVED.get(kind.name, ()) for kind in KINDS.values() if kind.table == table):
        return False
    for key in keys:
        types = {field.encode_name: field.type for one in structs for field in msgspec.structs.fields(one)}
        if key not in types:
            return False
        structs = [kind for kind in [types[key]] if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    return True
