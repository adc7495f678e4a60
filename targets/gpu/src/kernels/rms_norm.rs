//! Root-mean-square normalization of rows, or of groups of columns such as heads.

use super::{Kernel, element, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use q35_launch::Spec;
use q35_launch::spec::{NormWeight, RmsNorm};
use q35_mlir::builder::Val;

impl Kernel for RmsNorm {
    /// A row that is one group is normalized by all threads, smaller groups by a wave each.
    fn build(&self, call: &Call<'_>) {
        let groups = (self.width / self.group) as i64;
        if groups == 1 {
            return normalize(self, call, Team::Group, call.b.i64(0));
        }
        call.b.for_(call.wave(), groups, i64::from(call.waves()), |group| normalize(self, call, Team::Wave, group));
    }
}

fn normalize<'k>(norm: &RmsNorm, call: &Call<'k>, team: Team, group: Val<'k>) {
    let (b, columns) = (call.b, norm.group as i64);
    let offset = group * (4 * columns);
    let from = row_at(call.arg(0), call.tile, norm.width).at(offset);
    let to = row_at(call.arg(norm.args() - 1), call.tile, norm.width).at(offset);
    let weight = match norm.weight {
        NormWeight::None => None,
        NormWeight::Shared => Some(call.arg(1)),
        NormWeight::PerColumn => Some(call.arg(1).at(offset)),
    };
    let (threads, number) = call.members(team);
    let squares = b.for_iter(number, columns, i64::from(threads), b.f32(0.0), |column, sum: Val<'k>| {
        let x = element(from, column);
        x.mul_add(x, sum)
    });
    let mean = call.sum(team, squares) / norm.group as f64;
    let inverse = b.f32(1.0) / (mean + f64::from(norm.eps)).sqrt();
    call.each(team, columns, |column| {
        let normal = element(from, column) * inverse;
        set(to, column, weight.map_or(normal, |weight| normal * element(weight, column)));
    });
}
