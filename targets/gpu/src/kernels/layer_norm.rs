//! Layer normalization of rows, or of groups of columns such as heads.
//!
//! The mean first, then the squares of what is left: two walks over columns that the nearest cache holds, and no difference of large sums.

use super::{Kernel, element, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use q35_launch::Spec;
use q35_launch::spec::{LayerNorm, NormWeight};
use q35_mlir::builder::Val;

impl Kernel for LayerNorm {
    /// A row that is one group is normalized by all threads, smaller groups by a wave each.
    fn build(&self, call: &Call<'_>) {
        let groups = (self.width / self.group) as i64;
        if groups == 1 {
            return normalize(self, call, Team::Group, call.b.i64(0));
        }
        call.b.for_(call.wave(), groups, i64::from(call.waves()), |group| normalize(self, call, Team::Wave, group));
    }
}

fn normalize<'k>(norm: &LayerNorm, call: &Call<'k>, team: Team, group: Val<'k>) {
    let (b, columns) = (call.b, norm.group as i64);
    let offset = group * (4 * columns);
    let from = row_at(call.arg(0), call.tile, norm.width).at(offset);
    let to = row_at(call.arg(norm.args() - 1), call.tile, norm.width).at(offset);
    let vector = |which: NormWeight, index: usize| match which {
        NormWeight::None => None,
        NormWeight::Shared => Some(call.arg(index)),
        NormWeight::PerColumn => Some(call.arg(index).at(offset)),
    };
    let (weight, bias) = (vector(norm.weight, 1), vector(norm.bias, norm.args() - 2));
    let (threads, number) = call.members(team);
    let total = |of: &dyn Fn(Val<'k>) -> Val<'k>| {
        let own =
            b.for_iter(number, columns, i64::from(threads), b.f32(0.0), |column, sum: Val<'k>| sum + of(element(from, column)));
        call.sum(team, own) / norm.group as f64
    };
    let mean = total(&|x| x);
    let variance = total(&|x| (x - mean) * (x - mean));
    let inverse = b.f32(1.0) / (variance + f64::from(norm.eps)).sqrt();
    call.each(team, columns, |column| {
        let normal = (element(from, column) - mean) * inverse;
        let weighted = weight.map_or(normal, |weight| normal * element(weight, column));
        set(to, column, bias.map_or(weighted, |bias| weighted + element(bias, column)));
    });
}
