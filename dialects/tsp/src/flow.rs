//! What a macro-op computes, as one number, the *flow* that a program file claims for it. The number of a value is mixed from what made it: an ALU's op and the
//! numbers of its operands, down to constants, vectors in memory and accumulators. A macro-op's flow is the sum, modulo 2^32, over the bytes that it
//! writes and its ALUs made. Ops that only pass a value on do not count. So an expression and the instructions that evaluate it
//! have the same flow, in whatever order and place things happen, and two expressions differ in it but for chance.

use crate::alu::AluOp;
use crate::geometry::Queue;

/// FNV-1a over the bytes of some numbers.
fn mix(numbers: [u32; 4]) -> u32 {
    let bytes = numbers.into_iter().flat_map(u32::to_le_bytes);
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The same word in every lane.
pub fn constant(word: u32) -> u32 {
    mix([0, word, 0, 0])
}

/// What memory holds at an address of a slice, and, of a word, at that of the three slices after it.
pub fn read(slice: Queue, address: u16) -> u32 {
    mix([1, slice.number().into(), address.into(), 0])
}

/// The sum in an accumulator of a plane.
pub fn sum(plane: u8, accumulator: u8) -> u32 {
    mix([2, plane.into(), accumulator.into(), 0])
}

/// The result of an op.
pub fn result(op: AluOp, [a, b]: [u32; 2]) -> u32 {
    match op {
        AluOp::Pass => a,
        _ => mix([3, op as u32, a, if op.arity() > 1 { b } else { 0 }]),
    }
}

/// Byte `byte` of a value, in memory: its part of the flow.
pub fn stored(slice: Queue, address: u16, byte: u8, value: u32) -> u32 {
    mix([4, u32::from(slice.number()) << 8 | u32::from(byte), address.into(), value])
}
