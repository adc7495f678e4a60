//! The machine as a whole: the host's side, time, and what happens in a cycle.

use crate::pe::{Pe, Running};
use crate::router::{Channel, OUTPUT_DEPTH, input_depth};
use crate::vector::{Scratch, Vector};
use crate::{Policy, Settings};
use q35_csl::image::Symbol;
use q35_csl::layout::{DIRECTIONS, RAMP};
use q35_csl::value::Elem;
use q35_csl::{Fault, Layout, Stop, Value};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;

/// What stopped a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Column and row of the PE, where one is to blame.
    pub pe: Option<(usize, usize)>,
    /// When.
    pub cycle: u64,
    /// What.
    pub what: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pe {
            Some((x, y)) => write!(f, "PE ({x}, {y}), cycle {}: {}", self.cycle, self.what),
            None => write!(f, "cycle {}: {}", self.cycle, self.what),
        }
    }
}

impl std::error::Error for Error {}

/// What a launch took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Cycles from launch to the last unblock.
    pub cycles: u64,
    /// Cycles of computation of the PE that computes most.
    pub compute: u64,
    /// Cycles in which that PE moves or awaits wavelets.
    pub fabric: u64,
    /// Cycles of computation over all PEs.
    pub total_compute: u64,
    /// Wavelets over links.
    pub hops: u64,
}

/// A fabric with a program on it.
#[derive(Debug)]
pub struct Fabric {
    layout: Layout,
    settings: Settings,
    pes: Vec<Pe>,
    /// Channels of each PE.
    channels: Vec<Vec<Channel>>,
    /// Channel of a color at a PE.
    of_color: Vec<[Option<u8>; 24]>,
    /// Routers that hold wavelets.
    active: Vec<usize>,
    is_active: Vec<bool>,
    /// PEs to look at in this cycle.
    awake: Vec<usize>,
    /// PEs to look at later.
    later: BinaryHeap<Reverse<(u64, usize)>>,
    cycle: u64,
    hops: u64,
    scratch: Scratch,
}

impl Fabric {
    /// Loads a program. The program has passed [`q35_csl::check::check`].
    ///
    /// # Errors
    /// Every rule that the program violates.
    pub fn new(layout: Layout, settings: Settings) -> Result<Self, Error> {
        let broken = q35_csl::check::check(&layout);
        if !broken.is_empty() {
            return Err(Error { pe: None, cycle: 0, what: format!("the rules are violated: {}", broken.join("; ")) });
        }
        let count = layout.tiles.len();
        let mut fabric = Self {
            settings,
            pes: Vec::with_capacity(count),
            channels: Vec::with_capacity(count),
            of_color: vec![[None; 24]; count],
            active: Vec::new(),
            is_active: vec![false; count],
            awake: Vec::new(),
            later: BinaryHeap::new(),
            cycle: 0,
            hops: 0,
            scratch: Scratch::default(),
            layout,
        };
        for at in 0..count {
            let image = fabric.layout.tiles[at].unwrap_or(0);
            let program = &fabric.layout.images[image];
            let mut pe = Pe::new(image, program.data_words, program.globals.clone());
            for (word, elem, value) in &program.initial {
                elem.write(&mut pe.memory, *word, value).map_err(|fault| Error { pe: None, cycle: 0, what: fault.what })?;
            }
            let mut channels = Vec::new();
            for (&(_, color), config) in fabric.layout.configs.range((at, 0)..=(at, u8::MAX)) {
                let source = program.output_queues.values().any(|c| *c == color).then_some(OUTPUT_DEPTH);
                let sink = program.input_queues.iter().find(|(_, c)| **c == color).map(|(id, _)| *id);
                fabric.of_color[at][usize::from(color)] = Some(channels.len() as u8);
                channels.push(Channel::new(color, *config, source, sink));
            }
            fabric.pes.push(pe);
            fabric.channels.push(channels);
        }
        Ok(fabric)
    }

    /// The program.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    fn error(&self, pe: usize, what: impl Into<String>) -> Error {
        let (x, y) = (pe % self.layout.width, pe / self.layout.width);
        Error { pe: Some((x, y)), cycle: self.cycle, what: what.into() }
    }

    fn array(&self, pe: usize, name: &str) -> Result<Symbol, Error> {
        let image = self.pes.get(pe).map(|pe| &self.layout.images[pe.image]);
        let symbol = image.and_then(|image| image.symbols.get(name)).copied();
        symbol.ok_or_else(|| self.error(pe, format!("there is no array '{name}'")))
    }

    fn symbol(&self, pe: usize, name: &str, len: usize, wants: Elem) -> Result<Symbol, Error> {
        let symbol = self.array(pe, name)?;
        if symbol.elem.words() != wants.words() || symbol.len < len {
            return Err(self.error(pe, format!("'{name}' holds {} elements of {}", symbol.len, symbol.elem.name())));
        }
        Ok(symbol)
    }

    /// Copies 16-bit words to the start of an array of a PE.
    pub fn write_words(&mut self, (x, y): (usize, usize), name: &str, data: &[u16]) -> Result<(), Error> {
        let pe = y * self.layout.width + x;
        let symbol = self.symbol(pe, name, data.len(), Elem::U16)?;
        self.pes[pe].memory[symbol.base..symbol.base + data.len()].copy_from_slice(data);
        Ok(())
    }

    /// Copies 16-bit words from an array of a PE.
    pub fn read_words(&self, (x, y): (usize, usize), name: &str, data: &mut [u16]) -> Result<(), Error> {
        let pe = y * self.layout.width + x;
        let symbol = self.symbol(pe, name, data.len(), Elem::U16)?;
        data.copy_from_slice(&self.pes[pe].memory[symbol.base..symbol.base + data.len()]);
        Ok(())
    }

    /// Copies words to the start of an array of a PE, whatever its elements are.
    pub fn write_array(&mut self, (x, y): (usize, usize), name: &str, data: &[u16]) -> Result<(), Error> {
        let pe = y * self.layout.width + x;
        let symbol = self.array(pe, name)?;
        if symbol.len * symbol.elem.words() < data.len() {
            return Err(self.error(pe, format!("'{name}' holds fewer than {} words", data.len())));
        }
        self.pes[pe].memory[symbol.base..symbol.base + data.len()].copy_from_slice(data);
        Ok(())
    }

    /// A word of an array of 16-bit elements; 0 where there is none.
    pub fn word(&self, (x, y): (usize, usize), name: &str, at: usize) -> u16 {
        let pe = y * self.layout.width + x;
        self.symbol(pe, name, at + 1, Elem::U16).map_or(0, |symbol| self.pes[pe].memory[symbol.base + at])
    }

    /// Sets a word of an array of 16-bit elements, where there is one.
    pub fn set_word(&mut self, (x, y): (usize, usize), name: &str, at: usize, word: u16) {
        let pe = y * self.layout.width + x;
        if let Ok(symbol) = self.symbol(pe, name, at + 1, Elem::U16) {
            self.pes[pe].memory[symbol.base + at] = word;
        }
    }

    /// Copies numbers to the start of an array of a PE.
    pub fn write(&mut self, (x, y): (usize, usize), name: &str, data: &[f32]) -> Result<(), Error> {
        let pe = y * self.layout.width + x;
        let symbol = self.symbol(pe, name, data.len(), Elem::F32)?;
        for (pair, value) in self.pes[pe].memory[symbol.base..].chunks_exact_mut(2).zip(data) {
            pair[0] = value.to_bits() as u16;
            pair[1] = (value.to_bits() >> 16) as u16;
        }
        Ok(())
    }

    /// Copies numbers from the start of an array of a PE.
    pub fn read(&self, (x, y): (usize, usize), name: &str, data: &mut [f32]) -> Result<(), Error> {
        let pe = y * self.layout.width + x;
        let symbol = self.symbol(pe, name, data.len(), Elem::F32)?;
        for (pair, value) in self.pes[pe].memory[symbol.base..].chunks_exact(2).zip(data) {
            *value = f32::from_bits(u32::from(pair[0]) | u32::from(pair[1]) << 16);
        }
        Ok(())
    }

    /// Runs an exported function on every PE until each has let the host go on, and nothing moves any more.
    pub fn launch(&mut self, function: &str, args: &[u16]) -> Result<Report, Error> {
        let args: Vec<Value> = args.iter().map(|arg| Value::Int((*arg).into())).collect();
        let start = self.cycle;
        self.hops = 0;
        for at in 0..self.pes.len() {
            let image = &self.layout.images[self.pes[at].image];
            let Some(&index) = image.functions.get(function) else {
                return Err(self.error(at, format!("there is no function '{function}'")));
            };
            let pe = &mut self.pes[at];
            (pe.unblocked, pe.compute, pe.fabric, pe.busy) = (false, 0, 0, start);
            let Pe { memory, globals, machine, .. } = pe;
            let state = image.state(memory, globals, (0, 0));
            machine.start(&state, index, &args).map_err(|fault| Error { pe: None, cycle: start, what: fault.to_string() })?;
            self.wake(at);
        }
        self.run()?;
        let mut report = Report { cycles: self.cycle - start, hops: self.hops, ..Report::default() };
        for pe in &self.pes {
            if pe.compute > report.compute {
                (report.compute, report.fabric) = (pe.compute, pe.fabric);
            }
            report.total_compute += pe.compute;
        }
        Ok(report)
    }

    fn wake(&mut self, pe: usize) {
        if !std::mem::replace(&mut self.pes[pe].awake, true) {
            self.awake.push(pe);
        }
    }

    /// Cycles until nothing can happen any more.
    fn run(&mut self) -> Result<(), Error> {
        loop {
            while let Some(Reverse((time, pe))) = self.later.peek().copied().filter(|Reverse((time, _))| *time <= self.cycle) {
                self.later.pop();
                debug_assert!(time <= self.cycle);
                self.wake(pe);
            }
            let moved = self.move_wavelets()?;
            let mut looked = std::mem::take(&mut self.awake);
            let any = !looked.is_empty();
            for pe in looked.drain(..) {
                self.pes[pe].awake = false;
                self.attend(pe)?;
            }
            if self.awake.is_empty() {
                self.awake = looked;
            }
            let waiting = self.later.peek().map(|Reverse((time, _))| *time);
            if moved || any || !self.awake.is_empty() {
                self.cycle += 1;
            } else if let Some(time) = self.next_ready().into_iter().chain(waiting).min() {
                self.cycle = time.max(self.cycle + 1);
            } else {
                return self.finished();
            }
        }
    }

    /// The next cycle in which a wavelet that is on its way may move, if that is in the future.
    fn next_ready(&self) -> Option<u64> {
        let ready = |pe: &usize| {
            let heads = self.channels[*pe].iter().flat_map(|c| [c.held.front(), c.leaving.front()]);
            heads.flatten().map(|(_, ready)| *ready).filter(|ready| *ready > self.cycle).min()
        };
        self.active.iter().filter_map(ready).min()
    }

    /// Every router moves what it can. Whether anything moved.
    fn move_wavelets(&mut self) -> Result<bool, Error> {
        let mut active = std::mem::take(&mut self.active);
        let mut moved = false;
        for &pe in &active {
            moved |= self.route(pe)?;
        }
        active.retain(|&pe| {
            let holds = self.channels[pe].iter().any(|channel| !channel.is_empty());
            self.is_active[pe] = holds;
            holds
        });
        // Routers that woke meanwhile stand in `self.active`.
        active.append(&mut self.active);
        self.active = active;
        Ok(moved)
    }

    fn activate_router(&mut self, pe: usize) {
        if !std::mem::replace(&mut self.is_active[pe], true) {
            self.active.push(pe);
        }
    }

    fn route(&mut self, pe: usize) -> Result<bool, Error> {
        let count = self.channels[pe].len();
        let first = match self.settings.policy {
            Policy::Fixed => 0,
            Policy::RoundRobin => self.cycle as usize % count,
            Policy::Random(seed) => {
                let mixed = (self.cycle ^ (pe as u64) << 32 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (mixed >> 33) as usize % count
            }
        };
        let (mut links, mut ramp, mut moved) = (0u8, false, false);
        for turn in 0..count {
            let at = (first + turn) % count;
            // The head of the buffer goes on, if every destination takes it.
            let channel = &self.channels[pe][at];
            let (tx, color) = (channel.tx, usize::from(channel.color));
            if let Some(&(data, ready)) = channel.held.front()
                && ready <= self.cycle
                && tx & links == 0
                && self.can_take(pe, at)
            {
                links |= tx;
                moved = true;
                self.channels[pe][at].held.pop_front();
                for direction in (0..RAMP).filter(|d| tx >> d & 1 == 1) {
                    let Some(to) = self.layout.neighbour(pe, direction) else { continue };
                    let Some(there) = self.of_color[to][color] else { continue };
                    self.hops += 1;
                    self.channels[to][usize::from(there)].held.push_back((data, self.cycle + 1));
                    self.activate_router(to);
                }
                if tx >> RAMP & 1 == 1 {
                    let queue = self.channels[pe][at].sink;
                    let queue = queue.ok_or_else(|| self.error(pe, format!("color {color} is delivered to no queue")))?;
                    self.pes[pe].input[usize::from(queue)].push_back((data, self.cycle + self.settings.ramp));
                    self.later.push(Reverse((self.cycle + self.settings.ramp, pe)));
                }
            }
            // The ramp feeds the buffer.
            let depth = self.settings.depth;
            let channel = &mut self.channels[pe][at];
            if !ramp
                && channel.held.len() < depth
                && let Some(&(data, ready)) = channel.leaving.front()
                && ready <= self.cycle
            {
                channel.leaving.pop_front();
                channel.held.push_back((data, self.cycle + 1));
                (ramp, moved) = (true, true);
                self.wake(pe);
            }
        }
        Ok(moved)
    }

    /// Whether all destinations of a channel have room.
    fn can_take(&self, pe: usize, at: usize) -> bool {
        let channel = &self.channels[pe][at];
        let room = |direction: usize| match self.layout.neighbour(pe, direction) {
            Some(to) => self.of_color[to][usize::from(channel.color)]
                .is_some_and(|there| self.channels[to][usize::from(there)].held.len() < self.settings.depth),
            None => false,
        };
        let delivered = channel.tx >> RAMP & 1 == 0
            || channel.sink.is_none_or(|queue| self.pes[pe].input[usize::from(queue)].len() < input_depth(queue));
        delivered && (0..RAMP).filter(|d| channel.tx >> d & 1 == 1).all(room)
    }

    /// A PE does what it can in this cycle.
    fn attend(&mut self, at: usize) -> Result<(), Error> {
        let mut index = 0;
        while index < self.pes[at].running.len() {
            if self.advance(at, index)? { index += 1 } else { self.complete(at, index) }
        }
        if self.pes[at].waits() {
            return Ok(());
        }
        while self.pes[at].busy <= self.cycle {
            if self.pes[at].machine.is_idle() && !self.dispatch(at)? {
                return Ok(());
            }
            if !self.thread(at)? {
                return Ok(());
            }
        }
        let busy = self.pes[at].busy;
        self.later.push(Reverse((busy, at)));
        Ok(())
    }

    /// One element of an operation on wavelets, if it can. Whether the operation goes on.
    fn advance(&mut self, at: usize, index: usize) -> Result<bool, Error> {
        let pe = &mut self.pes[at];
        let running = &mut pe.running[index];
        let vector = running.vector;
        if running.done == vector.len {
            return Ok(false);
        }
        if running.ready > self.cycle {
            self.later.push(Reverse((running.ready, at)));
            return Ok(true);
        }
        let wavelet = match vector.input() {
            None => 0,
            Some(queue) => match pe.input[usize::from(queue)].front() {
                Some((data, ready)) if *ready <= self.cycle => *data,
                // Asleep until a wavelet comes.
                _ => return Ok(true),
            },
        };
        let channel = vector.output().and_then(|queue| {
            let color = self.layout.images[pe.image].output_queues.get(&queue)?;
            self.of_color[at][usize::from(*color)].map(usize::from)
        });
        if let Some(queue) = vector.output() {
            match channel.map(|channel| &self.channels[at][channel]) {
                Some(Channel { source: Some(depth), leaving, .. }) if leaving.len() < *depth => {}
                // Asleep until the router takes one.
                Some(Channel { source: Some(_), .. }) => return Ok(true),
                _ => return Err(self.error(at, format!("output queue {queue} has no route to leave by"))),
            }
        }
        let element = running.done;
        let bits = vector.element(&pe.memory, element, wavelet);
        running.done += 1;
        running.ready = self.cycle + 1;
        if let Some(queue) = vector.input() {
            pe.input[usize::from(queue)].pop_front();
            self.activate_router(at);
        }
        match channel {
            Some(channel) => {
                let ready = self.cycle + self.settings.ramp;
                self.channels[at][channel].leaving.push_back((bits, ready));
                self.activate_router(at);
            }
            None => vector.store(&mut self.pes[at].memory, element, bits),
        }
        let more = self.pes[at].running[index].done < vector.len;
        if more {
            self.later.push(Reverse((self.cycle + 1, at)));
        }
        Ok(more)
    }

    /// An operation on wavelets has ended.
    fn complete(&mut self, at: usize, index: usize) {
        let cycle = self.cycle;
        let pe = &mut self.pes[at];
        let ended = pe.running.remove(index);
        let [activate, unblock] = ended.then;
        pe.activated.extend(activate);
        if let Some(id) = unblock {
            pe.blocked.remove(&id);
        }
        if ended.blocking {
            pe.fabric += cycle + 1 - pe.since;
            pe.busy = cycle + 1;
        }
        self.wake(at);
    }

    /// Starts a task that is activated and not blocked. Whether there was one.
    fn dispatch(&mut self, at: usize) -> Result<bool, Error> {
        let image = &self.layout.images[self.pes[at].image];
        let pe = &mut self.pes[at];
        let Some(id) = pe.activated.iter().copied().find(|id| !pe.blocked.contains(id)) else { return Ok(false) };
        pe.activated.remove(&id);
        let Some(&function) = image.tasks.get(&id) else {
            return Err(self.error(at, format!("task {id} is activated, and bound to nothing")));
        };
        let Pe { memory, globals, machine, .. } = pe;
        let started = machine.start(&image.state(memory, globals, (0, 0)), function, &[]);
        started.map_err(|fault| self.error(at, fault.to_string()))?;
        Ok(true)
    }

    /// Runs a PE's thread to its next stop. Whether it can go on.
    fn thread(&mut self, at: usize) -> Result<bool, Error> {
        let coordinates = ((at % self.layout.width) as i64, (at / self.layout.width) as i64);
        let image = &self.layout.images[self.pes[at].image];
        let pe = &mut self.pes[at];
        let Pe { memory, globals, machine, .. } = pe;
        let before = (machine.scalars, machine.maths);
        let stop = machine.run(&mut image.state(memory, globals, coordinates));
        let scalar = (machine.scalars - before.0) + self.settings.math * (machine.maths - before.1);
        pe.compute += scalar;
        pe.busy = pe.busy.max(self.cycle) + scalar;
        let fail = |this: &Self, fault: Fault| this.error(at, fault.to_string());
        match stop {
            Err(fault) => return Err(fail(self, fault)),
            Ok(Stop::Done(_)) => {}
            Ok(Stop::UnblockCmdStream) => {
                let (again, early) = (std::mem::replace(&mut pe.unblocked, true), !pe.running.is_empty());
                if again || early {
                    let when = if again { "twice" } else { "before the last operation on wavelets has ended" };
                    return Err(self.error(at, format!("the command stream is unblocked {when}")));
                }
            }
            Ok(Stop::Task("activate", id)) => {
                pe.activated.insert(id);
            }
            Ok(Stop::Task("block", id)) => {
                pe.blocked.insert(id);
            }
            Ok(Stop::Task(_, id)) => {
                pe.blocked.remove(&id);
            }
            Ok(Stop::Vector(op, args, options)) => {
                let vector = Vector::new(op, &args, pe.memory.len()).map_err(|fault| fail(self, fault))?;
                return self.vector(at, vector, &options);
            }
            Ok(Stop::Declare(name, _)) => return Err(self.error(at, format!("'@{name}' at run time"))),
        }
        Ok(true)
    }

    /// Starts a vector operation. Whether the thread can go on.
    fn vector(&mut self, at: usize, vector: Vector, options: &Value) -> Result<bool, Error> {
        const OPTIONS: [&str; 3] = ["async", "activate", "unblock"];
        if let Some((name, _)) = options.fields().iter().find(|(name, _)| !OPTIONS.contains(&name.as_str())) {
            return Err(self.error(at, format!("an operation with the option '{name}'")));
        }
        let flag = |name: &str| options.field(name).cloned();
        let task = |name: &str| match flag(name) {
            Some(Value::Task(id)) => Some(id),
            _ => None,
        };
        let asynchronous = flag("async") == Some(Value::Bool(true));
        let ends = [task("activate"), task("unblock")].into_iter().flatten().count();
        if ends > usize::from(asynchronous) {
            let what = if asynchronous {
                "a task to activate and one to unblock"
            } else {
                "a task to go on with, and not asynchronous"
            };
            return Err(self.error(at, format!("an operation has {what}")));
        }
        let start = self.pes[at].busy.max(self.cycle) + self.settings.startup;
        if !vector.on_fabric() {
            let cycles = vector.cycles();
            let pe = &mut self.pes[at];
            vector.run(&mut pe.memory, &mut self.scratch);
            pe.compute += self.settings.startup + cycles;
            pe.busy = start + cycles;
            pe.activated.extend(task("activate"));
            if let Some(id) = task("unblock") {
                pe.blocked.remove(&id);
            }
            return Ok(true);
        }
        if self.pes[at].unblocked {
            return Err(self.error(at, "an operation on wavelets after the command stream is unblocked"));
        }
        let image = &self.layout.images[self.pes[at].image];
        for (queue, table, kind) in
            [(vector.input(), &image.input_queues, "input"), (vector.output(), &image.output_queues, "output")]
        {
            let Some(queue) = queue else { continue };
            if !table.contains_key(&queue) {
                return Err(self.error(at, format!("{kind} queue {queue} is not initialized")));
            }
            let same =
                |r: &Running| if kind == "input" { r.vector.input() == Some(queue) } else { r.vector.output() == Some(queue) };
            if self.pes[at].running.iter().any(same) {
                return Err(self.error(at, format!("two operations on {kind} queue {queue}")));
            }
        }
        let then = [task("activate"), task("unblock")];
        let pe = &mut self.pes[at];
        pe.since = pe.busy.max(self.cycle);
        pe.running.push(Running { vector, done: 0, ready: start, then, blocking: !asynchronous });
        if asynchronous {
            pe.compute += self.settings.startup;
            pe.busy = start;
        }
        self.later.push(Reverse((start, at)));
        Ok(asynchronous)
    }

    /// Nothing can happen any more: a launch has ended, or it never will.
    fn finished(&mut self) -> Result<(), Error> {
        if let Some(stuck) = (0..self.pes.len()).find(|at| !self.pes[*at].is_idle()) {
            return Err(self.deadlock(stuck));
        }
        if let Some(silent) = (0..self.pes.len()).find(|at| !self.pes[*at].unblocked) {
            return Err(self.error(silent, "the launch has ended without unblocking the command stream"));
        }
        for at in 0..self.pes.len() {
            if let Some(queue) = self.pes[at].input.iter().position(|queue| !queue.is_empty()) {
                let left = self.pes[at].input[queue].len();
                return Err(self.error(at, format!("{left} wavelets are left in input queue {queue}")));
            }
            if let Some(channel) = self.channels[at].iter().find(|channel| !channel.is_empty()) {
                return Err(self.error(at, format!("wavelets of color {} are left in the router", channel.color)));
            }
        }
        Ok(())
    }

    /// Follows who waits for whom, from a PE that is stuck, until someone comes again or nobody is waited for.
    fn deadlock(&self, start: usize) -> Error {
        let (mut at, mut seen, mut story) = (start, BTreeMap::new(), Vec::new());
        let circle = loop {
            if let Some(first) = seen.insert(at, story.len()) {
                break Some(first);
            }
            let (what, next) = self.waits_for(at);
            story.push(format!("PE {} {what}", self.layout.show(at)));
            match next {
                Some(next) => at = next,
                None => break None,
            }
        };
        let shown = story[circle.unwrap_or(0)..].join("; ");
        let kind = if circle.is_some() { "a circle of waiting PEs" } else { "PEs that wait in vain" };
        self.error(start, format!("deadlock, {kind}: {shown}"))
    }

    /// What a stuck PE waits for, and the PE that could help.
    fn waits_for(&self, at: usize) -> (String, Option<usize>) {
        let pe = &self.pes[at];
        let image = &self.layout.images[pe.image];
        let Some(running) = pe.running.first() else {
            return ("has ended".to_owned(), None);
        };
        if let Some(queue) = running.vector.input()
            && pe.input[usize::from(queue)].is_empty()
        {
            let color = image.input_queues.get(&queue).copied().unwrap_or(0);
            return (format!("waits for a wavelet of color {color}"), self.follow(at, color, |config| config.rx));
        }
        let queue = running.vector.output().unwrap_or(0);
        let color = image.output_queues.get(&queue).copied().unwrap_or(0);
        (format!("waits to send on color {color}"), self.follow(at, color, |config| config.tx))
    }

    /// The PE at the end of a color's way from `at`, in the directions that `side` gives.
    fn follow(&self, at: usize, color: u8, side: fn(&q35_csl::Config) -> u8) -> Option<usize> {
        let mut here = at;
        for _ in 0..self.pes.len() {
            let config = self.layout.configs.get(&(here, color))?;
            let ends = here != at && side(config) >> RAMP & 1 == 1;
            if ends {
                return Some(here);
            }
            let direction = (0..RAMP).find(|d| side(config) >> d & 1 == 1)?;
            debug_assert!(direction < DIRECTIONS.len());
            here = self.layout.neighbour(here, direction)?;
        }
        None
    }
}
