//! The CPU target: kernels, lowering and object code.

pub mod abi;
pub mod half;
pub mod kernels;
pub mod level;
pub mod linear;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod testing;
