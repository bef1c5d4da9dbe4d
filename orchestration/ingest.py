"""Wires the ingestion room to this home: collector, contracts, log, loads."""

from __future__ import annotations

import fcntl
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration import lake, postgres
from orchestration.settings import DBT_PROJECT, ENV_FILE, ROOT, Policy, Settings

if TYPE_CHECKING:
    from ingestion.appender import Log
    from ingestion.destination import Lake
    from ingestion.hooks import Hook
    from ingestion.importer import ImportResult
    from ingestion.load import Loader
    from ingestion.object_storage import ObjectStorage
    from ingestion.open_log import Reader
    from ingestion.relay import Appends
    from ingestion.repeats import KnownMessages
    from ingestion.request import SourcePolicy
    from ingestion.sources import Link, PullSource, PushSource, RefreshSource


# What a reading of a source tells anew of who is who is written so many records at a time or, if
# there are many, in so many portions, each after at most so many seconds.
LINKS_AT_ONCE = 50
LINK_PORTIONS = 20
LINK_SECONDS = 60.0
POLL_SECONDS = 0.1


def serve_collector(settings: Settings, on_ready: Callable[[int], None] | None = None) -> None:
    """Accept events until SIGTERM or SIGINT; `on_ready` is told the port."""
    from ingestion.collector import run

    run(
        settings.log_dir,
        {key: source_policy(settings, name) for name, key in settings.write_keys.items()},
        host=settings.host,
        port=settings.collector_port,
        trusted_proxies=settings.trusted_proxies,
        workers=settings.collector_workers,
        reserve_bytes=settings.disk_reserve_mb * 2**20,
        log_url=_log_url(settings),
        hooks=hooks(settings),
        on_ready=on_ready,
    )


def hooks(settings: Settings) -> dict[str, Hook]:
    """What the collector needs to take their calls."""
    from ingestion.hooks import Hook
    from ingestion.sources import read_settings

    return {
        source.name: Hook(source_policy(settings, source.name), read_settings(source, ENV_FILE))
        for source in called(settings)
    }


def called(settings: Settings) -> list[PushSource]:
    """The vendors that call the collector."""
    from ingestion.sources import PushSource, switched_on

    return switched_on(settings.sources, PushSource)


def pulled(settings: Settings) -> list[PullSource]:
    """The brokers that the relay reads."""
    from ingestion.sources import PullSource, switched_on

    return switched_on(settings.sources, PullSource)


def serve_relay(
    settings: Settings, stop: threading.Event, on_ready: Callable[[], object] | None = None
) -> None:
    """Carry messages from the brokers into the event log until `stop` is set.

    `on_ready` is called once it begins; a broker that cannot be reached is tried again and again.

    Raises:
        SourceError: no broker is switched on, or the settings of one are wrong.
    """
    from ingestion.contract import Contracts
    from ingestion.delivery import Door
    from ingestion.loaded import loaded_end
    from ingestion.relay import HomeLog, Relay
    from ingestion.sources import SourceError, read_settings

    sources = pulled(settings)
    if not sources:
        raise SourceError(
            "No broker is switched on. Set SIGNALBOX_SOURCES, for example to kafka, and the "
            "broker's own settings."
        )
    contracts = Contracts.load()
    own = {source.name: read_settings(source, ENV_FILE) for source in sources}
    with ExitStack() as stack:
        if settings.log_url:
            log: Appends = stack.enter_context(open_log(settings))
        else:
            log = stack.enter_context(closing(HomeLog(settings.log_dir)))
        relays = [
            Relay(
                source,
                own[source.name],
                Door(
                    source_policy(settings, source.name),
                    contracts,
                    own[source.name].fields,
                    own[source.name].events,
                ),
                log,
                partial(loaded_end, settings.log_dir),
                _report_file(settings, source.name),
            )
            for source in sources
        ]
        threads = [
            threading.Thread(target=relay.run, args=(stop,), name=source.name)
            for relay, source in zip(relays, sources, strict=True)
        ]
        if on_ready is not None:
            on_ready()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def source_reports(settings: Settings) -> list[dict[str, Any]]:
    """Each source that is on, with its kind and, of a broker, what the relay last saw of it."""
    from dataclasses import asdict

    from ingestion.relay import read_report
    from ingestion.sources import PullSource, PushSource, Source, switched_on

    found: list[dict[str, Any]] = []
    for source in switched_on(settings.sources, Source):
        known: dict[str, Any] = {"source": source.name, "kind": "refresh"}
        if isinstance(source, PushSource):
            known |= {"kind": "push", "path": f"/v1/hooks/{source.name}"}
        if isinstance(source, PullSource):
            report = read_report(_report_file(settings, source.name))
            known |= {"kind": "pull"} | (asdict(report) if report else {"connected": False})
        found.append(known)
    return found


def check_source(settings: Settings, name: str) -> str | tuple[str, str]:
    """One line on a source that is on: configured, and reachable if it is a broker.

    Raises:
        SourceError: its settings are wrong, or it cannot be reached.
    """
    from ingestion.sources import PullSource, PushSource, RefreshSource, load, read_settings

    source = load(name)
    if isinstance(source, RefreshSource):
        live = _source_settings(settings, source)[1]
        return "its API is set" if live else "no API is set: the sandbox"
    own = read_settings(source, ENV_FILE)
    if isinstance(source, PushSource):
        return f"takes signed calls at {settings.collector_url}/v1/hooks/{name}"
    assert isinstance(source, PullSource)
    with closing(source.connect(own)) as consumer:
        lag = consumer.lag()
    return "reachable" + ("" if lag is None else f"; about {lag:,} messages in it")


def open_reader(settings: Settings) -> Reader:
    """The event log for reading, wherever it is."""
    from ingestion.open_log import open_reader as run

    return run(settings.log_dir, _log_url(settings))


@contextmanager
def open_log(settings: Settings) -> Iterator[Log]:
    """The event log for appending, wherever it is."""
    from ingestion.open_log import open_log as run

    with run(settings.log_dir, _log_url(settings)) as log:
        yield log


def waiting_since(settings: Settings) -> datetime | None:
    """When the oldest record that is not yet loaded was accepted; None if all are loaded."""
    from ingestion.envelope import decode_record, parse_time

    reader = open_reader(settings)
    records = reader.read(max(loader(settings).position(), reader.first()), 1)
    return parse_time(decode_record(records[0][1]).received_at) if records else None


def _log_url(settings: Settings) -> str:
    return settings.log_url.get_secret_value() if settings.log_url else ""


def _report_file(settings: Settings, source: str) -> Path:
    return settings.home / "sources" / f"{source}.json"


def source_policy(settings: Settings, name: str) -> SourcePolicy:
    """What the settings say about a source, by its name."""
    from ingestion.request import SourcePolicy

    def policy(pairs: dict[str, Policy]) -> Policy:
        return pairs.get(name, pairs.get("*", "quarantine"))

    return SourcePolicy(
        name,
        policy(settings.unknown_events),
        policy(settings.violations),
        client_ip=settings.client_ip.get(name, settings.client_ip.get("*", "full")),
        user_agent=settings.client_user_agent.get(name, settings.client_user_agent.get("*", True)),
        events_per_second=settings.rate_limits.get(name, settings.rate_limits.get("*")),
    )


def loader(settings: Settings) -> Loader:
    """The process's loader; kept, because its first load pays for imports and attaching."""
    catalog_url = postgres.start(settings).lake
    return _loader(
        settings.home, settings.lake_path, settings.lake_storage, catalog_url, _log_url(settings)
    )


@lru_cache(maxsize=2)
def _loader(
    home: Path, lake_path: str, storage: ObjectStorage | None, catalog_url: str, log_url: str
) -> Loader:
    from ingestion.load import Loader
    from ingestion.open_log import open_reader

    reader = open_reader(home / "log", log_url)
    return Loader(
        catalog_url, lake_path, reader, home / "dlt", database=lake.database(), storage=storage
    )


def known_messages(settings: Settings) -> KnownMessages:
    """Which messages the loads of this home have seen."""
    from ingestion.load import KEYS
    from ingestion.repeats import KnownMessages

    return KnownMessages(settings.home / "dlt" / KEYS)


def refreshable(settings: Settings, *, with_sandbox: bool) -> list[RefreshSource]:
    """The tables to read: those whose API is set and, `with_sandbox`, those it stands in for."""
    from ingestion.sources import RefreshSource, switched_on

    found = switched_on(settings.sources, RefreshSource)
    return [s for s in found if _source_settings(settings, s)[1] or (with_sandbox and s.sandbox)]


def tables(settings: Settings) -> list[str]:
    """Names of the sources that are tables and switched on."""
    from ingestion.sources import RefreshSource, switched_on

    return [source.name for source in switched_on(settings.sources, RefreshSource)]


def live_sources(settings: Settings) -> set[str]:
    """Names of the tables' sources that read their vendor, and not the sandbox."""
    return {source.name for source in refreshable(settings, with_sandbox=False)}


def refresh(
    settings: Settings, source: RefreshSource, on_wait: Callable[[str], object] | None = None
) -> int:
    """Read a source into its raw table; returns how many rows were read.

    Which ids its rows hold together goes into the event log, from where identity follows. Others
    may write to the lake while the source is read; nobody else reads this source meanwhile.

    Raises:
        SourceError: the source cannot be read.
        LoadError: the lake cannot be written.
        LogError: the log cannot be written to.
        WriterBusy: the lake was not free in time.
    """
    from ingestion.own_events import link_id
    from ingestion.refresh import refresh as run
    from ingestion.reserved import OWN_SOURCE

    at_once = lake.is_writer()  # nobody else can load then

    def note(links: list[Link]) -> None:
        told = {link_id(one): one for one in links}
        fresh = known_messages(settings).unseen(OWN_SOURCE, told)
        _append_links(settings, fresh, len(fresh) if at_once else LINKS_AT_ONCE)

    own = _source_settings(settings, source)[0]
    writer = partial(
        lake.writer, settings, f"reading {source.name}", wait_seconds=600, on_wait=on_wait
    )
    with _only_reader(settings, source.name):
        return run(_lake(settings), source, own, on_links=note, writer=writer).rows


def _append_links(settings: Settings, links: list[Link], at_once: int) -> None:
    """Write them into the log, each portion when the one before is loaded.

    The customers of all of them are recomputed, and whoever does something meanwhile would wait for
    that in one long micro-batch.
    """
    from ingestion.loaded import loaded_end
    from ingestion.own_events import append_links

    portion = max(1, at_once, math.ceil(len(links) / LINK_PORTIONS))
    for first in range(0, len(links), portion):
        with open_log(settings) as log:
            append_links(log, links[first : first + portion])
            end = log.end()
        if first + portion >= len(links):
            return
        deadline = time.monotonic() + LINK_SECONDS
        while loaded_end(settings.log_dir) < end and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


@contextmanager
def _only_reader(settings: Settings, name: str) -> Iterator[None]:
    # Of two readings the older one must not be the last to be written.
    path = settings.home / "sources" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _source_settings(settings: Settings, source: RefreshSource) -> tuple[Any, bool]:
    """A source's own settings, and whether they are its real ones and not the sandbox's."""
    from ingestion.sources import SourceError, read_settings, variable

    own = read_settings(source, ENV_FILE)
    given = own.model_fields_set & source.sandbox.keys()
    if not source.sandbox or given == source.sandbox.keys():
        return own, True
    if given:
        lacking = ", ".join(variable(source, name) for name in source.sandbox if name not in given)
        raise SourceError(
            f"The source {source.name} is set in part only: set {lacking} as well, or none of its "
            "settings to use the sandbox."
        )
    values: dict[str, Any] = {
        name: text.format(url=settings.sandbox_url) for name, text in source.sandbox.items()
    }
    return source.settings(**values), False


def import_file(
    settings: Settings,
    file: Path,
    mapping: Path | None,
    source: str,
    on_progress: Callable[[int, float], None] | None = None,
) -> ImportResult:
    """Put a file of past events into the event log; `on_progress` gets messages and share done."""
    from ingestion.importer import import_file as run

    policy = source_policy(settings, source)
    return run(
        file,
        settings.log_dir,
        source=source,
        mapping=mapping,
        unknown_events=policy.unknown_events,
        violations=policy.violations,
        log_url=_log_url(settings),
        progress=on_progress,
    )


def trim_log(settings: Settings) -> dict[str, int]:
    """Delete old segments of the event log that are loaded; returns what went and what is kept."""
    from dataclasses import asdict

    from ingestion.retention import retain

    return asdict(
        retain(
            settings.log_dir,
            max_seconds=settings.log_retention_days * 86_400,
            max_bytes=settings.log_retention_gb * 1e9,
        )
    )


def log_facts(settings: Settings) -> dict[str, Any] | None:
    """How the log on disk is, as `ingestion.log_facts.LogFacts`; None if there is none."""
    from dataclasses import asdict

    from ingestion.log_facts import facts

    if settings.log_url:
        return None
    return asdict(facts(settings.log_dir)) if settings.log_dir.exists() else None


def check_log(settings: Settings) -> tuple[str, str]:
    """Whether the event log is whole at its end and takes events, and in words how it is."""
    from ingestion.log_facts import facts, verify_tail

    if settings.log_url:
        with open_log(settings) as topic:
            return "ok", f"the Kafka topic takes records; it ends at {topic.end():,}"
    if not settings.log_dir.exists():
        return "ok", "none yet"
    found = facts(settings.log_dir)
    words = f"{verify_tail(settings.log_dir)}; {found.bytes / 1e6:,.0f} MB"
    if found.recovered_bytes:
        words += f"; {found.recovered_bytes} bytes of a torn tail were cut at the last start"
    if found.writer not in ("ok", "none"):
        return "wrong", found.writer
    return ("note" if found.recovered_bytes else "ok"), words


def contract_problems() -> list[dict[str, str]]:
    """What is wrong with the contract files, as `{file, problem}`."""
    from ingestion.contract_check import lint

    return [{"file": problem.file, "problem": problem.message} for problem in lint()]


def check_contracts() -> str | tuple[str, str]:
    """One line on the contract files; a pair with "wrong" if there is something to mend."""
    from ingestion.contract import CONTRACTS

    problems = contract_problems()
    if problems:
        return "wrong", f"{len(problems)} problems; see signalbox contracts check"
    return f"{len(list(CONTRACTS.glob('*.json')))} contracts are valid and documented"


def contract_documents() -> dict[Path, str]:
    """The documents that are made from the contracts, and what they should say."""
    from ingestion.contract import Contracts
    from ingestion.contract_docs import dbt_docs, markdown

    contracts = Contracts.load()
    return {
        ROOT / "docs" / "events.md": markdown(contracts),
        DBT_PROJECT / "models" / "contracts.md": dbt_docs(contracts),
    }


def _lake(settings: Settings) -> Lake:
    from ingestion.destination import Lake

    catalog_url = postgres.start(settings).lake
    where = (settings.lake_path, settings.home / "dlt", lake.database(), settings.lake_storage)
    return Lake(catalog_url, *where)
