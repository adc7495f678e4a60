//! What the table consists of. Our rows come from the table of codecs; nothing else in this folder names one.

use q35_format::Codec;

/// The model that is in the tree.
pub(super) const MODEL: &str = "examples/tiny-llama";
/// Sequences of 256 tokens that both sides calibrate with.
pub(super) const SEQUENCES: usize = 128;
/// The same in a quick run.
pub(super) const QUICK_SEQUENCES: usize = 32;
/// Bytes of test text in a quick run.
pub(super) const QUICK_BYTES: usize = 24_000;

/// Arguments of the row that all others are compared with.
pub(super) const F32: [&str; 2] = ["--codec", "f32"];

/// One of our rows.
#[derive(Clone, Debug)]
pub(super) struct Ours {
    /// As the table shows it.
    pub(super) name: String,
    /// Arguments of `q35c compile`.
    pub(super) arguments: Vec<String>,
    /// Whether it is calibrated, and with how many sequences if not with as many as all.
    pub(super) calibrated: Calibrated,
    /// Whether activations stay in floating point: the bundle's weights, decoded, run as f32.
    pub(super) float_activations: bool,
    /// Whether a quick run has it.
    pub(super) quick: bool,
}

/// How a row is calibrated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Calibrated {
    /// Rounded to nearest.
    No,
    /// With as many sequences as the table says.
    Table,
    /// With this many.
    With(usize),
}

/// The codec whose rows a quick run has, and which the ablation varies.
const STUDIED: Codec = Codec::W8;

impl Ours {
    /// A codec, rounded to nearest; `more` are further arguments, and what the name says of them.
    fn fast(codec: Codec, (says, more): (&str, &[&str])) -> Self {
        let arguments = ["--codec", codec.name()].iter().chain(more).map(|word| (*word).to_owned()).collect();
        Self { name: format!("{codec}{says}"), arguments, calibrated: Calibrated::No, float_activations: false, quick: false }
    }

    /// The same, calibrated.
    fn best(codec: Codec, (says, more): (&str, &[&str])) -> Self {
        Self { name: format!("{codec} best{says}"), calibrated: Calibrated::Table, ..Self::fast(codec, (says, more)) }
    }

    fn in_quick_runs(self) -> Self {
        Self { quick: true, ..self }
    }

    fn with_float_activations(self) -> Self {
        Self { name: self.name + ", float activations", float_activations: true, ..self }
    }

    fn with_sequences(self, count: usize) -> Self {
        Self { name: format!("{}, {count} sequences", self.name), calibrated: Calibrated::With(count), ..self }
    }
}

const PLAIN: (&str, &[&str]) = ("", &[]);
const NOT_ROTATED: (&str, &[&str]) = (", not rotated", &["--rotate", "off"]);
const GROUPS: [(&str, &[&str]); 2] = [(", groups of 128", &["--group", "128"]), (", groups of 64", &["--group", "64"])];

/// The rows of the table: f32, 8 bits, and every pair codec, each in both efforts. Codecs that the target has no kernels for are left out.
pub(super) fn ours(runs: &dyn Fn(Codec) -> bool) -> Vec<Ours> {
    let pairs = || Codec::all().filter(|codec| codec.window().is_some() && runs(*codec));
    let quick = |row: Ours, codec| if codec == STUDIED { row.in_quick_runs() } else { row };
    let mut rows = vec![Ours::fast(Codec::F32, PLAIN).in_quick_runs(), Ours::fast(Codec::Q8, PLAIN).in_quick_runs()];
    rows.push(Ours::fast(Codec::Split, NOT_ROTATED));
    rows.extend(pairs().map(|codec| quick(Ours::fast(codec, PLAIN), codec)));
    rows.push(Ours::best(Codec::Split, NOT_ROTATED));
    rows.extend(pairs().map(|codec| quick(Ours::best(codec, PLAIN), codec)));
    rows.push(Ours::best(STUDIED, GROUPS[0]));
    rows
}

/// The ablation: topics, each with its rows.
pub(super) fn ablation(runs: &dyn Fn(Codec) -> bool) -> Vec<(&'static str, Ours)> {
    let pairs = Codec::all().filter(|codec| codec.window().is_some() && runs(*codec));
    let finest = pairs.min_by(|a, b| a.facts().mse.total_cmp(&b.facts().mse)).unwrap_or(STUDIED);
    let efforts = |how| [Ours::fast(STUDIED, how), Ours::best(STUDIED, how)];
    let rotation = [NOT_ROTATED, PLAIN].into_iter().flat_map(efforts).map(|row| ("rotation", row));
    let groups = GROUPS.into_iter().flat_map(efforts).map(|row| ("groups", row));
    let calibration = [8, 32, 128, 512].map(|count| ("calibration", Ours::best(STUDIED, PLAIN).with_sequences(count)));
    let floats = [Ours::fast(Codec::Q8, PLAIN), Ours::best(STUDIED, PLAIN), Ours::best(finest, PLAIN)];
    let activations = floats.map(|row| ("activations", row.with_float_activations()));
    rotation.chain(groups).chain(calibration).chain(activations).collect()
}

/// One of llama.cpp's rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// As the table shows it.
    pub(super) name: &'static str,
    /// llama.cpp's name of the type.
    pub(super) kind: &'static str,
    /// Whether it is made with an importance matrix.
    pub(super) importance: bool,
    /// Whether a quick run has it.
    pub(super) quick: bool,
}

const fn peer(name: &'static str, kind: &'static str, importance: bool, quick: bool) -> Peer {
    Peer { name, kind, importance, quick }
}

/// The rows of llama.cpp; the first is its f32.
pub(super) const PEERS: [Peer; 11] = [
    peer("F32", "F32", false, true),
    peer("Q8_0", "Q8_0", false, false),
    peer("Q4_K_M, imatrix", "Q4_K_M", true, true),
    peer("Q4_0", "Q4_0", false, true),
    peer("Q4_0, imatrix", "Q4_0", true, false),
    peer("IQ4_XS, imatrix", "IQ4_XS", true, false),
    peer("Q3_K_M, imatrix", "Q3_K_M", true, false),
    peer("Q3_K_S", "Q3_K_S", false, true),
    peer("Q3_K_S, imatrix", "Q3_K_S", true, false),
    peer("IQ3_S, imatrix", "IQ3_S", true, false),
    peer("IQ3_XXS, imatrix", "IQ3_XXS", true, false),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_that_runs_has_a_row_in_both_efforts() {
        let rows = ours(&|codec| codec != Codec::W11);
        let has = |name: &str| rows.iter().any(|row| row.name == name);
        assert_eq!((rows[0].name.as_str(), &rows[0].arguments[..]), ("f32", &F32.map(str::to_owned)[..]));
        assert!(has("w7") && has("w7 best") && has("split") && has("w12 best") && !has("w11") && !has("w11 best"));
        let quick: Vec<&str> = rows.iter().filter(|row| row.quick).map(|row| row.name.as_str()).collect();
        assert_eq!(quick, ["f32", "q8", "w8", "w8 best"]);
        let ablation = ablation(&|codec| codec <= Codec::W9);
        let names: Vec<&str> =
            ablation.iter().filter(|(topic, _)| *topic == "activations").map(|(_, row)| row.name.as_str()).collect();
        assert_eq!(names, ["q8, float activations", "w8 best, float activations", "w9 best, float activations"]);
    }
}
