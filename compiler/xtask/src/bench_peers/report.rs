//! The table as data, as Markdown and as JSON.

use super::contender::{Contender, Engine, Workload};
use super::encoding::{Encoder, Makings};
use super::figure;
use super::samples::{Sample, Samples};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Fastest, median and slowest of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) best: f64,
    pub(super) median: f64,
    pub(super) worst: f64,
    pub(super) count: usize,
}

impl Spread {
    /// `None` of nothing.
    fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut all: Vec<f64> = figures.into_iter().collect();
        all.sort_by(f64::total_cmp);
        let (worst, best) = (*all.first()?, *all.last()?);
        let median = (all[(all.len() - 1) / 2] + all[all.len() / 2]) / 2.0;
        Some(Self { best, median, worst, count: all.len() })
    }
}

/// One contender under one condition.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) engine: Engine,
    pub(super) format: String,
    /// Bytes of weights that decoding a token reads.
    pub(super) bytes: u64,
    /// Tokens per second.
    pub(super) decode: Spread,
    pub(super) prefill: Option<Spread>,
    /// Our reference's tokens per second over this one's, round by round.
    pub(super) decode_ratio: Option<Spread>,
    pub(super) prefill_ratio: Option<Spread>,
}

/// All rows with one number of threads and of hogs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Section {
    pub(super) threads: u16,
    pub(super) hogs: u16,
    pub(super) work: Workload,
    /// The fastest plain reads of all rounds, bytes per second.
    pub(super) read: Option<Spread>,
    pub(super) rows: Vec<Row>,
}

/// How long one file takes to make.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Encoding {
    pub(super) engine: Engine,
    pub(super) format: String,
    pub(super) threads: usize,
    /// Wall seconds; the best are the fewest.
    pub(super) seconds: Spread,
}

/// All of one model.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) model: String,
    pub(super) processor: String,
    /// The bundle that ratios are of.
    pub(super) reference: String,
    pub(super) sections: Vec<Section>,
    /// Seconds that making each file took.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) encoding: Vec<Encoding>,
    pub(super) notes: Vec<String>,
}

impl Report {
    /// The report on what `contenders` have samples of. The first is the reference.
    pub(super) fn new(model: &str, contenders: &[Contender], samples: &Samples, notes: Vec<String>) -> Self {
        let known: BTreeMap<&str, &Contender> = contenders.iter().map(|contender| (contender.key(), contender)).collect();
        let mut conditions: BTreeMap<(u16, u16, u32, u32), Vec<&Sample>> = BTreeMap::new();
        for sample in samples.all.iter().filter(|sample| known.contains_key(sample.key.as_str())) {
            let condition = (sample.hogs, sample.threads, sample.work.prompt, sample.work.decode);
            conditions.entry(condition).or_default().push(sample);
        }
        let reference = contenders.first();
        let sections = conditions.into_iter().map(|((hogs, threads, prompt, decode), samples)| {
            let of = |key: &str| -> Vec<&Sample> { samples.iter().copied().filter(|sample| sample.key == key).collect() };
            let ours = reference.map(|reference| of(reference.key())).unwrap_or_default();
            let rows = contenders.iter().filter_map(|contender| Row::new(contender, &of(contender.key()), &ours));
            let read = Spread::of(samples.iter().filter_map(|sample| sample.speed.read));
            Section { threads, hogs, work: Workload { prompt, decode }, read, rows: rows.collect() }
        });
        Self {
            model: model.to_owned(),
            processor: processor(),
            reference: reference.map(Contender::name).unwrap_or_default(),
            sections: sections.collect(),
            encoding: Vec::new(),
            notes,
        }
    }

    /// With what is known of making the files with so many threads.
    pub(super) fn with_encoding(mut self, encoders: &[Encoder], makings: &Makings, threads: usize) -> Self {
        self.encoding.extend(encoders.iter().filter_map(|encoder| {
            let Spread { best: worst, median, worst: best, count } = Spread::of(makings.seconds(encoder, threads))?;
            let seconds = Spread { best, median, worst, count };
            Some(Encoding { engine: encoder.engine, format: encoder.format.clone(), threads, seconds })
        }));
        self
    }

    /// The page.
    pub(super) fn markdown(&self) -> String {
        let mut out =
            format!("# Speed: {}\n\n{}. Ratios are those of {}, round by round.\n", self.model, self.processor, self.reference);
        for section in &self.sections {
            section.write(&mut out);
        }
        if let Some(Encoding { threads, .. }) = self.encoding.first() {
            let _ = writeln!(out, "\n## Making the files, {threads} threads\n");
            out.push_str("Rounding to nearest, but calibrated where a format says `best`; from the same numbers in f16; ");
            out.push_str("ours with code for this processor.\n\n");
            out.push_str("| | | seconds: best | median | worst | rounds |\n| --- | --- | ---: | ---: | ---: | ---: |\n");
            for Encoding { engine, format, seconds: Spread { best, median, worst, count }, .. } in &self.encoding {
                let _ = writeln!(out, "| {} | {format} | {best:.0} | {median:.0} | {worst:.0} | {count} |", engine.name());
            }
        }
        for note in &self.notes {
            let _ = writeln!(out, "\n{note}");
        }
        out
    }

    /// Writes page, data and figure into `folder`.
    pub(super) fn write(&self, folder: &Path) -> Result<(), String> {
        let json = serde_json::to_string_pretty(self).map_err(|e| e.to_string())? + "\n";
        let markdown = format!("{}\n![Decode speed]({}.svg)\n", self.markdown(), self.model);
        fs::create_dir_all(folder).map_err(|e| e.to_string())?;
        for (extension, text) in [("md", markdown), ("json", json), ("svg", figure::svg(self)?)] {
            let path = folder.join(format!("{}.{extension}", self.model));
            fs::write(&path, text).map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
        }
        Ok(())
    }
}

impl Row {
    fn new(contender: &Contender, samples: &[&Sample], ours: &[&Sample]) -> Option<Self> {
        let same_round = |of: fn(&Sample) -> Option<f64>| {
            let pairs = samples.iter().filter_map(move |theirs| {
                let ours = ours.iter().find(|ours| ours.round == theirs.round)?;
                Some(of(ours)? / of(theirs)?)
            });
            Spread::of(pairs)
        };
        Some(Self {
            engine: contender.engine,
            format: contender.format.clone(),
            bytes: contender.bytes,
            decode: Spread::of(samples.iter().map(|sample| sample.speed.decode))?,
            prefill: Spread::of(samples.iter().filter_map(|sample| sample.speed.prefill)),
            decode_ratio: same_round(|sample| Some(sample.speed.decode)),
            prefill_ratio: same_round(|sample| sample.speed.prefill),
        })
    }
}

impl Section {
    fn write(&self, out: &mut String) {
        let plural = |n: u16, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        let busy = if self.hogs > 0 { format!(", beside {}", plural(self.hogs, "spinning thread")) } else { String::new() };
        let _ = writeln!(out, "\n## {}{busy}\n", plural(self.threads, "thread"));
        if let Some(read) = &self.read {
            let of = |rate: f64| format!("{:.1}", rate / 1e9);
            let _ = writeln!(
                out,
                "A plain read of memory with as many threads: {} GB/s at best, {} in the median round.\n",
                of(read.best),
                of(read.median)
            );
        }
        let Workload { prompt, decode } = self.work;
        let _ = writeln!(
            out,
            "| | | MB per token | decode {decode}: best | median | GB/s | of a plain read | ratio | prompt of {prompt}: best | median | ratio | rounds |"
        );
        out.push_str("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
        let ratio = |ratio: &Option<Spread>| {
            ratio.map_or(String::new(), |r| format!("{:.2} ({:.2} to {:.2})", r.median, r.worst, r.best))
        };
        for row in &self.rows {
            let rate = row.decode.best * row.bytes as f64;
            let share = self.read.map_or(String::new(), |read| format!("{:.0} %", 100.0 * rate / read.best));
            let [best, median] = match &row.prefill {
                Some(prefill) => [prefill.best, prefill.median].map(|x| format!("{x:.1}")),
                None => [String::new(), String::new()],
            };
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {:.1} | {:.1} | {:.1} | {share} | {} | {best} | {median} | {} | {} |",
                row.engine.name(),
                row.format,
                row.bytes as f64 / 1e6,
                row.decode.best,
                row.decode.median,
                rate / 1e9,
                ratio(&row.decode_ratio),
                ratio(&row.prefill_ratio),
                row.decode.count,
            );
        }
    }
}

/// The processor as Linux names it, and how many the system has.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.trim()));
    let flag =
        |name: &str| info.lines().any(|line| line.starts_with("flags") && line.split_whitespace().any(|flag| flag == name));
    let vectors = if flag("avx512_vnni") {
        "AVX-512 VNNI"
    } else if flag("avx2") {
        "AVX2"
    } else {
        "no AVX2"
    };
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {count} processors, {vectors}", name.unwrap_or("An unnamed processor"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn report() -> Report {
        let spread = |best: f64| Spread { best, median: best * 0.9, worst: best * 0.5, count: 3 };
        let row = |engine, format: &str, decode: f64| Row {
            engine,
            format: format.into(),
            bytes: 500_000_000,
            decode: spread(decode),
            prefill: (engine == Engine::Ours).then(|| spread(100.0)),
            decode_ratio: Some(Spread { best: 3.0, median: 2.0, worst: 1.0, count: 3 }),
            prefill_ratio: None,
        };
        let rows = vec![row(Engine::Ours, "w8", 40.0), row(Engine::Llama, "Q4_0", 20.0)];
        let work = Workload { prompt: 512, decode: 64 };
        let section = Section { threads: 2, hogs: 1, work, read: Some(spread(25e9)), rows };
        Report {
            model: "toy".into(),
            processor: "A processor".into(),
            reference: "q35 w8".into(),
            sections: vec![section],
            encoding: vec![],
            notes: vec![],
        }
    }

    #[test]
    fn rows_say_what_they_are_compared_with() {
        let text = report().markdown();
        assert!(text.contains("## 2 threads, beside 1 spinning thread\n"), "{text}");
        assert!(
            text.contains("| q35 | w8 | 500 | 40.0 | 36.0 | 20.0 | 80 % | 2.00 (1.00 to 3.00) | 100.0 | 90.0 |  | 3 |\n"),
            "{text}"
        );
        assert!(
            text.contains("| llama.cpp | Q4_0 | 500 | 20.0 | 18.0 | 10.0 | 40 % | 2.00 (1.00 to 3.00) |  |  |  | 3 |\n"),
            "{text}"
        );
    }

    #[test]
    fn the_median_of_two_lies_between_them() {
        assert_eq!(Spread::of([4.0, 2.0]), Some(Spread { best: 4.0, median: 3.0, worst: 2.0, count: 2 }));
    }

    #[test]
    fn ratios_are_of_one_round() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let contender = |engine, format| Contender::peer(engine, format, 1, file(format), file("model")).unwrap();
        let both = [contender(Engine::Ours, "a"), contender(Engine::Llama, "b")];
        let mut samples = Samples::open(dir.path().join("samples.json")).unwrap();
        let work = Workload { prompt: 8, decode: 8 };
        // A machine that gets slower: within a round the second is always half as fast.
        for speed in [30.0, 20.0, 10.0] {
            for (contender, share) in both.iter().zip([1.0, 0.5]) {
                let speed = super::super::contender::Speed { decode: speed * share, prefill: None, read: None };
                samples.add(Sample::new(contender, 1, 0, work, samples.round + 1, speed));
            }
            samples.end_round().unwrap();
        }
        let again = Samples::open(dir.path().join("samples.json")).unwrap();
        assert_eq!((again.round, &again.all), (3, &samples.all));
        let report = Report::new("toy", &both, &again, vec![]);
        let row = &report.sections[0].rows[1];
        assert_eq!(row.decode_ratio, Some(Spread { best: 2.0, median: 2.0, worst: 2.0, count: 3 }));
        assert_eq!(row.decode, Spread { best: 15.0, median: 10.0, worst: 5.0, count: 3 });
        // What a changed program measured is not this one's.
        fs::write(dir.path().join("b"), "changed").unwrap();
        let changed = [both[0].clone(), contender_again(&dir, "b")];
        assert_eq!(Report::new("toy", &changed, &again, vec![]).sections[0].rows.len(), 1);
    }

    fn contender_again(dir: &tempfile::TempDir, name: &str) -> Contender {
        Contender::peer(Engine::Llama, name, 1, dir.path().join(name), dir.path().join("model")).unwrap()
    }
}
