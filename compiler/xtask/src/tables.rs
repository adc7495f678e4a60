//! Training of the pair tables: `runtime/format/tables/w7.bin` to `w12.bin`.
//!
//! Generalized Lloyd iteration for a trellis-coded vector quantizer. A table starts as random points of the source.
//! Each round encodes a fresh stretch of the unit Gaussian source with the trellis search of the encoder itself, then
//! moves every point to the mean of the pairs that were given to it, plus Gaussian noise that fades to nothing over
//! the first four fifths of the rounds (it lets points leave poor arrangements). A point that nothing was given to
//! starts again beside the most used one. At the end points are multiplied by the codec's `sigma` and rounded to i8.
//! The iteration finds one of many near-best arrangements; where they differ by more than the format's stated
//! precision, several restarts are made and the one of least error on a held-out stretch of the source is kept.
//!
//! The result depends on the constants below and nothing else: the source uses IEEE-exact operations only, sums are
//! taken in integers (so threads may add in any order), and the search is the same on every machine.

use std::path::{Path, PathBuf};

use q35_format::Codec;
use q35_format::gauss::Gauss;
use q35_format::trellis::{LANES, Lane, Scratch, Trellis};
use rayon::prelude::*;

/// Columns of a training row.
const COLUMNS: usize = 4096;
/// Standard deviation of the noise in the first round, in units of the source's.
const NOISE: f32 = 0.05;
/// Share of the rounds that have noise.
const NOISY: f32 = 0.8;
/// Fixed-point unit of the sums.
const UNIT: f32 = (1 << 20) as f32;

/// First block of the held-out stretch, beyond all training, and its length.
const HELD_OUT_FIRST: u64 = 1 << 40;
const HELD_OUT: u64 = 64;

/// How long one table is trained.
struct Recipe {
    codec: Codec,
    restarts: u64,
    rounds: u64,
    /// Blocks of `LANES` rows per round.
    blocks: u64,
}

const RECIPES: [Recipe; 6] = [
    Recipe { codec: Codec::W7, restarts: 24, rounds: 400, blocks: 8 },
    Recipe { codec: Codec::W8, restarts: 4, rounds: 1500, blocks: 16 },
    Recipe { codec: Codec::W9, restarts: 2, rounds: 400, blocks: 16 },
    Recipe { codec: Codec::W10, restarts: 1, rounds: 300, blocks: 16 },
    Recipe { codec: Codec::W11, restarts: 1, rounds: 150, blocks: 32 },
    Recipe { codec: Codec::W12, restarts: 1, rounds: 100, blocks: 32 },
];

/// What an encoded stretch says about one point: how many pairs were given to it, their sum in `UNIT`s, and the sum of
/// their squared distances from it in `UNIT`s.
type Sums = [i64; 4];

/// The chore. Arguments: the codecs to train, all if none is named, and `--check`.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let (flags, names): (Vec<&str>, Vec<&str>) = arguments.iter().map(String::as_str).partition(|word| word.starts_with('-'));
    let check = !flags.is_empty();
    let known = |name: &&str| RECIPES.iter().any(|recipe| recipe.codec.name() == *name);
    if flags.iter().any(|flag| *flag != "--check") || !names.iter().all(known) {
        return Err("tables takes names of trained codecs, w7 to w12, and --check".into());
    }
    let mut stale = Vec::new();
    for recipe in RECIPES.iter().filter(|recipe| names.is_empty() || names.contains(&recipe.codec.name())) {
        let path = folder().join(format!("{}.bin", recipe.codec));
        let bytes = train(recipe);
        if !check {
            std::fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
            println!("{}: written", recipe.codec);
        } else if std::fs::read(&path).ok() == Some(bytes) {
            println!("{}: reproduced", recipe.codec);
        } else {
            stale.push(path.display().to_string());
        }
    }
    if stale.is_empty() { Ok(()) } else { Err(format!("differs from what is checked in: {}", stale.join(", "))) }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtime/format/tables")
}

/// The best table of all restarts, as bytes.
fn train(recipe: &Recipe) -> Vec<u8> {
    let sigma = recipe.codec.facts().sigma;
    let tables = (0..recipe.restarts).map(|restart| {
        let integers: Vec<[i8; 2]> =
            train_once(recipe, restart).iter().map(|point| point.map(|x| to_integer(x * sigma))).collect();
        let points: Vec<[f32; 2]> = integers.iter().map(|pair| pair.map(|x| f32::from(x) / sigma)).collect();
        let error: i64 = encode_stretch(&points, HELD_OUT_FIRST, HELD_OUT).iter().map(|sums| sums[3]).sum();
        (error, integers)
    });
    let best = tables.min_by_key(|(error, _)| *error);
    best.iter().flat_map(|(_, integers)| integers.as_flattened()).map(|x| *x as u8).collect()
}

fn to_integer(x: f32) -> i8 {
    x.round_ties_even().clamp(-127.0, 127.0) as i8
}

/// One restart: points in units of the source's standard deviation.
fn train_once(recipe: &Recipe, restart: u64) -> Vec<[f32; 2]> {
    let points = 1usize << recipe.codec.window().unwrap_or_default();
    let mut random = Gauss::new(restart);
    let mut draw = move || random.next().unwrap_or_default();
    let mut table: Vec<[f32; 2]> = (0..points).map(|_| [draw(), draw()]).collect();
    for round in 0..recipe.rounds {
        let first = recipe.restarts + (restart * recipe.rounds + round) * recipe.blocks;
        let sums = encode_stretch(&table, first, recipe.blocks);
        let noise = NOISE * (1.0 - (round + 1) as f32 / (NOISY * recipe.rounds as f32)).max(0.0);
        let most_used = (0..points).max_by_key(|&i| sums[i][0]).map_or([0.0; 2], |i| table[i]);
        for (point, [count, x, y, _]) in table.iter_mut().zip(sums) {
            let (mean, spread) = match count {
                0 => (most_used, noise.max(0.02)),
                _ => ([x, y].map(|sum| sum as f32 / UNIT / count as f32), noise),
            };
            *point = mean.map(|coordinate| coordinate + spread * draw());
        }
    }
    table
}

/// Encodes the stretch of the source that starts at block `first`.
fn encode_stretch(table: &[[f32; 2]], first: u64, blocks: u64) -> Vec<Sums> {
    let trellis = Trellis::new(table);
    let none = || vec![[0; 4]; table.len()];
    (first..first + blocks)
        .into_par_iter()
        .map_init(Default::default, |(containers, scratch): &mut (Vec<Lane<u8>>, Scratch), block| {
            let mut source = Gauss::new(block);
            let x: Vec<Lane<f32>> = (0..COLUMNS).map(|_| std::array::from_fn(|_| source.next().unwrap_or_default())).collect();
            trellis.search(&x, containers, scratch);
            let mut sums = none();
            for (j, x) in x.as_chunks::<2>().0.iter().enumerate() {
                for lane in 0..LANES {
                    let next = containers.get(j + 1).map_or(0, |next| next[lane]);
                    let window = (usize::from(next) << 7 | usize::from(containers[j][lane])) & (table.len() - 1);
                    let ([a, b], [x, y]) = (table[window], x.map(|x| x[lane]));
                    let distance = (a - x) * (a - x) + (b - y) * (b - y);
                    let sums: &mut Sums = &mut sums[window];
                    sums[0] += 1;
                    for (sum, term) in sums[1..].iter_mut().zip([x, y, distance]) {
                        *sum += (term * UNIT) as i64;
                    }
                }
            }
            sums
        })
        .reduce(none, |mut left, right| {
            for (left, right) in left.as_flattened_mut().iter_mut().zip(right.as_flattened()) {
                *left += right;
            }
            left
        })
}
