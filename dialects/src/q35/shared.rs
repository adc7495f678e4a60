//! What several ops have in common: shapes of results, elementwise evaluation.

use crate::data::{Data, Matrix};
use crate::semantics::{ensure, matrix};
use crate::ty::Ty;

/// Activations of `width` columns with the rows of an operand.
pub(crate) fn same_rows(operand: &Ty, width: u64) -> Ty {
    Ty::Act { rows: matrix(operand).0, width }
}

/// The type of two operands of one shape.
pub(crate) fn same_shape(operands: &[Ty]) -> Result<Ty, String> {
    ensure(operands[0] == operands[1], || format!("operands {} and {} differ in shape", operands[0], operands[1]))?;
    Ok(operands[0])
}

/// The type of two operands of one shape, or of which the second has one column.
pub(crate) fn same_shape_or_column(operands: &[Ty]) -> Result<Ty, String> {
    let (a, b) = (matrix(&operands[0]), matrix(&operands[1]));
    if a.0 == b.0 && b.1 == 1 { Ok(operands[0]) } else { same_shape(operands) }
}

/// `f` of each element.
pub(crate) fn map(x: &Data, f: impl Fn(f32) -> f32) -> Data {
    let x = x.act();
    Data::Act(Matrix::new(x.width, x.data.iter().map(|x| f(*x)).collect()))
}

/// `f` of each element of the first operand and its counterpart in the second, which may have one column.
pub(crate) fn zip(operands: &[&Data], f: impl Fn(f32, f32) -> f32) -> Data {
    let (a, b) = (operands[0].act(), operands[1].act());
    Data::Act(a.map_rows(a.width, |row, a, y| {
        let b = b.row(row);
        for (k, (a, y)) in a.iter().zip(y).enumerate() {
            *y = f(*a, b[k % b.len()]);
        }
    }))
}
