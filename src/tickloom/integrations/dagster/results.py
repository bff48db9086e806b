"""What was seen as results of asset checks. Pure."""

from collections.abc import Mapping, Sequence

import dagster as dg

from tickloom.integrations.dagster.looks import Sides
from tickloom.store.verdict import Report

LEDGER, EXACT, REJECTS, FRESH, GAPS, JOIN = "ledger", "exact", "rejects", "fresh", "gaps", "join"


def ledger(key: dg.AssetKey, faults: Sequence[str]) -> dg.AssetCheckResult:
    """Every offset that was read is counted once."""
    return _result(
        key, LEDGER, not faults, "; ".join(faults) or "every offset is counted once", {"partitions": len(faults)}
    )


def exact(key: dg.AssetKey, reports: Sequence[Report], left_out: int) -> dg.AssetCheckResult:
    """What ``verify`` found; ``left_out``: hours that it did not look at."""
    differences = sum(sum(report.remaining.values()) for report in reports)
    first = [str(difference) for report in reports for difference in report.first]
    fixes = list(dict.fromkeys(fix for report in reports for fix in report.fixes()))
    told = "; ".join((*first[:3], *fixes)) if differences else "all that can be computed is right, to the last bit"
    rows = sum(sum(report.rows.values()) for report in reports)
    return _result(
        key, EXACT, not differences, told, {"differences": differences, "rows": rows, "hours left out": left_out}
    )


def rejects(
    key: dg.AssetKey, messages: int, rejected: int, most: float, reasons: Mapping[str, int]
) -> dg.AssetCheckResult:
    """The share of a run's messages that became dead letters."""
    share = rejected / messages if messages else 0.0
    told = f"{rejected:,} of {messages:,} messages were rejected, {share:.2%}; {most:.2%} may be"
    if share > most:
        told += f"; reasons in both topics: {', '.join(f'{reason} {count:,}' for reason, count in reasons.items())}; see tickloom.dead_letters"
    return _result(key, REJECTS, share <= most, told, {"share": share}, dg.AssetCheckSeverity.WARN)


def fresh(key: dg.AssetKey, is_so: bool, seconds: float) -> dg.AssetCheckResult:
    """Whether a young row is there."""
    told = f"{'there is a' if is_so else 'there is no'} joined row whose event is younger than {seconds:,.0f} s"
    if not is_so:
        told += "; is the market closed, the producer away, or the lag large?"
    return _result(key, FRESH, is_so, told, {"seconds": seconds}, dg.AssetCheckSeverity.WARN)


def gaps(key: dg.AssetKey, lost: Sequence[str], hours: float) -> dg.AssetCheckResult:
    """What retention took before it was read."""
    told = "; ".join(lost[:5]) or f"nothing was lost to retention in the last {hours:g} h"
    return _result(key, GAPS, not lost, told, {"gaps": len(lost)})


def one_sided(key: dg.AssetKey, sides: Sides, most: float) -> dg.AssetCheckResult:
    """The share of keys that met no other half."""
    told = (
        f"{sides.both:,} keys are joined; {sides.prices_only:,} have a price only and {sides.volumes_only:,} a volume only, "
        f"{sides.share:.2%}; {most:.2%} may be"
    )
    return _result(key, JOIN, sides.share <= most, told, {"share": sides.share}, dg.AssetCheckSeverity.WARN)


def _result(
    key: dg.AssetKey,
    name: str,
    passed: bool,
    told: str,
    metadata: Mapping[str, float],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=passed, asset_key=key, check_name=name, description=told, severity=severity, metadata=dict(metadata)
    )
