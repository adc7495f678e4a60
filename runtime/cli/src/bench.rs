//! `q35 bench`: speed and memory on this machine.

use crate::args::Bench;
use crate::output;
use crate::profile;
use q35_console::size;
use q35_console::table::{Align, Table};
use q35_diag::Result;
use q35_runtime::Options;
use q35_runtime::bench::{Phase, Report, bench};

/// Runs the command.
pub(crate) fn run(args: &Bench) -> Result<()> {
    let bundle = args.opened.open()?;
    let recorder = profile::recorder(&args.profile);
    let options = Options { recorder: recorder.clone(), ..args.machine.options(0) };
    let report = bench(&bundle, &options, &args.plan(), |what| eprintln!("{what}"))?;
    profile::write(&args.profile, recorder, &bundle)?;
    if args.json { output::print_json(&report) } else { output::print(&text(&report)) }
}

/// The report as a table and a few lines.
fn text(report: &Report) -> String {
    use Align::{Left, Right};
    let energy = report.cases.iter().any(|case| case.joules_per_token.is_some());
    let mut columns = vec![
        ("", Left),
        ("batch", Right),
        ("cached", Right),
        ("tokens", Right),
        ("runs", Right),
        ("min", Right),
        ("median", Right),
        ("max tokens/s", Right),
        ("first token", Right),
        ("weights", Right),
        ("of a plain read", Right),
    ];
    columns.extend(energy.then_some(("J/token", Right)));
    let mut cases = Table::new(&columns);
    let [_, read, _] = report.read_bytes_per_second;
    for case in &report.cases {
        let phase = match case.phase {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        };
        let rate = |x: f64| format!("{x:.1}");
        let mut row = vec![
            phase.to_owned(),
            case.batch.to_string(),
            case.cached.to_string(),
            case.tokens.to_string(),
            case.runs.to_string(),
            rate(case.min),
            rate(case.median),
            rate(case.max),
            format!("{:.2} ms", case.latency_seconds * 1e3),
            gigabytes(case.weight_bytes_per_second),
            format!("{:.0} %", case.weight_bytes_per_second / read * 100.0),
        ];
        row.extend(case.joules_per_token.map(|joules| format!("{joules:.3}")));
        cases.row(row);
    }
    let mut facts = Table::bare(&[Left, Left]);
    facts.row(["device", &report.device]);
    if let Some(case) = report.cases.iter().find(|case| case.phase == Phase::Decode && case.batch == 1) {
        facts.row(["weights read per token at batch 1", &size::show(case.weight_bytes_per_step)]);
    }
    let [low, median, high] = report.read_bytes_per_second.map(gigabytes);
    facts.row(["plain read of memory", &format!("{median} ({low} to {high})")]);
    facts.row(["handing out a launch", &format!("{:.2} us", report.empty_launch_seconds * 1e6)]);
    if let Some(peak) = report.peak_resident_bytes {
        facts.row(["peak memory", &size::show(peak)]);
    }
    if !energy {
        facts.row(["energy", "not measurable here"]);
    }
    for skipped in &report.skipped {
        facts.row(["not measured", skipped]);
    }
    format!("{cases}\n{facts}")
}

fn gigabytes(rate: f64) -> String {
    format!("{:.2} GB/s", rate / 1e9)
}
