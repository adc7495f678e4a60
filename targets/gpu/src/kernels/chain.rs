//! Several kernels as one: a row passes through all of them before the group ends.
//!
//! One launch instead of several, and what a part hands to the next is still in the nearest cache. Between the parts the group meets at a
//! barrier; the values there keep their buffers.

use super::Kernel;
use crate::abi::Call;
use q35_launch::spec::Chain;

impl Kernel for Chain<dyn Kernel> {
    fn shared_bytes(&self) -> u32 {
        self.parts.iter().map(|part| part.shared_bytes()).sum()
    }

    fn build(&self, call: &Call<'_>) {
        for (first, part) in self.with_places() {
            if first > 0 {
                call.barrier();
            }
            part.build(&call.part(first..first + part.args()));
        }
    }
}
