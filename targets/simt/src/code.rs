//! A function with every value at a place of the register file.
//!
//! A component of a value is one place; constants are places that are filled once. What only moves components (shuffles, fields, phis)
//! becomes copies. Blocks come in reverse postorder, so that of lanes at different blocks those further back go first, and meet the
//! others where control flow joins.

use crate::collective::{self, AMD_BARRIER, Collective};
use crate::ir::{Function, Inst, Module, Op, Order, Scalar, Type, Typed, Value};
use crate::memory::Memory;
use crate::scalar;
use std::collections::{BTreeMap, HashMap};

/// A place of the register file: one component of one value.
pub(crate) type Place = u32;

/// Numbers that differ from thread to thread, or block to block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// The thread in its block.
    Thread,
    /// The block.
    Block,
    /// Threads per block.
    Threads,
    /// The lane in its warp.
    Lane,
}

const SPECIALS: &[(&str, Special)] = &[
    ("llvm.nvvm.read.ptx.sreg.tid.x", Special::Thread),
    ("llvm.nvvm.read.ptx.sreg.ctaid.x", Special::Block),
    ("llvm.nvvm.read.ptx.sreg.ntid.x", Special::Threads),
    ("llvm.nvvm.read.ptx.sreg.laneid", Special::Lane),
    ("llvm.amdgcn.workitem.id.x", Special::Thread),
    ("llvm.amdgcn.workgroup.id.x", Special::Block),
];

/// Where control goes, and what is copied on the way.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    pub(crate) block: usize,
    pub(crate) copies: Vec<(Place, Place)>,
}

/// What an instruction does to the places of a lane. Components of an operand are places that follow each other.
#[derive(Clone)]
pub(crate) enum Do {
    /// `count` components, one by one.
    Map {
        function: scalar::Function,
        width: u32,
        args: [Place; 3],
        to: Place,
        count: u32,
        divides: bool,
    },
    /// The sum of two integers, and at the next place whether it wrapped.
    AddWithCarry {
        width: u32,
        args: [Place; 2],
        to: Place,
    },
    /// All components of an integer vector, combined one after the other.
    Reduce {
        function: scalar::Function,
        width: u32,
        from: Place,
        count: u32,
        to: Place,
    },
    /// One condition for all components (`each` 0) or one for each (`each` 1).
    Select {
        condition: Place,
        each: u32,
        then: Place,
        otherwise: Place,
        to: Place,
        count: u32,
    },
    /// From, to.
    Copy(Vec<(Place, Place)>),
    /// The bits of components of one width as components of another.
    Recut {
        from: Place,
        from_bits: u32,
        to: Place,
        to_bits: u32,
        count: u32,
    },
    /// An address: base, constant, and (place, width, factor) of every index.
    Address {
        base: Place,
        offset: u64,
        terms: Vec<(Place, u32, u64)>,
        to: Place,
    },
    /// Components from memory.
    Load {
        space: u32,
        address: Place,
        align: u64,
        bytes: u32,
        to: Place,
        count: u32,
    },
    /// Components to memory.
    Store {
        space: u32,
        address: Place,
        align: u64,
        bytes: u32,
        from: Place,
        count: u32,
    },
    /// A number of the thread.
    Special(Special, Place),
    /// All lanes together.
    Collective(Collective, Vec<Place>, Place),
    /// Ends.
    Jump(Edge),
    Branch(Place, Edge, Edge),
    Switch(Place, Vec<(u64, Edge)>, Edge),
    Return,
    Unreachable,
}

/// A kernel ready to run.
pub(crate) struct Code {
    pub(crate) name: String,
    pub(crate) params: Vec<(Scalar, Place)>,
    /// How many places there are.
    pub(crate) places: usize,
    pub(crate) constants: Vec<(Place, u64)>,
    /// Instructions of each block, each with its text.
    pub(crate) blocks: Vec<Vec<(Do, String)>>,
    /// Bytes of shared memory.
    pub(crate) shared: u64,
}

/// A module's globals at addresses: those of shared memory are laid out per kernel.
pub(crate) type Addresses = BTreeMap<String, u64>;

/// Numbers the places of a function.
///
/// # Errors
/// An instruction that has no meaning here, with its text.
pub(crate) fn compile(module: &Module, function: &Function, globals: &Addresses) -> Result<Code, String> {
    let order = postorder(function)?;
    let mut c = Compiler {
        module,
        globals,
        places: 0,
        values: HashMap::new(),
        constants: HashMap::new(),
        vectors: vec![],
        shared: BTreeMap::new(),
        shared_bytes: 0,
    };
    let params = function.params.iter().map(|(scalar, name)| (*scalar, c.define(name, 1))).collect();
    let number: HashMap<&str, usize> =
        order.iter().enumerate().map(|(at, &block)| (function.blocks[block].label.as_str(), at)).collect();
    for &block in &order {
        for inst in &function.blocks[block].insts {
            if let Some(name) = &inst.result {
                let count = result(&inst.op).components().len() as u32;
                c.define(name, count);
            }
        }
    }
    let mut blocks = Vec::new();
    for &block in &order {
        let block = &function.blocks[block];
        let mut steps = Vec::new();
        for (at, inst) in block.insts.iter().enumerate() {
            if matches!(inst.op, Op::Phi(..) | Op::Fence(_)) {
                continue;
            }
            if matches!(&inst.op, Op::Call(_, name, _) if name == AMD_BARRIER) && !between_fences(&block.insts, at) {
                return Err(format!(
                    "{}: a barrier that is not between a release and an acquire: {}",
                    function.name, inst.text
                ));
            }
            let to = inst.result.as_ref().map_or(0, |name| c.values[name]);
            let edge = |c: &mut Compiler<'_>, label: &str| -> Result<Edge, String> {
                let &target = number.get(label).ok_or("a branch to no block")?;
                let copies = c.copies(&function.blocks[order[target]].insts, &block.label)?;
                Ok(Edge { block: target, copies })
            };
            let step = match &inst.op {
                Op::Jump(label) => edge(&mut c, label).map(Do::Jump),
                Op::Branch(condition, then, otherwise) => {
                    c.place(&Type::Scalar(Scalar::Int(1)), condition).and_then(|condition| {
                        let then = edge(&mut c, then)?;
                        Ok(Do::Branch(condition, then, edge(&mut c, otherwise)?))
                    })
                }
                Op::Switch(value, otherwise, cases) => c.operand(value).and_then(|value| {
                    let cases =
                        cases.iter().map(|(case, label)| Ok((*case, edge(&mut c, label)?))).collect::<Result<_, String>>()?;
                    Ok(Do::Switch(value, cases, edge(&mut c, otherwise)?))
                }),
                op => c.step(op, to),
            };
            steps.push((step.map_err(|error| format!("{}: {error}: {}", function.name, inst.text))?, inst.text.clone()));
        }
        blocks.push(steps);
    }
    let constants = c.constants.iter().map(|(&bits, &place)| (place, bits)).chain(c.vectors).collect();
    Ok(Code { name: function.name.clone(), params, places: c.places as usize, constants, blocks, shared: c.shared_bytes })
}

/// Whether the instruction of a block stands between fences with no access of memory in between.
fn between_fences(insts: &[Inst], at: usize) -> bool {
    let fence = |inst: &Inst| match &inst.op {
        Op::Fence(order) => Some(Some(*order)),
        Op::Load(..) | Op::Store(..) | Op::Call(..) => Some(None),
        _ => None,
    };
    let before = insts[..at].iter().rev().find_map(fence).flatten();
    let after = insts[at + 1..].iter().find_map(fence).flatten();
    matches!(before, Some(Order::Release | Order::Both)) && matches!(after, Some(Order::Acquire | Order::Both))
}

/// Blocks so that each comes after those that lead to it, loops aside.
fn postorder(function: &Function) -> Result<Vec<usize>, String> {
    let index: HashMap<&str, usize> =
        function.blocks.iter().enumerate().map(|(at, block)| (block.label.as_str(), at)).collect();
    let successors = |at: usize| -> Vec<&str> {
        match function.blocks[at].insts.last().map(|inst| &inst.op) {
            Some(Op::Jump(label)) => vec![label],
            // The first successor is visited first, and so comes last: a loop's exit after its body.
            Some(Op::Branch(_, then, otherwise)) => vec![then, otherwise],
            Some(Op::Switch(_, otherwise, cases)) => {
                cases.iter().map(|(_, label)| label).chain([otherwise]).map(String::as_str).collect()
            }
            _ => vec![],
        }
    };
    let mut order = Vec::new();
    let mut seen = vec![false; function.blocks.len()];
    let mut stack = vec![(0, successors(0).into_iter())];
    seen[0] = true;
    while let Some((at, rest)) = stack.last_mut() {
        match rest.next() {
            None => {
                order.push(*at);
                stack.pop();
            }
            Some(label) => {
                let &next = index.get(label).ok_or_else(|| format!("{}: there is no block '{label}'", function.name))?;
                if !std::mem::replace(&mut seen[next], true) {
                    stack.push((next, successors(next).into_iter()));
                }
            }
        }
    }
    order.reverse();
    Ok(order)
}

/// The type of an instruction's result.
fn result(op: &Op) -> Type {
    let bits = |ty: &Type| match ty {
        Type::Vector(count, _) => Type::Vector(*count, Scalar::Int(1)),
        _ => Type::Scalar(Scalar::Int(1)),
    };
    let element = |ty: &Type| ty.components().first().map_or(Type::Void, |&scalar| Type::Scalar(scalar));
    match op {
        Op::Binary(_, ty, ..)
        | Op::Negate(ty, _)
        | Op::Phi(ty, _)
        | Op::Load(ty, ..)
        | Op::Call(ty, ..)
        | Op::Cast(_, _, ty) => ty.clone(),
        Op::Compare(_, ty, ..) => bits(ty),
        Op::Select(_, (ty, _), _) | Op::Address(_, (ty, _), _) | Op::Insert((ty, _), ..) | Op::Freeze((ty, _)) => ty.clone(),
        Op::Extract((ty, _), _) => element(ty),
        Op::Shuffle((ty, _), _, mask) => match ty.components().first() {
            Some(&scalar) => Type::Vector(mask.len() as u64, scalar),
            None => Type::Void,
        },
        Op::Field((Type::Struct(fields), _), at) => fields.get(*at).cloned().unwrap_or(Type::Void),
        _ => Type::Void,
    }
}

struct Compiler<'a> {
    module: &'a Module,
    globals: &'a Addresses,
    places: Place,
    values: HashMap<String, Place>,
    /// Constants of one component by their bits.
    constants: HashMap<u64, Place>,
    /// Components of constant vectors.
    vectors: Vec<(Place, u64)>,
    shared: BTreeMap<String, u64>,
    shared_bytes: u64,
}

impl Compiler<'_> {
    fn define(&mut self, name: &str, count: u32) -> Place {
        let place = self.places;
        self.places += count;
        self.values.insert(name.to_owned(), place);
        place
    }

    fn fresh(&mut self, count: u32) -> Place {
        self.places += count;
        self.places - count
    }

    /// The first place of an operand. A constant of several components gets places of its own.
    fn place(&mut self, ty: &Type, value: &Value) -> Result<Place, String> {
        match value {
            Value::Local(name) => self.values.get(name).copied().ok_or_else(|| format!("%{name} is not defined")),
            Value::Global(name, offset) => {
                let address = self.global(name)?.wrapping_add(*offset as u64);
                Ok(self.constant(&[address]))
            }
            Value::Constant(components) => {
                let components: Vec<u64> = components.iter().map(|c| c.unwrap_or(0)).collect();
                if components.len() != ty.components().len() {
                    return Err(format!("a constant of {} components for {ty:?}", components.len()));
                }
                Ok(self.constant(&components))
            }
        }
    }

    fn operand(&mut self, (ty, value): &Typed) -> Result<Place, String> {
        self.place(ty, value)
    }

    fn constant(&mut self, components: &[u64]) -> Place {
        if let &[bits] = components {
            if let Some(&place) = self.constants.get(&bits) {
                return place;
            }
            let place = self.fresh(1);
            self.constants.insert(bits, place);
            return place;
        }
        let first = self.fresh(components.len() as u32);
        self.vectors.extend((first..).zip(components.iter().copied()));
        first
    }

    fn global(&mut self, name: &str) -> Result<u64, String> {
        if let Some(&address) = self.globals.get(name) {
            return Ok(address);
        }
        if let Some(&address) = self.shared.get(name) {
            return Ok(address);
        }
        let global = self.module.globals.get(name).ok_or_else(|| format!("there is no @{name}"))?;
        let start = self.shared_bytes.next_multiple_of(global.align);
        self.shared_bytes = start + global.bytes;
        let address = Memory::shared_address(start);
        self.shared.insert(name.to_owned(), address);
        Ok(address)
    }

    /// What the phis of a block get from a predecessor.
    fn copies(&mut self, insts: &[Inst], from: &str) -> Result<Vec<(Place, Place)>, String> {
        let mut copies = Vec::new();
        for inst in insts {
            let (Op::Phi(ty, values), Some(name)) = (&inst.op, &inst.result) else { break };
            let (value, _) = values.iter().find(|(_, label)| label == from).ok_or("a phi without a value for a predecessor")?;
            let (source, to) = (self.place(ty, value)?, self.values[name]);
            copies.extend((0..ty.components().len() as u32).map(|at| (source + at, to + at)));
        }
        Ok(copies)
    }

    /// `function` on all components of operands of one type.
    fn map(&mut self, function: Option<scalar::Function>, scalar: Scalar, args: &[Typed], to: Place) -> Result<Do, String> {
        let function = function.ok_or("no such operation")?;
        let mut places = [0; 3];
        for (place, arg) in places.iter_mut().zip(args) {
            *place = self.operand(arg)?;
        }
        let count = args[0].0.components().len() as u32;
        Ok(Do::Map { function, width: scalar.bits(), args: places, to, count, divides: false })
    }

    fn step(&mut self, op: &Op, to: Place) -> Result<Do, String> {
        let one = |ty: &Type| ty.components().first().copied().ok_or("an operand without components");
        let count = |ty: &Type| ty.components().len() as u32;
        Ok(match op {
            Op::Binary(name, ty, left, right) => {
                let args = [(ty.clone(), left.clone()), (ty.clone(), right.clone())];
                let step = self.map(scalar::binary(name, one(ty)?), one(ty)?, &args, to)?;
                match step {
                    Do::Map { function, width, args, to, count, .. } => {
                        Do::Map { function, width, args, to, count, divides: scalar::divides(name) }
                    }
                    other => other,
                }
            }
            Op::Negate(ty, value) => self.map(scalar::negate(one(ty)?), one(ty)?, &[(ty.clone(), value.clone())], to)?,
            Op::Compare(name, ty, left, right) => {
                let args = [(ty.clone(), left.clone()), (ty.clone(), right.clone())];
                self.map(scalar::compare(name, one(ty)?), one(ty)?, &args, to)?
            }
            Op::Select(condition, then, otherwise) => Do::Select {
                condition: self.operand(condition)?,
                each: u32::from(matches!(condition.0, Type::Vector(..))),
                then: self.operand(then)?,
                otherwise: self.operand(otherwise)?,
                to,
                count: count(&then.0),
            },
            Op::Cast(name, value, target) => {
                let (from, into) = (one(&value.0)?, one(target)?);
                if name == "addrspacecast" && matches!((from, into), (Scalar::Ptr(3), _) | (_, Scalar::Ptr(3))) {
                    return Err("shared memory through an address of any space".into());
                }
                if name == "bitcast" && from.bits() != into.bits() {
                    let from_place = self.operand(value)?;
                    return Ok(Do::Recut {
                        from: from_place,
                        from_bits: from.bits(),
                        to,
                        to_bits: into.bits(),
                        count: count(&value.0),
                    });
                }
                let step = self.map(scalar::cast(name, from, into), from, std::slice::from_ref(value), to)?;
                match step {
                    Do::Map { function, args, to, count, divides, .. } => {
                        Do::Map { function, width: from.bits() | into.bits() << 8, args, to, count, divides }
                    }
                    other => other,
                }
            }
            Op::Address(ty, base, indices) => {
                let (mut each, mut offset, mut terms) = (ty.clone(), 0u64, Vec::new());
                for (at, index) in indices.iter().enumerate() {
                    if at > 0 {
                        each = match each {
                            Type::Array(_, element) => *element,
                            other => return Err(format!("an index into {other:?}")),
                        };
                    }
                    let (bits, factor) = (one(&index.0)?.bits(), each.bytes());
                    match &index.1 {
                        Value::Constant(constant) => {
                            let value = ((constant[0].unwrap_or(0) << (64 - bits)) as i64) >> (64 - bits);
                            offset = offset.wrapping_add((value as u64).wrapping_mul(factor));
                        }
                        _ => terms.push((self.operand(index)?, bits, factor)),
                    }
                }
                Do::Address { base: self.operand(base)?, offset, terms, to }
            }
            Op::Load(ty, address, align) => {
                let (space, bytes) = (space(&address.0)?, bytes(one(ty)?)?);
                Do::Load { space, address: self.operand(address)?, align: *align, bytes, to, count: count(ty) }
            }
            Op::Store(value, address, align) => {
                let (space, bytes) = (space(&address.0)?, bytes(one(&value.0)?)?);
                let (from, address) = (self.operand(value)?, self.operand(address)?);
                Do::Store { space, address, align: *align, bytes, from, count: count(&value.0) }
            }
            Op::Extract(vector, index) => {
                let at = constant_index(index)?;
                Do::Copy(vec![(self.operand(vector)? + at, to)])
            }
            Op::Insert(vector, component, index) => {
                let (at, from, new) = (constant_index(index)?, self.operand(vector)?, self.operand(component)?);
                Do::Copy((0..count(&vector.0)).map(|i| (if i == at { new } else { from + i }, to + i)).collect())
            }
            Op::Shuffle(left, right, mask) => {
                let (half, left_place, right_place) = (count(&left.0), self.operand(left)?, self.operand(right)?);
                let from = |index: u32| if index < half { left_place + index } else { right_place + index - half };
                Do::Copy((0..).zip(mask).filter_map(|(at, index)| Some((from((*index)? as u32), to + at))).collect())
            }
            Op::Field(whole, at) => {
                let Type::Struct(fields) = &whole.0 else { return Err("a field of no structure".into()) };
                let before: u32 = fields[..*at].iter().map(count).sum();
                let from = self.operand(whole)? + before;
                Do::Copy((0..count(&fields[*at])).map(|i| (from + i, to + i)).collect())
            }
            Op::Freeze(value) => {
                let from = self.operand(value)?;
                Do::Copy((0..count(&value.0)).map(|i| (from + i, to + i)).collect())
            }
            Op::Call(_, name, args) => self.call(name, args, to)?,
            Op::Return => Do::Return,
            Op::Unreachable => Do::Unreachable,
            Op::Phi(..) | Op::Jump(_) | Op::Branch(..) | Op::Switch(..) => unreachable!("treated with its edges"),
            Op::Fence(_) => unreachable!("of meaning at barriers only"),
        })
    }

    fn call(&mut self, name: &str, args: &[Typed], to: Place) -> Result<Do, String> {
        if let Some((_, special)) = SPECIALS.iter().find(|(known, _)| *known == name) {
            return Ok(Do::Special(*special, to));
        }
        if let Some(collective) = collective::find(name) {
            // The components of all arguments, one after the other.
            let mut places = Vec::new();
            for arg in args {
                let first = self.operand(arg)?;
                places.extend((0..arg.0.components().len() as u32).map(|at| first + at));
            }
            return Ok(Do::Collective(collective, places, to));
        }
        let scalar = args.first().and_then(|arg| arg.0.components().first().copied()).ok_or("a call without operands")?;
        let bare = name.rsplit_once('.').map_or(name, |(bare, _)| bare);
        if bare == "llvm.uadd.with.overflow" {
            return Ok(Do::AddWithCarry { width: scalar.bits(), args: [self.operand(&args[0])?, self.operand(&args[1])?], to });
        }
        if let Some(kind) = name.strip_prefix("llvm.vector.reduce.") {
            let kind = kind.split('.').next().unwrap_or_default();
            let function = scalar::binary(kind, scalar).or_else(|| scalar::intrinsic(&format!("llvm.{kind}"), scalar));
            let function =
                function.filter(|_| matches!(scalar, Scalar::Int(_))).ok_or(format!("no such operation '{name}'"))?;
            let count = args[0].0.components().len() as u32;
            return Ok(Do::Reduce { function, width: scalar.bits(), from: self.operand(&args[0])?, count, to });
        }
        // The second operand of `abs` says what happens to the smallest integer.
        let args = if bare == "llvm.abs" { &args[..1] } else { args };
        self.map(scalar::intrinsic(bare, scalar), scalar, args, to).map_err(|error| format!("{error} '{name}'"))
    }
}

fn space(ty: &Type) -> Result<u32, String> {
    match ty {
        Type::Scalar(Scalar::Ptr(space)) => Ok(*space),
        other => Err(format!("an address of type {other:?}")),
    }
}

/// Bytes of a component in memory.
fn bytes(scalar: Scalar) -> Result<u32, String> {
    if scalar.bits().is_multiple_of(8) { Ok(scalar.bits() / 8) } else { Err(format!("{scalar:?} in memory")) }
}

fn constant_index((_, value): &Typed) -> Result<u32, String> {
    match value {
        Value::Constant(index) => index[0].map(|at| at as u32).ok_or_else(|| "an undefined index".into()),
        other => Err(format!("the index {other:?}")),
    }
}
