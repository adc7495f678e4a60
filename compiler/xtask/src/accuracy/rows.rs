//! What the table consists of. Rows, models and sizes are data; nothing else in this folder names a codec.

/// The model that is in the tree.
pub(super) const MODEL: &str = "examples/tiny-llama";
/// Sequences of 256 tokens that both sides calibrate with.
pub(super) const SEQUENCES: usize = 128;
/// The same in a quick run.
pub(super) const QUICK_SEQUENCES: usize = 32;
/// Bytes of test text in a quick run.
pub(super) const QUICK_BYTES: usize = 24_000;

/// One of our rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours {
    /// As the table shows it.
    pub(super) name: &'static str,
    /// Arguments of `q35c compile`.
    pub(super) arguments: &'static [&'static str],
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

const fn fast(name: &'static str, arguments: &'static [&'static str], quick: bool) -> Ours {
    Ours { name, arguments, calibrated: Calibrated::No, float_activations: false, quick }
}

const fn best(name: &'static str, arguments: &'static [&'static str], quick: bool) -> Ours {
    Ours { name, arguments, calibrated: Calibrated::Table, float_activations: false, quick }
}

/// The rows of the table; the first is what all others are compared with.
pub(super) const OURS: [Ours; 15] = [
    fast("f32", &["--codec", "f32"], true),
    fast("q8", &["--codec", "q8"], true),
    fast("split, not rotated", &["--codec", "split", "--rotate", "off"], false),
    fast("split", &["--codec", "split"], false),
    fast("w7", &["--codec", "w7"], false),
    fast("w8", &["--codec", "w8"], true),
    fast("w9", &["--codec", "w9"], false),
    fast("w10", &["--codec", "w10"], false),
    best("split best, not rotated", &["--codec", "split", "--rotate", "off"], false),
    best("split best", &["--codec", "split"], false),
    best("w7 best", &["--codec", "w7"], false),
    best("w8 best", &["--codec", "w8"], true),
    best("w8 best, groups of 128", &["--codec", "w8", "--group", "128"], false),
    best("w9 best", &["--codec", "w9"], false),
    best("w10 best", &["--codec", "w10"], false),
];

/// The ablation: topics, each with its rows.
pub(super) fn ablation() -> Vec<(&'static str, Ours)> {
    const W8: &[&str] = &["--codec", "w8"];
    let with = |name, sequences| Ours { calibrated: Calibrated::With(sequences), ..best(name, W8, false) };
    let float = |row: Ours| Ours { float_activations: true, ..row };
    vec![
        ("rotation", fast("w8, not rotated", &["--codec", "w8", "--rotate", "off"], false)),
        ("rotation", fast("w8", W8, false)),
        ("rotation", best("w8 best, not rotated", &["--codec", "w8", "--rotate", "off"], false)),
        ("rotation", best("w8 best", W8, false)),
        ("groups", fast("w8, groups of 128", &["--codec", "w8", "--group", "128"], false)),
        ("groups", fast("w8, groups of 64", &["--codec", "w8", "--group", "64"], false)),
        ("groups", best("w8 best, groups of 128", &["--codec", "w8", "--group", "128"], false)),
        ("groups", best("w8 best, groups of 64", &["--codec", "w8", "--group", "64"], false)),
        ("calibration", with("w8 best, 8 sequences", 8)),
        ("calibration", with("w8 best, 32 sequences", 32)),
        ("calibration", with("w8 best, 128 sequences", 128)),
        ("calibration", with("w8 best, 512 sequences", 512)),
        ("activations", float(fast("q8, float activations", &["--codec", "q8"], false))),
        ("activations", float(best("w8 best, float activations", W8, false))),
        ("activations", float(best("w10 best, float activations", &["--codec", "w10"], false))),
    ]
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
