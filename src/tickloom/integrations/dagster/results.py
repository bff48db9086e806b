"""Turns answers of ``queries`` into results of asset checks. Pure."""

from collections.abc import Mapping, Sequence

import dagster as dg

from tickloom.integrations.dagster.queries import Sides
from tickloom.store.verdict import Report

LEDGER, EXACT, REJECTS, FRESH, GAPS, JOIN = "ledger", "exact", "rejects", "fresh", "gaps", "join"


def ledger(key: dg.AssetKey, faults: Sequence[str]) -> dg.AssetCheckResult:
    """The ledger counts every offset once. ``faults``: a line for each partition that does not add up."""
    return _result(
        key, LEDGER, not faults, "; ".join(faults) or "every offset is counted once", {"partitions": len(faults)}
    )


def exact(key: dg.AssetKey, reports: Sequence[Report], skipped_hours: int) -> dg.AssetCheckResult:
    """The differences that ``verify`` found; it did not check ``skipped_hours``."""
    differences = sum(sum(report.remaining.values()) for report in reports)
    first = [str(difference) for report in reports for difference in report.first]
    fixes = list(dict.fromkeys(fix for report in reports for fix in report.fixes()))
    description = "; ".join((*first[:3], *fixes)) if differences else "every computed value is right, to the last bit"
    rows = sum(sum(report.rows.values()) for report in reports)
    return _result(
        key,
        EXACT,
        not differences,
        description,
        {"differences": differences, "rows": rows, "hours left out": skipped_hours},
    )


def rejects(
    key: dg.AssetKey, messages: int, rejected: int, most: float, reasons: Mapping[str, int]
) -> dg.AssetCheckResult:
    """The share of a run's messages that became dead letters."""
    share = rejected / messages if messages else 0.0
    description = f"{rejected:,} of {messages:,} messages were rejected, {share:.2%}; at most {most:.2%} may be"
    if share > most:
        description += f"; reasons in both topics: {', '.join(f'{reason} {count:,}' for reason, count in reasons.items())}; read them in tickloom.dead_letters and fix the producer"
    return _result(key, REJECTS, share <= most, description, {"share": share}, dg.AssetCheckSeverity.WARN)


def fresh(key: dg.AssetKey, passed: bool, seconds: float) -> dg.AssetCheckResult:
    """``passed``: whether a joined row has an event younger than ``seconds``."""
    description = f"{'a' if passed else 'no'} joined row has an event younger than {seconds:,.0f} s"
    if not passed:
        description += "; is the market closed, is the producer down, or is the lag long?"
    return _result(key, FRESH, passed, description, {"seconds": seconds}, dg.AssetCheckSeverity.WARN)


def gaps(key: dg.AssetKey, lost: Sequence[str], hours: float) -> dg.AssetCheckResult:
    """Retention removed no unread message. ``lost``: a line for each range of offsets that it did remove."""
    description = "; ".join(lost[:5]) or f"retention removed no unread message in the last {hours:g} h"
    return _result(key, GAPS, not lost, description, {"gaps": len(lost)})


def one_sided(key: dg.AssetKey, sides: Sides, most: float) -> dg.AssetCheckResult:
    """The share of keys that have a price or a volume, but not both."""
    description = (
        f"{sides.both:,} keys are joined; {sides.prices_only:,} have a price only and {sides.volumes_only:,} a volume only, "
        f"{sides.share:.2%}; at most {most:.2%} may be"
    )
    return _result(key, JOIN, sides.share <= most, description, {"share": sides.share}, dg.AssetCheckSeverity.WARN)


def _result(
    key: dg.AssetKey,
    name: str,
    passed: bool,
    description: str,
    metadata: Mapping[str, float],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=passed,
        asset_key=key,
        check_name=name,
        description=description,
        severity=severity,
        metadata=dict(metadata),
    )
