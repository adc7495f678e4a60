//! The instructions that kernels name because plain IR has no word for them, and what each of them computes.
//!
//! One table. A kernel of a level asks for an instruction by its row; in the level's plain form it gets the definition instead, so that
//! the kernel runs on machines that do not have the instruction. The definitions are written lane by lane and are slow. Conversions of half
//! precision have words in plain IR; where a machine lacks them, arithmetic stands in, because a kernel calls no library.

use crate::level::Level;
use q35_mlir::builder::Val;
use q35_mlir::math::{f16_bits_to_f32, f32_to_f16_bits};
use q35_mlir::types::{Elem, F16, F32, I8, I16, I32, I64, Ty};

impl Level {
    /// The f32 values of binary16 bits (i16), exact.
    pub(crate) fn halves_to_f32<'k>(self, bits: Val<'k>) -> Val<'k> {
        match self.has_half() {
            true => bits.bitcast(bits.ty().with_elem(F16.elem)).to(F32),
            false => f16_bits_to_f32(bits),
        }
    }

    /// The binary16 bits (i16) nearest to f32 values, of two the even ones.
    pub(crate) fn f32_to_halves<'k>(self, values: Val<'k>) -> Val<'k> {
        match self.has_half() {
            true => values.to(F16).bitcast(values.ty().with_elem(I16.elem)),
            false => f32_to_f16_bits(values),
        }
    }
}

/// An instruction.
pub(crate) struct Instruction {
    /// LLVM's name of it.
    name: &'static str,
    /// The same in plain IR.
    definition: for<'k> fn(&[Val<'k>]) -> Val<'k>,
}

/// `vpermi2b`: bytes of two vectors by the low seven bits of an index; operands: first vector, index, second vector.
pub(crate) const PERMUTE_128: Instruction = Instruction {
    name: "llvm.x86.avx512.vpermi2var.qi.512",
    definition: |args| look_up(&[args[0], args[2]], args[1], |at| at & 127),
};

/// `vpshufb` on 512 bits: bytes of the same quarter of a vector by the low four bits of an index, 0 where its highest bit is set.
pub(crate) const SHUFFLE_16_OF_512: Instruction = Instruction { name: "llvm.x86.avx512.pshuf.b.512", definition: shuffle_16 };

/// The same on 256 bits.
pub(crate) const SHUFFLE_16_OF_256: Instruction = Instruction { name: "llvm.x86.avx2.pshuf.b", definition: shuffle_16 };

/// `tbl` on one register: bytes of 16 by an index, 0 where it is larger.
pub(crate) const TABLE_16: Instruction = Instruction { name: "llvm.aarch64.neon.tbl1.v16i8", definition: table };

/// `tbl` on four registers: bytes of 64 by an index, 0 where it is larger.
pub(crate) const TABLE_64: Instruction = Instruction { name: "llvm.aarch64.neon.tbl4.v16i8", definition: table };

/// `vpgatherdd` on 256 bits; operands: what lanes get that are masked out, address, index, mask (its sign), factor of the index.
pub(crate) const GATHER: Instruction = Instruction {
    name: "llvm.x86.avx2.gather.d.d.256",
    definition: |args| {
        let &[otherwise, address, index, mask, factor] = args else { unreachable!("a gather has five operands") };
        let found = by_lane(&[index], I32, |index| address.at(index[0].to(I64) * factor.to_u(I64)).load(I32, 1));
        mask.lt(0).select(found, otherwise)
    },
};

/// `vpdpbusd` on 512 bits; operands: sums, unsigned bytes, signed bytes.
pub(crate) const DOT_512: Instruction =
    Instruction { name: "llvm.x86.avx512.vpdpbusd.512", definition: |args| dots(args, false) };

/// The same on 256 bits.
pub(crate) const DOT_256: Instruction =
    Instruction { name: "llvm.x86.avx512.vpdpbusd.256", definition: |args| dots(args, false) };

/// `sdot` on 128 bits; operands: sums, signed bytes, signed bytes.
pub(crate) const DOT_128: Instruction =
    Instruction { name: "llvm.aarch64.neon.sdot.v4i32.v16i8", definition: |args| dots(args, true) };

/// `vpmaddubsw` on 256 bits: sums of two products of an unsigned and a signed byte, at most what 16 bits hold.
pub(crate) const PAIRS_OF_BYTES: Instruction = Instruction {
    name: "llvm.x86.avx2.pmadd.ub.sw",
    definition: |args| {
        let wide = I32.x(args[0].lanes());
        let products = args[0].to_u(wide) * args[1].to(wide);
        (even(products) + odd(products)).max(-0x8000).min(0x7fff).to(I16)
    },
};

/// `vpmaddwd` on 256 bits: sums of two products of signed 16-bit integers.
pub(crate) const PAIRS_OF_WORDS: Instruction = Instruction {
    name: "llvm.x86.avx2.pmadd.wd",
    definition: |args| {
        let products = args[0].to(I32) * args[1].to(I32);
        even(products) + odd(products)
    },
};

/// `vpsignb` on 256 bits: the first operand times the sign of the second, -1, 0 or 1.
pub(crate) const SIGN: Instruction = Instruction {
    name: "llvm.x86.avx2.psign.b",
    definition: |args| {
        let (value, sign) = (args[0], args[1]);
        let zero = value.builder().constant(value.ty(), 0i64);
        sign.lt(0).select(-value, sign.eq(0).select(zero, value))
    },
};

impl Instruction {
    /// The instruction, or its definition, as the level says.
    pub(crate) fn call<'k>(&self, level: Level, args: &[Val<'k>], result: Ty) -> Val<'k> {
        if level.is_plain() { (self.definition)(args) } else { args[0].builder().intrinsic(self.name, args, result) }
    }
}

fn shuffle_16<'k>(args: &[Val<'k>]) -> Val<'k> {
    let (table, index) = (args[0], args[1]);
    let b = table.builder();
    let part = b.lanes(Elem::I8, &(0..table.lanes() as u8).map(|lane| lane & !15).collect::<Vec<u8>>());
    index.lt(0).select(b.constant(index.ty(), 0i64), look_up(&[table], (index & 15) | part, |at| at))
}

fn table<'k>(args: &[Val<'k>]) -> Val<'k> {
    let (tables, index) = (&args[..args.len() - 1], args[args.len() - 1]);
    let entries = 16 * tables.len() as i64;
    let found = look_up(tables, index, |at| at & (entries - 1));
    index.lt_u(entries).select(found, index.builder().constant(index.ty(), 0i64))
}

/// Sums, to each of which the products of four bytes are added; the first bytes are signed or not, the second are.
fn dots<'k>(args: &[Val<'k>], signed: bool) -> Val<'k> {
    let words = [args[0], args[1].bitcast(args[0].ty()), args[2].bitcast(args[0].ty())];
    by_lane(&words, I32, |words| {
        let byte = |word: Val<'k>, at: i64, signed: bool| {
            let top = word << (24 - 8 * at);
            if signed { top.shr_s(24) } else { top.shr_u(24) }
        };
        (0..4).fold(words[0], |sum, at| sum + byte(words[1], at, signed) * byte(words[2], at, true))
    })
}

/// Lanes 0, 2, 4, ....
pub(crate) fn even(v: Val<'_>) -> Val<'_> {
    v.shuffle(v, &(0..v.lanes()).step_by(2).collect::<Vec<_>>())
}

/// Lanes 1, 3, 5, ....
pub(crate) fn odd(v: Val<'_>) -> Val<'_> {
    v.shuffle(v, &(1..v.lanes()).step_by(2).collect::<Vec<_>>())
}

/// For each lane of `index` the byte of `tables`, one after the other, at `place(index)`.
fn look_up<'k>(tables: &[Val<'k>], index: Val<'k>, place: impl Fn(Val<'k>) -> Val<'k>) -> Val<'k> {
    let (b, bytes) = (index.builder(), tables[0].ty().bytes());
    let memory = b.alloca(bytes * tables.len() as u32, 64);
    for (at, table) in tables.iter().enumerate() {
        memory.at((at as u32 * bytes) as i64).store(*table, 1);
    }
    by_lane(&[index], I8, |index| memory.at(place(index[0].to_u(I64))).load(I8, 1))
}

/// A vector whose lanes are made of those of others, one by one: a loop, since code for every lane would be long.
pub(crate) fn by_lane<'k>(args: &[Val<'k>], elem: Ty, lane: impl Fn(&[Val<'k>]) -> Val<'k>) -> Val<'k> {
    let (b, to) = (args[0].builder(), elem.x(args[0].lanes()));
    let place = |ty: Ty| b.alloca(ty.bytes(), 64);
    let (from, into) = (args.iter().map(|arg| place(arg.ty())).collect::<Vec<_>>(), place(to));
    args.iter().zip(&from).for_each(|(arg, from)| from.store(*arg, 1));
    b.for_(0, i64::from(to.lanes), 1, |at| {
        let bytes = |ty: Ty| i64::from(ty.x(1).bytes());
        let load = |(arg, from): (&Val<'k>, &Val<'k>)| from.at(at * bytes(arg.ty())).load(arg.ty().x(1), 1);
        into.at(at * bytes(to)).store(lane(&args.iter().zip(&from).map(load).collect::<Vec<_>>()), 1);
    });
    into.load(to, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::define;
    use crate::linear::testing::{Guarded, Random, can_run, compile};

    /// An instruction, the level that has it, and the types of its operands and its result.
    fn cases() -> [(Instruction, Level, Vec<Ty>, Ty); 12] {
        let level = |name: &str| Level::all().find(|level| level.name() == name).unwrap();
        let (b64, b32, b16) = (I8.x(64), I8.x(32), I8.x(16));
        [
            (PERMUTE_128, level("avx512"), vec![b64; 3], b64),
            (SHUFFLE_16_OF_512, level("avx512"), vec![b64; 2], b64),
            (SHUFFLE_16_OF_256, level("avx2"), vec![b32; 2], b32),
            (TABLE_16, level("dotprod"), vec![b16; 2], b16),
            (TABLE_64, level("dotprod"), vec![b16; 5], b16),
            (GATHER, level("avx2"), vec![I32.x(8); 2], I32.x(8)),
            (DOT_512, level("avx512"), vec![I32.x(16), b64, b64], I32.x(16)),
            (DOT_256, level("avxvnni"), vec![I32.x(8), b32, b32], I32.x(8)),
            (DOT_128, level("dotprod"), vec![I32.x(4), b16, b16], I32.x(4)),
            (PAIRS_OF_BYTES, level("avx2"), vec![b32; 2], I16.x(16)),
            (PAIRS_OF_WORDS, level("avx2"), vec![I16.x(16); 2], I32.x(8)),
            (SIGN, level("avx2"), vec![b32; 2], b32),
        ]
    }

    /// The instruction on what lies at addresses; a gather reads the first operand's memory by the low bits of the second operand.
    fn build<'k>(instruction: &Instruction, level: Level, operands: &[Ty], result: Ty, at: &[Val<'k>]) -> Val<'k> {
        let mut args: Vec<Val<'k>> = operands.iter().zip(at).map(|(ty, at)| at.load(*ty, 1)).collect();
        if instruction.name == GATHER.name {
            let b = args[0].builder();
            args = vec![args[0], at[0], args[1] & 7, args[1], b.i8(4)];
        }
        instruction.call(level, &args, result)
    }

    #[test]
    fn definitions_are_what_the_machine_does() {
        let mut random = Random(11);
        let cases = cases();
        let here: Vec<_> = cases.iter().filter(|(_, level, ..)| can_run(*level)).collect();
        let loaded = compile(|module, levels| {
            for (at, (instruction, level, operands, result)) in here.iter().enumerate() {
                // Definitions are for any machine; here they run beside the kernels of this one.
                let plain = levels.contains(&Level::BASE).then(|| level.plain());
                for level in levels.contains(level).then_some(*level).into_iter().chain(plain) {
                    define(module, &format!("case{at}"), level, |call| {
                        let at: Vec<_> = (0..operands.len()).map(|at| call.arg(at)).collect();
                        call.arg(at.len()).store(build(instruction, level, operands, *result, &at), 1);
                    });
                }
            }
        });
        for (at, (instruction, level, operands, result)) in here.iter().enumerate() {
            for _ in 0..40 {
                let bytes = |ty: &Ty, random: &mut Random| -> Vec<u8> {
                    // All bits set and highest bits alone are where instructions differ from what one would think.
                    let byte = |bits: u64| [bits as u8, 0xff, 0x80, bits as u8][bits as usize >> 8 & 3];
                    (0..ty.bytes()).map(|_| byte(random.bits())).collect()
                };
                let inputs: Vec<Guarded> = operands.iter().map(|ty| Guarded::new(&bytes(ty, &mut random))).collect();
                let [real, plain] = [*level, level.plain()].map(|level| {
                    let output = Guarded::new(&vec![0u8; result.bytes() as usize]);
                    let args: Vec<&Guarded> = inputs.iter().chain([&output]).collect();
                    loaded.call(&format!("case{at}"), level, &args, [0; 4], 0..1);
                    output.read::<u8>()
                });
                assert_eq!(real, plain, "{}", instruction.name);
            }
        }
    }
}
