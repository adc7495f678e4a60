//! Training of the pair tables: `runtime/format/tables/w7.bin` to `w12.bin`.
//!
//! Generalized Lloyd iteration for a trellis-coded vector quantizer. A table starts as random points of the source.
//! Each round encodes a fresh stretch of the unit Gaussian source with the trellis search of the encoder itself, then
//! moves every point to the mean of the pairs that were given to it, plus Gaussian noise that fades to nothing over
//! the first four fifths of the rounds (it lets points leave poor arrangements). A point that nothing was given to
//! starts again beside the most used one. At the end points are multiplied by the codec's `sigma` and rounded to i8.
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

/// How long one table is trained.
struct Recipe {
    codec: Codec,
    rounds: u32,
    /// Blocks of `LANES` rows per round.
    blocks: u64,
}

const RECIPES: [Recipe; 6] = [
    Recipe { codec: Codec::W7, rounds: 600, blocks: 16 },
    Recipe { codec: Codec::W8, rounds: 600, blocks: 16 },
    Recipe { codec: Codec::W9, rounds: 400, blocks: 16 },
    Recipe { codec: Codec::W10, rounds: 300, blocks: 16 },
    Recipe { codec: Codec::W11, rounds: 150, blocks: 32 },
    Recipe { codec: Codec::W12, rounds: 100, blocks: 32 },
];

/// What a round learns about one point: how many pairs were given to it, and their sum in `UNIT`s.
type Sums = [i64; 3];

/// The chore. Arguments: nothing, or `--check`.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let check = match arguments {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => return Err("tables takes no argument but --check".into()),
    };
    let mut stale = Vec::new();
    for recipe in &RECIPES {
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

fn train(recipe: &Recipe) -> Vec<u8> {
    let facts = recipe.codec.facts();
    let points = 1usize << recipe.codec.window().unwrap_or_default();
    let mut random = Gauss::new(0);
    let mut draw = move || random.next().unwrap_or_default();
    let mut table: Vec<[f32; 2]> = (0..points).map(|_| [draw(), draw()]).collect();
    for round in 0..recipe.rounds {
        let sums = encode_round(&table, round, recipe.blocks);
        let noise = NOISE * (1.0 - (round + 1) as f32 / (NOISY * recipe.rounds as f32)).max(0.0);
        let most_used = (0..points).max_by_key(|&i| sums[i][0]).map_or([0.0; 2], |i| table[i]);
        for (point, [count, x, y]) in table.iter_mut().zip(sums) {
            let (mean, spread) = match count {
                0 => (most_used, noise.max(0.02)),
                _ => ([x, y].map(|sum| sum as f32 / UNIT / count as f32), noise),
            };
            *point = mean.map(|coordinate| coordinate + spread * draw());
        }
    }
    let round = |coordinate: f32| (coordinate * facts.sigma).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
    table.as_flattened().iter().map(|&coordinate| round(coordinate)).collect()
}

/// Encodes one round's stretch of the source and sums what each point was given.
fn encode_round(table: &[[f32; 2]], round: u32, blocks: u64) -> Vec<Sums> {
    let trellis = Trellis::new(table);
    let none = || vec![[0; 3]; table.len()];
    (0..blocks)
        .into_par_iter()
        .map_init(Default::default, |(containers, scratch): &mut (Vec<Lane<u8>>, Scratch), block| {
            let mut source = Gauss::new(1 + u64::from(round) * blocks + block);
            let x: Vec<Lane<f32>> = (0..COLUMNS).map(|_| std::array::from_fn(|_| source.next().unwrap_or_default())).collect();
            trellis.search(&x, containers, scratch);
            let mut sums = none();
            for (j, x) in x.as_chunks::<2>().0.iter().enumerate() {
                for lane in 0..LANES {
                    let next = containers.get(j + 1).map_or(0, |next| next[lane]);
                    let window = usize::from(next) << 7 | usize::from(containers[j][lane]);
                    let sums: &mut Sums = &mut sums[window & (table.len() - 1)];
                    sums[0] += 1;
                    sums[1] += (x[0][lane] * UNIT) as i64;
                    sums[2] += (x[1][lane] * UNIT) as i64;
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
