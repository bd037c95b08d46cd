"""The connection to ClickHouse: what its failures are called."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tickring.codecs.records import TRADE
from tickring.ringbuf import Key
from tickring.storage.batch import insert_batch, make_batch
from tickring.storage.client import Client, Server, locate
from tickring.storage.errors import Refused, Unavailable
from tickring.storage.schema import SchemaOptions, ensure_schema

from ..ports import free_port
from .processes import key_attributes, random_rows, running_engine

KEYS = {0: Key(0, "binance.S0-USDT", key_attributes(0))}


def run(server, work):
    async def inside():
        client = Client(server)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(inside())


def test_client_of_nothing_listening_is_unavailable():
    server = Server(url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable):
        run(server, lambda client: client.command("SELECT 1"))
    assert run(server, lambda client: client.ping()) is False


def test_client_with_a_wrong_password_is_unavailable_with_the_servers_code(server):
    wrong = msgspec.structs.replace(server, password_file="", password="wrong")
    with pytest.raises(Unavailable) as refused:
        run(wrong, lambda client: client.command("SELECT 1"))
    assert refused.value.code == 516


def test_client_reads_its_password_anew_after_it_was_refused(server, tmp_path):
    path = tmp_path / "password"
    path.write_text("wrong")
    changed = msgspec.structs.replace(server, password_file=str(path))

    async def work(client):
        assert not await client.ping()
        path.write_text(Path(server.password_file).read_text())
        return await client.ping(20.0)

    assert run(changed, work)


def test_client_whose_password_file_is_missing_is_unavailable(server):
    with pytest.raises(Unavailable, match="password file"):
        run(msgspec.structs.replace(server, password_file="/nowhere"), lambda client: client.command("SELECT 1"))


def test_client_asking_for_an_unknown_table_is_refused_with_code_and_name(server):
    with pytest.raises(Refused) as refused:
        run(server, lambda client: client.fetch("SELECT * FROM default.nothing", fmt="TabSeparated"))
    assert (refused.value.code, refused.value.name) == (60, "UNKNOWN_TABLE")


def test_client_of_a_stopped_server_is_unavailable_after_its_deadline(engine, server):
    async def work(client):
        assert await client.ping(20.0)
        engine.send(signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable, match=r"no answer .* within 0.2 s"):
                await client.fetch("SELECT 1", fmt="TabSeparated", timeout_s=0.2)
        finally:
            engine.send(signal.SIGCONT)
        return await client.ping(10)

    assert run(server, work)


def test_client_binds_parameters_as_values(server):
    text = "'; DROP TABLE x; -- \\ \t\n é"
    assert run(server, lambda client: client.rows("SELECT {t:String}, {n:UInt64}", {"t": text, "n": 2**64 - 1})) == [
        (text, 2**64 - 1)
    ]


def test_uncertain_batch_that_the_table_has_is_not_sent_again_even_when_its_token_is_forgotten(server):
    rows = random_rows(TRADE, 30, 1)
    rows["nth"] = np.arange(30)

    async def work(client):
        await ensure_schema(client, [TRADE], SchemaOptions(database=server.database))
        batch = make_batch(TRADE, "p.trade", "trades", rows, KEYS, epoch=5, first=0, stop=30)
        batch.uncertain = True
        assert await insert_batch(client, server.database, batch)
        # another token stands for one that the server has forgotten
        again = msgspec.structs.replace(batch.head, token="forgotten")
        batch.head = again
        assert not await insert_batch(client, server.database, batch)
        return await client.rows(f"SELECT count() FROM {server.database}.trades")

    assert run(server, work) == [(30,)]


def test_batch_whose_rows_the_engine_lost_when_it_was_killed_is_stored_though_its_token_is_remembered(tmp_path, caplog):
    """As a SIGKILL leaves it between the token and the rows: the token is in its log, there is no part."""
    rows = random_rows(TRADE, 30, 1)
    rows["nth"] = np.arange(30)
    batch = make_batch(TRADE, "p.trade", "trades", rows, KEYS, epoch=5, first=0, stop=30)
    count = "SELECT count() FROM t.trades"
    with running_engine() as engine:
        password = str(engine.data / "clickhouse" / "password")

        def on_engine(work):
            return run(Server(url=engine.detail()["url"], password_file=password, database="t"), work)

        async def store(client):
            await ensure_schema(client, [TRADE], SchemaOptions(database="t"))
            await insert_batch(client, "t", batch)
            return await client.rows(
                "SELECT path FROM system.parts WHERE active AND database = 't' AND table = 'trades'"
            )

        ((part,),) = on_engine(store)
        engine.kill()
        shutil.rmtree(part)
        engine.start()

        async def plainly(client):
            await client.insert("t.trades", batch.head.columns, batch.block, batch.head.token)
            return await client.rows(count)

        assert on_engine(plainly) == [(0,)], "this engine no longer drops it: what is tested here has become needless"
        batch.uncertain = True

        async def again(client):
            return await insert_batch(client, "t", batch), await client.rows(count)

        assert on_engine(again) == (True, [(30,)])
        assert "acknowledged, but not in table=trades" in caplog.text
        assert on_engine(again) == (False, [(30,)])


def test_server_without_an_address_is_the_embedded_engine_of_the_instance(engine, tmp_path):
    place = locate(Server(), engine.shm, engine.data)
    assert place.url == engine.detail()["url"]
    assert place.password_file == engine.data / "clickhouse" / "password"
    assert locate(Server(), tmp_path, tmp_path).url == "http://127.0.0.1:8123"
    assert locate(Server(url="https://ch:8443"), tmp_path, tmp_path).password_file is None
