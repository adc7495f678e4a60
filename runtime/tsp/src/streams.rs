//! Moving vectors.
//!
//! A vector that is driven at position `x` in cycle `t` stands at `x + n` in cycle `t + n` (eastward): all of that is one diagonal, so one place
//! per stream and diagonal holds it, and moving costs nothing. A later drive on the same diagonal is further downstream; from there on, which
//! is from then on, the new vector is what stands there.

use crate::Vector;
use q35_tsp::geometry::{EDGE, LANES, STREAMS, Side, Stream};

/// Diagonals that can be alive at the same time: the chip is 27 positions wide.
const ALIVE: usize = 64;

struct Slot {
    diagonal: i64,
    driven_at: i64,
    bytes: Vector,
}

pub(crate) struct Streams {
    slots: Vec<Slot>,
}

impl Streams {
    pub(crate) fn new() -> Self {
        let count = 2 * usize::from(STREAMS) * ALIVE;
        Self { slots: (0..count).map(|_| Slot { diagonal: i64::MIN, driven_at: 0, bytes: [0; LANES] }).collect() }
    }

    pub(crate) fn clear(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.diagonal = i64::MIN);
    }

    fn slot(&mut self, stream: Stream, diagonal: i64) -> &mut Slot {
        let side = if stream.to == Side::East { 0 } else { usize::from(STREAMS) };
        let at = diagonal.rem_euclid(ALIVE as i64) as usize;
        &mut self.slots[(side + usize::from(stream.number)) * ALIVE + at]
    }

    pub(crate) fn drive(&mut self, stream: Stream, position: i32, cycle: i64, bytes: &Vector) -> Result<(), String> {
        let diagonal = stream.diagonal(position, cycle);
        let slot = self.slot(stream, diagonal);
        if slot.diagonal == diagonal && slot.driven_at == cycle {
            return Err(format!("two units drive {stream} at position {position} in cycle {cycle}"));
        }
        *slot = Slot { diagonal, driven_at: cycle, bytes: *bytes };
        Ok(())
    }

    pub(crate) fn sample(&mut self, stream: Stream, position: i32, cycle: i64) -> Result<&Vector, String> {
        debug_assert!(position.abs() <= EDGE);
        let diagonal = stream.diagonal(position, cycle);
        let slot = self.slot(stream, diagonal);
        if slot.diagonal != diagonal || slot.driven_at > cycle {
            return Err(format!("nothing stands on {stream} at position {position} in cycle {cycle}"));
        }
        Ok(&slot.bytes)
    }
}

/// The `count` streams from one on.
pub(crate) fn several(first: Stream, count: u8) -> Result<impl Iterator<Item = Stream>, String> {
    if !first.number.is_multiple_of(count) || first.number + count > STREAMS {
        return Err(format!("{first} is not the first of {count} streams"));
    }
    Ok((0..count).map(move |i| first.plus(i)))
}
