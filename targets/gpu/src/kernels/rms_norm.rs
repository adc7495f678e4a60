//! Root-mean-square normalization of rows, or of groups of columns such as heads.

use super::{Kernel, bits, element, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use q35_mlir::builder::Val;

/// Which factors follow the normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormWeight {
    /// None.
    None,
    /// As many as a group has columns, the same for all groups.
    Shared,
    /// One per column of the row.
    PerColumn,
}

/// `y = x / sqrt(mean(x^2) + eps) * weight` per group of columns. Arguments: x, the weight where there is one, y.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// Columns.
    pub width: u64,
    /// Columns that are normalized together; divides the width.
    pub group: u64,
    /// Added to the mean square.
    pub eps: f32,
    /// Factors.
    pub weight: NormWeight,
}

impl Kernel for RmsNorm {
    fn name(&self) -> String {
        let weight = match self.weight {
            NormWeight::None => "plain",
            NormWeight::Shared => "shared",
            NormWeight::PerColumn => "columns",
        };
        format!("rms_norm_{}_by_{}_{weight}_{}", self.width, self.group, bits(self.eps))
    }

    fn args(&self) -> usize {
        2 + usize::from(self.weight != NormWeight::None)
    }

    /// A row that is one group is normalized by all threads, smaller groups by a wave each.
    fn build(&self, call: &Call<'_>) {
        let groups = (self.width / self.group) as i64;
        if groups == 1 {
            return self.normalize(call, Team::Group, call.b.i64(0));
        }
        call.b.for_(call.wave(), groups, i64::from(call.waves()), |group| self.normalize(call, Team::Wave, group));
    }
}

impl RmsNorm {
    fn normalize<'k>(&self, call: &Call<'k>, team: Team, group: Val<'k>) {
        let (b, columns) = (call.b, self.group as i64);
        let offset = group * (4 * columns);
        let from = row_at(call.arg(0), call.tile, self.width).at(offset);
        let to = row_at(call.arg(self.args() - 1), call.tile, self.width).at(offset);
        let weight = match self.weight {
            NormWeight::None => None,
            NormWeight::Shared => Some(call.arg(1)),
            NormWeight::PerColumn => Some(call.arg(1).at(offset)),
        };
        let (threads, number) = call.members(team);
        let squares = b.for_iter(number, columns, i64::from(threads), b.f32(0.0), |column, sum: Val<'k>| {
            let x = element(from, column);
            x.mul_add(x, sum)
        });
        let mean = call.sum(team, squares) / self.group as f64;
        let inverse = b.f32(1.0) / (mean + f64::from(self.eps)).sqrt();
        call.each(team, columns, |column| {
            let normal = element(from, column) * inverse;
            set(to, column, weight.map_or(normal, |weight| normal * element(weight, column)));
        });
    }
}
