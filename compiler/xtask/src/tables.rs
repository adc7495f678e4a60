//! Training of the pair tables: `runtime/format/tables/w7.bin` to `w12.bin` and `a11.bin`.
//!
//! Generalized Lloyd iteration for a trellis-coded vector quantizer. A table starts as random points of the source.
//! Each round encodes a fresh stretch of the unit Gaussian source with the trellis search of the encoder itself, then
//! moves every point to the mean of the pairs that were given to it, plus Gaussian noise that fades to nothing over
//! the first four fifths of the rounds (it lets points leave poor arrangements). A point that nothing was given to
//! starts again beside the most used one. At the end points are multiplied by the codec's `sigma` and rounded to i8.
//! The points of an additive table are sums of entries of its parts, so it is the entries that move: part by part, each
//! to the mean of what the other parts leave over, a few sweeps per round.
//! The iteration finds one of many near-best arrangements; where they differ by more than the format's stated
//! precision, several restarts are made and the one of least error on a held-out stretch of the source is kept.
//!
//! The result depends on the constants below and nothing else: the source uses IEEE-exact operations only, sums are
//! taken in integers (so threads may add in any order), and the search is the same on every machine.

use std::path::{Path, PathBuf};

use clap::Args;
use q35_format::Codec;
use q35_format::codec::{ADDITIVE_LIMIT, FIELD_BITS};
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

const RECIPES: [Recipe; 7] = [
    Recipe { codec: Codec::W7, restarts: 24, rounds: 400, blocks: 8 },
    Recipe { codec: Codec::W8, restarts: 4, rounds: 1500, blocks: 16 },
    Recipe { codec: Codec::W9, restarts: 2, rounds: 400, blocks: 16 },
    Recipe { codec: Codec::W10, restarts: 1, rounds: 300, blocks: 16 },
    Recipe { codec: Codec::W11, restarts: 1, rounds: 150, blocks: 32 },
    Recipe { codec: Codec::W12, restarts: 1, rounds: 100, blocks: 32 },
    Recipe { codec: Codec::A11, restarts: 8, rounds: 400, blocks: 8 },
];

/// What an encoded stretch says about one point: how many pairs were given to it, their sum in `UNIT`s, and the sum of
/// their squared distances from it in `UNIT`s.
type Sums = [i64; 4];

/// What was asked for.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Codecs to train; all if none is named
    #[arg(value_parser = RECIPES.map(|recipe| recipe.codec.name()))]
    codecs: Vec<String>,
    /// Compare with those checked in
    #[arg(long)]
    check: bool,
}

/// The chore.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let Options { codecs, check } = options;
    let mut stale = Vec::new();
    for recipe in RECIPES.iter().filter(|recipe| codecs.is_empty() || codecs.iter().any(|name| recipe.codec.name() == name)) {
        let path = folder().join(format!("{}.bin", recipe.codec));
        let bytes = train(recipe)?;
        if !*check {
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
fn train(recipe: &Recipe) -> Result<Vec<u8>, String> {
    let sigma = recipe.codec.facts().sigma;
    let shape = Shape::of(recipe.codec);
    let tables = (0..recipe.restarts).map(|restart| {
        let integers: Vec<[i8; 2]> =
            train_once(recipe, &shape, restart).iter().map(|point| point.map(|x| to_integer(x * sigma))).collect();
        let entries: Vec<Point> = integers.iter().map(|pair| pair.map(|x| f32::from(x) / sigma)).collect();
        let table = shape.table(&entries);
        let fits = table.as_flattened().iter().all(|x| (x * sigma).abs() < shape.limit() + 0.5);
        let error: i64 = encode_stretch(&table, HELD_OUT_FIRST, HELD_OUT).iter().map(|sums| sums[3]).sum();
        fits.then_some((error, integers))
    });
    let best = tables.flatten().min_by_key(|(error, _)| *error);
    let (_, integers) = best.ok_or_else(|| format!("{}: every restart left the range of its integers", recipe.codec))?;
    Ok(integers.as_flattened().iter().map(|x| *x as u8).collect())
}

fn to_integer(x: f32) -> i8 {
    x.round_ties_even().clamp(-127.0, 127.0) as i8
}

/// One restart: entries in units of the source's standard deviation.
fn train_once(recipe: &Recipe, shape: &Shape, restart: u64) -> Vec<Point> {
    let mut random = Gauss::new(restart);
    let mut draw = move || random.next().unwrap_or_default();
    let mut entries: Vec<Point> = (0..shape.entries()).map(|_| [draw(), draw()].map(|x| x * shape.spread())).collect();
    for round in 0..recipe.rounds {
        let first = recipe.restarts + (restart * recipe.rounds + round) * recipe.blocks;
        let sums = encode_stretch(&shape.table(&entries), first, recipe.blocks);
        let noise = NOISE * (1.0 - (round + 1) as f32 / (NOISY * recipe.rounds as f32)).max(0.0);
        match shape {
            Shape::Free { .. } => to_means(&mut entries, &sums, noise, &mut draw),
            Shape::Sum { fields, .. } => {
                to_residual_means(&mut entries, fields, &sums);
                entries.as_flattened_mut().iter_mut().for_each(|x| *x += noise * draw());
            }
        }
    }
    shape.centred(entries)
}

/// A point of the plane, two neighbouring weights.
type Point = [f32; 2];

/// How the points of a table follow from what is trained.
enum Shape {
    /// Every one of `2^window` points is an entry.
    Free { window: u32 },
    /// A point is the sum of one entry of each part.
    Sum { window: u32, fields: &'static [u32] },
}

/// Entries of a part.
const PART: usize = 1 << FIELD_BITS;

/// The entry of part `i`, which starts at bit `field`, that a window takes.
fn entry(i: usize, field: u32, window: usize) -> usize {
    i * PART + (window >> field & (PART - 1))
}

impl Shape {
    fn of(codec: Codec) -> Shape {
        let (window, fields) = (codec.window().unwrap_or_default(), codec.facts().fields);
        if fields.is_empty() { Shape::Free { window } } else { Shape::Sum { window, fields } }
    }

    fn entries(&self) -> usize {
        match self {
            Shape::Free { window } => 1 << window,
            Shape::Sum { fields, .. } => fields.len() * PART,
        }
    }

    /// Standard deviation of the entries at the start: that of the points is 1.
    fn spread(&self) -> f32 {
        match self {
            Shape::Free { .. } => 1.0,
            Shape::Sum { fields, .. } => 1.0 / (fields.len() as f32).sqrt(),
        }
    }

    /// The largest absolute value of an integer of the table.
    fn limit(&self) -> f32 {
        match self {
            Shape::Free { .. } => 127.0,
            Shape::Sum { .. } => ADDITIVE_LIMIT.into(),
        }
    }

    fn table(&self, entries: &[Point]) -> Vec<Point> {
        match self {
            Shape::Free { .. } => entries.to_vec(),
            Shape::Sum { window, fields } => (0..1 << window)
                .map(|window| {
                    let terms = fields.iter().enumerate().map(|(i, field)| entries[entry(i, *field, window)]);
                    terms.fold([0.0; 2], |[a, b], [x, y]| [a + x, b + y])
                })
                .collect(),
        }
    }

    /// The same table with every part about 0: what one part gains, another may lose.
    fn centred(&self, mut entries: Vec<Point>) -> Vec<Point> {
        if let Shape::Sum { .. } = self {
            let mean = |part: &[Point], c: usize| part.iter().map(|point| point[c]).sum::<f32>() / PART as f32;
            for part in entries.chunks_exact_mut(PART) {
                let means = [mean(part, 0), mean(part, 1)];
                part.iter_mut().for_each(|point| *point = [point[0] - means[0], point[1] - means[1]]);
            }
        }
        entries
    }
}

/// Moves every point to the mean of its pairs, and by some noise.
fn to_means(table: &mut [Point], sums: &[Sums], noise: f32, draw: &mut impl FnMut() -> f32) {
    let most_used = (0..table.len()).max_by_key(|&i| sums[i][0]).map_or([0.0; 2], |i| table[i]);
    for (point, [count, x, y, _]) in table.iter_mut().zip(sums) {
        let (mean, spread) = match count {
            0 => (most_used, noise.max(0.02)),
            _ => ([x, y].map(|sum| *sum as f32 / UNIT / *count as f32), noise),
        };
        *point = mean.map(|coordinate| coordinate + spread * draw());
    }
}

/// Sweeps over the parts per round.
const SWEEPS: usize = 4;

/// Moves the entries of each part in turn to the mean of what the pairs leave after the other parts' entries.
fn to_residual_means(entries: &mut [Point], fields: &[u32], sums: &[Sums]) {
    for part in (0..fields.len()).cycle().take(SWEEPS * fields.len()) {
        let mut rest = vec![[0.0f64; 3]; PART];
        for (window, [count, x, y, _]) in sums.iter().enumerate() {
            let own = entry(part, fields[part], window);
            let rest = &mut rest[own - part * PART];
            rest[0] += *count as f64;
            for (c, sum) in [x, y].into_iter().enumerate() {
                let others = fields.iter().enumerate().filter(|(i, _)| *i != part);
                let others: f32 = others.map(|(i, field)| entries[entry(i, *field, window)][c]).sum();
                rest[c + 1] += *sum as f64 / f64::from(UNIT) - *count as f64 * f64::from(others);
            }
        }
        for (point, [count, x, y]) in entries[part * PART..][..PART].iter_mut().zip(rest) {
            if count > 0.0 {
                *point = [(x / count) as f32, (y / count) as f32];
            }
        }
    }
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
