//! Symbolic elements of tensors, in a normal form in which all spellings of one formula coincide.
//!
//! An [`Arena`] holds hash-consed expressions: equal expressions have equal [`Id`]s. What an expression may be is [`Node`]; it is
//! never built directly but through the arena's constructors, which keep the normal form:
//!
//! 1. a [`Node::Sum`] has terms sorted by id, no zero coefficient, no nested sum; it is the only holder of coefficients;
//! 2. a [`Node::Product`] has factors sorted by id, no zero power, no nested product under an integer power; a sum among them has
//!    leading coefficient 1 (its content went to the coefficient);
//! 3. products of integer sums are expanded, products of real sums are not;
//! 4. comparisons are `p >= 0` ([`Node::NonNegative`]) and `p = 0` ([`Node::Zero`]); disjunction is a negated conjunction;
//! 5. a truth value used as a number is `select(condition, 1, 0)`, and any other choice between finite constants is a multiple of that,
//!    plus a constant;
//! 6. the variable of a [`Node::Fold`] is [`Node::Bound`], numbered from the inside.
//!
//! Numbers are f64: every f32, and every integer a tensor may be indexed with, is exact. Real arithmetic is the algebra of real
//! numbers, not of floats: `x / sqrt(y)` and `x * y^(-1/2)` are one expression. NaN and overflow have no place in it.
//!
//! This module must not know graphs or op names.

mod base;
mod bounds;
mod fold;
mod integer;
mod logic;
mod power;
mod print;
mod product;
mod subst;
mod sum;

pub use base::{Base, BaseId, Kind};
pub use power::Power;

use base::Affine;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

/// An expression of an [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u32);

/// A variable of an [`Arena`]: an integer from 0 to below its extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Var(u32);

/// A constant.
#[derive(Clone, Copy, Debug)]
pub struct Number(pub f64);

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Number {}

impl Hash for Number {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// Size of a dimension that is known only when the model runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// Sequences of the batch, at least 1.
    Batch,
    /// New tokens per sequence, at least 1.
    Tokens,
    /// Tokens of the cache per sequence, at least 0.
    Past,
    /// Any other, by the name the model gives it; at least 0.
    Other(String),
}

/// Functions of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Func {
    /// e^x.
    Exp,
    /// Natural logarithm.
    Log,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// Error function.
    Erf,
    /// Largest integer not above x.
    Floor,
}

/// How a [`Node::Fold`] combines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Combine {
    /// Sum.
    Sum,
    /// Maximum.
    Max,
}

/// One expression, in terms of others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A constant; truth values are 0 and 1.
    Number(Number),
    /// A dimension.
    Dim(Dim),
    /// A variable.
    Var(Var),
    /// The variable of the fold at this level, below an extent.
    Bound(u32, Id),
    /// An element of a [`Base`].
    Load(BaseId, Box<[Id]>),
    /// Coefficient times term, and a constant.
    Sum(Box<[(Id, Number)]>, Number),
    /// Factors with powers.
    Product(Box<[(Id, Power)]>),
    /// A function's value.
    Apply(Func, Id),
    /// Largest integer not above the quotient of two integers.
    Div(Id, Id),
    /// What that division leaves.
    Mod(Id, Id),
    /// The larger of two numbers, ids in order.
    Max(Id, Id),
    /// Whether a number is at least 0.
    NonNegative(Id),
    /// Whether a number is 0.
    Zero(Id),
    /// Negation of a truth value that is no comparison of integers.
    Not(Id),
    /// Conjunction of at least two, sorted.
    And(Box<[Id]>),
    /// The second where the first holds, else the third.
    Select(Id, Id, Id),
    /// The body combined over the values of a [`Node::Bound`].
    Fold(Combine, Id, Id),
}

/// Owner of expressions.
#[derive(Debug, Default)]
pub struct Arena {
    nodes: Vec<Node>,
    integer: Vec<bool>,
    depths: Vec<u32>,
    ids: HashMap<Node, Id>,
    vars: Vec<(String, Id)>,
    bases: Vec<Base>,
    affine: HashMap<base::Fixed, Option<Affine>>,
    below: HashMap<BaseId, Id>,
    inverses: HashMap<BaseId, BaseId>,
    named: HashMap<(String, Id), Id>,
}

impl Arena {
    /// The expression behind an id.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Whether an expression is an integer wherever it is defined.
    pub fn is_integer(&self, id: Id) -> bool {
        self.integer[id.0 as usize]
    }

    /// Longest way from an expression to a leaf.
    pub fn depth(&self, id: Id) -> u32 {
        self.depths[id.0 as usize]
    }

    fn intern(&mut self, node: Node) -> Id {
        if let Some(&id) = self.ids.get(&node) {
            return id;
        }
        let integer = self.integral(&node);
        let id = Id(self.nodes.len() as u32);
        self.nodes.push(node.clone());
        self.integer.push(integer);
        let depth = self.children(id).iter().map(|c| self.depths[c.0 as usize]).max().unwrap_or(0);
        self.depths.push(depth + 1);
        self.ids.insert(node, id);
        id
    }

    fn integral(&self, node: &Node) -> bool {
        match node {
            Node::Number(x) => x.0.fract() == 0.0,
            Node::Dim(_) | Node::Var(_) | Node::Bound(..) | Node::Div(..) | Node::Mod(..) | Node::Apply(Func::Floor, _) => true,
            Node::Load(base, _) => self.base(*base).kind() != Kind::Real,
            Node::Sum(terms, constant) => {
                constant.0.fract() == 0.0 && terms.iter().all(|(t, c)| c.0.fract() == 0.0 && self.is_integer(*t))
            }
            Node::Product(factors) => factors.iter().all(|(f, p)| p.natural().is_some() && self.is_integer(*f)),
            Node::Max(a, b) | Node::Select(_, a, b) => self.is_integer(*a) && self.is_integer(*b),
            Node::Fold(_, _, body) => self.is_integer(*body),
            Node::NonNegative(_) | Node::Zero(_) | Node::Not(_) | Node::And(_) => true,
            Node::Apply(..) => false,
        }
    }

    /// A constant.
    pub fn number(&mut self, x: f64) -> Id {
        self.intern(Node::Number(Number(if x == 0.0 { 0.0 } else { x })))
    }

    /// An integer constant.
    pub fn int(&mut self, x: i64) -> Id {
        self.number(x as f64)
    }

    /// A truth value.
    pub fn truth(&mut self, yes: bool) -> Id {
        self.number(f64::from(u8::from(yes)))
    }

    /// A dimension.
    pub fn dim(&mut self, dim: Dim) -> Id {
        self.intern(Node::Dim(dim))
    }

    /// The variable of this name and extent; 0 if the extent is 1. Equal arguments give the same variable.
    pub fn var(&mut self, name: &str, extent: Id) -> Id {
        if self.as_number(extent) == Some(1.0) {
            return self.int(0);
        }
        if let Some(&id) = self.named.get(&(name.to_owned(), extent)) {
            return id;
        }
        let var = Var(self.vars.len() as u32);
        self.vars.push((name.to_owned(), extent));
        let id = self.intern(Node::Var(var));
        self.named.insert((name.to_owned(), extent), id);
        id
    }

    /// A variable's values are below this.
    pub fn extent(&self, var: Var) -> Id {
        self.vars[var.0 as usize].1
    }

    /// The value of a constant expression.
    pub fn as_number(&self, id: Id) -> Option<f64> {
        match self.node(id) {
            Node::Number(x) => Some(x.0),
            _ => None,
        }
    }

    /// The value of a constant integer expression.
    pub fn as_int(&self, id: Id) -> Option<i64> {
        self.as_number(id).filter(|x| x.fract() == 0.0 && x.abs() <= 2f64.powi(63)).map(|x| x as i64)
    }

    /// A function's value.
    pub fn apply(&mut self, func: Func, x: Id) -> Id {
        if let Some(v) = self.as_number(x)
            && let Some(value) = func.value(v)
        {
            return self.number(value);
        }
        if func == Func::Floor {
            if self.is_integer(x) {
                return x;
            }
            let (low, high) = self.interval(x);
            if low.is_finite() && low.floor() == high.floor() {
                return self.number(low.floor());
            }
        }
        self.intern(Node::Apply(func, x))
    }
}

impl Func {
    /// The value at a constant, where the standard library has it.
    fn value(self, x: f64) -> Option<f64> {
        match self {
            Self::Exp => Some(x.exp()),
            Self::Log => Some(x.ln()),
            Self::Sin => Some(x.sin()),
            Self::Cos => Some(x.cos()),
            Self::Tanh => Some(x.tanh()),
            Self::Sigmoid => Some(1.0 / (1.0 + (-x).exp())),
            Self::Erf => (x == 0.0).then_some(0.0),
            Self::Floor => Some(x.floor()),
        }
    }
}
