//! Around layers of experts: the routed rows by expert, and the sum of what the experts gave.

use super::{Kernel, element, set};
use crate::abi::Call;
use crate::group::Team;
use q35_launch::layout::{entry, routing_stride, row_at};
use q35_launch::spec::{Combine, SortByExpert};
use q35_mlir::builder::Val;
use q35_mlir::types::{F32, I32};

/// A thread counts the rows of its experts, and places them in their order: every thread reads the whole routing, which few rows make short
/// and the cache cheap. Nothing depends on which thread is faster.
impl Kernel for SortByExpert {
    fn shared_bytes(&self) -> u32 {
        4 * self.experts as u32
    }

    fn build<'k>(&self, call: &Call<'k>) {
        let b = call.b;
        let (routing, order) = (call.arg(0), call.arg(1));
        let (section, choices) = self.routed.section();
        let (choices, experts) = (choices as i64, self.experts as i64);
        let routed = call.dim(section.dim()) * choices;
        let starts = order.at(routed * 4);
        let counts = b.shared(self.shared_bytes(), 16);
        let stride = routing_stride(choices as usize) as i64;
        let expert_of = |at: Val<'k>| routing.at(at.div_u(choices) * stride + at.rem_u(choices) * 4).load(I32, 4);

        call.each(Team::Group, experts, |expert| {
            let own = expert.to(I32);
            let count = b.for_iter(0, routed, 1, b.i32(0), |at, count: Val<'k>| expert_of(at).eq(own).select(count + 1, count));
            counts.at(expert * 4).store(count, 4);
        });
        call.barrier();
        call.each(Team::Group, experts, |expert| {
            let own = expert.to(I32);
            let add = |at: Val<'k>, sum: Val<'k>| sum + entry(counts, at);
            let start = b.for_iter(0, expert, 1, b.i64(0), add);
            starts.at(expert * 4).store(start.to(I32), 4);
            let end = b.for_iter(0, routed, 1, start, |at, next: Val<'k>| {
                let mine = expert_of(at).eq(own);
                b.if_(mine, || order.at(next * 4).store(at.to(I32), 4));
                mine.select(next + 1, next)
            });
            b.if_(expert.eq(experts - 1), || starts.at(experts * 4).store(end.to(I32), 4));
        });
    }
}

impl Kernel for Combine {
    fn build<'k>(&self, call: &Call<'k>) {
        let choices = self.choices as i64;
        let row = call.arg(1).at(call.tile * routing_stride(self.choices as usize) as i64);
        let to = row_at(call.arg(2), call.tile, self.width);
        call.each(Team::Group, self.width as i64, |column| {
            let sum = call.b.for_iter(0, choices, 1, call.b.f32(0.0), |choice, sum: Val<'k>| {
                let weight = row.at((choice + choices) * 4).load(F32, 4);
                let x = row_at(call.arg(0), call.tile * choices + choice, self.width);
                weight.mul_add(element(x, column), sum)
            });
            set(to, column, sum);
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::testing::{Arg, GPUS, Random, floats, rows, run};
    use q35_dialects::Rows;

    /// A routing as the kernel that chooses leaves it.
    fn routing(rows: usize, choices: usize, experts: usize, random: &mut Random) -> (Vec<i32>, Vec<f32>, Arg) {
        let mut chosen = Vec::new();
        for _ in 0..rows {
            let first = random.next() as usize % experts;
            chosen.extend((0..choices).map(|at| ((first + 3 * at) % experts) as i32));
        }
        let weights = random.numbers(rows * choices, 1.0);
        let mut bytes = Vec::new();
        for (experts, weights) in chosen.chunks(choices).zip(weights.chunks(choices)) {
            bytes.extend(experts.iter().flat_map(|n| n.to_le_bytes()).map(Some));
            bytes.extend(weights.iter().flat_map(|n| n.to_le_bytes()).map(Some));
            bytes.resize(bytes.len().next_multiple_of(routing_stride(choices)), None);
        }
        (chosen, weights, Arg::Bytes(bytes))
    }

    #[test]
    fn rows_are_listed_by_expert_and_sums_are_weighted() {
        let mut random = Random(3);
        for (count, choices, experts) in [(1usize, 2usize, 5usize), (9, 2, 4), (40, 3, 300)] {
            let (chosen, weights, arg) = routing(count, choices, experts, &mut random);
            let mut expected: Vec<i32> = (0..chosen.len() as i32).collect();
            expected.sort_by_key(|&row| (chosen[row as usize], row));
            for expert in 0..=experts {
                expected.push(chosen.iter().filter(|&&e| (e as usize) < expert).count() as i32);
            }
            let sort = SortByExpert { experts: experts as u64, routed: Rows::TokenChoices(choices as u32) };
            let width = 70;
            let x = random.numbers(count * choices * width, 1.0);
            let combine = Combine { width: width as u64, choices: choices as u64 };
            for gpu in &GPUS {
                let space = Arg::space(4 * (count * choices + experts + 2));
                let after = run(gpu, &sort, &[arg.clone(), space], [count as i64, 0, 0, 0]);
                let got: Vec<i32> = floats(&after[1]).iter().map(|bits| bits.to_bits() as i32).collect();
                assert_eq!(got[..expected.len()], expected, "{count} {choices} {experts}");

                let args = [Arg::rows(&x, width), arg.clone(), Arg::blank(count, width)];
                let after = run(gpu, &combine, &args, [count as i64, 0, 0, 0]);
                for (at, got) in rows(&after[2], width).into_iter().enumerate() {
                    let (row, column) = (at / width, at % width);
                    let term =
                        |sum: f32, j: usize| weights[row * choices + j].mul_add(x[(row * choices + j) * width + column], sum);
                    assert_eq!(got, (0..choices).fold(0.0, term), "{row} {column}");
                }
            }
        }
    }
}
