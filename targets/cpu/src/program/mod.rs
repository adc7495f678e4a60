//! The whole program in the object: what a bundle's `model.o` has beside its kernels, so that a program can link it and need nothing
//! else.
//!
//! What enters: the steps, the memory plan, the kernels, and where the tensors lie in the weights file. What leaves: functions in the
//! same module as the kernels, built by the same means, and the header that declares them. The steps are tables that generated code walks
//! over; there is no state outside the memory of the caller, and no call to anything outside the object.
//!
//! | module | idea |
//! | --- | --- |
//! | [`status`] | what functions answer |
//! | [`layout`] | what lies where in a context |
//! | [`tables`] | the steps as numbers |
//! | [`walk`] | the executor |
//! | [`entries`] | the functions that a program calls |
//! | [`layer`] | those of a layer without a model |
//! | [`processor`] | the choice of the feature level |
//! | [`signature`] | the arguments of a kernel, described |
//! | [`header`] | the text of `model.h` |
//!
//! This must not know how a kernel computes.

mod entries;
mod header;
mod layer;
mod layout;
mod processor;
pub(crate) mod signature;
mod status;
mod tables;
mod walk;

use crate::level::Level;
use q35_bundle::{MemoryPlan, Step, WeightsLayout};
use q35_mlir::builder::KernelModule;
use sha2::{Digest, Sha256};
use signature::Signature;
use std::collections::BTreeMap;
use tables::{Source, Tables};

/// Version of what the functions of an object mean; it goes into the mark of every context and into the name of the tie.
const ABI: u32 = 1;

/// What the functions are made from.
pub(crate) struct Object<'a> {
    /// Prefix of every symbol.
    pub(crate) prefix: &'a str,
    /// Width of what comes out: tokens that there are, or outputs of a layer.
    pub(crate) vocab: u64,
    /// The longest context.
    pub(crate) context: u64,
    /// Memory.
    pub(crate) plan: &'a MemoryPlan,
    /// Names of the kernels; their order gives them numbers.
    pub(crate) kernels: &'a [String],
    /// Feature levels, best first.
    pub(crate) levels: &'a [Level],
    /// The weights file.
    pub(crate) file: &'a WeightsLayout,
    /// The most arguments that a kernel has.
    arguments: usize,
    /// What tells contexts of this program from others.
    mark: i64,
}

/// The steps, and where the tensors that they name begin in the weights file.
pub(crate) struct Steps<'a> {
    pub(crate) steps: &'a [Step],
    pub(crate) offsets: &'a BTreeMap<String, u64>,
}

/// What an object is made from, before its program is known.
pub(crate) struct Facts<'a> {
    pub(crate) prefix: &'a str,
    /// Width of what comes out.
    pub(crate) vocab: u64,
    /// Width of what goes in, where that is an activation and the program a layer.
    pub(crate) layer_inputs: Option<u64>,
    pub(crate) context: u64,
    pub(crate) plan: &'a MemoryPlan,
    pub(crate) kernels: &'a [String],
    pub(crate) levels: &'a [Level],
    pub(crate) file: &'a WeightsLayout,
}

impl Object<'_> {
    /// Prefix of the functions. Without one of the user's they get one all the same: a function `open` would take the place of the
    /// system's.
    fn function_prefix(&self) -> String {
        if self.prefix.is_empty() { "model_".to_owned() } else { self.prefix.to_owned() }
    }

    /// The symbol of a function, or of a kernel at a level.
    fn symbol(&self, name: &str) -> String {
        let is_kernel = name.contains("__");
        if is_kernel { format!("{}{name}", self.prefix) } else { self.function_prefix() + name }
    }
}

/// Defines the functions in the kernels' module, and gives the header.
pub(crate) fn define(module: &KernelModule<'_>, facts: Facts<'_>, steps: &Steps<'_>, signatures: &[Signature]) -> String {
    let Facts { prefix, vocab, layer_inputs, context, plan, kernels, levels, file: layout } = facts;
    let numbers = kernels.iter().enumerate().map(|(number, name)| (name.as_str(), number)).collect();
    let tables = Tables::new(&Source { plan, steps: steps.steps, kernels: &numbers, offsets: steps.offsets });
    let mark = i64::from_le_bytes(digest(&[&tables.bytes(), &layout.header, format!("{plan:?} {ABI}").as_bytes()]));
    let object = Object { prefix, vocab, context, plan, kernels, levels, file: layout, arguments: tables.arguments, mark };
    walk::define(module, &object, &tables);
    let (file, text) = match layer_inputs {
        Some(inputs) => {
            layer::define(module, &object);
            ("linear", header::layer(&object, inputs, steps.offsets, signatures))
        }
        None => {
            entries::define(module, &object);
            ("model", header::model(&object, signatures))
        }
    };
    let number = u64::from_le_bytes(digest(&[&mark.to_le_bytes(), text.as_bytes()]));
    let tie = format!("{}abi_{ABI}_{file}_h_and_{file}_o_are_of_one_compile_{number:016x}", object.function_prefix());
    module.constant(&tie, &ABI.to_le_bytes(), 4);
    header::tied(&text, &tie)
}

/// The first bytes of a hash over everything given.
fn digest(parts: &[&[u8]]) -> [u8; 8] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let all = hash.finalize();
    std::array::from_fn(|at| all[at])
}
