//! What a compile did to a weight before rounding it, undone.

use q35_dialects::model::Transform;
use q35_dialects::values::read;
use q35_format::rotate;

/// Undoes `transforms`, last first, on rows of `cols` numbers of which the first is row `first` of the parameter. Where rows were mixed, `rows` is all of them.
pub(super) fn all(transforms: &[Transform], first: usize, cols: usize, rows: &mut [f32]) {
    transforms.iter().rev().for_each(|transform| one(transform, first, cols, rows));
}

fn one(transform: &Transform, first: usize, cols: usize, rows: &mut [f32]) {
    match transform {
        Transform::ScaleColumns(by) => {
            let by = read(by).data;
            rows.iter_mut().enumerate().for_each(|(at, x)| *x = divided(*x, by[at % cols]));
        }
        Transform::ScaleRows(by) => {
            let by = read(by).data;
            rows.iter_mut().enumerate().for_each(|(at, x)| *x = divided(*x, by[first + at / cols]));
        }
        Transform::Scale(by) => rows.iter_mut().for_each(|x| *x = divided(*x, *by)),
        Transform::RotateInput { block, seed } => {
            rows.chunks_exact_mut(cols).for_each(|row| rotate::inverse(row, *block as usize, *seed));
        }
        Transform::RotateOutput { block, seed } => {
            for col in 0..cols {
                let mut column: Vec<f32> = rows[col..].iter().step_by(cols).copied().collect();
                rotate::inverse(&mut column, *block as usize, *seed);
                rows[col..].iter_mut().step_by(cols).zip(column).for_each(|(x, y)| *x = y);
            }
        }
    }
}

/// `x / by`; 0 for a factor of 0, which leaves nothing of whatever stood there.
fn divided(x: f32, by: f32) -> f32 {
    if by == 0.0 { 0.0 } else { x / by }
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_dialects::model::{Param, ParamRole};
    use q35_dialects::values::transformed;
    use q35_format::gauss::Gauss;
    use q35_graph::{Axis, Tensor, WeightView};

    fn view(rows: u64, cols: u64, seed: u64) -> WeightView {
        let numbers: Vec<f32> = Gauss::new(seed).take((rows * cols) as usize).collect();
        let axes = (Axis { len: rows, stride: cols as i64 }, Axis { len: cols, stride: 1 });
        WeightView::dense(Tensor::from_f32(vec![rows, cols], &numbers), 0, axes.0, axes.1).unwrap()
    }

    #[test]
    fn what_was_done_is_undone() {
        let source = view(8, 12, 1);
        let original = read(&source).data;
        let transforms = vec![
            Transform::ScaleColumns(view(1, 12, 2)),
            Transform::ScaleRows(view(1, 8, 3)),
            Transform::RotateInput { block: 4, seed: 9 },
            Transform::Scale(0.25),
            Transform::RotateOutput { block: 8, seed: 7 },
        ];
        let mut rows =
            transformed(&Param { transforms: transforms.clone(), ..Param::new(source, ParamRole::Linear, "w") }).data;
        all(&transforms, 0, 12, &mut rows);
        let worst = rows.iter().zip(&original).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
        // Rows that were not mixed can be undone alone.
        let mut rows =
            transformed(&Param { transforms: transforms[..4].to_vec(), ..Param::new(view(8, 12, 1), ParamRole::Linear, "w") })
                .data;
        all(&transforms[..4], 5, 12, &mut rows[60..72]);
        assert!(rows[60..72].iter().zip(&original[60..]).all(|(x, y)| (x - y).abs() < 1e-4));
    }

    #[test]
    fn a_factor_of_zero_leaves_zero() {
        let mut rows = [3.0, 4.0];
        all(&[Transform::Scale(0.0)], 0, 2, &mut rows);
        assert_eq!(rows, [0.0, 0.0]);
    }
}
