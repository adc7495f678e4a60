//! A whole model, decoded by its kernels' final LLVM IR, lane by lane.

use super::{compile, compiled, text};
use q35_bundle::{Bundle, Device, Manifest};
use q35_diag::Diagnostic;
use q35_dialects::interp::{Session as Interpreter, StepInput};
use q35_graph::Silent;
use q35_runtime::device::{Block, Executor, Machine, Operand, Weight};
use q35_runtime::{Chunk, Options, Session, Want};
use q35_simt::{Arg, Buffer, Launch};
use q35_tests::corpus::{self, Example};
use q35c::{pipeline, settings::Settings, values::PackedValues};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The kernels of a bundle for one kind of card.
struct Kernels {
    /// Their final LLVM IR.
    ir: String,
    prefix: String,
    /// Lanes of a wave.
    wave: u32,
    /// Threads of a group, by kernel.
    threads: BTreeMap<String, u32>,
}

impl Kernels {
    /// Those for a feature level, from what a compile has dumped: one module, or one per level after a line that names it.
    fn of(manifest: &Manifest, level: &str, dump: &str) -> Result<Self, String> {
        match &manifest.device {
            Device::Cuda(device) => {
                let (prefix, threads) = (device.prefix.clone(), device.threads.clone());
                Ok(Self { ir: dump.to_owned(), prefix, wave: 32, threads })
            }
            Device::Rocm(device) => {
                let described = device.levels.iter().find(|found| found.name == level).ok_or("no such level")?;
                let start = format!("; level {level}\n");
                let (_, rest) = dump.split_once(&start).ok_or("the level was not dumped")?;
                let ir = rest.split("; level ").next().unwrap_or(rest).to_owned();
                Ok(Self { ir, prefix: device.prefix.clone(), wave: described.wave, threads: described.threads.clone() })
            }
            other => Err(format!("a bundle for {}", other.name())),
        }
    }
}

/// A GPU that is interpreted.
struct Interpreted {
    bundle: Arc<Bundle>,
    kernels: Kernels,
    machine: q35_simt::Machine,
    blocks: Vec<Buffer>,
    weights: Vec<Buffer>,
    placed: BTreeMap<String, Weight>,
}

impl Machine for Interpreted {
    fn describe(&self) -> String {
        "a GPU, interpreted".to_owned()
    }

    /// Memory of which nobody has written anything: a kernel that counts on zeros is found.
    fn allocate(&mut self, bytes: u64) -> q35_diag::Result<Block> {
        self.blocks.push(self.machine.allocate(bytes as usize));
        Ok(Block(self.blocks.len() - 1))
    }

    fn place(&mut self, tensor: &str) -> q35_diag::Result<Weight> {
        if let Some(weight) = self.placed.get(tensor) {
            return Ok(*weight);
        }
        let data = self.bundle.tensor(tensor).expect("checked when the bundle was opened").data.to_vec();
        self.weights.push(self.machine.constant(data));
        let weight = Weight(self.weights.len() - 1);
        self.placed.insert(tensor.to_owned(), weight);
        Ok(weight)
    }

    fn write(&mut self, block: Block, offset: u64, bytes: &[u8]) -> q35_diag::Result<()> {
        self.machine.write(self.blocks[block.0], offset as usize, bytes);
        Ok(())
    }

    fn read(&self, block: Block, offset: u64, bytes: &mut [u8]) -> q35_diag::Result<()> {
        bytes.copy_from_slice(&self.machine.bytes(self.blocks[block.0])[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn launch(
        &mut self,
        step: usize,
        variant: usize,
        operands: &[Operand],
        dims: [i64; 4],
        tiles: u64,
    ) -> q35_diag::Result<()> {
        let kernel = &self.bundle.manifest().steps[step].variants[variant].kernel;
        let symbol = format!("{}{kernel}", self.kernels.prefix);
        let address = |operand: &Operand| match operand {
            Operand::Weight(weight) => Arg::Address(self.weights[weight.0], 0),
            Operand::Memory(block, offset) => Arg::Address(self.blocks[block.0], *offset),
        };
        let args: Vec<Arg> = operands.iter().map(address).chain(dims.map(Arg::Number)).collect();
        let launch = Launch { kernel: &symbol, blocks: tiles, threads: self.kernels.threads[kernel], args: &args };
        let fault = |fault| Diagnostic::error(q35_diag::Code::DeviceFailed, format!("{fault}"));
        Ok(self.machine.launch(&launch).map_err(fault)?)
    }
}

/// A session on an interpreted GPU of a feature level; the folder is the one that [`compile`](super::compile) filled.
fn session(folder: &Path, bundle: &Path, level: &str, options: &Options) -> Result<Session, String> {
    let dump = std::fs::read_dir(folder.join("dumps")).map_err(text)?.next();
    let dump = dump.ok_or("nothing was dumped")?.map_err(text)?;
    let bundle = Arc::new(Bundle::open(bundle).map_err(text)?);
    let kernels = Kernels::of(bundle.manifest(), level, &std::fs::read_to_string(dump.path()).map_err(text)?)?;
    let machine = q35_simt::Machine::new(&kernels.ir, kernels.wave)?;
    let (blocks, weights, placed) = (vec![], vec![], BTreeMap::new());
    let machine = Interpreted { bundle: bundle.clone(), kernels, machine, blocks, weights, placed };
    let executor = Executor::new(machine, &bundle, options).map_err(text)?;
    Ok(Session::on(Box::new(executor), bundle, options))
}

/// The logits after the last of `tokens`.
fn step(session: &mut Session, tokens: &[u32]) -> Result<Vec<f32>, String> {
    let chunk = Chunk { slot: 0, tokens, positions: None, want: Want::Last };
    Ok(session.step(&[chunk]).map_err(text)?.row(0).to_vec())
}

/// The place of the largest number, the first of equals.
fn largest(logits: &[f32]) -> u32 {
    let best = |best: usize, at: usize| if logits[at] > logits[best] { at } else { best };
    (0..logits.len()).fold(0, best) as u32
}

/// The small model in 3.5 bits, against the reference evaluation on the same weights with activations as they are.
pub(super) fn greedy_tokens(target: &'static str, level: &str) -> Result<(), String> {
    let (folder, bundle) = compiled(target)?;
    let options = Options { capacity: 64, max_tokens: 48, ..Options::default() };
    let mut session = session(folder.path(), bundle, level, &options)?;
    let settings = Settings::from_recorded(&session.bundle().manifest().options).ok_or("the options were not recorded")?;
    let prepared = pipeline::prepare(&corpus::tiny_llama().model, &settings, &mut Silent).map_err(text)?;
    let values = PackedValues::new(&prepared.model);
    let mut reference = Interpreter::new(&prepared.model.graph, &values);

    // A prompt that takes the kernels for several rows, then one token after another.
    let mut tokens: Vec<u32> = vec![0, 262, 1033, 87, 2901, 14, 411, 3000, 5, 1999];
    if std::env::var_os("Q35_FULL").is_some() {
        // A prompt that takes the kernels for many.
        tokens.extend((0..30).map(|at| 97 * at % 4000));
    }
    let mut past = 0;
    for _ in 0..7 {
        let new = &tokens[past as usize..];
        let logits = step(&mut session, new)?;
        let expected = reference.step(&StepInput::sequence(new, past)).map_err(text)?.data;
        let expected = &expected[expected.len() - logits.len()..];
        let size = expected.iter().fold(0f32, |size, v| size.max(v.abs()));
        let error = logits.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        // Activations are f16 where weights are multiplied: 2^-11 each, and they add up over six layers.
        if !error.is_finite() || error > 0.01 * size {
            return Err(format!("after {} tokens logits are off by {error}, of {size}", tokens.len()));
        }
        past = tokens.len() as u32;
        let (got, wanted) = (largest(&logits), largest(expected));
        if got != wanted {
            return Err(format!("token {past} is {got}, not {wanted}"));
        }
        tokens.push(got);
    }
    // What the card chooses itself, over several rows at once.
    let halfway = past as usize / 2;
    let chunk = Chunk { slot: 0, tokens: &tokens[halfway..], positions: None, want: Want::All };
    session.truncate(0, halfway);
    let expected: Vec<u32> = session.step(&[chunk]).map_err(text)?.rows().map(largest).collect();
    session.truncate(0, halfway);
    let chosen = session.choose(&[chunk]).map_err(text)?;
    if chosen != expected {
        return Err(format!("the card chooses {chosen:?}, not {expected:?}"));
    }
    Ok(())
}

/// An example in f32, against the tokens of the library that it comes from.
pub(super) fn stored_tokens(target: &str, level: &str, example: &Example) -> Result<(), String> {
    let Some((prompt, expected)) = example.greedy() else { return Ok(()) };
    let folder = tempfile::tempdir().map_err(text)?;
    let bundle = compile(target, folder.path(), &example.model, "f32", &["--levels", level])?;
    let options = Options { capacity: prompt.len() + expected.len(), max_tokens: 64, ..Options::default() };
    let mut session = session(folder.path(), &bundle, level, &options)?;
    let mut new: Vec<u32> = prompt.iter().map(|token| *token as u32).collect();
    for (at, expected) in expected.iter().enumerate() {
        let token = largest(&step(&mut session, &new)?);
        if i64::from(token) != *expected {
            return Err(format!("token {at} is {token}, not {expected}"));
        }
        new = vec![token];
    }
    Ok(())
}
