"""Commands about the contract: contracts check, release, docs, infer, codegen."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestration.cli.console import Json, UserError, console, print_json, table
from orchestration.settings import load_settings

app = typer.Typer(help="The contract between producers and the models.", no_args_is_help=True)


@app.callback()
def _contracts() -> None:
    """The contract between producers and the models."""


@app.command("check")
def check(as_json: Json = False) -> None:
    """Check every schema: valid, documented, examples fit, no version breaks its producers.

    Example: [bold]signalbox contracts check[/]
    """
    from orchestration import ingest

    problems = ingest.contract_problems()
    if as_json:
        print_json(problems)
    elif problems:
        result = table("Contracts", "file", "problem")
        for problem in problems:
            result.add_row(problem["file"], problem["problem"])
        console.print(result)
    else:
        console.print(ingest.check_contracts())
    if problems:
        sys.exit(1)


@app.command("release")
def release(as_json: Json = False) -> None:
    """Say that producers may rely on every contract there is: from now on none may change.

    Writes ingestion/contracts/released.lock; commit it with the contracts.

    Example: [bold]signalbox contracts release[/]
    """
    from ingestion.contract_check import release as run

    files = run()
    if as_json:
        print_json({"released": files})
    elif files:
        console.print(f"Released {', '.join(files)}. Commit released.lock with them.")
    else:
        console.print("Every contract was released before.")


@app.command("docs")
def docs(
    out: Annotated[
        Path | None, typer.Option(help="Write the dictionary here only; - prints it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the data dictionary: docs/events.md, and the same for dbt's docs.

    Example: [bold]signalbox contracts docs[/]
    """
    from ingestion.contract import Contracts
    from ingestion.contract_docs import markdown
    from orchestration import ingest

    if out is not None:
        text = markdown(Contracts.load())
        if str(out) == "-":
            typer.echo(text, nl=False)
        else:
            _write(out, text)
        return
    changed = []
    for path, text in ingest.contract_documents().items():
        if not path.exists() or path.read_text() != text:
            _write(path, text)
            changed.append(str(path))
    if as_json:
        print_json({"changed": changed})
    else:
        console.print("\n".join(changed) or "The documents are up to date.")


@app.command("infer")
def infer(
    file: Annotated[
        Path | None, typer.Argument(help="Segment messages, one a line: .jsonl or .jsonl.gz.")
    ] = None,
    from_quarantine: Annotated[
        bool, typer.Option("--from-quarantine", help="Learn from what is in quarantine.")
    ] = False,
    from_lake: Annotated[
        bool, typer.Option("--from-lake", help="Learn from the events in the lake.")
    ] = False,
    event: Annotated[str | None, typer.Option(help="Only this event.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write files into this folder; unset: print.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draft contracts from real events; what a person must still say stands as TODO in them.

    Example: [bold]signalbox contracts infer events.jsonl --event "Sock Lost"
    --out ingestion/contracts[/]
    """
    from ingestion.contract import Contracts, file_name
    from ingestion.contract_infer import infer as draft
    from ingestion.contract_infer import read_messages

    if (file is not None) + from_quarantine + from_lake != 1:
        raise UserError("Give one source: a FILE, --from-quarantine or --from-lake.")
    if file is not None and not file.is_file():
        raise UserError(f"{file} does not exist.")
    table_name = "quarantine" if from_quarantine else "events"
    messages = read_messages(file) if file is not None else _payloads(table_name, event)
    contracts = Contracts.load()
    drafts = draft(messages, event)
    files: dict[str, dict[str, Any]] = {}
    for name, schema in drafts.items():
        versions = contracts.versions(name)
        schema["x-version"] = versions[0].version + 1 if versions else 1
        files[file_name(name, schema["x-version"])] = schema
    if out is None:
        if as_json or len(files) > 1:
            print_json(files)
        else:
            print_json(*files.values())
        return
    for name in files:
        if (out / name).exists():
            raise UserError(f"{out / name} is there already; move it away to draft it anew.")
    for name, schema in files.items():
        _write(out / name, json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
    if as_json:
        print_json({"written": [str(out / name) for name in files]})
        return
    for name in files:
        console.print(f"Drafted {out / name}.", highlight=False)
    console.print("Replace each TODO, then: [bold]signalbox contracts check[/].")


@app.command("codegen")
def codegen(
    lang: Annotated[str, typer.Option(help="python or typescript.")],
    out: Annotated[Path | None, typer.Option(help="Write the module here; unset: print.")] = None,
) -> None:
    """Write typed functions for producers, one for each event, on top of Segment's SDKs.

    Example: [bold]signalbox contracts codegen --lang typescript --out src/events.ts[/]
    """
    from ingestion.contract import Contracts
    from ingestion.contract_codegen import LANGUAGES, generate

    if lang not in LANGUAGES:
        raise UserError(f"--lang {lang} is not known; write {' or '.join(LANGUAGES)}.")
    source = generate(Contracts.load(), lang)  # type: ignore[arg-type]  # one of LANGUAGES
    if out is None:
        typer.echo(source, nl=False)
        return
    _write(out, source)
    console.print(f"Wrote {out}.", highlight=False)


def _payloads(table_name: str, event: str | None) -> Iterator[dict[str, Any]]:
    import msgspec

    from orchestration import quarantine

    with quarantine.reading(load_settings()) as connection:
        cursor = connection.execute(
            f"select payload from raw.{table_name} where event = coalesce(?, event) "
            "order by log_seq desc",
            [event],
        )
        while rows := cursor.fetchmany(2_000):
            for (payload,) in rows:
                try:
                    message = msgspec.json.decode(payload)
                except (ValueError, RecursionError):
                    continue
                if isinstance(message, dict):
                    yield message


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None
