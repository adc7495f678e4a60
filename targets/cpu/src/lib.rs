//! The CPU target: kernels, lowering and object code.

pub mod abi;
pub mod kernels;
pub mod level;
pub mod linear;
