//! The chip: dispatches what the queues say, in order of cycles.
//!
//! A chip on its own runs from its first dispatch to the last. One of several is run dispatch by dispatch by a [`crate::system::System`], which carries
//! what it sends.

use crate::link::Ends;
use crate::memory::Memory;
use crate::mxm::Plane;
use crate::streams::{Streams, several};
use crate::vxm::Vxm;
use crate::{Vector, Words};
use q35_tsp::geometry::{LANES, PLANES, Queue, SUPERLANE, Stream, Unit};
use q35_tsp::isa::{Instr, Sink, Source};
use q35_tsp::program::{Issue, Place, Program, Quad, expand};
use q35_tsp::timing::Timing;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// What a program did that no chip can do, or that no program may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The chip, where there are several.
    pub chip: Option<u32>,
    /// When.
    pub cycle: i64,
    /// The queue of the instruction.
    pub queue: String,
    /// The node it was for.
    pub node: String,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(chip) = self.chip {
            write!(f, "chip {chip}, ")?;
        }
        write!(f, "cycle {}, {}, node '{}': {}", self.cycle, self.queue, self.node, self.what)
    }
}

impl std::error::Error for Fault {}

#[derive(Clone, Copy)]
struct Event {
    cycle: i64,
    /// An ALU's stream operands come before its dispatch.
    arrival: bool,
    queue: Queue,
    issue: Issue,
}

/// A permutor's maps, by the cycle from which on they hold.
type Maps = VecDeque<(i64, Box<[u16; LANES]>)>;

/// A vector that a stream will show at a position.
struct Drive {
    stream: Stream,
    position: i32,
    event: Event,
    bytes: Box<Vector>,
}

/// A chip with a program.
pub struct Chip {
    timing: Timing,
    /// The node of each macro-op.
    nodes: Vec<String>,
    events: Vec<Event>,
    pub(crate) memory: Memory,
    streams: Streams,
    planes: Vec<Plane>,
    vxm: Vxm,
    maps: [Maps; 2],
    /// Drives to come, by cycle.
    drives: BTreeMap<i64, Vec<Drive>>,
    /// This chip's ends of its links.
    pub(crate) ends: Ends,
    /// How many events are done.
    done: usize,
}

impl Chip {
    /// A chip with empty memory.
    pub fn new(program: &Program, timing: Timing) -> Result<Self, String> {
        let mut events = Vec::new();
        for (queue, issues) in &program.queues {
            for issue in expand(*queue, issues)? {
                let event = Event { cycle: issue.cycle.into(), arrival: false, queue: *queue, issue };
                if queue.unit() == Unit::Alu {
                    events.push(Event { cycle: event.cycle - timing.enter, arrival: true, ..event });
                }
                events.push(event);
            }
        }
        events.sort_by_key(|event| (event.cycle, !event.arrival, event.queue));
        Ok(Self {
            timing,
            nodes: (0..program.data.ops.len() as u32).map(|op| program.data.node(op).to_owned()).collect(),
            events,
            memory: Memory::new(),
            streams: Streams::new(),
            planes: Vec::new(),
            vxm: Vxm::new(),
            maps: Default::default(),
            drives: BTreeMap::new(),
            ends: Ends::new(&program.data, timing),
            done: 0,
        })
    }

    /// Runs the program once, from cycle 0, on what memory holds.
    pub fn run(&mut self) -> Result<(), Fault> {
        self.begin();
        while self.next().is_some() {
            self.step()?;
        }
        Ok(())
    }

    /// Makes ready for cycle 0.
    pub(crate) fn begin(&mut self) {
        self.streams.clear();
        self.memory.settle();
        self.planes = (0..PLANES).map(|_| Plane::new(self.timing)).collect();
        self.vxm = Vxm::new();
        self.maps = Default::default();
        self.drives.clear();
        self.ends.clear();
        self.done = 0;
    }

    /// The cycle of the next dispatch.
    pub(crate) fn next(&self) -> Option<i64> {
        self.events.get(self.done).map(|event| event.cycle)
    }

    /// The next dispatch.
    pub(crate) fn step(&mut self) -> Result<(), Fault> {
        let Some(event) = self.events.get(self.done).copied() else { return Ok(()) };
        self.done += 1;
        let done = self.deliver(event.cycle).and_then(|()| self.execute(&event).map_err(|what| (event, what)));
        done.map_err(|(event, what)| self.fault(event, what))
    }

    /// The node that a macro-op is for.
    pub(crate) fn node(&self, op: u32) -> String {
        self.nodes.get(op as usize).cloned().unwrap_or_default()
    }

    fn fault(&self, event: Event, what: String) -> Fault {
        let node = self.node(event.issue.op);
        Fault {
            chip: None,
            cycle: event.cycle,
            queue: event.queue.to_string(),
            node,
            what: format!("{}: {what}", event.issue.instr),
        }
    }

    /// Shows on the streams what is due by `cycle`.
    fn deliver(&mut self, cycle: i64) -> Result<(), (Event, String)> {
        while let Some(entry) = self.drives.first_entry().filter(|entry| *entry.key() <= cycle) {
            let (due, drives) = entry.remove_entry();
            for Drive { stream, position, event, bytes } in drives {
                self.streams.drive(stream, position, due, &bytes).map_err(|what| (event, what))?;
            }
        }
        Ok(())
    }

    fn drive(&mut self, event: &Event, after: i64, stream: Stream, bytes: Vector) {
        let drive = Drive { stream, position: event.queue.position(), event: *event, bytes: Box::new(bytes) };
        self.drives.entry(event.cycle + after).or_default().push(drive);
    }

    fn drive_words(&mut self, event: &Event, after: i64, stream: Stream, words: &Words) -> Result<(), String> {
        for (byte, stream) in several(stream, 4)?.enumerate() {
            let mut bytes = [0; LANES];
            bytes.iter_mut().zip(words).for_each(|(out, word)| *out = (word >> (8 * byte)) as u8);
            self.drive(event, after, stream, bytes);
        }
        Ok(())
    }

    fn sample(&mut self, event: &Event, stream: Stream) -> Result<Vector, String> {
        self.streams.sample(stream, event.queue.position(), event.cycle).copied()
    }

    fn operand(&mut self, event: &Event, source: Source) -> Result<Option<Box<Words>>, String> {
        let mut words = Box::new([0u32; LANES]);
        match source {
            Source::Constant(_) | Source::Alu(_) => return Ok(None),
            Source::Byte(stream) => {
                let bytes = self.sample(event, stream)?;
                words.iter_mut().zip(bytes).for_each(|(word, byte)| *word = i32::from(byte as i8) as u32);
            }
            Source::Word(stream) => {
                for (at, stream) in several(stream, 4)?.enumerate() {
                    let bytes = self.sample(event, stream)?;
                    words.iter_mut().zip(bytes).for_each(|(word, byte)| *word |= u32::from(byte) << (8 * at));
                }
            }
        }
        Ok(Some(words))
    }

    fn execute(&mut self, event: &Event) -> Result<(), String> {
        let (timing, cycle, queue) = (self.timing, event.cycle, event.queue);
        match event.issue.instr {
            Instr::Read { address, out } => {
                let bytes = *self.memory.read(queue.slice(), address, cycle)?;
                self.drive(event, timing.read, out, bytes);
            }
            Instr::Write { address, input } => {
                let bytes = self.sample(event, input)?;
                self.memory.write(queue.slice(), address, &bytes, cycle + timing.write)?;
            }
            Instr::Gather { base, limit, map, out } => {
                let mut bytes = [0; LANES];
                for (superlane, address) in self.addresses(event, map, base, limit)?.into_iter().enumerate() {
                    let lanes = superlane * SUPERLANE..(superlane + 1) * SUPERLANE;
                    let row = self.memory.read(queue.slice(), address, cycle)?;
                    bytes[lanes.clone()].copy_from_slice(&row[lanes]);
                }
                self.drive(event, timing.read, out, bytes);
            }
            Instr::Scatter { base, limit, map, input } => {
                let bytes = self.sample(event, input)?;
                for (superlane, address) in self.addresses(event, map, base, limit)?.into_iter().enumerate() {
                    let lanes = superlane * SUPERLANE..(superlane + 1) * SUPERLANE;
                    self.memory.patch(queue.slice(), address, lanes.clone(), &bytes[lanes], cycle + timing.write)?;
                }
            }
            Instr::SetMap { map } => {
                let mut streams = several(map, 2)?;
                let mut lanes = Box::new([0u16; LANES]);
                for shift in [0, 8] {
                    let bytes = self.sample(event, streams.next().unwrap_or(map))?;
                    lanes.iter_mut().zip(bytes).for_each(|(lane, byte)| *lane |= u16::from(byte) << shift);
                }
                let mut seen = [false; LANES];
                for lane in lanes.iter() {
                    match seen.get_mut(usize::from(*lane)) {
                        Some(seen) if !*seen => *seen = true,
                        _ => return Err(format!("the map is no permutation: lane {lane}")),
                    }
                }
                self.map(event).push_back((cycle + timing.map, lanes));
            }
            Instr::Permute { input, out } => {
                let bytes = self.sample(event, input)?;
                let maps = self.map(event);
                while maps.get(1).is_some_and(|(from, _)| *from <= cycle) {
                    maps.pop_front();
                }
                let (_, map) = maps.front().filter(|(from, _)| *from <= cycle).ok_or("the permutor has no map yet")?;
                let permuted = std::array::from_fn(|lane| bytes[usize::from(map[lane])]);
                self.drive(event, timing.permute, out, permuted);
            }
            Instr::Transpose { input, out } => {
                let inputs = several(input, 16)?.map(|stream| self.sample(event, stream)).collect::<Result<Vec<_>, _>>()?;
                for (i, stream) in several(out, 16)?.enumerate() {
                    let bytes = std::array::from_fn(|lane| inputs[lane % SUPERLANE][lane - lane % SUPERLANE + i]);
                    self.drive(event, timing.transpose, stream, bytes);
                }
            }
            Instr::Load { input } | Instr::Install { input } => {
                let columns = several(input, 16)?.map(|stream| self.sample(event, stream)).collect::<Result<Vec<_>, _>>()?;
                match event.issue.instr {
                    Instr::Install { .. } => self.plane(event).install(cycle, columns)?,
                    _ => self.plane(event).load(cycle, columns)?,
                }
            }
            Instr::Multiply { input, accumulator, add } => {
                let bytes = self.sample(event, input)?;
                self.plane(event).multiply(cycle, &bytes, accumulator, add != 0)?;
            }
            Instr::Emit { accumulator, out } => {
                let words = *self.plane(event).emit(cycle, accumulator)?;
                self.drive_words(event, timing.result, out, &words)?;
            }
            Instr::Compute { a, b, .. } if event.arrival => {
                let operands = [self.operand(event, a)?, self.operand(event, b)?];
                self.vxm.arrive(queue.index(), operands);
            }
            Instr::Compute { op, a, b, out } => {
                let words = *self.vxm.compute(queue.index(), op, [a, b], cycle, cycle + timing.op)?;
                match out {
                    Sink::Nothing => {}
                    Sink::Word(stream) => self.drive_words(event, timing.op, stream, &words)?,
                    Sink::Byte(stream) => self.drive(event, timing.op, stream, words.map(|word| word as u8)),
                }
            }
            Instr::Deskew {} => self.ends.deskew(queue.index(), cycle)?,
            Instr::Send { input } => {
                let bytes = self.sample(event, input)?;
                self.ends.send(queue.index(), cycle, event.issue.op, bytes)?;
            }
            Instr::Receive { out } => {
                let bytes = self.ends.receive(queue.index(), cycle)?;
                self.drive(event, timing.receive, out, bytes);
            }
            Instr::Repeat { .. } => return Err("a repeat that was not written out".to_owned()),
        }
        Ok(())
    }

    fn plane(&mut self, event: &Event) -> &mut Plane {
        &mut self.planes[usize::from(event.queue.index())]
    }

    fn map(&mut self, event: &Event) -> &mut Maps {
        &mut self.maps[usize::from(event.queue.position() < 0)]
    }

    fn addresses(&mut self, event: &Event, map: Stream, base: u16, limit: u16) -> Result<Vec<u16>, String> {
        let map = self.sample(event, map)?;
        let address = |word: &[u8]| {
            let index = u16::from_le_bytes([word[0], word[1]]);
            base.checked_add(index)
                .filter(|_| index < limit)
                .ok_or_else(|| format!("{index} is not below the limit of {limit}"))
        };
        map.chunks_exact(SUPERLANE).map(address).collect()
    }

    /// What memory holds at a place.
    pub fn read(&self, place: Place) -> Result<Vector, String> {
        self.memory.read(place.slice, place.address, i64::MAX).copied()
    }

    /// What memory holds at a quad.
    pub fn read_words(&self, quad: Quad) -> Result<Words, String> {
        let mut words = [0; LANES];
        for byte in 0..4 {
            let bytes = self.read(quad.byte(byte))?;
            words.iter_mut().zip(bytes).for_each(|(word, b)| *word |= u32::from(b) << (8 * byte));
        }
        Ok(words)
    }

    /// Puts a vector into memory, between steps.
    pub fn write(&mut self, place: Place, bytes: &Vector) -> Result<(), String> {
        if place.slice.number >= q35_tsp::geometry::SLICES {
            return Err(format!("there is no slice {}", place.slice.number));
        }
        self.memory.write(place.slice, place.address, bytes, i64::MIN)
    }

    /// Puts words into memory, between steps.
    pub fn write_words(&mut self, quad: Quad, words: &Words) -> Result<(), String> {
        (0..4).try_for_each(|byte| self.write(quad.byte(byte), &words.map(|word| (word >> (8 * byte)) as u8)))
    }
}
