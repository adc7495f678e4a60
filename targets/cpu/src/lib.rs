//! The CPU target: kernels, lowering and object code.
