//! `q35 bench`: speed and memory on this machine.

use crate::args::Bench;
use crate::output;
use q35_console::size;
use q35_console::table::{Align, Table};
use q35_diag::Result;
use q35_runtime::bench::{Phase, Report, bench};

/// Runs the command.
pub(crate) fn run(args: &Bench) -> Result<()> {
    let bundle = args.opened.open()?;
    let report = bench(&bundle, &args.machine.options(0), usize::from(args.runs), |what| eprintln!("{what}"))?;
    if args.json { output::print_json(&report) } else { output::print(&text(&report)) }
}

/// The report as a table and a few lines.
fn text(report: &Report) -> String {
    use Align::{Left, Right};
    let mut cases = Table::new(&[
        ("", Left),
        ("batch", Right),
        ("tokens", Right),
        ("min", Right),
        ("median", Right),
        ("max tokens/s", Right),
    ]);
    for case in &report.cases {
        let phase = match case.phase {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        };
        let rate = |x: f64| format!("{x:.1}");
        cases.row([
            phase.to_owned(),
            case.batch.to_string(),
            case.tokens.to_string(),
            rate(case.min),
            rate(case.median),
            rate(case.max),
        ]);
    }
    let gigabytes = |x: f64| format!("{:.2} GB/s", x / 1e9);
    let mut facts = Table::bare(&[Left, Left]);
    facts.row(["device", &report.device]);
    facts.row(["first token", &format!("{:.2} ms", report.first_token_seconds * 1e3)]);
    facts.row(["weights read per step", &size::show(report.weight_bytes_per_step)]);
    let share = report.decode_bytes_per_second / report.read_bytes_per_second * 100.0;
    facts.row([
        "weights read at batch 1",
        &format!(
            "{}, {share:.0} % of a plain read's {}",
            gigabytes(report.decode_bytes_per_second),
            gigabytes(report.read_bytes_per_second)
        ),
    ]);
    if let Some(peak) = report.peak_resident_bytes {
        facts.row(["peak memory", &size::show(peak)]);
    }
    format!("{cases}\n{facts}")
}
