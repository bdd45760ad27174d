"""``neuropatch audit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .output import Output, print_lines, print_table

if TYPE_CHECKING:
    from neuropatch.evaluation.results import Estimate
    from neuropatch.fairness.audit_result import Attacks, AuditResult

EPILOG = options.examples(
    "neuropatch audit my-model --data adult.csv --schema adult --sensitive sex",
    "neuropatch audit my-model --data adult.csv --schema adult --g0 sex=Male --g1 sex=Female "
    "--victims 10 --shadows 10 -o audit.json",
    "neuropatch audit user/model --data rows.csv --label hired=yes --sensitive 'age>40' "
    "--g0 'age>40:80%' --g1 'age>40:20%'",
)

COLUMNS = ("", "value", "95 % interval")
GROUP_COLUMNS = ("group", "rows", "label 1", "accuracy", "selected", "true pos.", "false pos.")
ATTACK_COLUMNS = ("attack", "right", "accuracy", "95 % interval", "advantage", "95 % interval")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("audit", epilog=EPILOG)(audit)


def audit(
    model: options.ModelArgument,
    data: options.LabelledData = None,
    schema: options.SchemaName = None,
    label: options.Label = None,
    sensitive: options.Sensitive = None,
    text_column: options.TextColumn = None,
    exclude: options.Exclude = None,
    keep_sensitive: options.KeepSensitive = False,
    g0: options.FirstDistribution = None,
    g1: options.SecondDistribution = None,
    match_labels: options.MatchLabels = False,
    threshold: Annotated[
        float,
        typer.Option(help="An accuracy gap or advantage from here on is detectable.", metavar="X"),
    ] = 0.1,
    victims: Annotated[
        int,
        typer.Option(
            help="Victims to train on each side and attack; 0 attacks nothing.", min=0, metavar="N"
        ),
    ] = 0,
    shadows: Annotated[
        int,
        typer.Option(
            help="Shadow models of the adversary on each side; 0 leaves the loss test only.",
            min=0,
            metavar="N",
        ),
    ] = 8,
    queries: Annotated[
        int, typer.Option(help="Most rows of each side to query.", min=2, metavar="N")
    ] = 500,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    output: options.ResultsOutput = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how far a classifier gives away what it was trained on.

    Group fairness, the bound on distribution inference and, with --victims, attacks. The rows
    should be new to the model.
    """
    from neuropatch.evaluation.results import check_results_path
    from neuropatch.fairness.audit import AuditSettings, audit_files
    from neuropatch.fairness.distributions import parse_side
    from neuropatch.fairness.sources import Reading

    out = Output(json, quiet)
    if output is not None:
        check_results_path(output)
    with out.progress() as progress:
        result = audit_files(
            model,
            data or (),
            Reading(
                schema=schema,
                label=label,
                sensitive=sensitive,
                text_column=text_column,
                exclude=tuple(exclude or ()),
                keep_sensitive=keep_sensitive,
            ),
            g0=parse_side(g0 or (), "--g0"),
            g1=parse_side(g1 or (), "--g1"),
            settings=AuditSettings(
                threshold=threshold,
                victims=victims,
                shadows=shadows,
                queries=queries,
                match_labels=match_labels,
                seed=seed,
            ),
            device=device,
            progress=progress,
            note=out.note,
        )
    # Printed first: results of minutes of work must not be lost on a full disk.
    out.result(result.to_json(), lambda: _print(result), essence=result.verdict)
    if output is not None:
        result.save(output)
        out.note(f"wrote {output}")


def _print(result: AuditResult) -> None:
    sides = zip(("G0", "G1"), result.distributions, result.rows, strict=True)
    print_lines(
        [f"{result.model}: label 1 is {result.data['label']}"]
        + [f"{name}: {what}, {rows:,} rows" for name, what, rows in sides]
    )
    found = result.inference
    rows = [
        ("accuracy on G0", found.accuracy[0]),
        ("accuracy on G1", found.accuracy[1]),
        ("accuracy gap", found.accuracy_gap),
        ("  at equal label shares", found.matched_accuracy_gap),
        ("Delta_EO", found.delta_eo),
        ("W", found.composition_distance),
        ("bound Delta_EO * W", found.bound),
        ("measured advantage", found.advantage),
    ]
    print_table(COLUMNS, [(name, f"{one.value:.3f}", _interval(one)) for name, one in rows])
    print_table(
        GROUP_COLUMNS,
        [
            (
                one.group,
                f"{one.rows:,}",
                f"{one.positives:,}",
                *(
                    f"{rate:.3f}"
                    for rate in (
                        one.accuracy,
                        one.selection_rate,
                        one.true_positive_rate,
                        one.false_positive_rate,
                    )
                ),
            )
            for one in result.groups.groups
        ],
    )
    groups = result.groups
    print_table(
        ("metric", "value"),
        [
            ("equalized odds difference", f"{groups.equalized_odds_difference:.3f}"),
            ("equalized odds ratio", f"{groups.equalized_odds_ratio:.3f}"),
            ("equal opportunity difference", f"{groups.equal_opportunity_difference:.3f}"),
            ("demographic parity difference", f"{groups.demographic_parity_difference:.3f}"),
            ("demographic parity ratio", f"{groups.demographic_parity_ratio:.3f}"),
        ],
    )
    if result.attacks is not None:
        _print_attacks(result.attacks)
    print_lines(result.sentences())


def _print_attacks(attacks: Attacks) -> None:
    print_table(
        ATTACK_COLUMNS,
        [
            (
                one.name,
                f"{one.accuracy.value * 2 * one.victims:g} of {2 * one.victims}",
                f"{one.accuracy.value:.3f}",
                _interval(one.accuracy),
                f"{one.advantage.value:.3f}",
                _interval(one.advantage),
            )
            for one in attacks.results
        ],
    )
    gaps = [one.accuracy_gap for one in attacks.victims]
    print_lines(
        [
            f"{len(gaps)} victims of the model's recipe, without fine-tuning, half of them trained "
            f"on each of G0 and G1, on {attacks.rows:,} rows each; {attacks.shadows} shadows on "
            f"each side; {sum(attacks.queries):,} queries",
            f"their accuracy gap: mean {sum(gaps) / len(gaps):.3f}, {min(gaps):.3f} to "
            f"{max(gaps):.3f}",
            *(f"{one.name}: {one.calibration}" for one in attacks.results if one.calibration),
        ]
    )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f}"
