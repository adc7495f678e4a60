//! A model of the wafer's fabric that runs programs read from CSL text. A model of the chip, not run on silicon; its cycles are those of
//! this model, and it is not the vendor's cycle-accurate simulator.
//!
//! What enters: a [`q35_csl::Layout`]. What it models:
//!
//! * A router per PE. A wavelet is 32 bits and a color; each color has a buffer of its own, [`Settings::depth`] deep; a link carries
//!   one wavelet per direction and cycle, shared by all colors; which color goes first is the [`Policy`]. A color with several
//!   destinations moves only when all of them can take it.
//! * A ramp between router and PE that takes [`Settings::ramp`] cycles each way, and queues behind it with the documented depths.
//! * A PE that does one thing at a time: a function, a task, or a vector operation, of as many elements per cycle as the published table
//!   says plus a start-up cost. Asynchronous operations on fabric DSDs run beside it, one wavelet per cycle each.
//! * What the documentation calls undefined is an [`Error`] with PE, color and cycle; a program that can never go on is reported as
//!   the circle of those who wait for each other.
//!
//! Values do not depend on buffer depth or policy for a correct program: tests run every program under several of each.

mod fabric;
mod pe;
mod router;
mod vector;

pub use fabric::{Error, Fabric, Report};

/// Which color goes first when several want one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The lowest.
    Fixed,
    /// Each in turn, by cycle.
    RoundRobin,
    /// By a hash of cycle, PE and this seed.
    Random(u64),
}

/// What is not public, or not fixed: parameters of the model.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Arbitration between colors.
    pub policy: Policy,
    /// Wavelets that a router holds per color.
    pub depth: usize,
    /// Cycles between PE and router, each way.
    pub ramp: u64,
    /// Cycles before the first element of a vector operation; a guess.
    pub startup: u64,
    /// Cycles of a call of the math library; a guess.
    pub math: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { policy: Policy::RoundRobin, depth: 2, ramp: 2, startup: 6, math: 40 }
    }
}
