//! `--profile`: a trace for a viewer, and sums for a reader.

use crate::args::Profile;
use crate::output;
use q35_bundle::Bundle;
use q35_console::table::{Align, Table};
use q35_diag::Result;
use q35_runtime::profile::{Recorder, Summary};

/// A recorder, if something is to be recorded.
pub(crate) fn recorder(profile: &Profile) -> Option<Recorder> {
    profile.trace.as_ref().map(|_| Recorder::default())
}

/// Writes the trace, and the sums to stderr.
pub(crate) fn write(profile: &Profile, recorder: Option<Recorder>, bundle: &Bundle) -> Result<()> {
    let (Some(path), Some(recorder)) = (&profile.trace, recorder) else { return Ok(()) };
    output::write(path, &recorder.chrome_trace(bundle))?;
    eprint!("{}", text(&recorder.summary(bundle)));
    Ok(())
}

fn text(summary: &Summary) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("op", Left),
        ("rows", Right),
        ("launches", Right),
        ("ms", Right),
        ("share", Right),
        ("us each", Right),
        ("weights", Right),
    ]);
    let share = |seconds: f64| format!("{:.1} %", seconds / summary.seconds.max(1e-12) * 100.0);
    for kind in &summary.kinds {
        let rate = kind.weight_bytes as f64 / kind.seconds.max(1e-12) / 1e9;
        table.row([
            kind.op.clone(),
            kind.rows.clone(),
            kind.launches.to_string(),
            format!("{:.2}", kind.seconds * 1e3),
            share(kind.seconds),
            format!("{:.1}", kind.seconds * 1e6 / kind.launches as f64),
            if kind.weight_bytes > 0 { format!("{rate:.2} GB/s") } else { String::new() },
        ]);
    }
    let launches: f64 = summary.kinds.iter().map(|kind| kind.seconds).sum();
    let between = (summary.seconds - launches).max(0.0);
    table.row(["between launches", "", "", &format!("{:.2}", between * 1e3), &share(between)]);
    table.row(["all", "", &format!("{} steps", summary.steps), &format!("{:.2}", summary.seconds * 1e3)]);
    table.to_string()
}
