//! Tensors of an inputs file as integers and floats.

use super::bad;
use super::rows::Grid;
use half::{bf16, f16};
use q35_diag::Result;
use safetensors::tensor::{Dtype, TensorView};

/// A matrix of integers: i32, i64, or truth values.
pub(super) fn grid(name: &str, tensor: &TensorView<'_>) -> Result<Grid> {
    let &[rows, columns] = tensor.shape() else {
        return Err(bad(format!("the tensor has shape {:?} instead of [batch, tokens]", tensor.shape()))
            .at("input", name)
            .into());
    };
    let data = tensor.data();
    let values = match tensor.dtype() {
        Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        Dtype::I32 => data.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
        Dtype::BOOL | Dtype::U8 => data.iter().map(|b| i64::from(*b)).collect(),
        other => return Err(bad(format!("the tensor holds {other} instead of i64 or i32")).at("input", name).into()),
    };
    Ok(Grid { rows, columns, values })
}

/// All elements: f32, f16 or bf16.
pub(super) fn floats(name: &str, tensor: &TensorView<'_>) -> Result<Vec<f32>> {
    let data = tensor.data();
    Ok(match tensor.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => return Err(bad(format!("the tensor holds {other} instead of f32, f16 or bf16")).at("input", name).into()),
    })
}
