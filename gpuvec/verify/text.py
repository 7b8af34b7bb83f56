"""A report as lines for a terminal."""

from collections import Counter
from collections.abc import Iterator

from gpuvec.verify.report import NOTHING, Finding, Level, Report

_MARKS = {Level.DAMAGE: "[red]DAMAGE  [/]", Level.HARMLESS: "[yellow]harmless[/]"}
_REPAIRED = "[green]repaired[/]"


def lines(report: Report) -> Iterator[str]:
    """Yield what to print: findings with what they affect, notes counted, a summary."""
    for finding in report.findings:
        if finding.level is not Level.NOTE:
            yield from _finding(finding)
    notes = [f for f in report.findings if f.level is Level.NOTE]
    counts = Counter((f.collection, f.kind, f.problem, f.remedy) for f in notes)
    first = {(f.collection, f.kind, f.problem, f.remedy): f.key for f in reversed(notes)}
    for about, count in counts.items():
        collection, kind, problem, remedy = about
        more = f" and {count - 1:,} more" if count > 1 else ""
        where = f" of {collection}" if collection else ""
        yield f"note      {first[about]}{more} ({kind}{where}): {problem}"
        yield f"          {remedy}"
    yield (
        f"{report.files:,} files, {report.size_bytes / 2**20:,.1f} MiB, "
        f"{report.collections:,} collections, {report.rows:,} rows in segments; "
        f"{report.orphans:,} files wait for collection ({report.orphan_bytes / 2**20:,.1f} MiB)"
    )
    yield _verdict(report)


def _finding(finding: Finding) -> Iterator[str]:
    mark = _REPAIRED if finding.repaired else _MARKS[finding.level]
    code = f"[{finding.code}] ".replace("[", r"\[")
    yield f"{mark}  {finding.key} ({finding.kind}): {code}{finding.problem}"
    if finding.affected != NOTHING:
        yield f"          affected: {finding.affected}"
    if not finding.repaired:
        yield f"          {finding.remedy}"


def _verdict(report: Report) -> str:
    if report.is_sound:
        repaired = sum(finding.repaired for finding in report.findings)
        return f"sound: {repaired:,} repaired" if repaired else "sound"
    open_ = [f for f in report.findings if f.level is not Level.NOTE and not f.repaired]
    damage = sum(finding.level is Level.DAMAGE for finding in open_)
    return f"NOT sound: {damage:,} damaged, {len(open_) - damage:,} broken but harmless"
