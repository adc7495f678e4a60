//! What the arguments of a kernel are, in the words of its caller.
//!
//! A kernel is a body that knows its facts. What its arguments mean is known where it is launched: which op reads and writes which
//! values, which part of which parameter. The first launch of a kernel stands for all, because a kernel's name holds its facts.

use crate::kernels::Kernel;
use crate::linear::geometry::quant_stride;
use q35_bundle::{CachePart, Input, Size};
use q35_dialects::{Graph, Packed, ParamName, Rows, Ty};
use q35_launch::layout::{act_stride, routing_stride};
use q35_launch::lower::{Arg, Form, Launch, Program, Stored};
use q35_target::{Section, WeightTensor, layer_input};
use std::collections::BTreeMap;

/// A kernel as its caller sees it.
#[derive(Clone, Debug)]
pub(crate) struct Signature {
    /// Name, without prefix and level.
    pub(crate) kernel: String,
    /// What it does: the op, or the ops that were joined.
    pub(crate) op: String,
    /// A node of the user's model that it computes.
    pub(crate) node: String,
    /// The most rows it is meant for.
    pub(crate) max_rows: Option<u64>,
    /// Tiles of a call.
    pub(crate) tiles: Size,
    /// Arguments, in order.
    pub(crate) args: Vec<Argument>,
}

/// An argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Argument {
    /// A C identifier, unique in its signature.
    pub(crate) name: String,
    /// Its C type.
    pub(crate) ctype: &'static str,
    /// Shape, dtype and layout.
    pub(crate) text: String,
}

const READ_FLOATS: &str = "const float *";
const READ: &str = "const void *";
const IDS: &str = "const int32_t *";
const WRITE_FLOATS: &str = "float *";
const WRITE: &str = "void *";

/// What is known of a program where its kernels are described.
pub(crate) struct Described<'a> {
    pub(crate) program: &'a Program<dyn Kernel>,
    pub(crate) graph: &'a Graph,
    pub(crate) params: &'a BTreeMap<ParamName, Packed>,
}

/// Every kernel of a program, by name.
pub(crate) fn signatures(described: &Described<'_>) -> Vec<Signature> {
    let mut found: BTreeMap<String, Signature> = BTreeMap::new();
    for launch in &described.program.launches {
        for choice in &launch.choices {
            let name = choice.kernel.name();
            found.entry(name.clone()).or_insert_with(|| Signature {
                kernel: name,
                op: launch.op.clone(),
                node: launch.node.clone(),
                max_rows: choice.max_rows,
                tiles: choice.kernel.tiles(launch.rows),
                args: described.arguments(launch),
            });
        }
    }
    found.into_values().collect()
}

impl Described<'_> {
    fn arguments(&self, launch: &Launch<dyn Kernel>) -> Vec<Argument> {
        let mut taken: BTreeMap<&'static str, u32> = BTreeMap::new();
        let argument = |arg: &Arg| {
            let (name, ctype, text) = self.argument(arg);
            let count = taken.entry(name).or_insert(0);
            *count += 1;
            let name = if *count == 1 { name.to_owned() } else { format!("{name}{count}") };
            Argument { name, ctype, text }
        };
        launch.args.iter().map(argument).collect()
    }

    fn argument(&self, arg: &Arg) -> (&'static str, &'static str, String) {
        if let (Arg::Input(Input::Tokens), Some(ty)) = (arg, layer_input(self.graph)) {
            return ("x", READ_FLOATS, self.ty(ty).0);
        }
        match arg {
            Arg::Read(value) => {
                let (what, floats) = self.value(*value);
                ("x", if floats { READ_FLOATS } else { READ }, what)
            }
            Arg::Write(value) => {
                let (what, floats) = self.value(*value);
                ("y", if floats { WRITE_FLOATS } else { WRITE }, format!("{what}; written"))
            }
            Arg::Weight(name) => self.weight(&self.program.weights[name]),
            Arg::Cache(layer, part) => {
                let of = &self.program.cache[layer];
                let (name, columns) = match part {
                    CachePart::Key => ("keys", of.key_dim),
                    CachePart::Value => ("values", of.value_dim),
                };
                (name, WRITE_FLOATS, format!("the cache: float[slots][{}][capacity][{columns}]", of.kv_heads))
            }
            Arg::Input(input) => {
                let (name, what) = match input {
                    Input::Tokens => ("tokens", "token ids, int32[tokens]"),
                    Input::Positions => ("positions", "positions, int32[tokens]"),
                    Input::Slots => ("slots", "the slot of each token, int32[tokens]"),
                    Input::Index => ("index", "the entry of its slot that each token is, int32[tokens]"),
                    Input::LogitRows => ("logit_rows", "the tokens that are wanted, int32[logit_rows]"),
                };
                (name, IDS, what.to_owned())
            }
        }
    }

    /// What a value is, and whether it is rows of floats.
    fn value(&self, stored: Stored) -> (String, bool) {
        match stored.form {
            Form::Sorted => ("routed rows by expert".to_owned(), false),
            Form::Chosen => ("chosen tokens".to_owned(), false),
            Form::Parts => ("parts of a result".to_owned(), false),
            Form::Plain | Form::Packed => self.ty(*self.graph.ty(stored.value)),
        }
    }

    /// What values of a type are, and whether they are rows of floats.
    fn ty(&self, ty: Ty) -> (String, bool) {
        let counted = |rows: Rows| {
            let (section, each) = rows.section();
            let name = match section {
                q35_bundle::Rows::Tokens => "tokens",
                q35_bundle::Rows::Logits => "logit_rows",
            };
            if each == 1 { name.to_owned() } else { format!("{each} * {name}") }
        };
        match ty {
            Ty::Act { rows, width } => {
                (format!("float[{}][{width}], rows of {} bytes", counted(rows), act_stride(width as usize)), true)
            }
            Ty::Quant { rows, width } => {
                let bytes = quant_stride(width as usize);
                (format!("{width} activations rounded to 8 bits, {} rows of {bytes} bytes", counted(rows)), false)
            }
            Ty::Rotary { half } => (format!("{half} cosines, then {half} sines, float[tokens][{}]", 2 * half), true),
            Ty::Routing { rows, choices, .. } => {
                let bytes = routing_stride(choices as usize);
                (format!("{choices} experts, then their weights, {} rows of {bytes} bytes", counted(rows)), false)
            }
            other @ (Ty::Ids { .. } | Ty::Cache { .. }) => (other.to_string(), false),
        }
    }

    fn weight(&self, tensor: &WeightTensor) -> (&'static str, &'static str, String) {
        let packed = self.params[&tensor.param];
        let bytes = tensor.arrangement.bytes(packed.rows as usize).unwrap_or(0);
        let Packed { rows, cols, codec, .. } = packed;
        match tensor.section {
            Section::Codes if rows == 1 && codec == q35_format::Codec::F32 => {
                ("vector", READ_FLOATS, format!("float[{cols}], {bytes} bytes"))
            }
            Section::Codes => {
                ("codes", READ, format!("a {rows} x {cols} weight in {codec}, {bytes} bytes as arranged in the weights file"))
            }
            Section::Scales => ("scales", READ, format!("its scales, {bytes} bytes, arranged")),
            Section::Offsets => ("offsets", READ, format!("its offsets, {bytes} bytes, arranged")),
        }
    }
}
