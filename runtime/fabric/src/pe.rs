//! One PE: memory, the thread that runs functions and tasks, and asynchronous operations beside it.

use crate::vector::Vector;
use q35_csl::{Machine, Value};
use std::collections::{BTreeSet, VecDeque};

/// An operation on wavelets in progress.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) vector: Vector,
    /// Elements done.
    pub(crate) done: usize,
    /// Cycle from which it may do the next.
    pub(crate) ready: u64,
    /// Task to activate, and task to unblock, at the end.
    pub(crate) then: [Option<u8>; 2],
    /// Whether the thread waits for it.
    pub(crate) blocking: bool,
}

/// A PE.
#[derive(Debug)]
pub(crate) struct Pe {
    pub(crate) image: usize,
    pub(crate) memory: Vec<u16>,
    pub(crate) globals: Vec<Value>,
    pub(crate) machine: Machine,
    /// Cycle until which the thread computes.
    pub(crate) busy: u64,
    pub(crate) running: Vec<Running>,
    pub(crate) activated: BTreeSet<u8>,
    pub(crate) blocked: BTreeSet<u8>,
    /// Wavelets in input queues, with the cycle from which they can be read.
    pub(crate) input: [VecDeque<(u32, u64)>; 8],
    pub(crate) unblocked: bool,
    /// Whether it is on the list of those to look at.
    pub(crate) awake: bool,
    /// Cycles of computation, and of waiting for or moving wavelets.
    pub(crate) compute: u64,
    pub(crate) fabric: u64,
    /// When the current wait on wavelets began.
    pub(crate) since: u64,
}

impl Pe {
    pub(crate) fn new(image: usize, words: usize, globals: Vec<Value>) -> Self {
        Self {
            image,
            memory: vec![0; words],
            globals,
            machine: Machine::default(),
            busy: 0,
            running: Vec::new(),
            activated: BTreeSet::new(),
            blocked: BTreeSet::new(),
            input: Default::default(),
            unblocked: false,
            awake: false,
            compute: 0,
            fabric: 0,
            since: 0,
        }
    }

    /// Whether the thread waits for an operation on wavelets.
    pub(crate) fn waits(&self) -> bool {
        self.running.iter().any(|running| running.blocking)
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.machine.is_idle() && self.running.is_empty() && self.activated.iter().all(|id| self.blocked.contains(id))
    }
}
