//! Macro-ops of the links: a word leaves the chip, or comes to it, byte by byte. A link carries one vector in a slot of several cycles.

use super::tables::Hold;
use super::{Byte, Schedule, Word};
use q35_tsp::geometry::{Queue, link_between};
use q35_tsp::isa::Instr;
use q35_tsp::lanes::Lanes;
use q35_tsp::program::{Carried, LinkEnd};

impl Schedule {
    /// Deskews the link that leads to another chip, in cycle 0. Gives its number.
    pub(crate) fn open_link(&mut self, to: u32) -> u8 {
        let ends = link_between(self.data.chip, to).zip(link_between(to, self.data.chip));
        let (link, end) = ends.unwrap_or_else(|| unreachable!("chips that follow one another are linked"));
        self.data.links.push(LinkEnd { link, chip: to, end });
        self.place(0, |attempt, cycle| attempt.issue(Queue::link(link), cycle, Instr::Deskew {}));
        link
    }

    /// Sends a word to the next chip. Gives the cycles in which its bytes leave.
    pub(crate) fn send(&mut self, link: u8, word: Word, lanes: Lanes) -> [i64; 4] {
        self.data.sent.push(Carried { quad: word.quad, lanes });
        let (queue, op) = (Queue::link(link), self.tables.begin(self.node));
        word.places().map(|place| {
            self.place_part(op, word.ready, |attempt, cycle| {
                attempt.hold(Hold::Link(link), cycle, cycle + attempt.timing.link - 1)?;
                let input = attempt.fetch_byte(Byte { place, ready: word.ready }, queue.position(), cycle)?;
                attempt.issue(queue, cycle, Instr::Send { input })?;
                Some(cycle)
            })
        })
    }

    /// Receives a word whose bytes are there in these cycles. Nothing that could be in the way is placed before.
    pub(crate) fn receive(&mut self, link: u8, cycles: [i64; 4], lanes: Lanes) -> Word {
        let quad = self.value(None, cycles.into_iter().min().unwrap_or(0));
        self.data.received.push(Carried { quad, lanes });
        let (queue, op) = (Queue::link(link), self.tables.begin(self.node));
        let mut word = Word { quad, ready: 0 };
        for (cycle, place) in cycles.into_iter().zip(word.places()) {
            let ready = self.place_part(op, cycle, |attempt, now| {
                assert_eq!(now, cycle, "a vector that is received at another time than it is there");
                let (out, ready) = attempt.store(&[place], queue.position(), cycle + attempt.timing.receive)?;
                attempt.issue(queue, cycle, Instr::Receive { out })?;
                Some(ready)
            });
            word.ready = word.ready.max(ready);
        }
        word
    }
}
