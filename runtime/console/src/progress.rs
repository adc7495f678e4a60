//! Progress of one piece of work on stderr: a bar with an estimate on a terminal, a line per tenth elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Progress of one piece of work after the other.
#[derive(Debug, Default)]
pub struct Progress {
    bar: Option<ProgressBar>,
    tenths: u64,
}

impl Progress {
    /// `done` of `total` units of `what` are done. The work ends when all are.
    pub fn at(&mut self, done: u64, total: u64, what: &str) {
        if total == 0 {
            return;
        }
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}  {eta} left")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
                ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8)).with_style(style)
            });
            bar.set_length(total);
            bar.set_message(what.to_owned());
            bar.set_position(done);
        } else {
            let tenths = (u128::from(done) * 10 / u128::from(total)) as u64;
            if std::mem::replace(&mut self.tenths, tenths) < tenths {
                eprintln!("{:>9} %   {what}", tenths * 10);
            }
        }
        if done >= total {
            self.finish();
        }
    }

    /// Takes the bar away, whether or not the work was completed.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.tenths = 0;
    }
}
