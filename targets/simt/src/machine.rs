//! Launches: blocks of warps over buffers.

use crate::code::{self, Addresses, Code};
use crate::fault::{Fault, Kind};
use crate::ir::{Module, Scalar};
use crate::memory::{Buffer, Memory, Toucher};
use crate::parse;
use crate::warp::{State, Surroundings, Warp};
use std::collections::BTreeMap;

/// Steps that a launch may take, unless [`Machine::limit`] says otherwise.
const FUEL: u64 = 1 << 32;
/// The address space of memory that the threads of a block share.
const SHARED: u32 = 3;

/// A kernel's argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// So many bytes into a buffer.
    Address(Buffer, u64),
    /// A number.
    Number(i64),
}

/// What is launched.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: &'a str,
    /// Blocks.
    pub blocks: u64,
    /// Threads of a block.
    pub threads: u32,
    /// Arguments in order.
    pub args: &'a [Arg],
}

/// A GPU with a module loaded.
pub struct Machine {
    kernels: BTreeMap<String, Code>,
    memory: Memory,
    lanes: u32,
    runs: u32,
    fuel: u64,
}

impl Machine {
    /// Loads the text of a module, for warps of `lanes` lanes (at most 64).
    ///
    /// # Errors
    /// The first line that has no meaning here.
    pub fn new(text: &str, lanes: u32) -> Result<Self, String> {
        assert!((1..=64).contains(&lanes), "warps of {lanes} lanes");
        let module: Module = parse::module(text)?;
        let mut memory = Memory::default();
        let mut globals = Addresses::new();
        for (name, global) in module.globals.iter().filter(|(_, global)| global.space != SHARED) {
            let content = global.content.clone().unwrap_or_else(|| vec![0; global.bytes as usize]);
            globals.insert(name.clone(), Memory::address(memory.constant(content), 0));
        }
        let kernels =
            module.functions.values().map(|function| Ok((function.name.clone(), code::compile(&module, function, &globals)?)));
        let kernels = kernels.collect::<Result<_, String>>()?;
        Ok(Self { kernels, memory, lanes, runs: 1, fuel: FUEL })
    }

    /// Lets launches take so many steps.
    pub fn limit(&mut self, steps: u64) {
        self.fuel = steps;
    }

    /// A buffer that kernels may only read.
    pub fn constant(&mut self, bytes: Vec<u8>) -> Buffer {
        self.memory.constant(bytes)
    }

    /// A buffer of `bytes` bytes of which none counts as written.
    pub fn allocate(&mut self, bytes: usize) -> Buffer {
        self.memory.allocate(bytes)
    }

    /// Writes into a buffer from outside.
    ///
    /// # Panics
    /// If the bytes do not fit.
    pub fn write(&mut self, buffer: Buffer, offset: usize, bytes: &[u8]) {
        self.memory.write(buffer, offset, bytes);
    }

    /// Makes a buffer's bytes count as never written.
    pub fn forget(&mut self, buffer: Buffer) {
        self.memory.forget(buffer);
    }

    /// A buffer's bytes.
    pub fn bytes(&self, buffer: Buffer) -> &[u8] {
        self.memory.bytes(buffer)
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// The first fault. What the kernel wrote until then stays written.
    pub fn launch(&mut self, launch: &Launch<'_>) -> Result<(), Fault> {
        let bad = |what: String| Fault::new(Kind::BadLaunch, what).at(|| format!("kernel {}", launch.kernel));
        let code = self.kernels.get(launch.kernel).ok_or_else(|| bad("there is no such kernel".into()))?;
        if launch.args.len() != code.params.len() {
            return Err(bad(format!("{} arguments for {} parameters", launch.args.len(), code.params.len())));
        }
        let params = code.params.iter().zip(launch.args).map(|(&(scalar, place), arg)| match (scalar, arg) {
            (Scalar::Ptr(_), Arg::Address(buffer, offset)) => Ok((place, Memory::address(*buffer, *offset))),
            (Scalar::Int(bits), Arg::Number(number)) => Ok((place, *number as u64 & (u64::MAX >> (64 - bits)))),
            _ => Err(bad(format!("{arg:?} for a parameter of type {scalar:?}"))),
        });
        let params = params.collect::<Result<Vec<_>, _>>()?;
        self.memory.set_shared(code.shared);
        let firsts = (0..launch.threads).step_by(self.lanes as usize);
        let mut warps: Vec<Warp> = firsts.clone().map(|first| Warp::new(code, self.lanes, first)).collect();
        let (first_run, mut fuel) = (self.runs, self.fuel);
        for block in 0..launch.blocks {
            let mut toucher = Toucher { launch: first_run, run: self.runs, epoch: 0, thread: 0 };
            self.runs += 1;
            for (warp, first) in warps.iter_mut().zip(firsts.clone()) {
                warp.start((launch.threads - first).min(self.lanes), &params);
            }
            loop {
                let mut states = Vec::with_capacity(warps.len());
                for warp in &mut warps {
                    let mut surroundings = Surroundings {
                        code,
                        memory: &mut self.memory,
                        toucher,
                        block,
                        threads: launch.threads,
                        fuel: &mut fuel,
                    };
                    states.push(warp.run(&mut surroundings)?);
                }
                let waiting = states.iter().filter(|state| **state == State::AtBarrier).count();
                if waiting == 0 {
                    break;
                }
                if waiting < states.len() {
                    let what = format!("{waiting} of {} warps wait at a barrier, the others have ended", states.len());
                    return Err(Fault::new(Kind::Divergence, what).at(|| format!("kernel {}, block {block}", launch.kernel)));
                }
                toucher.epoch = toucher.epoch.saturating_add(1);
            }
        }
        Ok(())
    }
}
