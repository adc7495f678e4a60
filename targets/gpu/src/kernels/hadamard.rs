//! Rotation of rows by a random-sign block Hadamard transform, to the bit as the format crate's `rotate` defines it.
//!
//! A block at a time stands in shared memory. A thread takes up to eight elements, three butterfly distances apart, through three stages
//! before it writes them back and the group meets at a barrier.

use super::{Kernel, element, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use q35_format::rotate::signs;
use q35_launch::spec::{Hadamard, butterfly};
use q35_mlir::builder::Val;
use q35_mlir::types::{F32, I8, I32};

/// Stages between two barriers.
const STAGES: u32 = 3;

/// The longest block: what shared memory holds.
pub(crate) const LONGEST_BLOCK: u64 = 1 << 13;

impl Kernel for Hadamard {
    fn shared_bytes(&self) -> u32 {
        4 * self.block as u32
    }

    fn build<'k>(&self, call: &Call<'k>) {
        let (b, block) = (call.b, self.block as i64);
        let flips: Vec<u8> = signs(self.seed, self.block as usize).map(|s| if s < 0.0 { 0x80 } else { 0 }).collect();
        let flips = b.table_in(call.isa.table_space(), &flips, 16);
        let flip = |value: Val<'k>, at: Val<'k>| {
            let sign = flips.at(at).load(I8, 1).to_u(I32) << 24;
            (value.bitcast(I32) ^ sign).bitcast(F32)
        };
        let norm = f64::from(1.0 / (self.block as f32).sqrt());
        let shared = b.shared(self.shared_bytes(), 16);
        let (from, to) = (row_at(call.arg(0), call.tile, self.width), row_at(call.arg(1), call.tile, self.width));
        b.for_(0, self.width as i64, block, |start| {
            let (from, to) = (from.at(start * 4), to.at(start * 4));
            // A thread reads and writes the same elements here as at the end of the block before: no barrier is needed between.
            call.each(Team::Group, block, |at| {
                let value = element(from, at);
                set(shared, at, if self.inverse { value } else { flip(value, at) });
            });
            let mut distance = 1;
            while distance < block {
                let stages = STAGES.min((block / distance).ilog2());
                call.barrier();
                call.each(Team::Group, block >> stages, |number| {
                    let first = number.div_u(distance) * (distance << stages) + number.rem_u(distance);
                    let places: Vec<Val<'_>> = (0..1i64 << stages).map(|i| first + i * distance).collect();
                    let mut values: Vec<Val<'_>> = places.iter().map(|&at| element(shared, at)).collect();
                    (0..stages).for_each(|stage| butterfly(&mut values, 1 << stage));
                    places.iter().zip(values).for_each(|(&at, value)| set(shared, at, value));
                });
                distance <<= stages;
            }
            call.barrier();
            call.each(Team::Group, block, |at| {
                let scaled = element(shared, at) * norm;
                set(to, at, if self.inverse { flip(scaled, at) } else { scaled });
            });
        });
    }
}
