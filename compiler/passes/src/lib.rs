//! Graph passes: fold, raise, rotate, fuse, assign codecs.

pub mod eval;
pub mod model;
pub mod names;
pub mod raise;
pub mod sym;
