//! The host's part: memory before the first step, input vectors before every step, logits and cache entries after it.

use crate::{Chip, Vector, Words};
use q35_tsp::geometry::{COLUMNS_PER_LOAD, LANES, SUPERLANE};
use q35_tsp::lanes::Lanes;
use q35_tsp::program::{Angle, Block, CacheVectors, Data, Image, Input, Place, Quad, TileBytes, UNSEEN, lanes_of_runs};

/// Whoever has the parameters.
pub trait Parameters {
    /// Rows and columns.
    fn shape(&self, param: &str) -> Result<[usize; 2], String>;

    /// The integers of a row of a quantized parameter.
    fn integers(&self, param: &str, row: usize) -> Result<Vec<i8>, String>;

    /// A row as numbers, whatever the codec.
    fn numbers(&self, param: &str, row: usize) -> Result<Vec<f32>, String>;

    /// The scale of every row.
    fn scales(&self, param: &str) -> Result<Vec<f32>, String>;
}

/// What a step decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Token.
    pub token: u32,
    /// Position, as RoPE counts.
    pub position: u32,
    /// Which cache entry it becomes.
    pub entry: u32,
}

fn spread(lanes: &Lanes, elements: &[f32], other: f32) -> Result<Words, String> {
    let mut words = [other.to_bits(); LANES];
    for (lane, element) in lanes.pairs(elements.len())? {
        words[lane] = elements[element].to_bits();
    }
    Ok(words)
}

fn offset(quad: Quad, by: u32) -> Result<Quad, String> {
    let address = u32::from(quad.address).checked_add(by).and_then(|a| u16::try_from(a).ok());
    Ok(Quad { address: address.ok_or("an address is too large")?, ..quad })
}

/// Fills memory.
pub fn load(chip: &mut Chip, data: &Data, params: &dyn Parameters) -> Result<(), String> {
    data.images.iter().try_for_each(|image| load_image(chip, image, params))
}

/// The integers of a pair; what is missing after an odd number of columns meets activations of 0.
fn pair(integers: &[i8], at: usize) -> [i8; 2] {
    [integers[2 * at], integers.get(2 * at + 1).copied().unwrap_or(2)]
}

fn load_image(chip: &mut Chip, image: &Image, params: &dyn Parameters) -> Result<(), String> {
    match image {
        Image::Words { quad, runs } => {
            let words = lanes_of_runs(runs)?;
            chip.write_words(*quad, &std::array::from_fn(|lane| words[lane]))
        }
        Image::Bytes { place, runs } => {
            let bytes = lanes_of_runs(runs)?;
            chip.write(*place, &std::array::from_fn(|lane| bytes[lane]))
        }
        Image::Zeros { quad, count } => {
            (0..u32::from(*count)).try_for_each(|at| chip.write_words(offset(*quad, at)?, &[0; LANES]))
        }
        Image::Numbers { quad, param, row, lanes } => {
            chip.write_words(*quad, &spread(lanes, &params.numbers(param, *row as usize)?, 0.0)?)
        }
        Image::Scales { quad, param, lanes, factor } => {
            let scales: Vec<f32> = params.scales(param)?.into_iter().map(|scale| scale * factor).collect();
            chip.write_words(*quad, &spread(lanes, &scales, 0.0)?)
        }
        Image::Tile { slices, address, stride, param, bytes, blocks } => {
            let [rows, cols] = params.shape(param)?;
            if slices.is_empty() {
                return Err("a tile lies nowhere".to_owned());
            }
            let elements = match bytes {
                TileBytes::Integer => cols,
                TileBytes::Pair => cols.div_ceil(2),
            };
            let mut columns = vec![[0u8; LANES]; LANES];
            let mut used = 0;
            for Block { outputs, inputs, guest } in blocks {
                let (outputs, inputs) = (outputs.pairs(rows)?, inputs.pairs(elements)?);
                let guests = guest.as_ref().map_or(Ok(vec![]), |guest| guest.outputs.pairs(rows))?;
                used = outputs.iter().chain(&guests).map(|(column, _)| column + 1).fold(used, usize::max);
                for (column, row) in outputs {
                    let integers = params.integers(param, row)?;
                    for (lane, element) in &inputs {
                        columns[column][*lane] = match bytes {
                            TileBytes::Integer => integers[*element] as u8,
                            TileBytes::Pair => {
                                let [a, b] = pair(&integers, *element);
                                // Within -127 to 127: a and b of `split` are odd numbers up to 15 and twice odd numbers up to 7.
                                a.wrapping_mul(8).wrapping_add(b / 2) as u8 & if guest.is_some() { !1 } else { !0 }
                            }
                        };
                    }
                }
                let bit = guest.as_ref().map_or(0, |guest| guest.bit);
                for (column, row) in guests {
                    let integers = params.integers(param, row)?;
                    for (lane, element) in &inputs {
                        let [a, b] = pair(&integers, *element);
                        let code = (a >> 1) & 15 | (b.wrapping_add(14) >> 2) << 4;
                        columns[column][*lane] |= (code >> bit.min(6)) as u8 & 1;
                    }
                }
            }
            let used = used.next_multiple_of(COLUMNS_PER_LOAD).min(LANES);
            for (column, bytes) in columns.iter().enumerate().take(used) {
                let slice = slices[column % slices.len()];
                let further = (column / slices.len()) as u32 * u32::from(*stride);
                let address = u16::try_from(u32::from(*address) + further).map_err(|_| "an address is too large")?;
                chip.write(Place { slice, address }, bytes)?;
            }
            Ok(())
        }
    }
}

/// Writes the input vectors of a step.
pub fn feed(chip: &mut Chip, data: &Data, params: &dyn Parameters, step: Step) -> Result<(), String> {
    for input in &data.inputs {
        match input {
            Input::Embedding { quad, param, lanes } => {
                chip.write_words(*quad, &spread(lanes, &params.numbers(param, step.token as usize)?, 0.0)?)?;
            }
            Input::Angles { quad, param, function, scale, lanes } => {
                let angles = params.numbers(param, 0)?;
                let of = |frequency: &f32| {
                    let angle = f64::from(step.position as f32 * frequency);
                    match function {
                        Angle::Cos => angle.cos() as f32 * scale,
                        Angle::Sin => angle.sin() as f32 * scale,
                    }
                };
                let values: Vec<f32> = angles.iter().map(of).collect();
                chip.write_words(*quad, &spread(lanes, &values, if *function == Angle::Cos { 1.0 } else { 0.0 })?)?;
            }
            Input::Entry { place } => {
                let entry = u16::try_from(step.entry).map_err(|_| "the entry is too large")?.to_le_bytes();
                let bytes: Vector = std::array::from_fn(|lane| entry.get(lane % SUPERLANE).copied().unwrap_or(0));
                chip.write(*place, &bytes)?;
            }
            Input::Seen { quad, lanes, window } => {
                let first = window.map_or(0, |window| (step.entry + 1).saturating_sub(window));
                let seen: Vec<f32> =
                    (0..data.capacity).map(|entry| if (first..=step.entry).contains(&entry) { 0.0 } else { UNSEEN }).collect();
                chip.write_words(*quad, &spread(lanes, &seen, UNSEEN)?)?;
            }
        }
    }
    Ok(())
}

/// Reads the logits of a step.
pub fn logits(chip: &Chip, data: &Data, out: &mut [f32]) -> Result<(), String> {
    for output in &data.outputs {
        let words = chip.read_words(output.quad)?;
        for (lane, token) in output.lanes.pairs(out.len())? {
            out[token] = f32::from_bits(words[lane]);
        }
    }
    Ok(())
}

/// Reads a cache entry: `out` has all columns, head by head.
pub fn read_entry(chip: &Chip, half: &CacheVectors, entry: u32, out: &mut [f32]) -> Result<(), String> {
    for (quad, lanes) in &half.vectors {
        let words = chip.read_words(offset(*quad, entry)?)?;
        for (lane, column) in lanes.pairs(out.len())? {
            out[column] = f32::from_bits(words[lane]);
        }
    }
    Ok(())
}

/// Writes a cache entry.
pub fn write_entry(chip: &mut Chip, half: &CacheVectors, entry: u32, columns: &[f32]) -> Result<(), String> {
    half.vectors.iter().try_for_each(|(quad, lanes)| chip.write_words(offset(*quad, entry)?, &spread(lanes, columns, 0.0)?))
}
