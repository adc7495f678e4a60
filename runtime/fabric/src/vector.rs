//! Vector operations over memory: what they compute, and how many cycles they take.

use half::f16;
use half::slice::HalfFloatSliceExt;
use q35_csl::builtins::{Source, VECTOR_OPS, VectorOp};
use q35_csl::value::{Dsd, Elem, Place};
use q35_csl::{Fault, Value};

type Result<T> = std::result::Result<T, Fault>;

/// An operand with its type fixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operand {
    /// Words of memory: first element, elements from one to the next.
    Memory(usize, i64, Elem),
    /// An input queue.
    In(u8),
    /// An output queue.
    Out(u8),
    /// The bits of a scalar.
    Scalar(u32),
}

/// A vector operation, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vector {
    pub(crate) op: &'static VectorOp,
    pub(crate) dst: Operand,
    pub(crate) src: [Operand; 3],
    pub(crate) count: usize,
    pub(crate) len: usize,
}

impl Vector {
    /// From a builtin's arguments: types, extents, bounds of memory.
    pub(crate) fn new(op: usize, args: &[Value], memory: usize) -> Result<Self> {
        let op = &VECTOR_OPS[op];
        let fail = |what: &str| Fault::new(format!("@{}: {what}", op.name));
        let dst = args[0].dsd()?;
        let len = dst.extent;
        let (mut src, count) = ([Operand::Scalar(0); 3], op.src.len());
        let place = |dsd: Dsd, elem: Elem| -> Result<Operand> {
            if dsd.extent != len {
                return Err(fail(&format!("operands of {len} and {} elements", dsd.extent)));
            }
            match dsd.place {
                Place::FabricIn { queue } => Ok(Operand::In(queue)),
                Place::FabricOut { queue } => Ok(Operand::Out(queue)),
                Place::Memory { base, stride, elem: of, end } => {
                    let same = of == elem || (of.words() == 1 && elem == Elem::U16 && of != Elem::F16) || xp16(op, of, elem);
                    if !same {
                        return Err(fail(&format!("a DSD over {} where {} is wanted", of.name(), elem.name())));
                    }
                    let last = base as i64 + stride * (len as i64 - 1).max(0) * elem.words() as i64;
                    let (low, high) = (last.min(base as i64), last.max(base as i64) + elem.words() as i64);
                    if len > 0 && (low < 0 || high > end.min(memory) as i64) {
                        return Err(fail(&format!("words {low} to {high} of an array that ends at {end}")));
                    }
                    Ok(Operand::Memory(base, stride, elem))
                }
            }
        };
        let to = place(dst, op.dst)?;
        if matches!(to, Operand::In(_)) {
            return Err(fail("an input queue as destination"));
        }
        let mut inputs = 0;
        for (at, (source, value)) in op.src.iter().zip(&args[1..]).enumerate() {
            src[at] = match (source, value) {
                (Source::DsdOrScalar(elem), Value::Dsd(dsd)) => place(*dsd, *elem)?,
                (Source::DsdOrScalar(elem) | Source::Scalar(elem), value) => Operand::Scalar(bits(*elem, value)?),
            };
            inputs += usize::from(matches!(src[at], Operand::In(_)));
            if matches!(src[at], Operand::Out(_)) {
                return Err(fail("an output queue as source"));
            }
        }
        if inputs > 1 {
            return Err(fail("two input queues"));
        }
        let vector = Self { op, dst: to, src, count, len };
        if vector.on_fabric() && (op.dst.words() != 2 || op.src.iter().any(|s| *s != Source::DsdOrScalar(Elem::F32))) {
            return Err(fail("this model sends and receives 32-bit elements only"));
        }
        Ok(vector)
    }

    /// Whether wavelets take part.
    pub(crate) fn on_fabric(&self) -> bool {
        self.output().is_some() || self.input().is_some()
    }

    /// The queue it sends to.
    pub(crate) fn output(&self) -> Option<u8> {
        match self.dst {
            Operand::Out(queue) => Some(queue),
            _ => None,
        }
    }

    /// The queue it receives from.
    pub(crate) fn input(&self) -> Option<u8> {
        self.src[..self.count].iter().find_map(|src| match src {
            Operand::In(queue) => Some(*queue),
            _ => None,
        })
    }

    /// Cycles of its elements when all lie in memory: the table's width, less where strides meet few banks.
    pub(crate) fn cycles(&self) -> u64 {
        let limit = |operand: &Operand| match operand {
            Operand::Memory(_, stride, _) => match (*stride, stride.rem_euclid(8)) {
                (0 | 1, _) => usize::MAX,
                (_, 0) => 1,
                (_, 1 | 4 | 7) => 2,
                _ => usize::MAX,
            },
            _ => usize::MAX,
        };
        let width = std::iter::once(&self.dst).chain(&self.src[..self.count]).map(limit).min().unwrap_or(1);
        self.len.div_ceil(self.op.width.min(width)) as u64
    }

    /// One element, whose wavelet, if one takes part, is `wavelet`. Gives what goes to memory or leaves.
    pub(crate) fn element(&self, memory: &[u16], at: usize, wavelet: u32) -> u32 {
        let mut x = [0; 3];
        for (x, src) in x.iter_mut().zip(&self.src[..self.count]) {
            *x = match src {
                Operand::In(_) => wavelet,
                other => load(other, memory, at),
            };
        }
        compute(self.op.name, x)
    }

    /// Stores an element.
    pub(crate) fn store(&self, memory: &mut [u16], at: usize, bits: u32) {
        if let Operand::Memory(base, stride, elem) = self.dst {
            let word = (base as i64 + stride * (at as i64) * elem.words() as i64) as usize;
            memory[word] = bits as u16;
            if elem.words() == 2 {
                memory[word + 1] = (bits >> 16) as u16;
            }
        }
    }

    /// All elements, in memory.
    pub(crate) fn run(&self, memory: &mut [u16], scratch: &mut Scratch) {
        if !self.fast(memory, scratch) {
            for at in 0..self.len {
                let bits = self.element(memory, at, 0);
                self.store(memory, at, bits);
            }
        }
    }

    /// The operations of a matrix product at unit strides, a row at a time; the same results.
    fn fast(&self, memory: &mut [u16], scratch: &mut Scratch) -> bool {
        let n = self.len;
        match (self.op.name, self.dst, self.src) {
            (
                "fmachs",
                Operand::Memory(dst, 1, _),
                [Operand::Memory(src, 1, _), Operand::Memory(h, 1, _), Operand::Scalar(x)],
            ) if dst == src => {
                let x = f16::from_bits(x as u16).to_f32();
                scratch.0.resize(n, 0.0);
                let halves: &[f16] = half::slice::HalfBitsSliceExt::reinterpret_cast(&memory[h..h + n]);
                halves.convert_to_f32_slice(&mut scratch.0);
                for (pair, h) in memory[dst..dst + 2 * n].chunks_exact_mut(2).zip(&scratch.0) {
                    // The product of two f16 is exact in f32: one rounding.
                    let sum = f32::from_bits(u32::from(pair[0]) | u32::from(pair[1]) << 16) + h * x;
                    pair[0] = sum.to_bits() as u16;
                    pair[1] = (sum.to_bits() >> 16) as u16;
                }
                true
            }
            (name @ ("sll16" | "sar16"), Operand::Memory(dst, 1, _), [Operand::Memory(src, 1, _), Operand::Scalar(by), _]) => {
                if by > 15 {
                    return false;
                }
                for at in 0..n {
                    let word = memory[src + at];
                    memory[dst + at] = if name == "sll16" { word << by } else { ((word as i16) >> by) as u16 };
                }
                true
            }
            ("xp162fh", Operand::Memory(dst, 1, _), [Operand::Memory(src, 1, _), ..]) => {
                for at in 0..n {
                    memory[dst + at] = f16::from_f32(f32::from(memory[src + at] as i16)).to_bits();
                }
                true
            }
            _ => false,
        }
    }
}

/// Room that operations use again and again.
#[derive(Debug, Default)]
pub(crate) struct Scratch(Vec<f32>);

/// Integers that `xp162fh` reads are signed.
fn xp16(op: &VectorOp, of: Elem, elem: Elem) -> bool {
    op.name == "xp162fh" && elem == Elem::U16 && of == Elem::I16
}

fn bits(elem: Elem, value: &Value) -> Result<u32> {
    let mut words = [0u16; 2];
    // Amounts of shifts and masks are written as any whole number.
    elem.write(&mut words, 0, value)?;
    Ok(u32::from(words[0]) | u32::from(words[1]) << 16)
}

fn load(operand: &Operand, memory: &[u16], at: usize) -> u32 {
    match *operand {
        Operand::Scalar(bits) => bits,
        Operand::Memory(base, stride, elem) => {
            let word = (base as i64 + stride * (at as i64) * elem.words() as i64) as usize;
            let high = if elem.words() == 2 { memory[word + 1] } else { 0 };
            u32::from(memory[word]) | u32::from(high) << 16
        }
        Operand::In(_) | Operand::Out(_) => 0,
    }
}

/// One element of an operation, from bits to bits.
fn compute(name: &str, [a, b, c]: [u32; 3]) -> u32 {
    let s = f32::from_bits;
    let h = |bits: u32| f16::from_bits(bits as u16).to_f32();
    let of_h = |x: f32| u32::from(f16::from_f32(x).to_bits());
    let (wa, wb) = (a as u16, b as u16);
    match name {
        "fmovs" => a,
        "fadds" => (s(a) + s(b)).to_bits(),
        "fsubs" => (s(a) - s(b)).to_bits(),
        "fmuls" => (s(a) * s(b)).to_bits(),
        "fmaxs" => s(a).max(s(b)).to_bits(),
        "fmacs" => s(b).mul_add(s(c), s(a)).to_bits(),
        "fmachs" => (s(a) + h(b) * h(c)).to_bits(),
        "fmovh" | "mov16" => a & 0xffff,
        "faddh" => of_h(h(a) + h(b)),
        "fmulh" => of_h(h(a) * h(b)),
        // In f64 the product and the sum of f16 are exact: one rounding.
        "fmach" => u32::from(f16::from_f64(f64::from(h(a)) + f64::from(h(b)) * f64::from(h(c))).to_bits()),
        "fs2h" => of_h(s(a)),
        "fh2s" => h(a).to_bits(),
        "xp162fh" => of_h(f32::from(wa as i16)),
        "and16" => u32::from(wa & wb),
        "or16" => u32::from(wa | wb),
        "xor16" => u32::from(wa ^ wb),
        "sll16" => u32::from(wa.checked_shl(wb.into()).unwrap_or(0)),
        "slr16" => u32::from(wa.checked_shr(wb.into()).unwrap_or(0)),
        "sar16" => u32::from(((wa as i16) >> wb.min(15)) as u16),
        other => unreachable!("the table of operations has no {other}"),
    }
}
