//! Several kernels as one: a row passes through all of them before the group ends.
//!
//! One launch instead of several, and what a part hands to the next is still in the nearest cache. Between the parts the group meets at a
//! barrier; the values there keep their buffers.

use std::rc::Rc;

use super::Kernel;
use crate::abi::Call;

/// Kernels whose tiles are rows and whose groups have equally many threads; each reads of the rows that earlier parts wrote only its own.
/// Arguments: those of the parts, one part after the other.
#[derive(Clone)]
pub struct Chain {
    /// The kernels in order.
    pub parts: Vec<Rc<dyn Kernel>>,
}

impl Kernel for Chain {
    fn name(&self) -> String {
        self.parts.iter().map(|part| part.name()).collect::<Vec<_>>().join("_then_")
    }

    fn args(&self) -> usize {
        self.parts.iter().map(|part| part.args()).sum()
    }

    fn shared_bytes(&self) -> u32 {
        self.parts.iter().map(|part| part.shared_bytes()).sum()
    }

    fn build(&self, call: &Call<'_>) {
        let mut first = 0;
        for part in &self.parts {
            if first > 0 {
                call.barrier();
            }
            part.build(&call.part(first..first + part.args()));
            first += part.args();
        }
    }
}
