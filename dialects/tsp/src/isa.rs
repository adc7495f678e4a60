//! The instructions, one declaration each: name, the unit whose queue holds it, operands, meaning. Text and binary form, and the
//! listing for readers, come from this table.
//!
//! An instruction is dispatched at the cycle in which its stream operands stand at the position of its unit; only those of an ALU stand
//! there `vxm.enter` cycles earlier. Latencies are named after [`crate::timing::Timing`].

use crate::alu::AluOp;
use crate::geometry::{Stream, Unit};
use std::fmt;
use std::str::FromStr;

/// What stands between the mnemonic and the end of the line: an operand in text and as a number.
pub trait Operand: Sized + fmt::Display + FromStr {
    /// As a number.
    fn bits(&self) -> u64;
    /// From a number, if it is one of this kind.
    fn of_bits(bits: u64) -> Option<Self>;
}

macro_rules! numbers {
    ($($ty:ty),*) => { $(impl Operand for $ty {
        fn bits(&self) -> u64 {
            u64::from(*self)
        }
        fn of_bits(bits: u64) -> Option<Self> {
            bits.try_into().ok()
        }
    })* };
}

numbers!(u8, u16, u32);

impl Operand for Stream {
    fn bits(&self) -> u64 {
        u64::from(self.number) | if self.to == crate::geometry::Side::West { 32 } else { 0 }
    }
    fn of_bits(bits: u64) -> Option<Self> {
        use crate::geometry::Side::{East, West};
        (bits < 64).then(|| Self::new(if bits & 32 == 0 { East } else { West }, (bits & 31) as u8))
    }
}

impl fmt::Display for AluOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for AluOp {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|op| op.name() == text).ok_or(())
    }
}

impl Operand for AluOp {
    fn bits(&self) -> u64 {
        *self as u64
    }
    fn of_bits(bits: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(bits).ok()?).copied()
    }
}

/// Where an ALU takes an operand from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The same word in every lane.
    Constant(u32),
    /// The result that a linked ALU has in this cycle, and in no other.
    Alu(u8),
    /// Four streams, the first a multiple of 4: the bytes of a word, the least significant first.
    Word(Stream),
    /// One stream, as a signed integer.
    Byte(Stream),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(bits) => write!(f, "#{bits:08x}"),
            Self::Alu(alu) => write!(f, "alu{alu:02}"),
            Self::Word(stream) => write!(f, "{stream}:word"),
            Self::Byte(stream) => write!(f, "{stream}:byte"),
        }
    }
}

impl FromStr for Source {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(bits) = text.strip_prefix('#') {
            return u32::from_str_radix(bits, 16).map(Self::Constant).map_err(|_| ());
        }
        if let Some(alu) = text.strip_prefix("alu") {
            return alu.parse().ok().filter(|alu| *alu < crate::geometry::ALUS).map(Self::Alu).ok_or(());
        }
        match text.split_once(':') {
            Some((stream, "word")) => Ok(Self::Word(stream.parse()?)),
            Some((stream, "byte")) => Ok(Self::Byte(stream.parse()?)),
            _ => Err(()),
        }
    }
}

impl Operand for Source {
    fn bits(&self) -> u64 {
        match self {
            Self::Constant(bits) => u64::from(*bits) << 2,
            Self::Alu(alu) => u64::from(*alu) << 2 | 1,
            Self::Word(stream) => stream.bits() << 2 | 2,
            Self::Byte(stream) => stream.bits() << 2 | 3,
        }
    }
    fn of_bits(bits: u64) -> Option<Self> {
        let value = bits >> 2;
        match bits & 3 {
            0 => value.try_into().ok().map(Self::Constant),
            1 => (value < u64::from(crate::geometry::ALUS)).then_some(Self::Alu(value as u8)),
            2 => Stream::of_bits(value).map(Self::Word),
            _ => Stream::of_bits(value).map(Self::Byte),
        }
    }
}

/// Where an ALU's result goes besides the ALU's own register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sink {
    /// Nowhere.
    Nothing,
    /// Four streams, the first a multiple of 4.
    Word(Stream),
    /// Its least significant byte to one stream.
    Byte(Stream),
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("-"),
            Self::Word(stream) => write!(f, "{stream}:word"),
            Self::Byte(stream) => write!(f, "{stream}:byte"),
        }
    }
}

impl FromStr for Sink {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            None if text == "-" => Ok(Self::Nothing),
            Some((stream, "word")) => Ok(Self::Word(stream.parse()?)),
            Some((stream, "byte")) => Ok(Self::Byte(stream.parse()?)),
            _ => Err(()),
        }
    }
}

impl Operand for Sink {
    fn bits(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Word(stream) => stream.bits() << 2 | 1,
            Self::Byte(stream) => stream.bits() << 2 | 2,
        }
    }
    fn of_bits(bits: u64) -> Option<Self> {
        match bits & 3 {
            0 => (bits == 0).then_some(Self::Nothing),
            1 => Stream::of_bits(bits >> 2).map(Self::Word),
            2 => Stream::of_bits(bits >> 2).map(Self::Byte),
            _ => None,
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct InstrDecl {
    /// Mnemonic.
    pub name: &'static str,
    /// Whose queue holds it; `None` for any.
    pub unit: Option<Unit>,
    /// Names of its operands.
    pub operands: &'static [&'static str],
    /// What it does.
    pub doc: &'static [&'static str],
}

macro_rules! instructions {
    ($($(#[doc = $doc:literal])* $Name:ident = $name:literal on $unit:expr; { $($field:ident: $ty:ty),* })*) => {
        /// An instruction.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)] // the table says what operands are
        pub enum Instr { $($(#[doc = $doc])* $Name { $($field: $ty),* }),* }

        /// The table, in order of opcode.
        pub const INSTRUCTIONS: &[InstrDecl] = &[$(InstrDecl {
            name: $name,
            unit: $unit,
            operands: &[$(stringify!($field)),*],
            doc: &[$($doc),*],
        }),*];

        enum Opcode { $($Name),* }

        impl Instr {
            /// Index of its row in [`INSTRUCTIONS`].
            pub fn opcode(&self) -> usize {
                match self { $(Self::$Name { .. } => Opcode::$Name as usize),* }
            }

            /// Its operands as numbers, in the order of the declaration.
            pub fn operands(&self) -> Vec<u64> {
                match self { $(Self::$Name { $($field),* } => vec![$($field.bits()),*]),* }
            }

            /// The instruction of an opcode with these operands.
            pub fn of(opcode: usize, operands: &[u64]) -> Option<Self> {
                let mut operands = operands.iter();
                $(if opcode == Opcode::$Name as usize {
                    return Some(Self::$Name { $($field: <$ty>::of_bits(*operands.next()?)?),* });
                })*
                let _ = &mut operands;
                None
            }

            /// The instruction that [`fmt::Display`] prints so.
            fn of_text(opcode: usize, operands: &[&str]) -> Option<Self> {
                let mut operands = operands.iter();
                $(if opcode == Opcode::$Name as usize {
                    return Some(Self::$Name { $($field: operands.next()?.parse().ok()?),* });
                })*
                let _ = &mut operands;
                None
            }
        }

        impl fmt::Display for Instr {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.decl().name)?;
                match self { $(Self::$Name { $($field),* } => {
                    let operands: Vec<String> = vec![$($field.to_string()),*];
                    if operands.is_empty() { Ok(()) } else { write!(f, " {}", operands.join(", ")) }
                })* }
            }
        }
    };
}

instructions! {
    /// Drives `out` with the vector at `address`, `mem.read` cycles later.
    Read = "read" on Some(Unit::Mem); { address: u16, out: Stream }
    /// Stores the vector that stands on `input`; a read `mem.write` cycles later sees it.
    Write = "write" on Some(Unit::Mem); { address: u16, input: Stream }
    /// As `read`, at `base` plus what `map` says for each superlane: a little-endian number of 16 bits, below `limit`, in its first two bytes.
    Gather = "gather" on Some(Unit::Mem); { base: u16, limit: u16, map: Stream, out: Stream }
    /// As `write`, at addresses as those of `gather`.
    Scatter = "scatter" on Some(Unit::Mem); { base: u16, limit: u16, map: Stream, input: Stream }
    /// From `sxm.map` cycles later on, lane `i` of a permuted vector comes from lane `low[i] + 256 high[i]`; `low` stands on `map`, `high` on the next stream.
    SetMap = "setmap" on Some(Unit::Permute); { map: Stream }
    /// Drives `out` with the lanes of `input` in the order of the map, `sxm.permute` cycles later.
    Permute = "permute" on Some(Unit::Permute); { input: Stream, out: Stream }
    /// In every superlane, byte `j` of stream `i` of the 16 from `out` on is byte `i` of stream `j` of the 16 from `input` on, `sxm.transpose` cycles later.
    Transpose = "transpose" on Some(Unit::Transpose); { input: Stream, out: Stream }
    /// Puts the vectors of the 16 streams from `input` on into the next 16 columns of the plane's weight buffer, `mxm.weights` cycles later.
    Load = "load" on Some(Unit::Weights); { input: Stream }
    /// As `load`; when these columns are in the weight buffer, it moves into the array, which can be used `mxm.install` cycles later. Columns that
    /// were not loaded are 0. The buffer is empty.
    Install = "install" on Some(Unit::Weights); { input: Stream }
    /// Multiplies a vector of signed bytes with the array; `mxm.multiply` cycles later an accumulator is set to the product (`add` = 0), or gains it.
    Multiply = "multiply" on Some(Unit::Activations); { input: Stream, accumulator: u8, add: u8 }
    /// Drives four streams with the words of an accumulator, `mxm.result` cycles later.
    Emit = "emit" on Some(Unit::Results); { accumulator: u8, out: Stream }
    /// An op of the ALU. The result stands in the ALU's register, and on `out`, `vxm.op` cycles later.
    Compute = "compute" on Some(Unit::Alu); { op: AluOp, a: Source, b: Source, out: Sink }
    /// Parks the queue until the chip's counter of epochs begins anew: from then on both ends of the link count cycles alike.
    Deskew = "deskew" on Some(Unit::Link); { }
    /// Puts the vector that stands on `input` on the link; it is at the other end `c2c.latency_min` to `c2c.latency_max` cycles later, and waits there.
    Send = "send" on Some(Unit::Link); { input: Stream }
    /// Takes the vector that waits longest at this end of the link, and drives `out` with it `c2c.receive` cycles later.
    Receive = "receive" on Some(Unit::Link); { out: Stream }
    /// Issues the queue's previous instruction `count` more times, every `interval` cycles, the first time now; a MEM address grows by `step`.
    Repeat = "repeat" on None; { count: u16, interval: u16, step: u16 }
}

impl Instr {
    /// Its row of the table.
    pub fn decl(&self) -> &'static InstrDecl {
        &INSTRUCTIONS[self.opcode()]
    }

    /// The instruction with its memory address moved by `by`.
    pub fn advanced(self, by: u16) -> Self {
        match self {
            Self::Read { address, out } => Self::Read { address: address.wrapping_add(by), out },
            Self::Write { address, input } => Self::Write { address: address.wrapping_add(by), input },
            other => other,
        }
    }
}

impl FromStr for Instr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        let opcode =
            INSTRUCTIONS.iter().position(|decl| decl.name == name).ok_or_else(|| format!("no instruction '{name}'"))?;
        let operands: Vec<&str> = rest.split(',').map(str::trim).filter(|o| !o.is_empty()).collect();
        let wanted = INSTRUCTIONS[opcode].operands.len();
        let fits = (operands.len() == wanted).then(|| Self::of_text(opcode, &operands)).flatten();
        fits.ok_or_else(|| format!("'{rest}' is not {}", INSTRUCTIONS[opcode].operands.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Side;

    #[test]
    fn both_forms_of_every_instruction_come_back() {
        let (e, w) = (Stream::new(Side::East, 4), Stream::new(Side::West, 31));
        let samples = [
            Instr::Read { address: 8191, out: e },
            Instr::Write { address: 0, input: w },
            Instr::Gather { base: 1, limit: 2, map: e, out: w },
            Instr::Scatter { base: 1, limit: 2, map: e, input: w },
            Instr::SetMap { map: e },
            Instr::Permute { input: w, out: e },
            Instr::Transpose { input: Stream::new(Side::East, 0), out: Stream::new(Side::West, 16) },
            Instr::Load { input: Stream::new(Side::West, 16) },
            Instr::Install { input: e },
            Instr::Multiply { input: w, accumulator: 63, add: 1 },
            Instr::Emit { accumulator: 0, out: e },
            Instr::Compute { op: AluOp::Exp, a: Source::Word(e), b: Source::Constant(u32::MAX), out: Sink::Byte(w) },
            Instr::Compute { op: AluOp::Pass, a: Source::Alu(15), b: Source::Byte(w), out: Sink::Nothing },
            Instr::Deskew {},
            Instr::Send { input: e },
            Instr::Receive { out: w },
            Instr::Repeat { count: 19, interval: 1, step: 1 },
        ];
        assert!((0..INSTRUCTIONS.len()).all(|opcode| samples.iter().any(|i| i.opcode() == opcode)), "a sample of each");
        for instr in samples {
            assert_eq!(instr.to_string().parse(), Ok(instr));
            assert_eq!(Instr::of(instr.opcode(), &instr.operands()), Some(instr));
        }
        assert!("read 1".parse::<Instr>().is_err());
        assert!("compute exp, alu16, #00000000, -".parse::<Instr>().is_err());
        assert_eq!(Instr::of(0, &[1 << 16, 0]), None);
    }
}
