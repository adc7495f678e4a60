//! How fast weights are encoded on one core, codec by codec: `cargo run --release -p q35-format --example encode [ROWS COLS]`.

use q35_format::encode::encode;
use q35_format::gauss::Gauss;
use q35_format::{Codec, FormatError, Group, PackedSpec};
use std::time::Instant;

/// Runs of which the fastest counts.
const RUNS: usize = 3;

fn main() -> Result<(), FormatError> {
    let mut sizes = std::env::args().skip(1).filter_map(|word| word.parse().ok());
    let (rows, cols): (usize, usize) = (sizes.next().unwrap_or(64), sizes.next().unwrap_or(2048));
    let weights: Vec<f32> = Gauss::new(1).take(rows * cols).collect();
    for codec in Codec::all().filter(|codec| codec.has_scales()) {
        let spec = PackedSpec::new(rows, cols, codec, Group::Row)?;
        let mut seconds = f64::INFINITY;
        for _ in 0..RUNS {
            let started = Instant::now();
            encode(spec, &weights)?;
            seconds = seconds.min(started.elapsed().as_secs_f64());
        }
        println!("{:<6} {:8.2} M weights/s", codec.name(), weights.len() as f64 / seconds / 1e6);
    }
    Ok(())
}
