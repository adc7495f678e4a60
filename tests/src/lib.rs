//! What the tests share: where the example graphs are, how their stored cases are read, how filetests are written, how programs of C
//! are watched.
//!
//! This crate's library must not call the compiler or the runtime: it is the side of the oracle.

pub mod corpus;
pub mod filetest;
pub mod prepare;
pub mod tensors;
pub mod watched;
