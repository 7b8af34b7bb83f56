"""What was measured, as tables, as the verdict on the project's targets, and as a picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ann_run import TARGETS, YARDSTICK, Part, cheapest

OURS = "gpuvec"
EXACT = ("faiss_flat", "gpuvec_exact")
# share of queries right: times FAISS HNSW's speed, times the best library's: required, aimed at
GOALS = {0.95: ((6, 10), (3, 5)), 0.99: ((4, 6), (2, 4))}
FILTER_GOAL = 2.0
ONE_QUERY = (1.3, 0.3e-3)  # times the raw graph's seconds, plus seconds


def is_peer(key: str) -> bool:
    """Tell whether a system is another library's."""
    return not key.startswith(OURS)


def scaled(parts: dict[str, Part], key: str, size: str, target: str) -> Part | None:
    """Return a point at one batch size, its speed in terms of this run's yardstick."""
    point = parts[key]["batches"].get(size, {}).get(target)
    return point and _scale(point, _factor(parts, key, size, target))


def _scale(point: Part, factor: tuple[float, float]) -> Part:
    return point | {
        "per_s": point["per_s"] * factor[0],
        "cpu_per_s": point["cpu_per_s"] * factor[1],
    }


def _factor(parts: dict[str, Part], key: str, size: str, target: str) -> tuple[float, float]:
    """Return by how much the yardstick runs faster now than beside that system, by both clocks."""
    now = parts.get(YARDSTICK, {}).get("batches", {}).get(size, {}).get(target)
    then = (parts[key].get("yardstick") or {}).get("batches", {}).get(size, {}).get(target)
    if not now or not then:
        return (1.0, 1.0)
    return (now["per_s"] / then["per_s"], now["cpu_per_s"] / then["cpu_per_s"])


def print_report(title: str, parts: dict[str, Part], skipped: dict[str, str], clock: str) -> None:
    print(f"\n== {title}")
    _print_builds(parts)
    sizes = next(iter(parts.values()))["batches"]
    for target in TARGETS:
        for size in sizes:
            _print_batch(parts, size, target, clock)
    for line in verdicts(parts, clock):
        print("  " + line)
    if any("filtered" in part for part in parts.values()):
        _print_filtered(parts, clock)
    for key, why in skipped.items():
        print(f"  left out: {key}: {why}")


def _print_builds(parts: dict[str, Part]) -> None:
    print(f"  {'build':34} {'wall s':>8} {'CPU s':>8} {'disk MB':>9} {'peak MB':>9}  version")
    for part in parts.values():
        built = part["build"]
        print(
            f"  {part['name']:34} {built['build_wall_s']:8.1f} {built['build_cpu_s']:8.1f} "
            f"{built['disk_bytes'] / 1e6:9.1f} {built['peak_bytes'] / 1e6:9.1f}  "
            f"{built['version']}"
        )


def _print_batch(parts: dict[str, Part], size: str, target: float, clock: str) -> None:
    points = {key: scaled(parts, key, size, str(target)) for key in parts}
    found = {key: point for key, point in points.items() if point}
    if not found:
        return
    asked = "one by one" if size == "1" else f"in batches of {int(size):,}"
    print(f"\n  recall@10 >= {target}, queries {asked}")
    yard = found.get(YARDSTICK)
    for key, point in sorted(found.items(), key=lambda item: -item[1][clock]):
        ratio = f"{point[clock] / yard[clock]:6.2f} x HNSW" if yard else ""
        told = " ".join(f"{name}={value}" for name, value in point["setting"].items())
        print(
            f"    {parts[key]['name']:34} recall {point['recall']:.4f} "
            f"± {2 * point['recall_error']:.4f} {point['per_s']:10,.0f} /s "
            f"{point['cpu_per_s']:10,.0f} /s by CPU {ratio}  {told}"
        )


def verdicts(parts: dict[str, Part], clock: str) -> Iterator[str]:
    """Say of each target whether it was met, and by how much."""
    sizes = next(iter(parts.values()))["batches"]
    for target, (over_yard, over_best) in GOALS.items():
        for size in sizes:
            ours = {k: p for k in parts if not is_peer(k) and "hnsw" not in k
                    and (p := scaled(parts, k, size, str(target)))}  # fmt: skip
            peers = {k: p for k in parts if is_peer(k) and k not in EXACT
                     and (p := scaled(parts, k, size, str(target)))}  # fmt: skip
            yard = peers.get(YARDSTICK)
            if size == "1" or yard is None or OURS not in ours:
                continue
            best = max(peers, key=lambda key: peers[key][clock])
            mine = ours[OURS][clock]
            for name, reference, goal in (
                ("FAISS HNSW", yard, over_yard),
                (f"the best peer, {parts[best]['name']}", peers[best], over_best),
            ):
                ratio = mine / reference[clock]
                short = ours[OURS]["recall"] + 2 * ours[OURS]["recall_error"] < target
                mark = "missed, by recall" if short else _mark(ratio, goal)
                yield f"{mark}: batches of {size} at {target}: {ratio:.2f} x {name}"
    yield from _one_query(parts)


def _mark(ratio: float, goal: tuple[float, float]) -> str:
    word = "aim met" if ratio >= goal[1] else "met" if ratio >= goal[0] else "missed"
    return f"{word} (wanted {goal[0]:g} x, aim {goal[1]:g} x)"


def _one_query(parts: dict[str, Part]) -> Iterator[str]:
    times, more = ONE_QUERY
    for target in map(str, TARGETS):
        raw = parts.get(YARDSTICK, {}).get("batches", {}).get("1", {}).get(target)
        ours = parts.get("gpuvec_hnsw", {}).get("batches", {}).get("1", {}).get(target)
        if raw and ours:
            allowed, took = times / raw["per_s"] + more, 1 / ours["per_s"]
            word = "met" if took <= allowed else "missed"
            yield (f"{word}: one query, whole call on a graph at {target}: {took * 1e3:.3f} ms; "
                   f"{times} x raw FAISS ({1e3 / raw['per_s']:.3f} ms) + {more * 1e3} ms "
                   f"= {allowed * 1e3:.3f} ms")  # fmt: skip


def _print_filtered(parts: dict[str, Part], clock: str) -> None:
    """Whole calls at recall=0.95 beside the fastest setting of each library that reaches it."""
    print("\n  filtered, 1,000 queries, recall@10 >= 0.95 (or the most that was reached)")
    for mask in parts[OURS]["filtered"] if OURS in parts else ():
        line, speeds = f"    {mask:16}", {}
        for key, part in parts.items():
            if "filtered" not in part or mask not in part["filtered"]:
                continue
            points = part["filtered"][mask]
            point = cheapest(points, 0.95, clock) or max(points, key=lambda p: p["recall"])
            if key == OURS:
                point = next(p for p in points if p["setting"] == {"recall": 0.95})
            speeds[key] = point[clock] if point["recall"] >= 0.95 else 0.0
            line += f"  {part['name']} {point['recall']:.3f} {point[clock]:,.0f}/s;"
        best = max((s for k, s in speeds.items() if is_peer(k)), default=0.0)
        ratio = speeds.get(OURS, 0.0) / best if best else float("inf")
        word = "met" if ratio >= FILTER_GOAL and speeds.get(OURS) else "missed"
        print(f"{line} {word}: {ratio:.1f} x the best that reaches 0.95")


def plot(report: dict[str, Any], path: Path, clock: str) -> None:
    """Draw recall against queries per second, a line a system, a panel a data set."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(report["data"]), figsize=(5.6 * len(report["data"]), 5), squeeze=False
    )
    for axis, (title, found) in zip(axes[0], report["data"].items(), strict=True):
        parts = found["parts"]
        for key, part in parts.items():
            if key in ("gpuvec_hnsw", "gpuvec_hnsw_index", "gpuvec_ivf_index"):
                continue
            factor = _factor(parts, key, "1000", "0.95")
            points = [_scale(point, factor) for point in part["sweep"]["points"]]
            front = sorted(_front(points, clock), key=lambda point: point["recall"])
            mine = not is_peer(key)
            axis.plot(
                [1 - min(point["recall"], 0.9995) for point in front],
                [point[clock] for point in front],
                marker="s" if key in EXACT else "o" if mine else ".",
                linestyle="none" if key in EXACT else "-",
                linewidth=2.5 if mine else 1.2,
                zorder=3 if mine else 2,
                label=part["name"],
            )
        axis.set(xscale="log", yscale="log", xlim=(0.25, 0.0004), title=title)
        axis.set_xticks([0.2, 0.1, 0.05, 0.01, 0.001], ["0.8", "0.9", "0.95", "0.99", "0.999"])
        axis.minorticks_off()
        axis.set_xlabel("recall@10")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(
        f"queries per second, {report['machine']['threads']} threads, 1,000 at once"
    )
    axes[0][-1].legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _front(points: list[Part], clock: str) -> list[Part]:
    """Return the points that no other beats in both recall and speed."""
    return [
        p for p in points
        if not any(q["recall"] >= p["recall"] and q[clock] > p[clock] for q in points)
    ]  # fmt: skip
