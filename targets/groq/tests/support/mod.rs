//! Models for tests: parameters with values, the same for the interpreter and for the simulator's host.

#![allow(dead_code)] // each test uses its part

pub mod llama;

use q35_dialects::data::{Integers, Matrix, ParamValue};
use q35_dialects::q35::Op;
use q35_dialects::{Graph, Packed, ParamName, Ty};
use q35_format::{Codec, Group};
use q35_graph::Value;
use q35_tsp_sim::host::Parameters;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A generator of numbers.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    /// Between -1 and 1.
    pub fn float(&mut self) -> f32 {
        self.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0
    }
}

/// A graph with its parameters.
#[derive(Default)]
pub struct Toy {
    pub graph: Graph,
    pub params: BTreeMap<ParamName, Packed>,
    pub values: BTreeMap<ParamName, Arc<ParamValue>>,
    /// Whether matrices have shapes only.
    pub bare: bool,
}

impl Toy {
    pub fn add(&mut self, op: impl Into<Op>, operands: &[Value]) -> Value {
        let op = op.into();
        let types: Vec<Ty> = operands.iter().map(|value| *self.graph.ty(*value)).collect();
        let result = op.infer(&types, &self.params).unwrap();
        let name = format!("/{}_{}", op.name(), self.graph.len());
        let operands: Vec<Option<Value>> = operands.iter().copied().map(Some).collect();
        Value { node: self.graph.add(name, op, &operands, vec![result]), result: 0 }
    }

    fn insert(&mut self, name: &str, rows: usize, cols: usize, codec: Codec, value: ParamValue) -> ParamName {
        self.values.insert(name.into(), Arc::new(value));
        self.declare(name, rows, cols, codec)
    }

    fn declare(&mut self, name: &str, rows: usize, cols: usize, codec: Codec) -> ParamName {
        let packed = Packed { rows: rows as u64, cols: cols as u64, codec, group: Group::Row };
        self.params.insert(name.into(), packed);
        name.into()
    }

    pub fn vector(&mut self, name: &str, values: Vec<f32>) -> ParamName {
        let len = values.len();
        self.insert(name, 1, len, Codec::F32, ParamValue::Float(Matrix::new(len, values)))
    }

    /// A matrix that is not rounded, scaled so that outputs are about as large as inputs.
    pub fn numbers(&mut self, name: &str, rows: usize, cols: usize, random: &mut Random) -> ParamName {
        let scale = 1.7 / (cols as f32).sqrt();
        let values = (0..rows * cols).map(|_| scale * random.float()).collect();
        self.insert(name, rows, cols, Codec::F32, ParamValue::Float(Matrix::new(cols, values)))
    }

    /// Random codes of `split` or `q8`, scaled so that outputs are about as large as inputs.
    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize, codec: Codec, random: &mut Random) -> ParamName {
        if self.bare {
            return self.declare(name, rows, cols, codec);
        }
        let mut integer = |at: usize| match (codec, at % cols % 2) {
            (Codec::Split, 0) => 2 * random.below(16) as i8 - 15,
            (Codec::Split, _) => 4 * random.below(8) as i8 - 14,
            _ => random.below(255) as i8,
        };
        let q: Vec<i8> = (0..rows * cols).map(&mut integer).collect();
        let spread = if codec == Codec::Split { 9.0 } else { 73.0 };
        let scales = (0..rows).map(|row| (1.0 + row as f32 / rows as f32) / (spread * (cols as f32).sqrt())).collect();
        let value = ParamValue::Integers(Integers { cols, group: Group::Row, q, scales, offsets: None });
        self.insert(name, rows, cols, codec, value)
    }
}

impl Parameters for Toy {
    fn shape(&self, param: &str) -> Result<[usize; 2], String> {
        let (rows, cols) = self.values[&ParamName::from(param)].shape();
        Ok([rows, cols])
    }

    fn integers(&self, param: &str, row: usize) -> Result<Vec<i8>, String> {
        match &*self.values[&ParamName::from(param)] {
            ParamValue::Integers(i) => Ok(i.q[row * i.cols..][..i.cols].to_vec()),
            ParamValue::Float(_) => Err("no integers".to_owned()),
        }
    }

    fn numbers(&self, param: &str, row: usize) -> Result<Vec<f32>, String> {
        Ok(self.values[&ParamName::from(param)].row(row))
    }

    fn scales(&self, param: &str) -> Result<Vec<f32>, String> {
        match &*self.values[&ParamName::from(param)] {
            ParamValue::Integers(i) => Ok(i.scales.clone()),
            ParamValue::Float(_) => Err("no scales".to_owned()),
        }
    }
}
