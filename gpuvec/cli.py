"""The command line: `gpuvec demo | doctor | import | search | inspect | bench | …`; see `--help`.

Exit codes: 0 done, 1 an error that is explained on stderr, 2 wrong usage.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from gpuvec import __version__
from gpuvec.cluster_commands import app as cluster_app
from gpuvec.errors import (
    GpuvecError,
    bad_recall_list,
    bad_rename,
    no_such_file,
    not_a_collection_path,
)
from gpuvec.job_commands import app as job_app
from gpuvec.show import print_facts, print_rows

app = typer.Typer(
    help="Vectors beside ordinary columns: store, search in batches, filter, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Settings and where they come from.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(job_app, name="job")
app.add_typer(cluster_app, name="cluster")
out = Console(markup=False)  # data may hold brackets

Target = Annotated[str, typer.Argument(help="database path and collection: ./shop/items")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def main() -> None:
    """Run the command line; errors of gpuvec are a line or two, not a traceback."""
    try:
        app()
    except GpuvecError as error:
        sys.exit(_explain(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _explain(error: GpuvecError) -> int:
    print(f"{type(error).__name__} [{error.code}]: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    return 1


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    """Vectors beside ordinary columns: store, search in batches, filter, measure."""
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def demo(
    path: Annotated[Path | None, typer.Option(help="keep the database in this new folder")] = None,
) -> None:
    """A minute's tour on real rows: import, search, recall, speed beside FAISS.

    The rows lie in a clone of the project, or where GPUVEC_DATA says.
    """
    from gpuvec.demo import run_demo

    with tempfile.TemporaryDirectory(prefix="gpuvec-demo-") as scratch:
        run_demo(path or Path(scratch) / "db", out)


@app.command()
def doctor(
    path: Annotated[Path, typer.Argument(help="a folder whose disk to try")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Tell what works here: processor, memory, GPU, libraries, disk; what to do about the rest."""
    from gpuvec.doctor import examine

    findings = examine(path)
    if as_json:
        print(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        for finding in findings:
            line = f"{finding.mark} [bold]{finding.part:6}[/]  {escape(finding.text)}"
            out.print(line, highlight=False, markup=True)
            if finding.remedy:
                out.print(f"             {finding.remedy}", highlight=False)
    if any(finding.is_failure for finding in findings):
        raise typer.Exit(1)


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help="Parquet, Arrow, NumPy or CSV files: 'emb/*.parquet'")
    ],
    to: Annotated[str, typer.Option(help="database path and collection: ./shop/items")],
    primary_key: Annotated[str | None, typer.Option(help="needed for a new collection")] = None,
    columns: Annotated[
        str, typer.Option(help="renames: 'emb=embedding,t=title'; 'x=' leaves x out")
    ] = "",
    on_conflict: Annotated[str, typer.Option(help="error, skip or replace")] = "error",
    partition: Annotated[str | None, typer.Option(help="where to put the rows")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would be")] = False,
) -> None:
    """Copy files into a collection, as one write; the collection is made when missing.

    The same command after a failure or a kill goes on where it was.
    """
    from gpuvec.api.file_schema import FileImport
    from gpuvec.api.source import WriteResult

    renames = _renames(columns)
    with _database(to) as (db, name):
        wish = FileImport(db, name, source, primary_key, renames)
        total = wish.row_count
        rows = "rows" if total is None else f"{total:,} rows"
        if dry_run:
            print_rows(out, wish.mapping(), keep=("becomes",))
            made = "a new collection" if wish.is_new else "the collection"
            files = "1 file" if wish.files == 1 else f"{wish.files:,} files"
            text = f"{rows} of {files} would go to {made} {to}; nothing was done"
            out.print(text, highlight=False)
            return
        with wish.collection() as items:
            result = items.bulk_import(
                source, columns=renames, partition=partition, on_conflict=on_conflict
            )
    assert isinstance(result, WriteResult)  # no job: it was waited for
    stored = result.inserted + result.updated
    of = "" if total is None else f" of {total:,}"
    skipped = f", {total - stored:,} skipped" if total is not None and stored < total else ""
    out.print(f"{stored:,}{of} rows stored in {to}{skipped}", highlight=False)


@app.command()
def search(
    target: Target,
    queries: Annotated[str, typer.Option(help="files with one vector column: 'q.parquet'")],
    k: Annotated[int, typer.Option("-k", min=1, help="neighbours of each query")] = 10,
    where: Annotated[str, typer.Option("--filter", help="'price < 20'")] = "",
    query_on: Annotated[str | None, typer.Option(help="the vector column of the queries")] = None,
    query_id: Annotated[str | None, typer.Option(help="the column that names a query")] = None,
    select: Annotated[str, typer.Option(help="columns to return: 'id,title'")] = "",
    recall: Annotated[
        float | None, typer.Option(min=0, max=1, help="the share of true neighbours to reach")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="the true answer; use no index")] = False,
    result: Annotated[Path | None, typer.Option("--out", help="a Parquet file to write")] = None,
    limit: Annotated[int, typer.Option(min=1, help="rows to print")] = 20,
) -> None:
    """Find the nearest rows of every query in a file."""
    from gpuvec.api.files import open_files

    open_files(queries)
    if result is not None and not result.parent.is_dir():
        raise no_such_file(str(result.parent), what="folder")
    with _database(target, must_exist=True) as (db, name):
        frame = db[name]
        frame = frame.filter(where) if where else frame
        found = frame.search(
            queries, k, query_on=query_on, query_id=query_id, recall=recall, exact=exact
        )
        if select:
            names = [column.strip() for column in select.split(",")]
            found = found.select("query_id", "rank", "distance", *names)
        if result is not None:
            found.to_parquet(str(result))
            out.print(f"written to {result}", highlight=False)
        else:
            print_rows(out, found.limit(limit).to_arrow().to_pylist())


@app.command()
def inspect(
    target: Annotated[str, typer.Argument(help="a database, or one of its collections")],
    segments: Annotated[bool, typer.Option("--segments", help="list segments")] = False,
    versions: Annotated[bool, typer.Option("--versions", help="list versions")] = False,
    indexes: Annotated[bool, typer.Option("--indexes", help="list indexes")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a database or collection holds, from metadata."""
    import gpuvec as gv
    from gpuvec.api.location import holds_database

    if holds_database(target):
        with gv.connect(target) as db:
            facts = [{"collection": name, **db[name].stats()} for name in db.collections()]
            names = dict.fromkeys(name for fact in facts for name in fact)
            rows = [{name: fact.get(name, "") for name in names} for fact in facts]
            print(json.dumps(facts, indent=2, default=str)) if as_json else print_rows(out, rows)
        return
    with _database(target, must_exist=True) as (db, name):
        items = db[name]
        lists = {"segments": items.segments} if segments else {}
        lists |= {"versions": items.versions} if versions else {}
        lists |= {"indexes": items.indexes} if indexes else {}
        listed = {name: rows().to_arrow().to_pylist() for name, rows in lists.items()}
        if as_json:
            shown = {"schema": items.schema.to_json(), **items.stats(), **listed}
            print(json.dumps(shown, indent=2, default=str))
            return
        out.print(str(items.schema), highlight=False)
        print_facts(out, items.stats())
        for parts in listed.values():
            print_rows(out, parts, keep=("tags",))


@app.command()
def bench(
    target: Target,
    k: Annotated[int, typer.Option("-k", min=1, help="neighbours of each query")] = 10,
    recall: Annotated[str, typer.Option(help="targets to ask for")] = "0.9,0.95,0.99",
    where: Annotated[str, typer.Option("--filter", help="'price < 20'")] = "",
    queries: Annotated[
        str | None, typer.Option(help="files with real queries; else rows, without themselves")
    ] = None,
    query_on: Annotated[str | None, typer.Option(help="the vector column of the queries")] = None,
    on: Annotated[str | None, typer.Option(help="the vector field, if there are several")] = None,
    sample: Annotated[int, typer.Option(min=1, help="queries to ask")] = 1_000,
    plot: Annotated[Path | None, typer.Option(help="a picture to write: curve.png")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure on your own data what each recall target reaches and how fast it is."""
    import gpuvec as gv
    from gpuvec.api.files import open_files
    from gpuvec.api.progress import progress
    from gpuvec.bench import ROUNDS, run_bench

    targets = _targets(recall)
    if queries is not None:
        open_files(queries)
    if plot is not None and not plot.parent.is_dir():
        raise no_such_file(str(plot.parent), what="folder")
    steps = len(targets) + 1 + ROUNDS
    with _database(target, must_exist=True) as (db, name), progress("bench", steps, "") as advance:
        frame = db[name].filter(where) if where else db[name]
        asked = None if queries is None else gv.frame(queries)
        found = run_bench(
            frame, k=k, targets=targets, field=on, queries=asked, query_on=query_on,
            sample=sample, advance=advance,
        )  # fmt: skip
    if plot is not None:
        found.plot(plot)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        out.print(found.title(), highlight=False)
        print_rows(out, found.table())


@app.command()
def verify(
    path: Annotated[str, typer.Argument(help="a database: ./shop, s3://bucket/shop")],
    repair: Annotated[
        bool, typer.Option("--repair", help="do what is safe: hints, checkpoints, indexes")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare every file with its checksum; name what is broken, and which rows that affects.

    Exit codes: 0 sound, 1 something is broken, 2 it could not be looked at.
    """
    from gpuvec.verify.text import lines
    from gpuvec.verify.verify import verify as look

    try:
        report = look(path, repair=repair)
    except GpuvecError as error:
        _explain(error)
        raise typer.Exit(2) from None
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        for line in lines(report):
            out.print(line, highlight=False, soft_wrap=True)
    if not report.is_sound:
        raise typer.Exit(1)


@app.command("copy")
def copy_(
    source: Annotated[str, typer.Argument(help="a database: ./shop, s3://bucket/shop")],
    destination: Annotated[str, typer.Argument(help="an empty place, or an older copy")],
    version: Annotated[int | None, typer.Option(help="copy this version; else the newest")] = None,
    tag: Annotated[str | None, typer.Option(help="copy the versions with this tag")] = None,
    collection: Annotated[
        list[str] | None, typer.Option(help="copy this collection; may be given several times")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy a version of a database: a backup. Again, it copies only what is new.

    The copy holds the tags of the copied version, and no older versions. Of an external collection
    the list of its files and its indexes go over; the rows stay in the original files.
    """
    from gpuvec.api.copy import copy_database

    report = copy_database(
        source, destination, version=version, tag=tag, collections=collection or ()
    )
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print_rows(out, [asdict(found) for found in report.collections])
        for found in report.collections:
            if found.external:
                text = f"{found.name}: its rows stay in the original files; the copy reads these"
                out.print(text, highlight=False, soft_wrap=True)


@config_app.command("show")
def config_show() -> None:
    """Every setting, its value and where that came from."""
    from gpuvec.settings import config

    rows = [{"setting": key, "value": str(v), "from": origin} for key, v, origin in config.items()]
    print_rows(out, rows)


@contextlib.contextmanager
def _database(target: str, *, must_exist: bool = False) -> Iterator[tuple[Any, str]]:
    """Open the database of `path/collection`; yields it and the collection's name."""
    import gpuvec as gv
    from gpuvec.api.location import check_database

    path, _, name = target.rstrip("/").rpartition("/")
    if not path or not name or path.endswith(("/", ":")):
        raise not_a_collection_path(target)
    if must_exist:
        check_database(path, nor=target)
    with gv.connect(path) as db:
        yield db, name


def _targets(text: str) -> list[float]:
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        raise bad_recall_list(text) from None
    if not all(0 < target <= 1 for target in found):
        raise bad_recall_list(text)
    return found


def _renames(text: str) -> dict[str, str | None]:
    pairs = [pair.strip().split("=") for pair in text.split(",") if pair.strip()]
    for pair in pairs:
        if len(pair) != 2 or not pair[0]:
            raise bad_rename("=".join(pair))
    return {column: field or None for column, field in pairs}


if __name__ == "__main__":
    main()
