//! A chip's ends of its links.
//!
//! A link carries whole vectors, in order, with a latency that is not known exactly; a received vector waits in a shallow buffer until a
//! `receive` takes it. Nothing is ever asked for again.

use crate::Vector;
use q35_tsp::program::Data;
use q35_tsp::timing::Timing;
use std::collections::{BTreeMap, VecDeque};

/// A vector on its way.
pub(crate) struct Flit {
    /// The link that it left by.
    pub(crate) link: u8,
    /// The cycle and the macro-op of its send.
    pub(crate) cycle: i64,
    pub(crate) op: u32,
    pub(crate) bytes: Box<Vector>,
}

#[derive(Default)]
struct End {
    deskewed: bool,
    /// The last send.
    sent: Option<i64>,
    /// When each vector is there, in order.
    waiting: VecDeque<(i64, Flit)>,
}

pub(crate) struct Ends {
    timing: Timing,
    start: u64,
    ends: BTreeMap<u8, End>,
    /// What has just been sent.
    pub(crate) sent: Option<Flit>,
}

impl Ends {
    pub(crate) fn new(data: &Data, timing: Timing) -> Self {
        let ends = data.links.iter().map(|end| (end.link, End::default())).collect();
        Self { timing, start: data.start, ends, sent: None }
    }

    pub(crate) fn clear(&mut self) {
        self.ends.values_mut().for_each(|end| *end = End::default());
        self.sent = None;
    }

    fn end(&mut self, link: u8) -> Result<&mut End, String> {
        self.ends.get_mut(&link).ok_or_else(|| format!("link {link} leads nowhere"))
    }

    /// Both ends of a link count cycles alike only from the beginning of an epoch on.
    pub(crate) fn deskew(&mut self, link: u8, cycle: i64) -> Result<(), String> {
        let (now, epoch) = (self.start as i64 + cycle, self.timing.epoch);
        if now % epoch != 0 {
            return Err(format!("parks the queue until cycle {}: no epoch begins now", cycle + epoch - now % epoch));
        }
        self.end(link)?.deskewed = true;
        Ok(())
    }

    fn aligned(&mut self, link: u8) -> Result<&mut End, String> {
        self.end(link).and_then(|end| if end.deskewed { Ok(end) } else { Err("the link is not deskewed".to_owned()) })
    }

    pub(crate) fn send(&mut self, link: u8, cycle: i64, op: u32, bytes: Vector) -> Result<(), String> {
        let slot = self.timing.link;
        let end = self.aligned(link)?;
        if let Some(before) = end.sent.filter(|before| before + slot > cycle) {
            return Err(format!("the vector of cycle {before} takes the link until cycle {}", before + slot - 1));
        }
        end.sent = Some(cycle);
        self.sent = Some(Flit { link, cycle, op, bytes: Box::new(bytes) });
        Ok(())
    }

    pub(crate) fn receive(&mut self, link: u8, cycle: i64) -> Result<Vector, String> {
        let buffer = self.timing.buffer as usize;
        let end = self.aligned(link)?;
        let there = end.waiting.iter().filter(|(arrival, _)| *arrival <= cycle).count();
        if there > buffer {
            return Err(format!("{there} vectors wait at the end of the link, which has room for {buffer}"));
        }
        match end.waiting.pop_front() {
            Some((arrival, flit)) if arrival <= cycle => Ok(*flit.bytes),
            Some((arrival, _)) => Err(format!("the vector is there from cycle {arrival} on")),
            None => Err("nothing was sent".to_owned()),
        }
    }

    /// A vector that will be there in a cycle.
    pub(crate) fn arrive(&mut self, link: u8, cycle: i64, flit: Flit) -> Result<(), String> {
        self.end(link)?.waiting.push_back((cycle, flit));
        Ok(())
    }

    /// A vector that nobody has taken, and the link at whose end it waits.
    pub(crate) fn left(&self) -> Option<(u8, &Flit)> {
        self.ends.iter().find_map(|(link, end)| end.waiting.front().map(|(_, flit)| (*link, flit)))
    }
}
