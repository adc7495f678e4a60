//! Everything that treats the elements of a row one by one.

use q35_launch::spec::Pointwise;
use q35_mlir::builder::Operand;
use q35_mlir::types::F32;

use super::columns::each;
use super::{Kernel, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;

impl Kernel for Pointwise {
    fn build(&self, level: Level, call: &Call<'_>) {
        let a = call.arg(0);
        let second = self.operation.is_binary().then(|| call.arg(1));
        let y = call.arg(1 + usize::from(second.is_some()));
        let count = lanes(level);
        call.for_tiles(|row| {
            let (from, to) = (row_at(a, row, self.width), row_at(y, row, self.width));
            let second = second.map(|b| row_at(b, row, if self.column { 1 } else { self.width }));
            let column = second.filter(|_| self.column).map(|b| b.load(F32, 4).as_type(call.b, F32.x(count)));
            each(call.b, count, self.width, |at| {
                let second = column.or_else(|| second.map(|b| at.load(b)));
                at.store(to, self.operation.apply(at.load(from), second));
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, close, numbers, rows, run};
    use super::*;
    use q35_dialects::q35::Activation;
    use q35_launch::Spec;
    use q35_launch::spec::Operation;

    fn check(operation: Operation, tolerance: f64, exact: impl Fn(f64, f64) -> f64) {
        for (width, column) in [(1, false), (16, false), (45, false), (45, true)] {
            if column && !operation.is_binary() {
                continue;
            }
            let columns_of_b = if column { 1 } else { width };
            let (a, b) = (numbers(3 * width, 6.0), numbers(3 * columns_of_b, 9.0));
            let pairs = a.iter().enumerate().map(|(i, &a)| (a, b[if column { i / width } else { i }]));
            let exact: Vec<f64> = pairs.map(|(a, b)| exact(a.into(), b.into())).collect();
            let mut args = vec![Arg::rows(&a, width), Arg::rows(&b, columns_of_b), Arg::zeros(3, width)];
            if !operation.is_binary() {
                args.remove(1);
            }
            run(&Pointwise { operation, width: width as u64, column }, args, [3, 0, 0, 0], 3, |level, args| {
                let what = format!("{operation:?} {level:?} {width} {column}");
                close(&rows(args.last().unwrap(), width), &exact, tolerance, &what);
            });
        }
    }

    #[test]
    fn arithmetic() {
        check(Operation::Add, 6e-8, |a, b| a + b);
        check(Operation::Mul, 6e-8, |a, b| a * b);
        check(Operation::Scale(0.3), 1e-7, |a, _| a * f64::from(0.3f32));
        check(Operation::Softcap(4.0), 4e-7, |a, _| 4.0 * (a / 4.0).tanh());
    }

    #[test]
    fn activations() {
        use Activation::{Gelu, GeluTanh, Relu, Sigmoid, Silu, Tanh};
        for kind in [Gelu, GeluTanh, Relu, Sigmoid, Silu, Tanh] {
            check(Operation::Activate(kind), 5e-7, |a, _| kind.eval(a));
        }
    }

    #[test]
    fn gated_units() {
        let glu = |activation, limit, alpha, offset| Operation::Glu { activation, limit, alpha, offset };
        let silu = |x: f64| x / (1.0 + (-x).exp());
        check(glu(Activation::Silu, None, 1.0, 0.0), 5e-7, |a, b| silu(a) * b);
        check(glu(Activation::Relu, None, 1.0, 0.0), 5e-7, |a, b| a.max(0.0) * b);
        check(glu(Activation::GeluTanh, Some(3.0), 1.0, 0.0), 5e-7, |a, b| {
            Activation::GeluTanh.eval(a.min(3.0)) * b.clamp(-3.0, 3.0)
        });
        let alpha = 1.702f32;
        check(glu(Activation::Silu, Some(7.0), alpha, 1.0), 5e-7, |a, b| {
            let gate = a.min(7.0);
            gate / (1.0 + (-f64::from(alpha) * gate).exp()) * (b.clamp(-7.0, 7.0) + 1.0)
        });
    }

    #[test]
    fn names_tell_specs_apart() {
        let name = |operation, column| Pointwise { operation, width: 8, column }.name();
        let glu = |limit, alpha| Operation::Glu { activation: Activation::Silu, limit, alpha, offset: 0.0 };
        let mut names = vec![
            name(Operation::Add, false),
            name(Operation::Add, true),
            name(Operation::Mul, false),
            name(Operation::Scale(1.5), false),
            name(Operation::Scale(1.25), false),
            name(Operation::Activate(Activation::Silu), false),
            name(glu(None, 1.0), false),
            name(glu(Some(1.0), 1.0), false),
            name(glu(None, 1.5), false),
        ];
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
