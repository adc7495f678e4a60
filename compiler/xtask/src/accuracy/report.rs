//! The table as data, as Markdown and as JSON.

use super::{OURS, figure};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// How far a row is from f32, as `q35 eval --against` and `measure.py` print it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Divergence {
    /// Mean KL divergence in thousandths of a nat.
    pub(super) kl_x1000: f64,
    /// Its standard error over windows.
    pub(super) standard_error_x1000: Option<f64>,
    /// Share of tokens with the same most probable successor.
    pub(super) agreement: f64,
    /// Perplexity of the row.
    pub(super) perplexity: f64,
    /// Tokens predicted.
    pub(super) scored: u64,
    /// Tokens per window.
    pub(super) window: usize,
}

/// What a row measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// Bits per weight of the layers' matrices, scales included.
    pub(super) linear_bits: f64,
    /// Bytes of all parameters.
    pub(super) bytes: u64,
    /// Wall time of quantizing.
    pub(super) seconds: f64,
    /// How far from f32.
    pub(super) divergence: Divergence,
}

/// A row of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) side: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<Outcome>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) missing: Option<String>,
}

impl Row {
    pub(super) fn new(name: &str, side: &str, outcome: Result<Outcome, String>) -> Self {
        let (outcome, missing) = match outcome {
            Ok(outcome) => (Some(outcome), None),
            Err(why) => (None, Some(why)),
        };
        Self { name: name.to_owned(), side: side.to_owned(), outcome, missing }
    }
}

/// All of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) model: String,
    pub(super) window: usize,
    pub(super) sequences: usize,
    pub(super) table: Vec<Row>,
    /// Topic and row.
    pub(super) ablation: Vec<(String, Row)>,
    pub(super) notes: Vec<String>,
}

impl Report {
    pub(super) fn new(model: &str, window: usize, sequences: usize) -> Self {
        Self { model: model.to_owned(), window, sequences, table: vec![], ablation: vec![], notes: vec![] }
    }

    /// Takes out the rows that are missing for the reason `why`, and says which they are.
    pub(super) fn leave_out(&mut self, why: &str) {
        let mut names = Vec::new();
        let mut keep = |row: &Row| {
            let out = row.missing.as_deref() == Some(why);
            names.extend(out.then(|| format!("{} ({})", row.name, row.side)));
            !out
        };
        self.table.retain(&mut keep);
        self.ablation.retain(|(_, row)| keep(row));
        if !names.is_empty() {
            self.notes.push(format!("Rows {why}: {}.", names.join("; ")));
        }
    }

    /// Puts those of a side's rows of an earlier page in that this run has not, and says so. They are measured on the same text in the same windows, or left.
    pub(super) fn lend(&mut self, earlier: &Path, side: &str) {
        let Some(earlier) = fs::read(earlier).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok()) else {
            return;
        };
        let same = earlier.model == self.model && earlier.window == self.window && earlier.sequences == self.sequences;
        let here = |row: &Row| self.table.iter().any(|own| own.side == row.side && own.name == row.name);
        let lent = |row: &Row| same && row.side == side && row.outcome.is_some() && !here(row);
        let rows: Vec<Row> = earlier.table.into_iter().filter(lent).collect();
        if !rows.is_empty() {
            let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
            let names = names.join("; ");
            self.notes.push(format!("Rows of {side} from an earlier run on the same model, texts and windows: {names}."));
        }
        self.table.extend(rows);
    }

    /// Our rows in the order of their names, and then the other side's as they are.
    pub(super) fn sort(&mut self, names: &[&str]) {
        let place = |row: &Row| if row.side == OURS { names.iter().position(|name| *name == row.name) } else { None };
        self.table.sort_by_key(|row| place(row).unwrap_or(names.len()));
    }

    /// The f32 perplexities of both sides.
    fn f32_perplexities(&self) -> Vec<f64> {
        let f32_rows = self.table.iter().filter(|row| row.name.eq_ignore_ascii_case("f32"));
        f32_rows.filter_map(|row| Some(row.outcome.as_ref()?.divergence.perplexity)).collect()
    }

    /// Fails where the f32 rows of the two sides differ by more than `tolerance`, relatively.
    pub(super) fn check_f32(&self, tolerance: f64) -> Result<(), String> {
        match self.f32_perplexities()[..] {
            [ours, theirs] if (theirs / ours - 1.0).abs() > tolerance => {
                Err(format!("the two sides did not run one model: f32 perplexity is {ours} here and {theirs} in llama.cpp"))
            }
            _ => Ok(()),
        }
    }

    /// The page.
    pub(super) fn markdown(&self) -> String {
        let mut out = format!("# Accuracy: {}\n\n", self.model);
        let scored = self.table.iter().find_map(|row| Some(row.outcome.as_ref()?.divergence.scored)).unwrap_or(0);
        let _ = writeln!(
            out,
            "{scored} tokens scored in windows of {}; calibration and importance matrix from {} sequences of 256 tokens of another text. KL is the mean Kullback-Leibler\n\
             divergence to the f32 model in thousandths of a nat, with its standard error over windows. Bits are those of the layers' matrices with their scales; bytes are all\n\
             parameters. Embedding and head have 8 bits in every row but f32. Activations are int8 on our side and llama.cpp's own 8-bit blocks on the other.\n",
            self.window, self.sequences
        );
        self.rows(&mut out, self.table.iter());
        if !self.ablation.is_empty() {
            out.push_str("\n## Ablation\n");
            for topics in self.ablation.chunk_by(|a, b| a.0 == b.0) {
                let _ = writeln!(out, "\n### {}\n", topics[0].0);
                self.rows(&mut out, topics.iter().map(|(_, row)| row));
            }
        }
        for note in &self.notes {
            let _ = writeln!(out, "\n{note}");
        }
        out
    }

    fn rows<'r>(&self, out: &mut String, rows: impl Iterator<Item = &'r Row>) {
        out.push_str("| | | bits | bytes | KL x 1000 | top-1 | perplexity | increase | seconds |\n");
        out.push_str("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
        let reference = self.f32_perplexities().first().copied();
        for Row { name, side, outcome, missing } in rows {
            let _ = match outcome {
                Some(Outcome { linear_bits, bytes, seconds, divergence }) => {
                    let Divergence { kl_x1000, standard_error_x1000, agreement, perplexity, .. } = divergence;
                    let error = standard_error_x1000.map(|error| format!(" ± {error:.2}")).unwrap_or_default();
                    let increase = reference.map_or(String::new(), |f32| format!("{:+.2} %", 100.0 * (perplexity / f32 - 1.0)));
                    let percent = 100.0 * agreement;
                    writeln!(
                        out,
                        "| {side} | {name} | {linear_bits:.3} | {bytes} | {kl_x1000:.2}{error} | {percent:.2} % | {perplexity:.3} | {increase} | {seconds:.1} |"
                    )
                }
                None => writeln!(out, "| {side} | {name} | | | {} | | | | |", missing.as_deref().unwrap_or_default()),
            };
        }
    }

    /// Writes page, data and figure into `folder`.
    pub(super) fn write(&self, folder: &Path, name: &str) -> Result<(), String> {
        let json = serde_json::to_string_pretty(self).map_err(|e| e.to_string())? + "\n";
        let markdown = format!("{}\n![KL divergence over bits per weight]({name}.svg)\n", self.markdown());
        let files = [("md", markdown), ("json", json), ("svg", figure::svg(self)?)];
        fs::create_dir_all(folder).map_err(|e| e.to_string())?;
        files.into_iter().try_for_each(|(extension, text)| {
            let path = folder.join(format!("{name}.{extension}"));
            fs::write(&path, text).map_err(|e| format!("{} cannot be written: {e}", path.display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn row(name: &str, side: &str, bits: f64, kl: f64, perplexity: f64) -> Row {
        let divergence = Divergence {
            kl_x1000: kl,
            standard_error_x1000: Some(0.25),
            agreement: 0.955,
            perplexity,
            scored: 510,
            window: 256,
        };
        Row::new(name, side, Ok(Outcome { linear_bits: bits, bytes: 1234, seconds: 1.25, divergence }))
    }

    fn report() -> Report {
        let mut report = Report::new("toy", 256, 32);
        report.table.push(row("f32", "q35", 32.0, 0.0, 20.0));
        report.table.push(row("w8 best", "q35", 3.545, 7.5, 20.1));
        report.table.push(row("F32", "llama.cpp", 32.0, 0.0, 20.001));
        report.table.push(Row::new("Q4_0", "llama.cpp", Err("it broke".to_owned())));
        report
    }

    #[test]
    fn rows_are_compared_with_f32() {
        let text = report().markdown();
        assert!(text.contains("| q35 | w8 best | 3.545 | 1234 | 7.50 ± 0.25 | 95.50 % | 20.100 | +0.50 % | 1.2 |\n"), "{text}");
        assert!(text.contains("| llama.cpp | Q4_0 | | | it broke | | | | |\n"), "{text}");
        assert!(text.contains("510 tokens scored in windows of 256"), "{text}");
    }

    #[test]
    fn rows_that_are_left_out_are_named() {
        let mut report = report();
        report.leave_out("it broke");
        assert_eq!((report.table.len(), report.notes), (3, vec!["Rows it broke: Q4_0 (llama.cpp).".to_owned()]));
    }

    #[test]
    fn an_earlier_page_lends_the_other_side() {
        let folder = tempfile::tempdir().unwrap();
        let earlier = report();
        earlier.write(folder.path(), "toy").unwrap();
        let page = folder.path().join("toy.json");
        let mut now = Report { table: vec![row("f32", "q35", 32.0, 0.0, 20.0)], ..report() };
        now.lend(&page, "llama.cpp");
        // A row that failed is not lent.
        assert_eq!(now.table.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["f32", "F32"]);
        assert_eq!(now.notes, ["Rows of llama.cpp from an earlier run on the same model, texts and windows: F32."]);
        // What was measured is not lent again, and stands where its name does.
        let names = |report: &Report| report.table.iter().map(|row| row.name.clone()).collect::<Vec<_>>();
        let mut ours =
            Report { table: vec![row("F32", "llama.cpp", 32.0, 0.0, 20.0), row("f32", OURS, 32.0, 0.0, 20.0)], ..report() };
        ours.lend(&page, OURS);
        let all = names(&ours);
        assert!(all.iter().filter(|name| *name == "f32").count() == 1 && all.contains(&"w8 best".to_owned()), "{all:?}");
        ours.sort(&["w8 best", "f32"]);
        assert_eq!(names(&ours)[..2], ["w8 best", "f32"]);
        let mut other = Report { window: 128, table: vec![], ..report() };
        other.lend(&page, "llama.cpp");
        other.lend(&folder.path().join("none.json"), "llama.cpp");
        assert!(other.table.is_empty() && other.notes.is_empty());
    }

    #[test]
    fn two_models_are_noticed() {
        let mut report = report();
        report.check_f32(1e-3).unwrap();
        report.table[2] = row("F32", "llama.cpp", 32.0, 0.0, 21.0);
        let why = report.check_f32(1e-3).unwrap_err();
        assert_eq!(why, "the two sides did not run one model: f32 perplexity is 20 here and 21 in llama.cpp");
    }

    #[test]
    fn the_figure_names_every_row_below_eight_bits() {
        let svg = figure::svg(&report()).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("w8 best") && !svg.contains("F32"), "{svg}");
    }
}
