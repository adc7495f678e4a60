//! The accuracy table: our codecs and llama.cpp's types on one checkpoint, one text, one context length.
//!
//! What enters: folders of models ([`model`]), the rows to make ([`rows`]) and the built `q35c` and `q35`. What leaves: `benchmarks/accuracy/MODEL.md`, `.json`
//! and `.svg`. Our rows are made by the two commands that users have ([`ours`]), the peers' by llama.cpp's own library ([`peers`]). Every figure is kept in
//! `target/accuracy` under a hash of all it depends on ([`crate::cache`]): a run that was stopped goes on where it was.
//!
//! Both sides are judged by the mean Kullback-Leibler divergence from the f32 model, each by its own f32 run. Both f32 runs are rows: if the
//! perplexities of the two differ, the two did not run the same model, and the command fails. Embedding and head have 8 bits on both sides.

mod figure;
mod model;
mod ours;
mod peers;
mod report;
mod rows;

use crate::cache::{self, Cache};
use crate::tools::Tools;
use clap::Args;
use model::Model;
use q35_format::Codec;
use report::{Report, Row};
use std::path::{Path, PathBuf};

/// Relative difference of the two f32 perplexities above which the two sides did not run one model.
const SAME_MODEL: f64 = 1e-3;
/// Our side.
const OURS: &str = "q35";
/// The other side.
const PEER: &str = "llama.cpp";
/// Tokens of a window.
const WINDOW: usize = 256;

/// What was asked for.
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct Options {
    /// A few rows on the beginning of the text, into target/accuracy/results
    #[arg(long)]
    quick: bool,
    /// Also rotation, groups, number of calibration sequences, int8 against float activations
    #[arg(long)]
    ablation: bool,
    /// Measure our side only
    #[arg(long)]
    no_peers: bool,
    /// Make the page from what has been measured before
    #[arg(long)]
    known: bool,
    /// Beginnings of the names of our rows that are measured; the page keeps the others it has
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    rows: Vec<String>,
    /// A checkpoint with test.txt and calibration.txt; may be given again
    #[arg(long = "model", value_name = "FOLDER")]
    models: Vec<PathBuf>,
}

impl Options {
    /// Whether one of our rows is measured. That of f32 always is, because the others are compared with it.
    fn measures(&self, row: &rows::Ours) -> bool {
        let named =
            self.rows.is_empty() || row.name == "f32" || self.rows.iter().any(|name| row.name.starts_with(name.as_str()));
        named && (row.quick || !self.quick)
    }
}

/// The chore.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().map_err(|e| e.to_string())?;
    let folders = if options.models.is_empty() { vec![root.join(rows::MODEL)] } else { options.models.clone() };
    let models = folders.iter().map(|folder| Model::open(folder)).collect::<Result<Vec<_>, _>>()?;
    let cache = Cache::open(&root.join("target/accuracy"), options.known)?;
    let tools = Tools::build(&root)?;
    for model in models {
        let model = if options.quick { model.shortened(rows::QUICK_BYTES, &cache)? } else { model };
        let (mut report, absent) = measure(&model, options, &tools, &cache, &root)?;
        if options.known {
            report.leave_out(cache::UNKNOWN);
        }
        let name = if options.quick { format!("{}-quick", model.name) } else { model.name.clone() };
        let out = if options.quick { cache.folder().join("results") } else { root.join("benchmarks/accuracy") };
        let page = out.join(format!("{name}.json"));
        if !report.table.iter().any(|row| row.side == PEER) {
            report.lend(&page, PEER);
        }
        if let Some(why) = absent.filter(|_| !report.table.iter().any(|row| row.side == PEER)) {
            report.notes.push(why);
        }
        if !options.rows.is_empty() {
            report.lend(&page, OURS);
            report.sort(&rows::ours(&|codec| tools.runs(codec)).iter().map(|row| row.name.as_str()).collect::<Vec<_>>());
        }
        report.check_f32(SAME_MODEL)?;
        print!("{}", report.markdown());
        report.write(&out, &name)?;
        eprintln!("written: {}", out.join(name).display());
    }
    Ok(())
}

/// The rows, and why there are none of the other side if there are not.
fn measure(
    model: &Model,
    options: &Options,
    tools: &Tools,
    cache: &Cache,
    root: &Path,
) -> Result<(Report, Option<String>), String> {
    let mut report = Report::new(&model.name, WINDOW, if options.quick { rows::QUICK_SEQUENCES } else { rows::SEQUENCES });
    let wanted = |quick: bool| quick || !options.quick;
    let peers: Vec<&rows::Peer> = rows::PEERS.iter().filter(|row| wanted(row.quick)).collect();
    let (mut theirs, mut absent) = (Vec::new(), None);
    let side = if options.no_peers {
        Err("they were not asked for".to_owned())
    } else {
        peers::Side::new(root, model, cache, tools, report.sequences)
    };
    match side {
        Ok(side) => theirs.extend(peers.iter().map(|row| Row::new(row.name, PEER, side.measure(row)))),
        Err(why) => {
            let names: Vec<&str> = peers.iter().map(|row| row.name).collect();
            absent = Some(format!("Rows of {PEER} that were skipped, because {why}: {}.", names.join("; ")));
        }
    }
    let side = ours::Side::new(tools, model, cache, report.sequences)?;
    let runs = |codec: Codec| tools.runs(codec);
    let ours = rows::ours(&runs).into_iter().filter(|row| options.measures(row));
    report.table = ours.map(|row| Row::new(&row.name, OURS, side.measure(&row))).chain(theirs).collect();
    if options.ablation {
        for (topic, row) in rows::ablation(&runs) {
            report.ablation.push((topic.to_owned(), Row::new(&row.name, OURS, side.measure(&row))));
        }
    }
    Ok((report, absent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_the_beginnings_of_their_names() {
        let options = Options { rows: vec!["a11".into(), "w8".into()], ..Options::default() };
        let measured: Vec<String> =
            rows::ours(&|_| true).into_iter().filter(|row| options.measures(row)).map(|row| row.name).collect();
        assert_eq!(measured, ["f32", "w8", "a11", "w8 best", "a11 best", "w8 best, groups of 128"]);
    }
}
