//! What a launch-style device does for the executor: memory, weights in place, launches. It knows nothing of models.

use q35_diag::Result;

/// Tokens, logit rows and launched steps of a run.
pub type Shape = [u64; 3];

/// Memory of a machine, by number of allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block(pub usize);

/// A tensor of the weights file, by number of first use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(pub usize);

/// A kernel argument: an address on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The start of a tensor.
    Weight(Weight),
    /// So many bytes into a block.
    Memory(Block, u64),
}

/// A launch-style device.
pub trait Machine: Send {
    /// One line for reports.
    fn describe(&self) -> String;

    /// Zeroed memory, aligned to 64 bytes.
    fn allocate(&mut self, bytes: u64) -> Result<Block>;

    /// Puts a tensor of the bundle where kernels can read it. The name has been checked.
    fn place(&mut self, tensor: &str) -> Result<Weight>;

    /// Hears that everything is allocated and placed.
    fn ready(&mut self) -> Result<()> {
        Ok(())
    }

    /// Copies into a block.
    fn write(&mut self, block: Block, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Copies out of a block what the launches before have left there.
    fn read(&self, block: Block, offset: u64, bytes: &mut [u8]) -> Result<()>;

    /// Runs all `tiles` of a variant of a step, after what was launched or written before. `dims` is indexed by [`q35_bundle::Dim`].
    fn launch(&mut self, step: usize, variant: usize, operands: &[Operand], dims: [i64; 4], tiles: u64) -> Result<()>;

    /// Runs again what was launched the last time between [`begin`](Self::begin) and [`end`](Self::end) for a shape, if it has been kept. Equal
    /// shapes mean equal launches: what differs between them lies in memory.
    fn replay(&mut self, _shape: Shape) -> Result<bool> {
        Ok(false)
    }

    /// Hears that all launches of a shape follow.
    fn begin(&mut self, _shape: Shape) -> Result<()> {
        Ok(())
    }

    /// Hears that these were all; false where they have only been noted, in vain, and are to be launched again. After a launch that failed, nobody
    /// asks.
    fn end(&mut self) -> Result<bool> {
        Ok(true)
    }

    /// Returns when everything that was launched is done. A machine whose launches return only then has nothing to do.
    fn wait(&self) -> Result<()> {
        Ok(())
    }
}
