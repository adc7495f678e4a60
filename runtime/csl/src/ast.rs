//! The syntax tree. Every statement and declaration knows its line.

/// A file.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Its declarations, in order.
    pub items: Vec<Item>,
}

/// A declaration.
#[derive(Clone, Debug)]
pub struct Item {
    /// Where it starts.
    pub line: u32,
    /// What it declares.
    pub kind: ItemKind,
}

/// Kinds of declarations.
#[derive(Clone, Debug)]
pub enum ItemKind {
    /// `param name: T = default;`
    Param(String, Option<Expr>, Option<Expr>),
    /// `const name: T = value;`
    Const(String, Option<Expr>, Expr),
    /// `var name: T = value;`
    Var(String, Option<Expr>, Option<Expr>),
    /// `fn` or `task`.
    Function(Function),
    /// `comptime { }`
    Comptime(Vec<Statement>),
    /// `layout { }`
    Layout(Vec<Statement>),
}

/// A function or a task.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Whether it is a task.
    pub task: bool,
    /// Names and types of its parameters.
    pub params: Vec<(String, Expr)>,
    /// Type of its result.
    pub result: Expr,
    /// Its statements.
    pub body: Vec<Statement>,
}

/// A statement and its line.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Where it starts.
    pub line: u32,
    /// What it does.
    pub kind: StatementKind,
}

/// Kinds of statements.
#[derive(Clone, Debug)]
pub enum StatementKind {
    /// `const` or `var`.
    Let(String, Option<Expr>, Expr),
    /// `place = value`; the operator of `place += value`.
    Assign(Expr, Option<&'static str>, Expr),
    /// A call.
    Expr(Expr),
    /// `if (c) { } else { }`
    If(Expr, Vec<Statement>, Vec<Statement>),
    /// `while (c) { }`
    While(Expr, Vec<Statement>),
    /// `for (@range(T, start, stop, step)) |name| { }`
    For(String, Range, Vec<Statement>),
    /// `return value;`
    Return(Option<Expr>),
}

/// `start, stop, step` of a loop.
#[derive(Clone, Debug)]
pub struct Range {
    /// Type of the counter.
    pub ty: Expr,
    /// First value; absent: 0.
    pub start: Option<Expr>,
    /// The first value that is not reached.
    pub stop: Expr,
    /// Absent: 1.
    pub step: Option<Expr>,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A whole number.
    Int(i64),
    /// A number with a point.
    Float(f64),
    /// A string.
    Text(String),
    /// A name: a variable, a type, a direction.
    Name(String),
    /// `a.name`
    Member(Box<Expr>, String),
    /// `a[i]`
    Index(Box<Expr>, Box<Expr>),
    /// `f(a, b)`
    Call(Box<Expr>, Vec<Expr>),
    /// `@name(a, b)`
    Builtin(String, Vec<Expr>),
    /// `&a`
    Address(Box<Expr>),
    /// `-a`, `!a`, `~a`
    Unary(&'static str, Box<Expr>),
    /// `a + b`
    Binary(&'static str, Box<Expr>, Box<Expr>),
    /// `if (c) a else b`
    If(Box<Expr>, Box<Expr>, Box<Expr>),
    /// `.{ .a = x }`
    Struct(Vec<(String, Expr)>),
    /// `.{ a, b }`
    List(Vec<Expr>),
    /// `[n]T`
    ArrayType(Box<Expr>, Box<Expr>),
    /// `[*]T`, possibly to constants.
    PointerType(Box<Expr>),
    /// `fn(T) R`
    FunctionType(Vec<Expr>),
}
