//! Lanes, where they stand, and which of them go next.
//!
//! Lanes at one instruction form a party. The party at the earliest block runs on until it branches or comes to a collective instruction;
//! parties that meet at the start of a block, or at a collective instruction, become one.

use crate::code::{Code, Do, Edge, Place, Special};
use crate::collective::{self, Collective};
use crate::fault::{Fault, Kind};
use crate::memory::{Memory, Toucher};
use crate::scalar::Function;

/// Lanes at one instruction, as a set of bits.
#[derive(Clone, Copy, Debug)]
struct Party {
    block: usize,
    step: usize,
    lanes: u64,
    /// Whether it waits for the other lanes.
    waits: bool,
}

/// How far a warp has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits for the other warps of its block.
    AtBarrier,
    /// All lanes have ended.
    Ended,
}

/// What a warp needs of the block and the launch it belongs to.
pub(crate) struct Surroundings<'a> {
    pub(crate) code: &'a Code,
    pub(crate) memory: &'a mut Memory,
    /// The toucher of the block's thread 0.
    pub(crate) toucher: Toucher,
    pub(crate) block: u64,
    pub(crate) threads: u32,
    /// Steps of parties that the launch may still take.
    pub(crate) fuel: &'a mut u64,
}

/// The lanes of a warp and their registers.
pub(crate) struct Warp {
    /// Component `p` of lane `l` at `p * lanes + l`.
    registers: Vec<u64>,
    lanes: u32,
    first_thread: u32,
    parties: Vec<Party>,
    scratch: Vec<u64>,
}

/// The numbers of the set bits.
fn each(mut lanes: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = lanes.trailing_zeros();
        (lane < 64).then(|| {
            lanes &= lanes - 1;
            lane as usize
        })
    })
}

impl Warp {
    /// A warp whose lanes are the threads from `first_thread` on.
    pub(crate) fn new(code: &Code, lanes: u32, first_thread: u32) -> Self {
        let mut registers = vec![0; code.places * lanes as usize];
        for &(place, bits) in &code.constants {
            registers[place as usize * lanes as usize..][..lanes as usize].fill(bits);
        }
        Self { registers, lanes, first_thread, parties: vec![], scratch: vec![] }
    }

    /// Puts `active` lanes at the entry.
    pub(crate) fn start(&mut self, active: u32, params: &[(Place, u64)]) {
        for &(place, bits) in params {
            self.row_mut(place).fill(bits);
        }
        let lanes = u64::MAX >> (64 - active);
        self.parties = vec![Party { block: 0, step: 0, lanes, waits: false }];
    }

    fn row(&self, place: Place) -> &[u64] {
        &self.registers[place as usize * self.lanes as usize..][..self.lanes as usize]
    }

    fn row_mut(&mut self, place: Place) -> &mut [u64] {
        &mut self.registers[place as usize * self.lanes as usize..][..self.lanes as usize]
    }

    fn get(&self, place: Place, lane: usize) -> u64 {
        self.registers[place as usize * self.lanes as usize + lane]
    }

    fn set(&mut self, place: Place, lane: usize, bits: u64) {
        self.registers[place as usize * self.lanes as usize + lane] = bits;
    }

    /// Runs until all lanes have ended or stand at a barrier.
    pub(crate) fn run(&mut self, s: &mut Surroundings<'_>) -> Result<State, Fault> {
        loop {
            let ready = (0..self.parties.len()).filter(|&at| !self.parties[at].waits);
            let Some(at) = ready.min_by_key(|&at| (self.parties[at].block, self.parties[at].step)) else {
                let Some(party) = self.parties.first().copied() else { return Ok(State::Ended) };
                let what = format!("lanes {:#x} wait for lanes {:#x}", party.lanes, self.live() & !party.lanes);
                return Err(Fault::new(Kind::Divergence, what).at(|| self.place(s, &party, None)));
            };
            let party = self.parties.swap_remove(at);
            if let Some(state) = self.advance(s, party)? {
                return Ok(state);
            }
        }
    }

    fn live(&self) -> u64 {
        self.parties.iter().fold(0, |all, party| all | party.lanes)
    }

    /// Lets lanes arrive somewhere; those that are there already are joined.
    fn arrive(&mut self, new: Party) {
        match self.parties.iter_mut().find(|party| (party.block, party.step) == (new.block, new.step)) {
            Some(party) => {
                party.lanes |= new.lanes;
                party.waits = false;
            }
            None => self.parties.push(new),
        }
    }

    fn place(&self, s: &Surroundings<'_>, party: &Party, lane: Option<usize>) -> String {
        let lane = lane.unwrap_or(party.lanes.trailing_zeros() as usize);
        let text = &s.code.blocks[party.block][party.step].1;
        format!("kernel {}, block {}, thread {}: {text}", s.code.name, s.block, self.first_thread as usize + lane)
    }

    /// Runs a party until it splits, waits or ends.
    fn advance(&mut self, s: &mut Surroundings<'_>, mut party: Party) -> Result<Option<State>, Fault> {
        let code = s.code;
        loop {
            *s.fuel = s.fuel.checked_sub(1).ok_or_else(|| {
                Fault::new(Kind::Endless, "the launch takes more steps than it may").at(|| self.place(s, &party, None))
            })?;
            match &code.blocks[party.block][party.step].0 {
                Do::Jump(edge) => {
                    self.follow(edge, party.lanes);
                    return Ok(None);
                }
                Do::Branch(condition, then, otherwise) => {
                    let row = self.row(*condition);
                    let taken = each(party.lanes).filter(|&lane| row[lane] & 1 == 1).fold(0, |set, lane| set | 1 << lane);
                    self.follow(then, taken);
                    self.follow(otherwise, party.lanes & !taken);
                    return Ok(None);
                }
                Do::Switch(value, cases, otherwise) => {
                    let mut rest = party.lanes;
                    for (case, edge) in cases {
                        let row = self.row(*value);
                        let taken = each(rest).filter(|&lane| row[lane] == *case).fold(0, |set, lane| set | 1 << lane);
                        self.follow(edge, taken);
                        rest &= !taken;
                    }
                    self.follow(otherwise, rest);
                    return Ok(None);
                }
                Do::Return => {
                    // Those who waited for these lanes look again.
                    self.parties.iter_mut().for_each(|party| party.waits = false);
                    return Ok(None);
                }
                Do::Unreachable => {
                    return Err(
                        Fault::new(Kind::Undefined, "control arrives where it may not").at(|| self.place(s, &party, None))
                    );
                }
                Do::Collective(collective, args, to) => {
                    let others = self.parties.iter().position(|p| (p.block, p.step) == (party.block, party.step));
                    if let Some(at) = others {
                        party.lanes |= self.parties.swap_remove(at).lanes;
                    }
                    if self.live() != 0 {
                        self.parties.push(Party { waits: true, ..party });
                        return Ok(None);
                    }
                    if matches!(collective, Collective::Barrier) {
                        self.parties.push(Party { step: party.step + 1, ..party });
                        return Ok(Some(State::AtBarrier));
                    }
                    self.together(*collective, args, *to, party.lanes)
                        .map_err(|fault| fault.at(|| self.place(s, &party, None)))?;
                }
                step => {
                    self.alone(s, step, party.lanes).map_err(|(lane, fault)| fault.at(|| self.place(s, &party, Some(lane))))?;
                }
            }
            party.step += 1;
        }
    }

    fn follow(&mut self, edge: &Edge, lanes: u64) {
        if lanes == 0 {
            return;
        }
        self.copy(&edge.copies, lanes);
        self.arrive(Party { block: edge.block, step: 0, lanes, waits: false });
    }

    /// Copies that happen at once.
    fn copy(&mut self, copies: &[(Place, Place)], lanes: u64) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        for &(from, _) in copies {
            scratch.extend_from_slice(self.row(from));
        }
        let width = self.lanes as usize;
        for (at, &(_, to)) in copies.iter().enumerate() {
            let row = self.row_mut(to);
            each(lanes).for_each(|lane| row[lane] = scratch[at * width + lane]);
        }
        self.scratch = scratch;
    }

    /// An instruction that every lane executes for itself; a fault comes with its lane.
    fn alone(&mut self, s: &mut Surroundings<'_>, step: &Do, lanes: u64) -> Result<(), (usize, Fault)> {
        match step {
            Do::Map { function, width, args, to, count, divides } => {
                for c in 0..*count {
                    if *divides {
                        let zero = each(lanes).find(|&lane| self.get(args[1] + c, lane) == 0);
                        if let Some(lane) = zero {
                            return Err((lane, Fault::new(Kind::Undefined, "a division by zero")));
                        }
                    }
                    match function {
                        Function::One(f) => each(lanes).for_each(|l| self.set(to + c, l, f(self.get(args[0] + c, l), *width))),
                        Function::Two(f) => each(lanes)
                            .for_each(|l| self.set(to + c, l, f(self.get(args[0] + c, l), self.get(args[1] + c, l), *width))),
                        Function::Three(f) => each(lanes).for_each(|l| {
                            let [x, y, z] = args.map(|arg| self.get(arg + c, l));
                            self.set(to + c, l, f(x, y, z, *width));
                        }),
                    }
                }
            }
            Do::AddWithCarry { width, args, to } => {
                for lane in each(lanes) {
                    let sum = u128::from(self.get(args[0], lane)) + u128::from(self.get(args[1], lane));
                    self.set(*to, lane, sum as u64 & (u64::MAX >> (64 - width)));
                    self.set(to + 1, lane, u64::from(sum >> width != 0));
                }
            }
            Do::Reduce { function, width, from, count, to } => {
                let Function::Two(f) = function else { unreachable!("two are combined") };
                for lane in each(lanes) {
                    let first = self.get(*from, lane);
                    let all = (1..*count).fold(first, |all, at| f(all, self.get(from + at, lane), *width));
                    self.set(*to, lane, all);
                }
            }
            Do::Select { condition, each: stride, then, otherwise, to, count } => {
                for c in 0..*count {
                    for lane in each(lanes) {
                        let from = if self.get(condition + stride * c, lane) & 1 == 1 { then } else { otherwise };
                        self.set(to + c, lane, self.get(from + c, lane));
                    }
                }
            }
            Do::Copy(copies) => self.copy(copies, lanes),
            Do::Recut { from, from_bits, to, to_bits, count } => {
                for lane in each(lanes) {
                    let total = count * from_bits;
                    for at in 0..total / to_bits {
                        let bit = |bit: u32| self.get(from + bit / from_bits, lane) >> (bit % from_bits) & 1;
                        let bits = (0..*to_bits).fold(0, |all, i| all | bit(at * to_bits + i) << i);
                        self.set(to + at, lane, bits);
                    }
                }
            }
            Do::Address { base, offset, terms, to } => {
                for lane in each(lanes) {
                    let mut address = self.get(*base, lane).wrapping_add(*offset);
                    for &(index, bits, factor) in terms {
                        let index = ((self.get(index, lane) << (64 - bits)) as i64 >> (64 - bits)) as u64;
                        address = address.wrapping_add(index.wrapping_mul(factor));
                    }
                    self.set(*to, lane, address);
                }
            }
            Do::Load { space, address, align, bytes, to, count } => {
                let mut buffer = [0; 64];
                let size = (bytes * count) as usize;
                for lane in each(lanes) {
                    let (at, toucher) = (self.get(*address, lane), self.toucher(s, lane));
                    s.memory.load(*space, at, *align, &mut buffer[..size], &toucher).map_err(|fault| (lane, fault))?;
                    for (c, component) in (0..).zip(buffer[..size].chunks_exact(*bytes as usize)) {
                        let bits = component.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
                        self.set(to + c, lane, bits);
                    }
                }
            }
            Do::Store { space, address, align, bytes, from, count } => {
                let mut buffer = [0; 64];
                let size = (bytes * count) as usize;
                for lane in each(lanes) {
                    for (c, component) in (0..).zip(buffer[..size].chunks_exact_mut(*bytes as usize)) {
                        component.copy_from_slice(&self.get(from + c, lane).to_le_bytes()[..*bytes as usize]);
                    }
                    let (at, toucher) = (self.get(*address, lane), self.toucher(s, lane));
                    s.memory.store(*space, at, *align, &buffer[..size], &toucher).map_err(|fault| (lane, fault))?;
                }
            }
            Do::Special(special, to) => {
                for lane in each(lanes) {
                    let number = match special {
                        Special::Thread => u64::from(self.first_thread) + lane as u64,
                        Special::Block => s.block,
                        Special::Threads => s.threads.into(),
                        Special::Lane => lane as u64,
                    };
                    self.set(*to, lane, number);
                }
            }
            _ => unreachable!("control and collectives are treated elsewhere"),
        }
        Ok(())
    }

    fn toucher(&self, s: &Surroundings<'_>, lane: usize) -> Toucher {
        Toucher { thread: (self.first_thread as usize + lane) as u16, ..s.toucher }
    }

    /// A collective instruction of all lanes that have not ended.
    fn together(&mut self, collective: Collective, args: &[Place], to: Place, lanes: u64) -> Result<(), Fault> {
        match collective {
            Collective::Barrier | Collective::Meet => {}
            Collective::Shuffle(mode) => {
                let &[member, value, by, _] = args else {
                    return Err(Fault::new(Kind::Undefined, "a shuffle without operands"));
                };
                let values = self.row(value).to_vec();
                for lane in each(lanes) {
                    if self.get(member, lane) & lanes != lanes {
                        return Err(Fault::new(Kind::Divergence, "a lane takes part in a shuffle whose mask lacks it"));
                    }
                    let from = collective::source(mode, lane as u32, self.get(by, lane) as u32, self.lanes) as usize;
                    if lanes >> from & 1 == 0 {
                        return Err(Fault::new(Kind::Divergence, format!("lane {lane} reads lane {from}, which has ended")));
                    }
                    self.set(to, lane, values[from]);
                }
            }
            Collective::Exchange(exchange) => {
                let values = self.row(args[exchange.value()]).to_vec();
                for lane in each(lanes) {
                    let from = exchange.source(lane as u32, self.lanes, |at| self.get(args[at], lane));
                    let from = from.map_err(|what| Fault::new(Kind::Undefined, format!("{what} is not known")))? as usize;
                    if lanes >> from & 1 == 0 {
                        return Err(Fault::new(Kind::Divergence, format!("lane {lane} reads lane {from}, which has ended")));
                    }
                    self.set(to, lane, values[from]);
                }
            }
            Collective::Matrix(product) => {
                let all = u64::MAX >> (64 - product.lanes);
                if self.lanes != product.lanes || lanes != all || args.len() < product.components() {
                    let what = format!("a matrix product without all of {} lanes", product.lanes);
                    return Err(Fault::new(Kind::Divergence, what));
                }
                let sums = product.compute(|lane, at| self.get(args[at], lane))?;
                for (lane, sums) in sums.chunks_exact(product.results()).enumerate() {
                    for (at, sum) in (0..).zip(sums) {
                        self.set(to + at, lane, sum.to_bits().into());
                    }
                }
            }
        }
        Ok(())
    }
}
