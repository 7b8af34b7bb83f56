"""The command line: `gpuvec demo | doctor | import | search | inspect | config`.

Exit codes: 0 done, 1 an error that is explained on one line of stderr, 2 wrong usage.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gpuvec.errors import GpuvecError, no_such_file, not_a_collection_path

app = typer.Typer(
    help="Vectors beside ordinary columns: store, search in batches, filter, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Settings and where they come from.", no_args_is_help=True)
app.add_typer(config_app, name="config")
out = Console()

Target = Annotated[str, typer.Argument(help="database path and collection: ./shop/items")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def main() -> None:
    """Run the command line; errors of gpuvec are one line, not a traceback."""
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


@app.command()
def demo(
    path: Annotated[Path | None, typer.Option(help="keep the database here")] = None,
) -> None:
    """A minute's tour on real rows: import, search, recall, speed beside FAISS."""
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
            out.print(f"{finding.mark} [bold]{finding.part}[/]  {finding.text}", highlight=False)
            if finding.remedy:
                out.print(f"    {finding.remedy}", highlight=False)
    if any(finding.is_failure for finding in findings):
        raise typer.Exit(1)


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="Parquet, CSV or Arrow files: 'emb/*.parquet'")],
    to: Annotated[str, typer.Option(help="database path and collection: ./shop/items")],
    primary_key: Annotated[str | None, typer.Option(help="needed for a new collection")] = None,
    columns: Annotated[str, typer.Option(help="renames: 'emb=embedding,t=title'")] = "",
    on_conflict: Annotated[str, typer.Option(help="error, skip or replace")] = "error",
    batch_rows: Annotated[int, typer.Option(min=1)] = 20_000,
) -> None:
    """Insert files into a collection, in atomic batches; the collection is made when missing."""
    from tqdm import tqdm

    from gpuvec.api.files import count_rows, read_batches

    renames = dict(pair.split("=", 1) for pair in columns.split(",") if "=" in pair)
    total = count_rows(source)
    with _database(to) as (db, name):
        items = None if name not in db.collections() else db[name]
        done = 0
        with tqdm(total=total, unit=" rows", delay=2, disable=None) as bar:
            for batch in read_batches(source, batch_rows, renames):
                if items is None:
                    items = db.create_collection(
                        name, data=batch.slice(0, 0), primary_key=primary_key
                    )
                try:
                    result = items.insert(batch, on_conflict=on_conflict)
                except GpuvecError as error:
                    error.hint = (
                        f"{error.hint}\n  {done:,} rows of earlier batches are stored".strip()
                    )
                    raise
                done += result.inserted + result.updated
                bar.update(batch.num_rows)
    out.print(f"{done:,} of {total:,} rows stored in {to}", highlight=False)


@app.command()
def search(
    target: Target,
    queries: Annotated[str, typer.Option(help="a file with one vector column")],
    k: Annotated[int, typer.Option("-k", min=1)] = 10,
    where: Annotated[str, typer.Option("--filter", help="'price < 20'")] = "",
    query_on: Annotated[str | None, typer.Option(help="the vector column of the queries")] = None,
    query_id: Annotated[str | None, typer.Option(help="the column that names a query")] = None,
    select: Annotated[str, typer.Option(help="columns to return: 'id,title'")] = "",
    recall: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    result: Annotated[Path | None, typer.Option("--out", help="a Parquet file to write")] = None,
    limit: Annotated[int, typer.Option(help="rows to print")] = 20,
) -> None:
    """Find the nearest rows of every query in a file."""
    _need_files(queries)
    with _database(target, must_exist=True) as (db, name):
        frame = db[name]
        frame = frame.filter(where) if where else frame
        found = frame.search(queries, k, query_on=query_on, query_id=query_id, recall=recall)
        if select:
            found = found.select("query_id", "rank", "distance", *select.split(","))
        if result is not None:
            found.to_parquet(str(result))
            out.print(f"written to {result}", highlight=False)
        else:
            _print_rows(found.limit(limit).to_arrow().to_pylist())


@app.command()
def inspect(
    target: Annotated[str, typer.Argument(help="a database, or one of its collections")],
    segments: Annotated[bool, typer.Option("--segments", help="list segments")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a database or collection holds, from metadata."""
    import gpuvec as gv

    if _is_database(target):
        with gv.connect(target) as db:
            facts = [{"collection": name, **db[name].stats()} for name in db.collections()]
            print(json.dumps(facts, indent=2, default=str)) if as_json else _print_rows(facts)
        return
    with _database(target, must_exist=True) as (db, name):
        items = db[name]
        parts = items.segments().to_arrow().to_pylist() if segments else []
        if as_json:
            shown = {"schema": items.schema.to_json(), **items.stats()}
            print(
                json.dumps(shown | ({"segments": parts} if segments else {}), indent=2, default=str)
            )
            return
        out.print(str(items.schema), highlight=False)
        _print_rows([items.stats()])
        _print_rows(parts)


@config_app.command("show")
def config_show() -> None:
    """Every setting, its value and where that came from."""
    from gpuvec.settings import config

    _print_rows([{"setting": k, "value": v, "from": origin} for k, v, origin in config.items()])


@contextlib.contextmanager
def _database(target: str, *, must_exist: bool = False) -> Any:
    """Open the database of `path/collection`; yields it and the collection's name."""
    import gpuvec as gv

    path, _, name = target.rstrip("/").rpartition("/")
    if not path or not name:
        raise not_a_collection_path(target)
    if must_exist and not _is_database(path):
        raise no_such_file(path, what="database")
    with gv.connect(path) as db:
        yield db, name


def _is_database(path: str) -> bool:
    return "://" in path or (Path(path) / "gpuvec.json").is_file()


def _need_files(pattern: str) -> None:
    if "://" not in pattern and not any(
        Path().glob(pattern) if "*" in pattern else [Path(pattern).exists()]
    ):
        raise no_such_file(pattern, what="file")


def _print_rows(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    table = Table()
    for name in rows[0]:
        table.add_column(str(name))
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    out.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


if __name__ == "__main__":
    main()
