//! Linear layers alone: exact, and how close to the bound of installing their weights.

mod support;

use q35_format::Codec;
use q35_target_groq::schedule_linear;
use q35_tsp::geometry::LANES;
use q35_tsp::program::{Image, Place, Program};
use q35_tsp::geometry::Unit;
use q35_tsp::isa::Instr;
use q35_tsp::timing::Timing;
use q35_tsp_sim::{Chip, host};
use support::{Random, Toy};

/// Cycles from the first load of weights to the end of the program.
fn cycles(program: &Program) -> u32 {
    let weights = program.queues.iter().filter(|(queue, _)| queue.unit() == Unit::Weights);
    let first = weights.filter_map(|(_, issues)| issues.first()).map(|issue| issue.cycle).min().unwrap();
    program.data.cycles - first
}

#[test]
fn a_split_layer_is_exact() {
    let (outputs, inputs) = (600, 1100);
    let program = schedule_linear(outputs, inputs).unwrap();
    let (mut toy, mut random) = (Toy::default(), Random::new(5));
    toy.matrix("weight", outputs as usize, inputs as usize, Codec::Split, &mut random);
    let mut chip = Chip::new(&program, Timing::tsp1()).unwrap();
    host::load(&mut chip, &program.data, &toy).unwrap();
    let x: Vec<i8> = (0..inputs).map(|_| random.below(255) as i8).collect();
    // The rounded input's vectors are the first bytes that multiplications read; their places follow from the first rows of bytes.
    let places = support::byte_rows(&program, x.len().div_ceil(512) * 2);
    for (v, place) in places.into_iter().enumerate() {
        let element = |lane: usize| if lane < 256 { x.get(v / 2 * 512 + v % 2 + 2 * lane).copied().unwrap_or(0) } else { 0 };
        let bytes: [u8; LANES] = std::array::from_fn(|lane| element(lane) as u8);
        chip.write(place, &bytes).unwrap();
    }
    let sums = |odd: usize| x.iter().skip(odd).step_by(2).map(|x| i32::from(*x)).sum::<i32>();
    let correction = 8 * sums(0) - 128 * sums(1);
    let [scale, corrected] = support::constant_quads();
    chip.write_words(scale, &[2f32.to_bits(); LANES]).unwrap();
    chip.write_words(corrected, &[correction as u32; LANES]).unwrap();
    chip.run().unwrap_or_else(|fault| panic!("{fault}"));
    let mut y = vec![0.0; outputs as usize];
    host::logits(&chip, &program.data, &mut y).unwrap();
    let scales = host::Parameters::scales(&toy, "weight").unwrap();
    for (row, y) in y.iter().enumerate() {
        let q = host::Parameters::integers(&toy, "weight", row).unwrap();
        let sum: i32 = q.iter().zip(&x).map(|(q, x)| i32::from(*q) * i32::from(*x)).sum();
        assert_eq!(*y, sum as f32 * scales[row] * 2.0, "row {row}");
    }
}

#[test]
fn large_layers_run_at_the_rate_of_installing() {
    for (outputs, inputs) in [(4096u64, 4096u64), (14336, 4096)] {
        let program = schedule_linear(outputs, inputs).unwrap();
        let bound = outputs * inputs / 20_480;
        let found = cycles(&program);
        println!("{outputs}x{inputs}: {found} cycles, bound {bound}, ratio {:.3}", f64::from(found) / bound as f64);
        assert!(u64::from(found) < 2 * bound);
        let _ = (Image::Bytes { place: Place { slice: q35_tsp::geometry::Slice::new(q35_tsp::geometry::Side::East, 0), address: 0 }, runs: vec![] }, Instr::Install {});
    }
}
