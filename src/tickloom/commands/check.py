"""``tickloom check``: finds everything that would stop the daemon or cause it trouble, before it runs."""

import typer

from tickloom.commands.output import JsonOption, Output, OutputOption, print_json, wants_json
from tickloom.commands.start import configured, run_loop

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: tickloom check --output json")
def check(output: OutputOption = Output.TEXT, as_json: JsonOption = False) -> None:
    """Check settings, broker, topics, keys, database, rights and clock: one line each, with the fix; exit 3 if one is bad."""
    from tickloom.commands.findings import find_all

    settings = configured(tolerant=True)  # unknown names are a finding, and must not hide the others
    findings = run_loop(find_all(settings))
    if wants_json(output, as_json):
        print_json([finding.as_dict() for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok ' if finding.good else 'BAD'}  {finding.what:<16} {finding.detail}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(3)
