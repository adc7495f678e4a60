//! A plane of the MXM.

use crate::{Vector, Words};
use q35_tsp::geometry::{COLUMNS_PER_LOAD, LANES};
use q35_tsp::timing::Timing;
use std::collections::{BTreeMap, VecDeque};

struct Accumulator {
    ready: i64,
    words: Words,
}

pub(crate) struct Plane {
    timing: Timing,
    /// Loads on their way into the buffer, and in it: from when on, and 16 columns.
    loads: VecDeque<(i64, Vec<Vector>)>,
    /// When the buffer moves into the array: installations to come.
    installs: VecDeque<i64>,
    /// Columns of the array, as 16-bit integers.
    array: Vec<i16>,
    usable: Option<i64>,
    last_multiply: i64,
    accumulators: BTreeMap<u8, Accumulator>,
}

impl Plane {
    pub(crate) fn new(timing: Timing) -> Self {
        let (loads, installs, array, accumulators) = Default::default();
        Self { timing, loads, installs, array, usable: None, last_multiply: i64::MIN / 2, accumulators }
    }

    pub(crate) fn load(&mut self, cycle: i64, columns: Vec<Vector>) -> Result<(), String> {
        self.settle(cycle)?;
        self.loads.push_back((cycle + self.timing.weights, columns));
        if self.loads.len() * COLUMNS_PER_LOAD > 2 * LANES { Err("the weight buffer is full".to_owned()) } else { Ok(()) }
    }

    /// Loads, and installs when that is through.
    pub(crate) fn install(&mut self, cycle: i64, columns: Vec<Vector>) -> Result<(), String> {
        self.load(cycle, columns)?;
        let at = cycle + self.timing.weights;
        if at < self.last_multiply + self.timing.multiply {
            return Err(format!("the array is in use until cycle {}", self.last_multiply + self.timing.multiply));
        }
        self.installs.push_back(at);
        Ok(())
    }

    /// Moves the buffer into the array, if that is due.
    fn settle(&mut self, cycle: i64) -> Result<(), String> {
        while let Some(at) = self.installs.pop_front_if(|at| *at <= cycle) {
            self.array.clear();
            while let Some((_, columns)) = self.loads.pop_front_if(|(from, _)| *from <= at) {
                columns.iter().flatten().for_each(|byte| self.array.push(i16::from(*byte as i8)));
            }
            if self.array.len() > LANES * LANES {
                return Err(format!("the weight buffer holds {} columns", self.array.len() / LANES));
            }
            self.usable = Some(at + self.timing.install);
        }
        Ok(())
    }

    pub(crate) fn multiply(&mut self, cycle: i64, input: &Vector, accumulator: u8, add: bool) -> Result<(), String> {
        self.settle(cycle)?;
        if let Some(at) = self.installs.front().filter(|at| **at < cycle + self.timing.multiply) {
            return Err(format!("the weights change in cycle {at}"));
        }
        if self.usable.is_none_or(|usable| usable > cycle) {
            return Err("the array holds no weights yet".to_owned());
        }
        if i64::from(accumulator) >= self.timing.accumulators {
            return Err(format!("there is no accumulator {accumulator}"));
        }
        self.last_multiply = cycle;
        let input: Vec<i16> = input.iter().map(|byte| i16::from(*byte as i8)).collect();
        let mut words = [0u32; LANES];
        for (word, column) in words.iter_mut().zip(self.array.chunks_exact(LANES)) {
            let sum: i32 = column.iter().zip(&input).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum();
            *word = sum as u32;
        }
        if add {
            let before =
                self.accumulators.get(&accumulator).ok_or_else(|| format!("accumulator {accumulator} holds nothing"))?;
            for (word, before) in words.iter_mut().zip(&before.words) {
                let sum = (*word as i32).checked_add(*before as i32).ok_or("an accumulator exceeds 32 bits")?;
                *word = sum as u32;
            }
        }
        self.accumulators.insert(accumulator, Accumulator { ready: cycle + self.timing.multiply, words });
        Ok(())
    }

    pub(crate) fn emit(&self, cycle: i64, accumulator: u8) -> Result<&Words, String> {
        match self.accumulators.get(&accumulator) {
            None => Err(format!("accumulator {accumulator} holds nothing")),
            Some(held) if held.ready > cycle => Err(format!("accumulator {accumulator} has its sum in cycle {}", held.ready)),
            Some(held) => Ok(&held.words),
        }
    }
}
