//! Rounding of activations to int8.

use crate::data::{Data, QuantMatrix};
use crate::decl::op;
use crate::interp::Env;
use crate::semantics::{Cost, ParamTable, Semantics, matrix};
use crate::ty::Ty;
use q35_format::activation;

op! {
    /// Each row to int8 with one scale, symmetric, as module `activation` of the format crate defines it to the bit.
    Quantize = "quantize"(x: Act) -> Quant {}
}

impl Semantics for Quantize {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        let (rows, width) = matrix(&operands[0]);
        Ok(Ty::Quant { rows, width })
    }

    fn cost(&self, operands: &[Ty], result: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 4)
    }

    fn eval(&self, operands: &[&Data], _: &mut Env<'_>) -> q35_diag::Result<Data> {
        let x = operands[0].act();
        let mut data = vec![0; x.data.len()];
        let rows = x.data.chunks_exact(x.width).zip(data.chunks_exact_mut(x.width));
        let scales = rows.map(|(x, q)| activation::quantize(x, q)).collect();
        Ok(Data::Quant(QuantMatrix { width: x.width, data, scales }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act};

    #[test]
    fn each_row_has_its_scale() {
        let y = Bench::default().eval(Quantize {}, &[&act(3, &[127.0, -2.5, 1.5, 0.0, 0.0, 0.0])]);
        assert_eq!(y.quant(), &QuantMatrix { width: 3, data: vec![127, -2, 2, 0, 0, 0], scales: vec![1.0, 0.0] });
    }
}
