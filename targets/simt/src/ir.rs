//! The part of LLVM IR that kernels use, as values.

use std::collections::BTreeMap;

/// The type of one component of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// So many bits, at most 64.
    Int(u32),
    /// IEEE binary16.
    Half,
    /// The upper half of an IEEE binary32.
    Bfloat,
    /// IEEE binary32.
    Float,
    /// IEEE binary64.
    Double,
    /// An address in an address space: 0 any, 1 global, 3 shared, 4 constant.
    Ptr(u32),
}

impl Scalar {
    /// Size in bits.
    pub fn bits(self) -> u32 {
        match self {
            Scalar::Int(bits) => bits,
            Scalar::Half | Scalar::Bfloat => 16,
            Scalar::Float => 32,
            Scalar::Double | Scalar::Ptr(_) => 64,
        }
    }

    /// Size in memory.
    pub fn bytes(self) -> u64 {
        u64::from(self.bits().div_ceil(8))
    }
}

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// No value.
    Void,
    /// One component.
    Scalar(Scalar),
    /// Equal components.
    Vector(u64, Scalar),
    /// Of globals and address arithmetic only.
    Array(u64, Box<Type>),
    /// What some intrinsics give.
    Struct(Vec<Type>),
}

impl Type {
    /// The components of a value of the type, in order.
    pub fn components(&self) -> Vec<Scalar> {
        match self {
            Type::Void => vec![],
            Type::Scalar(scalar) => vec![*scalar],
            Type::Vector(count, scalar) => vec![*scalar; *count as usize],
            Type::Array(count, each) => (0..*count).flat_map(|_| each.components()).collect(),
            Type::Struct(fields) => fields.iter().flat_map(Type::components).collect(),
        }
    }

    /// Size in memory without padding; structures are not taken apart by address.
    pub fn bytes(&self) -> u64 {
        match self {
            Type::Void | Type::Struct(_) => 0,
            Type::Scalar(scalar) => scalar.bytes(),
            Type::Vector(count, scalar) => count * u64::from(scalar.bits()) / 8,
            Type::Array(count, each) => count * each.bytes(),
        }
    }
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// The result of an instruction, or a parameter, by name without `%`.
    Local(String),
    /// Bits of each component; what is poison or undefined is `None`.
    Constant(Vec<Option<u64>>),
    /// So many bytes into a global, by name without `@`.
    Global(String, i64),
}

/// An operand and its type.
pub type Typed = (Type, Value);

/// What a fence keeps in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// What comes after it.
    Acquire,
    /// What comes before it.
    Release,
    /// Both.
    Both,
}

/// An instruction.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `add`, `fmul`, ...: two operands of one type.
    Binary(String, Type, Value, Value),
    /// `fneg`.
    Negate(Type, Value),
    /// `icmp` or `fcmp` with its predicate.
    Compare(String, Type, Value, Value),
    /// Condition, then, otherwise.
    Select(Typed, Typed, Typed),
    /// `zext`, `trunc`, `bitcast`, ...: operand and target.
    Cast(String, Typed, Type),
    /// Source element type, base, indices.
    Address(Type, Typed, Vec<Typed>),
    /// Type, address, alignment.
    Load(Type, Typed, u64),
    /// Value, address, alignment.
    Store(Typed, Typed, u64),
    /// One value per predecessor.
    Phi(Type, Vec<(Value, String)>),
    /// Vector and index.
    Extract(Typed, Typed),
    /// Vector, component, index.
    Insert(Typed, Typed, Typed),
    /// Two vectors; per component of the result an index, `None` for poison.
    Shuffle(Typed, Typed, Vec<Option<u64>>),
    /// Aggregate and field.
    Field(Typed, usize),
    /// Result, name without `@`, arguments.
    Call(Type, String, Vec<Typed>),
    /// Order among accesses of memory.
    Fence(Order),
    /// A copy that is defined even where the operand is not.
    Freeze(Typed),
    /// To a block.
    Jump(String),
    /// Condition, block if true, block if false.
    Branch(Value, String, String),
    /// Operand, block otherwise, cases.
    Switch(Typed, String, Vec<(u64, String)>),
    /// The end.
    Return,
    /// Control does not arrive here.
    Unreachable,
}

/// An instruction and the name of its result.
#[derive(Clone, Debug, PartialEq)]
pub struct Inst {
    /// Result without `%`.
    pub result: Option<String>,
    /// What it does.
    pub op: Op,
    /// Its line of the text, for faults.
    pub text: String,
}

/// A basic block.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Its label.
    pub label: String,
    /// Phis first, a terminator last.
    pub insts: Vec<Inst>,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<(Scalar, String)>,
    /// The entry first.
    pub blocks: Vec<Block>,
}

/// A global array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Its address space.
    pub space: u32,
    /// Its size.
    pub bytes: u64,
    /// Its alignment.
    pub align: u64,
    /// Its content, where it has one.
    pub content: Option<Vec<u8>>,
}

/// A module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module {
    /// Globals by name.
    pub globals: BTreeMap<String, Global>,
    /// Kernels by name.
    pub functions: BTreeMap<String, Function>,
}
