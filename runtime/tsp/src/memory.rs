//! The MEM slices.

use crate::Vector;
use q35_tsp::geometry::{Queue, ROWS, Slice};

#[derive(Clone)]
struct Row {
    /// First cycle whose reads see it.
    ready: i64,
    bytes: Vector,
}

/// All slices; a row that was never written has no content.
#[derive(Default)]
pub(crate) struct Memory {
    slices: Vec<Vec<Option<Box<Row>>>>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let slices = Queue::all().filter(|q| q.unit() == q35_tsp::geometry::Unit::Mem);
        Self { slices: slices.map(|_| vec![None; usize::from(ROWS)]).collect() }
    }

    fn row(&mut self, slice: Slice, address: u16) -> Result<&mut Option<Box<Row>>, String> {
        let rows = &mut self.slices[usize::from(Queue::mem(slice).number())];
        rows.get_mut(usize::from(address)).ok_or_else(|| format!("address {address} is outside the slice"))
    }

    pub(crate) fn write(&mut self, slice: Slice, address: u16, bytes: &Vector, ready: i64) -> Result<(), String> {
        *self.row(slice, address)? = Some(Box::new(Row { ready, bytes: *bytes }));
        Ok(())
    }

    pub(crate) fn read(&self, slice: Slice, address: u16, cycle: i64) -> Result<&Vector, String> {
        let rows = self.slices.get(usize::from(Queue::mem(slice).number())).map(Vec::as_slice).unwrap_or_default();
        match rows.get(usize::from(address)).ok_or_else(|| format!("address {address} is outside the slice"))? {
            None => Err(format!("address {address} was never written")),
            Some(row) if row.ready > cycle => Err(format!("address {address} holds its value from cycle {} on", row.ready)),
            Some(row) => Ok(&row.bytes),
        }
    }

    /// Changes one superlane's bytes; the rest of the row keeps its content.
    pub(crate) fn patch(
        &mut self,
        slice: Slice,
        address: u16,
        lanes: std::ops::Range<usize>,
        bytes: &[u8],
        ready: i64,
    ) -> Result<(), String> {
        let row = self.row(slice, address)?.as_mut().ok_or_else(|| format!("address {address} was never written"))?;
        row.bytes[lanes].copy_from_slice(bytes);
        row.ready = ready;
        Ok(())
    }

    /// A new step counts cycles from 0: all that was written is there.
    pub(crate) fn settle(&mut self) {
        self.slices.iter_mut().flatten().flatten().for_each(|row| row.ready = i64::MIN);
    }
}
