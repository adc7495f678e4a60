//! Memory, byte by byte with who touched it last.

use crate::fault::{Fault, Kind};

/// A piece of memory that all blocks see, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer(pub(crate) usize);

/// Addresses of a buffer: its number, from 1, above so many bits.
const OFFSET_BITS: u32 = 36;
/// Shared memory begins here, so that no address in it is null.
const SHARED_START: u64 = 256;
/// In place of a thread: several of a block, several of different blocks.
const THREADS: u16 = u16::MAX;
const BLOCKS: u16 = u16::MAX - 1;

/// Who touches memory: a run is a block of a launch, counted over all launches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Toucher {
    /// The first run of the launch.
    pub(crate) launch: u32,
    /// The block's run.
    pub(crate) run: u32,
    /// Barriers that the block has passed.
    pub(crate) epoch: u16,
    /// The thread in its block.
    pub(crate) thread: u16,
}

impl Toucher {
    /// For memory of the block alone: what other blocks of the launch did there does not matter.
    fn of_block(self) -> Self {
        Self { launch: self.run, ..self }
    }
}

/// The last write and the last reads of a byte.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    write_run: u32,
    read_run: u32,
    write_epoch: u16,
    write_thread: u16,
    read_epoch: u16,
    read_thread: u16,
}

impl Cell {
    /// Whether the last write is ordered before an access of `t`.
    fn after_write(&self, t: &Toucher) -> bool {
        let other_launch = self.write_run < t.launch || self.write_run == 0;
        other_launch || (self.write_run == t.run && (self.write_epoch < t.epoch || self.write_thread == t.thread))
    }

    fn after_reads(&self, t: &Toucher) -> bool {
        let other_launch = self.read_run < t.launch || self.read_run == 0;
        let own = self.read_thread == t.thread || (self.read_epoch < t.epoch && self.read_thread != BLOCKS);
        other_launch || (self.read_run == t.run && own)
    }

    fn read(&mut self, t: &Toucher) -> Result<(), Fault> {
        if !self.after_write(t) {
            return Err(race("read", "written", self.write_thread));
        }
        let this_launch = self.read_run >= t.launch && self.read_run != 0;
        self.read_thread = match () {
            () if this_launch && (self.read_run != t.run || self.read_thread == BLOCKS) => BLOCKS,
            () if this_launch && self.read_epoch == t.epoch && self.read_thread != t.thread => THREADS,
            () => t.thread,
        };
        (self.read_run, self.read_epoch) = (t.run, t.epoch);
        Ok(())
    }

    fn write(&mut self, t: &Toucher) -> Result<(), Fault> {
        if !self.after_write(t) {
            return Err(race("written", "written", self.write_thread));
        }
        if !self.after_reads(t) {
            return Err(race("written", "read", self.read_thread));
        }
        (self.write_run, self.write_epoch, self.write_thread) = (t.run, t.epoch, t.thread);
        Ok(())
    }
}

fn race(now: &str, before: &str, thread: u16) -> Fault {
    let who = match thread {
        THREADS => "several threads".to_owned(),
        BLOCKS => "another block".to_owned(),
        thread => format!("thread {thread} of this or another block"),
    };
    Fault::new(Kind::Race, format!("a byte is {now} that {who} has {before}, with no barrier between"))
}

/// A buffer's bytes.
struct Bytes {
    data: Vec<u8>,
    /// Whether each byte has been written; empty where all have.
    written: Vec<bool>,
    /// Empty where the buffer is only read.
    cells: Vec<Cell>,
}

/// All memory of a machine.
#[derive(Default)]
pub(crate) struct Memory {
    buffers: Vec<Bytes>,
    shared: Vec<u8>,
    shared_cells: Vec<Cell>,
}

impl Memory {
    /// A buffer that kernels only read.
    pub(crate) fn constant(&mut self, data: Vec<u8>) -> Buffer {
        self.buffers.push(Bytes { data, written: vec![], cells: vec![] });
        Buffer(self.buffers.len() - 1)
    }

    /// A buffer of which nothing is written.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Buffer {
        let (written, cells) = (vec![false; bytes], vec![Cell::default(); bytes]);
        self.buffers.push(Bytes { data: vec![0; bytes], written, cells });
        Buffer(self.buffers.len() - 1)
    }

    pub(crate) fn forget(&mut self, buffer: Buffer) {
        self.buffers[buffer.0].written.fill(false);
    }

    pub(crate) fn write(&mut self, buffer: Buffer, offset: usize, bytes: &[u8]) {
        let to = &mut self.buffers[buffer.0];
        to.data[offset..offset + bytes.len()].copy_from_slice(bytes);
        if !to.written.is_empty() {
            to.written[offset..offset + bytes.len()].fill(true);
        }
    }

    pub(crate) fn bytes(&self, buffer: Buffer) -> &[u8] {
        &self.buffers[buffer.0].data
    }

    /// Shared memory of a launch.
    pub(crate) fn set_shared(&mut self, bytes: u64) {
        let bytes = bytes as usize;
        if self.shared.len() < bytes {
            self.shared.resize(bytes, 0);
            self.shared_cells.resize(bytes, Cell::default());
        }
    }

    pub(crate) fn address(buffer: Buffer, offset: u64) -> u64 {
        ((buffer.0 as u64 + 1) << OFFSET_BITS) + offset
    }

    pub(crate) fn shared_address(offset: u64) -> u64 {
        SHARED_START + offset
    }

    /// Reads `out.len()` bytes for a thread.
    pub(crate) fn load(&mut self, space: u32, address: u64, align: u64, out: &mut [u8], t: &Toucher) -> Result<(), Fault> {
        aligned(address, align)?;
        let uninitialised =
            || Fault::new(Kind::Uninitialised, format!("bytes at {} are read that nothing has written", show(address)));
        if space == 3 {
            let (range, t) = (self.shared_range(address, out.len())?, &t.of_block());
            for cell in &mut self.shared_cells[range.clone()] {
                if cell.write_run != t.run {
                    return Err(uninitialised());
                }
                cell.read(t)?;
            }
            out.copy_from_slice(&self.shared[range]);
            return Ok(());
        }
        let (buffer, range) = self.range(address, out.len())?;
        if !buffer.cells.is_empty() {
            if buffer.written[range.clone()].iter().any(|written| !written) {
                return Err(uninitialised());
            }
            buffer.cells[range.clone()].iter_mut().try_for_each(|cell| cell.read(t))?;
        }
        out.copy_from_slice(&buffer.data[range]);
        Ok(())
    }

    /// Writes `bytes` for a thread.
    pub(crate) fn store(&mut self, space: u32, address: u64, align: u64, bytes: &[u8], t: &Toucher) -> Result<(), Fault> {
        aligned(address, align)?;
        if space == 3 {
            let (range, t) = (self.shared_range(address, bytes.len())?, &t.of_block());
            self.shared_cells[range.clone()].iter_mut().try_for_each(|cell| cell.write(t))?;
            self.shared[range].copy_from_slice(bytes);
            return Ok(());
        }
        let (buffer, range) = self.range(address, bytes.len())?;
        if buffer.cells.is_empty() {
            return Err(Fault::new(Kind::ReadOnly, format!("a write to {}", show(address))));
        }
        buffer.cells[range.clone()].iter_mut().try_for_each(|cell| cell.write(t))?;
        buffer.written[range.clone()].fill(true);
        buffer.data[range].copy_from_slice(bytes);
        Ok(())
    }

    fn range(&mut self, address: u64, len: usize) -> Result<(&mut Bytes, std::ops::Range<usize>), Fault> {
        let number = (address >> OFFSET_BITS) as usize;
        let start = (address & ((1 << OFFSET_BITS) - 1)) as usize;
        let buffer = number.checked_sub(1).and_then(|number| self.buffers.get_mut(number));
        match buffer {
            Some(buffer) if start + len <= buffer.data.len() => Ok((buffer, start..start + len)),
            Some(buffer) => Err(outside(address, len, &format!("a buffer of {} bytes", buffer.data.len()))),
            None => Err(outside(address, len, "no buffer")),
        }
    }

    fn shared_range(&self, address: u64, len: usize) -> Result<std::ops::Range<usize>, Fault> {
        match (address.checked_sub(SHARED_START)).map(|start| start as usize) {
            Some(start) if start.checked_add(len).is_some_and(|end| end <= self.shared.len()) => Ok(start..start + len),
            _ => Err(outside(address, len, &format!("{} bytes of shared memory", self.shared.len()))),
        }
    }
}

fn aligned(address: u64, align: u64) -> Result<(), Fault> {
    if address.is_multiple_of(align) {
        return Ok(());
    }
    Err(Fault::new(Kind::Misaligned, format!("{} is no multiple of {align}", show(address))))
}

fn outside(address: u64, len: usize, of: &str) -> Fault {
    Fault::new(Kind::OutOfBounds, format!("{len} bytes at {} of {of}", show(address)))
}

/// An address as buffer and offset.
fn show(address: u64) -> String {
    match address >> OFFSET_BITS {
        0 => format!("shared {}", address.wrapping_sub(SHARED_START) as i64),
        buffer => format!("buffer {} + {}", buffer - 1, address & ((1 << OFFSET_BITS) - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toucher(launch: u32, run: u32, epoch: u16, thread: u16) -> Toucher {
        Toucher { launch, run, epoch, thread }
    }

    #[test]
    fn only_barriers_and_launches_order() {
        let mut memory = Memory::default();
        let buffer = memory.allocate(8);
        let at = Memory::address(buffer, 0);
        let mut store = |t: Toucher| memory.store(1, at, 4, &[0; 4], &t).map_err(|f| f.kind);
        let race = Err(Kind::Race);
        assert_eq!(store(toucher(1, 1, 0, 0)), Ok(()));
        assert_eq!(store(toucher(1, 1, 0, 0)), Ok(()));
        assert_eq!(store(toucher(1, 1, 0, 1)), race);
        assert_eq!(store(toucher(1, 1, 1, 1)), Ok(()));
        assert_eq!(store(toucher(1, 2, 5, 1)), race);
        assert_eq!(store(toucher(3, 3, 0, 9)), Ok(()));
        let mut load = |t: Toucher| memory.load(1, at, 4, &mut [0; 4], &t).map_err(|f| f.kind);
        assert_eq!(load(toucher(3, 3, 0, 8)), race);
        assert_eq!(load(toucher(3, 3, 1, 8)), Ok(()));
        assert_eq!(load(toucher(3, 3, 1, 7)), Ok(()));
        let mut store = |t: Toucher| memory.store(1, at, 4, &[0; 4], &t).map_err(|f| f.kind);
        assert_eq!(store(toucher(3, 3, 1, 8)), race);
        assert_eq!(store(toucher(3, 3, 2, 8)), Ok(()));
        // Readers of two blocks, then a writer of one of them.
        let mut load = |t: Toucher| memory.load(1, at, 4, &mut [0; 4], &t).map_err(|f| f.kind);
        assert_eq!(load(toucher(4, 4, 0, 0)), Ok(()));
        assert_eq!(load(toucher(4, 5, 0, 0)), Ok(()));
        assert_eq!(memory.store(1, at, 4, &[0; 4], &toucher(4, 5, 1, 0)).map_err(|f| f.kind), race);
    }

    #[test]
    fn bounds_alignment_and_what_was_written() {
        let mut memory = Memory::default();
        let (buffer, constant) = (memory.allocate(8), memory.constant(vec![1; 4]));
        memory.set_shared(8);
        let t = toucher(1, 1, 0, 0);
        let kind = |result: Result<(), Fault>| result.map_err(|fault| fault.kind);
        let at = |buffer, offset| Memory::address(buffer, offset);
        assert_eq!(kind(memory.load(1, at(buffer, 0), 4, &mut [0; 4], &t)), Err(Kind::Uninitialised));
        memory.write(buffer, 0, &[7; 8]);
        assert_eq!(kind(memory.load(1, at(buffer, 2), 4, &mut [0; 4], &t)), Err(Kind::Misaligned));
        assert_eq!(kind(memory.load(1, at(buffer, 8), 4, &mut [0; 4], &t)), Err(Kind::OutOfBounds));
        assert_eq!(kind(memory.load(1, 64, 4, &mut [0; 4], &t)), Err(Kind::OutOfBounds));
        assert_eq!(kind(memory.store(1, at(constant, 0), 4, &[0; 4], &t)), Err(Kind::ReadOnly));
        let shared = Memory::shared_address(4);
        assert_eq!(kind(memory.load(3, shared, 4, &mut [0; 4], &t)), Err(Kind::Uninitialised));
        assert_eq!(kind(memory.store(3, shared, 4, &[5; 4], &t)), Ok(()));
        let mut out = [0; 4];
        assert_eq!(kind(memory.load(3, shared, 4, &mut out, &t)), Ok(()));
        assert_eq!(out, [5; 4]);
        // Another block finds shared memory as nobody left it.
        assert_eq!(kind(memory.load(3, shared, 4, &mut out, &toucher(1, 2, 0, 0))), Err(Kind::Uninitialised));
        assert_eq!(kind(memory.store(3, Memory::shared_address(6), 1, &[5; 4], &t)), Err(Kind::OutOfBounds));
    }
}
