"""Commands of a user who has no rights on the instance."""

from __future__ import annotations

from pathlib import Path

import pytest

from tickring.daemon.commands.which import find_folder
from tickring.daemon.rights import explained, may_look_into, user_name

from .rights import give_away, needs_root, tickring_without_rights

CONFIG = """
[instance]
name = "theirs"
folder = "{folder}"
data = "{folder}/data"
[exchanges.binance.spot]
symbols = ["BTC-USDT"]
"""


@pytest.fixture
def theirs(shm: Path) -> tuple[Path, str]:
    """The folder of an instance of another user, and that user's name."""
    folder = shm / "tickring-theirs"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "supervisor.page").touch()
    return folder, give_away(folder)


COMMANDS = [("inspect",), ("deadletters", "list"), ("top", "--once"), ("status",), ("storage", "status")]


@needs_root
@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_command_about_another_users_instance_says_whose_it_is_in_one_line(theirs, command):
    folder, owner = theirs
    result = tickring_without_rights(*command, "--instance", "theirs", "--folder", str(folder.parent))
    assert (result.returncode, result.stdout) == (73, ""), result.stderr
    assert result.stderr.startswith(f"tickring: {folder} belongs to user {owner}")
    assert result.stderr.count("\n") == 1 and "run as that user" in result.stderr


@needs_root
def test_command_without_a_name_does_not_call_another_users_instance_absent(theirs):
    folder, owner = theirs
    result = tickring_without_rights("status", "--folder", str(folder.parent))
    assert result.returncode == 73
    assert f"{folder} belongs to user {owner}" in result.stderr


@needs_root
def test_doctor_about_another_users_instance_says_whose_it_is_in_one_line(theirs, tmp_path):
    folder, owner = theirs
    file = tmp_path / "tickring.toml"
    file.write_text(CONFIG.format(folder=folder.parent))
    result = tickring_without_rights("doctor", "-c", str(file))
    assert (result.returncode, result.stderr.count("\n")) == (73, 1), result.stderr
    assert f"{folder} belongs to user {owner}" in result.stderr


@needs_root
def test_socket_that_only_its_owner_may_use_is_not_called_a_daemon_that_is_down(shm):
    folder = shm / "tickring-mine"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "control.sock").touch()
    owner = give_away(folder / "control.sock")
    result = tickring_without_rights("status", "--instance", "mine", "--folder", str(shm))
    assert result.returncode == 73
    assert f"control.sock belongs to user {owner}" in result.stderr


@needs_root
def test_any_other_file_without_rights_ends_with_one_line(theirs):
    folder, owner = theirs
    result = tickring_without_rights("inspect", str(folder / "supervisor.page"))
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (73, "", 1), result.stderr
    assert f"Permission denied: {folder} belongs to user {owner}, this is user" in result.stderr


@needs_root
@pytest.mark.parametrize("command", [("check",), ("run", "-c"), ("replay",)], ids="-".join)
def test_file_of_the_command_line_that_cannot_be_read_is_input_that_is_missing(tmp_path, command):
    file = tmp_path / "file"
    file.touch()
    give_away(file)
    result = tickring_without_rights(*command, str(file))
    assert (result.returncode, result.stderr.count("\n")) == (66, 1), result.stderr
    assert f"{file} cannot be read" in result.stderr


def test_ones_own_instance_is_found_beside_one_that_is_closed(shm, monkeypatch):
    for name in ("mine", "theirs"):
        (shm / f"tickring-{name}").mkdir()
    (shm / "tickring-mine" / "lock").touch()
    monkeypatch.setattr("tickring.daemon.instance.may_look_into", lambda folder: not folder.name.endswith("theirs"))
    assert find_folder(None, None, str(shm)) == shm / "tickring-mine"


def test_folder_that_is_not_there_is_closed_to_nobody(tmp_path):
    assert may_look_into(tmp_path / "none")
    assert may_look_into(tmp_path)


def test_refusal_without_a_file_is_told_as_it_is():
    assert str(explained(PermissionError(1, "Operation not permitted"))) == "Operation not permitted"


def test_user_without_a_name_is_a_number():
    assert user_name(3_999_999_999) == "3999999999"
