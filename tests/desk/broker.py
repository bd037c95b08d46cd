"""A real Apache Kafka broker for tests: KRaft mode, one node, on loopback and free ports, from published packages.

It has a listener for each way in:

| listener | what |
|---|---|
| `bootstrap` | plain; who comes here may do everything |
| `through` | plain, advertised under the port of a proxy that a test puts before it, to cut the connection |
| `sasl` | SASL_PLAINTEXT: PLAIN and SCRAM-SHA-256, users `desk` (may do everything) and `guest` (nothing) |
| `tls` | SSL with a certificate of an authority of our own |
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from ..ports import free_port

KAFKA = "org.apache.kafka:kafka_2.13:4.3.0"
SLF4J = "org.slf4j:slf4j-nop:1.7.36"  # the broker uses slf4j 1.7: the bindings of 2.x are ignored
INSTALL = "apt-get install -y default-jre-headless maven"
PASSWORDS = {"desk": "desk-secret", "guest": "guest-secret"}
START_DEADLINE_S = 60.0

_POM = """\
<project><modelVersion>4.0.0</modelVersion><groupId>tickring</groupId><artifactId>broker</artifactId>
<version>1</version><dependencies>{}</dependencies></project>
"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


class NoBroker(Exception):
    """There is no Java, or its packages cannot be had; the text says what to install."""


def fetch() -> Path:
    """The folder of the broker's jars in the user's cache, fetched by Maven once."""
    if shutil.which("java") is None:
        raise NoBroker(f"a Kafka broker needs Java 17: {INSTALL}")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tickring"
    folder = cache / f"kafka-{KAFKA.rpartition(':')[2]}"
    libs = folder / "libs"
    if (folder / "complete").exists():
        return libs
    if shutil.which("mvn") is None:
        raise NoBroker(f"the broker's packages are not in {folder}, and there is no Maven to fetch them: {INSTALL}")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may want it at once
        if not (folder / "complete").exists():
            _fetch_with_maven(folder, libs)
    return libs


def _fetch_with_maven(folder: Path, libs: Path) -> None:
    dependencies = "".join(_DEPENDENCY.format(*name.split(":")) for name in (KAFKA, SLF4J))
    (folder / "pom.xml").write_text(_POM.format(dependencies))
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={libs}", "-DincludeScope=runtime"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoBroker(f"Maven could not fetch {KAFKA}: {done.stdout[-400:]} {done.stderr[-400:]}")
    (folder / "complete").touch()


def make_certificates(folder: Path) -> None:
    """`ca.pem`, an authority of our own, and `server.pem`, key and certificate for 127.0.0.1 and localhost."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    request = ("req", "-newkey", "rsa:2048", "-nodes", "-keyout")
    # with all that RFC 5280 demands of them: Python verifies strictly from 3.13 on
    openssl(*request, "ca.key", "-x509", "-days", "2", "-subj", "/CN=tickring tests", "-addext",
            "keyUsage=critical,keyCertSign,cRLSign", "-out", "ca.pem")  # fmt: skip
    openssl(*request, "server.key", "-subj", "/CN=localhost", "-out", "server.csr")
    (folder / "names").write_text(
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nsubjectKeyIdentifier=hash\n"
        "authorityKeyIdentifier=keyid\n"
    )
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "server.crt")  # fmt: skip
    (folder / "server.pem").write_text((folder / "server.key").read_text() + (folder / "server.crt").read_text())


class Broker:
    """One broker in a folder. `start` after `kill` goes on with what is on its disk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.libs = folder, fetch()
        plain, self.through_port, self.proxy_port, sasl, tls, self._controller = (free_port() for _ in range(6))
        self.bootstrap = f"127.0.0.1:{plain}"
        self.through = f"127.0.0.1:{self.proxy_port}"  # of the proxy, which is the test's
        self.sasl, self.tls = f"127.0.0.1:{sasl}", f"127.0.0.1:{tls}"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        make_certificates(folder)
        self.ca_file = folder / "ca.pem"
        self._properties = folder / "server.properties"
        self._properties.write_text(self._settings(plain, sasl, tls))
        self._format()

    def _settings(self, plain: int, sasl: int, tls: int) -> str:
        users = " ".join(f'user_{name}="{password}"' for name, password in PASSWORDS.items())
        login = "org.apache.kafka.common.security"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"localhost:{self._controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAIN://127.0.0.1:{plain},THROUGH://127.0.0.1:{self.through_port},SASL://127.0.0.1:{sasl},"
                         f"TLS://127.0.0.1:{tls},CONTROLLER://127.0.0.1:{self._controller}",
            "advertised.listeners": f"PLAIN://{self.bootstrap},THROUGH://{self.through},SASL://{self.sasl},"
                                    f"TLS://{self.tls}",
            "listener.security.protocol.map":
                "CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,THROUGH:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL",
            "inter.broker.listener.name": "PLAIN",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
            "listener.name.sasl.plain.sasl.jaas.config": f"{login}.plain.PlainLoginModule required {users};",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.folder / "server.pem"),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:desk",
            "log.dirs": str(self.folder / "log"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "group.initial.rebalance.delay.ms": "0",
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "auto.create.topics.enable": "false",
        }  # fmt: skip
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def _java(self, *arguments: str) -> list[str]:
        return ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{self.libs}/*", *arguments]

    def _format(self) -> None:
        command = self._java("kafka.tools.StorageTool", "random-uuid")
        self.cluster_id = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        scram = [f"SCRAM-SHA-256=[name={name},password={password}]" for name, password in PASSWORDS.items()]
        further = [part for one in scram for part in ("--add-scram", one)]
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", "--standalone", "-t", self.cluster_id, "-c",
                       str(self._properties), *further),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not done.returncode, f"the broker's folder could not be formatted: {done.stdout} {done.stderr}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with open(self.folder / "output", "ab") as output:
            self.process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._properties)), stdout=output, stderr=output, start_new_session=True
            )
        end = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            assert self.process.poll() is None, f"the broker ended: {(self.folder / 'output').read_text()[-2000:]}"
            assert time.monotonic() < end, f"the broker does not answer within {START_DEADLINE_S} s"
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Whether its one node is registered, so that topics can be made."""
        try:
            # Metadata v1 of no topics: brokers, controller, topics
            answer = ask(self.bootstrap, 3, 1, struct.pack(">i", 0))
        except OSError:
            return False
        return struct.unpack_from(">i", answer)[0] == 1

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that takes long."""
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.kill()


class Mock:
    """librdkafka's mock cluster: what runs where no Java can be had.

    It lives in this process. It has no disk, no users, no deletion of topics and none but 4 partitions.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """An empty cluster at another address."""
        from confluent_kafka import Producer

        settings = {"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 2}
        self._cluster = Producer(settings)
        brokers = self._cluster.list_topics(timeout=10).brokers.values()
        self.bootstrap = ",".join(f"{one.host}:{one.port}" for one in brokers)

    def make_topic(self, name: str) -> None:
        """Topics are made when somebody first asks for them."""
        self._cluster.list_topics(name, timeout=10)


def ask(address: str, api_key: int, version: int, body: bytes, timeout_s: float = 5.0) -> bytes:
    """One request of the Kafka protocol with a header of version 1; returns the answer's body."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        request = struct.pack(">hhih", api_key, version, 7, -1) + body
        connection.sendall(struct.pack(">i", len(request)) + request)
        data = b""
        while len(data) < 4 or len(data) < 4 + struct.unpack_from(">i", data)[0]:
            part = connection.recv(1 << 16)
            if not part:
                raise ConnectionError(f"{address} closed the connection")
            data += part
    assert struct.unpack_from(">i", data, 4)[0] == 7, "the answer belongs to another request"
    return data[8:]


def api_keys(address: str) -> dict[int, tuple[int, int]]:
    """What a broker says it can do: number of each kind of request, with its lowest and highest version."""
    answer = ask(address, 18, 0, b"")
    n = struct.unpack_from(">i", answer, 2)[0]
    return {key: (low, high) for key, low, high in struct.iter_unpack(">hhh", answer[6 : 6 + 6 * n])}


def make_topics(bootstrap: str, names: Sequence[str], partitions: int = 4) -> None:
    """Create topics and wait until they can be written to."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic

    admin, end = AdminClient({"bootstrap.servers": bootstrap}), time.monotonic() + 60
    for name in names:
        while True:
            [future] = admin.create_topics([NewTopic(name, partitions, 1)]).values()
            try:
                future.result(30)
                break
            except KafkaException as error:
                # a broker that was without a CPU for longer than its session is nobody's replica until it is back
                fenced = error.args[0].code() == KafkaError.INVALID_REPLICATION_FACTOR
                if not fenced or time.monotonic() > end:
                    raise
            time.sleep(0.2)


Events = Sequence[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes]] | None]]


class Produces:
    """Produces `(partition, key, value, headers)` to a topic, in order."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        from confluent_kafka import Producer

        self._topic = topic
        self._failed: list[object] = []
        self._producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5,
                                   "queue.buffering.max.messages": 1_000_000, "log_level": 2})  # fmt: skip

    def produce(self, events: Events) -> None:
        for partition, key, value, headers in events:
            while True:
                try:
                    self._producer.produce(
                        self._topic, value, key, partition, headers=headers, on_delivery=self._delivered
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self._producer.poll(0)

    def _delivered(self, error: object, _: object) -> None:
        if error:
            self._failed.append(error)

    def flush(self) -> None:
        """Wait until all are acknowledged."""
        assert not self._producer.flush(100), "not all events were acknowledged within 100 s"
        assert not self._failed, f"{len(self._failed)} events were not taken: {self._failed[0]}"


def produce(bootstrap: str, topic: str, events: Events) -> None:
    """Produce events, each acknowledged at the return."""
    producer = Produces(bootstrap, topic)
    producer.produce(events)
    producer.flush()


def produce_batch(bootstrap: str, topic: str, batch: bytes) -> None:
    """Produce a batch as it is to partition 0, which no library would make."""
    name = topic.encode()
    body = struct.pack(">hhiih", -1, -1, 10_000, 1, len(name)) + name + struct.pack(">iii", 1, 0, len(batch)) + batch
    answer = ask(bootstrap, 0, 3, body)
    (error,) = struct.unpack_from(">h", answer, 4 + 2 + len(name) + 4 + 4)
    assert error == 0, f"the broker refused the batch with code {error}"


def delete_topics(bootstrap: str, names: Sequence[str]) -> None:
    """Delete those topics that are there, and wait until they are gone."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": bootstrap})
    found = set(names) & admin.list_topics(timeout=30).topics.keys()
    for future in admin.delete_topics(sorted(found)).values() if found else ():
        future.result(30)
    end = time.monotonic() + 30
    while found & admin.list_topics(timeout=30).topics.keys():
        assert time.monotonic() < end, f"{found} are still there"
        time.sleep(0.02)


def renew_topics(bootstrap: str, names: Sequence[str], partitions: int = 4) -> None:
    """Make topics anew, and empty."""
    delete_topics(bootstrap, names)
    make_topics(bootstrap, names, partitions)


def add_partitions(bootstrap: str, topic: str, total: int) -> None:
    """Give a topic more partitions, and wait until they can be written to."""
    from confluent_kafka.admin import AdminClient, NewPartitions

    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_partitions([NewPartitions(topic, total)]).values():
        future.result(30)
    end = time.monotonic() + 30
    while len(admin.list_topics(topic, timeout=30).topics[topic].partitions) < total:
        assert time.monotonic() < end, f"{topic} has not grown to {total} partitions"
        time.sleep(0.02)


def committed(bootstrap: str, group: str, topic: str) -> dict[int, int]:
    """Partition -> offset that a group has committed."""
    from confluent_kafka import ConsumerGroupTopicPartitions
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": bootstrap})
    (future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
    return {one.partition: one.offset for one in future.result(30).topic_partitions if one.topic == topic}
