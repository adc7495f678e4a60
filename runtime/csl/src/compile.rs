//! Functions to code: names resolved, loops and conditions to jumps. And the builtins that only give a value.

use crate::ast::{Expr, Function, Statement, StatementKind};
use crate::builtins::{builtin, vector_op};
use crate::value::{Dsd, Native, Place, Type, Value, convert};
use crate::vm::{Code, Ins};
use crate::{Fault, Result};

/// What a name of a module stands for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Binding {
    /// A value known at compile time.
    Const(Value),
    /// A number or an array in memory.
    Memory(usize, Type),
    /// A variable that is no number.
    Global(usize, Type),
}

/// Whoever knows the names of modules.
pub(crate) trait Names {
    /// What a name of a module stands for.
    fn lookup(&self, module: usize, name: &str) -> Option<Binding>;
    /// The value of an expression at compile time.
    fn evaluate(&mut self, module: usize, expr: &Expr, line: u32) -> Result<Value>;
}

/// Functions of the SDK's modules.
const NATIVES: &[(&str, &str, Native)] = &[
    ("<memcpy/memcpy>", "unblock_cmd_stream", Native::UnblockCmdStream),
    ("<memcpy/get_params>", "get_params", Native::GetParams),
    ("<layout>", "get_x_coord", Native::XCoord),
    ("<layout>", "get_y_coord", Native::YCoord),
    ("<math>", "exp_f32", Native::Exp),
    ("<math>", "sqrt_f32", Native::Sqrt),
    ("<math>", "tanh_f32", Native::Tanh),
];

/// The name of a module of the SDK.
pub(crate) fn library(name: &str) -> Option<&'static str> {
    NATIVES.iter().map(|(module, ..)| *module).find(|module| *module == name)
}

/// What a word means that no program declares.
pub(crate) fn word(name: &str) -> Option<Value> {
    let direction = ["NORTH", "SOUTH", "EAST", "WEST", "RAMP"].iter().position(|d| *d == name);
    Some(match (name, direction) {
        (_, Some(direction)) => Value::Direction(direction as u8),
        ("true", _) => Value::Bool(true),
        ("false", _) => Value::Bool(false),
        _ => Value::Type(Type::named(name)?),
    })
}

/// Compiles a function of a module.
pub(crate) fn function(names: &mut dyn Names, module: usize, file: &str, source: &Function, line: u32) -> Result<Code> {
    let mut compiler = Compiler { names, module, line, ins: Vec::new(), scope: Vec::new(), locals: 0 };
    let mut params = Vec::new();
    for (name, ty) in &source.params {
        let ty = compiler.ty(ty)?;
        compiler.declare(name, Some(ty.clone()), false);
        params.push(ty);
    }
    let result = compiler.ty(&source.result)?;
    compiler.block(&source.body).map_err(|fault| fault.at(file, compiler.line))?;
    compiler.emit(Ins::Push(Value::Void));
    compiler.emit(Ins::Return);
    let (locals, ins) = (compiler.locals, compiler.ins);
    Ok(Code { name: source.name.clone(), file: file.to_owned(), params, result, locals, ins })
}

/// Compiles an expression as a function that returns it.
pub(crate) fn expression(names: &mut dyn Names, module: usize, file: &str, expr: &Expr, line: u32) -> Result<Code> {
    let body = vec![Statement { line, kind: StatementKind::Return(Some(expr.clone())) }];
    let (name, result) = ("comptime".to_owned(), Expr::Name("comptime_int".to_owned()));
    function(names, module, file, &Function { name, task: false, params: Vec::new(), result, body }, line)
}

struct Local {
    name: String,
    ty: Option<Type>,
    mutable: bool,
}

struct Compiler<'a> {
    names: &'a mut dyn Names,
    module: usize,
    line: u32,
    ins: Vec<(Ins, u32)>,
    scope: Vec<Local>,
    locals: usize,
}

impl Compiler<'_> {
    fn emit(&mut self, ins: Ins) {
        self.ins.push((ins, self.line));
    }

    /// Emits a jump whose end is not known yet.
    fn jump(&mut self, make: fn(usize) -> Ins) -> (usize, fn(usize) -> Ins) {
        self.emit(make(0));
        (self.ins.len() - 1, make)
    }

    fn land(&mut self, (at, make): (usize, fn(usize) -> Ins)) {
        self.ins[at].0 = make(self.ins.len());
    }

    fn declare(&mut self, name: &str, ty: Option<Type>, mutable: bool) -> usize {
        self.scope.push(Local { name: name.to_owned(), ty, mutable });
        self.locals = self.locals.max(self.scope.len());
        self.scope.len() - 1
    }

    fn ty(&mut self, expr: &Expr) -> Result<Type> {
        // Names of types need no evaluation, which itself has a type.
        if let Expr::Name(name) = expr
            && let Some(Value::Type(ty)) = word(name)
        {
            return Ok(ty);
        }
        match self.names.evaluate(self.module, expr, self.line)? {
            Value::Type(ty) => Ok(ty),
            other => Err(Fault::new(format!("{} is no type", other.kind()))),
        }
    }

    fn block(&mut self, statements: &[Statement]) -> Result<()> {
        let outer = self.scope.len();
        for statement in statements {
            self.line = statement.line;
            self.statement(&statement.kind)?;
        }
        self.scope.truncate(outer);
        Ok(())
    }

    fn statement(&mut self, statement: &StatementKind) -> Result<()> {
        match statement {
            StatementKind::Let(name, ty, value) => {
                let ty = ty.as_ref().map(|ty| self.ty(ty)).transpose()?;
                self.expr(value)?;
                if let Some(ty) = &ty {
                    self.emit(Ins::Coerce(ty.clone()));
                }
                let slot = self.declare(name, ty, true);
                self.emit(Ins::SetLocal(slot));
            }
            StatementKind::Assign(place, operator, value) => self.assign(place, *operator, value)?,
            StatementKind::Expr(expr) => {
                self.expr(expr)?;
                self.emit(Ins::Pop);
            }
            StatementKind::If(condition, then, other) => {
                self.expr(condition)?;
                let no = self.jump(Ins::JumpIfNot);
                self.block(then)?;
                if other.is_empty() {
                    self.land(no);
                } else {
                    let end = self.jump(Ins::Jump);
                    self.land(no);
                    self.block(other)?;
                    self.land(end);
                }
            }
            StatementKind::While(condition, body) => {
                let start = self.ins.len();
                self.expr(condition)?;
                let end = self.jump(Ins::JumpIfNot);
                self.block(body)?;
                self.emit(Ins::Jump(start));
                self.land(end);
            }
            StatementKind::For(name, range, body) => {
                let ty = self.ty(&range.ty)?;
                let outer = self.scope.len();
                self.expr(range.start.as_ref().unwrap_or(&Expr::Int(0)))?;
                let counter = self.declare(name, Some(ty.clone()), false);
                self.emit(Ins::Coerce(ty));
                self.emit(Ins::SetLocal(counter));
                self.expr(&range.stop)?;
                let stop = self.declare("", None, false);
                self.emit(Ins::SetLocal(stop));
                let start = self.ins.len();
                self.emit(Ins::Local(counter));
                self.emit(Ins::Local(stop));
                self.emit(Ins::Binary("<"));
                let end = self.jump(Ins::JumpIfNot);
                self.block(body)?;
                self.emit(Ins::Local(counter));
                self.expr(range.step.as_ref().unwrap_or(&Expr::Int(1)))?;
                self.emit(Ins::Binary("+"));
                self.emit(Ins::SetLocal(counter));
                self.emit(Ins::Jump(start));
                self.land(end);
                self.scope.truncate(outer);
            }
            StatementKind::Return(value) => {
                match value {
                    Some(value) => self.expr(value)?,
                    None => self.emit(Ins::Push(Value::Void)),
                }
                self.emit(Ins::Return);
            }
        }
        Ok(())
    }

    fn assign(&mut self, place: &Expr, operator: Option<&'static str>, value: &Expr) -> Result<()> {
        let value = &match operator {
            Some(operator) => Expr::Binary(operator, Box::new(place.clone()), Box::new(value.clone())),
            None => value.clone(),
        };
        match place {
            Expr::Index(array, index) => {
                self.expr(array)?;
                self.expr(index)?;
                self.expr(value)?;
                self.emit(Ins::StoreAt);
            }
            Expr::Name(name) => {
                self.expr(value)?;
                if let Some(slot) = self.scope.iter().rposition(|local| local.name == *name) {
                    if !self.scope[slot].mutable {
                        return Err(Fault::new(format!("'{name}' cannot be assigned")));
                    }
                    if let Some(ty) = self.scope[slot].ty.clone() {
                        self.emit(Ins::Coerce(ty));
                    }
                    self.emit(Ins::SetLocal(slot));
                    return Ok(());
                }
                match self.names.lookup(self.module, name) {
                    Some(Binding::Memory(word, Type::Elem(elem))) => self.emit(Ins::Store(word, elem)),
                    Some(Binding::Global(slot, ty)) => {
                        self.emit(Ins::Coerce(ty));
                        self.emit(Ins::SetGlobal(slot));
                    }
                    Some(_) => return Err(Fault::new(format!("'{name}' cannot be assigned"))),
                    None => return Err(Fault::new(format!("'{name}' is not declared"))),
                }
            }
            _ => return Err(Fault::new("this cannot be assigned")),
        }
        Ok(())
    }

    fn binding(&mut self, binding: Binding) {
        match binding {
            Binding::Const(value) => self.emit(Ins::Push(value)),
            Binding::Memory(word, Type::Elem(elem)) => self.emit(Ins::Load(word, elem)),
            Binding::Memory(base, Type::Array(len, elem)) => self.emit(Ins::Push(Value::Pointer { base, elem, len })),
            Binding::Memory(..) => unreachable!("memory holds numbers and arrays"),
            Binding::Global(slot, _) => self.emit(Ins::Global(slot)),
        }
    }

    fn name(&mut self, name: &str) -> Result<()> {
        if let Some(slot) = self.scope.iter().rposition(|local| local.name == name) {
            self.emit(Ins::Local(slot));
        } else if let Some(binding) = self.names.lookup(self.module, name) {
            self.binding(binding);
        } else if let Some(value) = word(name) {
            self.emit(Ins::Push(value));
        } else {
            return Err(Fault::new(format!("'{name}' is not declared")));
        }
        Ok(())
    }

    /// The value of a member expression whose left side is a module.
    fn of_module(&mut self, left: &Expr, name: &str) -> Result<Option<Value>> {
        let Expr::Name(module) = left else { return Ok(None) };
        match self.names.lookup(self.module, module) {
            Some(Binding::Const(Value::Module(module))) => {
                let binding =
                    self.names.lookup(module, name).ok_or_else(|| Fault::new(format!("the module has no '{name}'")))?;
                match binding {
                    Binding::Const(value) => Ok(Some(value)),
                    Binding::Memory(base, Type::Array(len, elem)) => Ok(Some(Value::Pointer { base, elem, len })),
                    _ => Err(Fault::new(format!("'{name}' of another module is a variable"))),
                }
            }
            Some(Binding::Const(Value::Library(library))) => Err(Fault::new(format!("'{name}' of {library} is only called"))),
            _ => Ok(None),
        }
    }

    fn call(&mut self, callee: &Expr, args: &[Expr]) -> Result<()> {
        for arg in args {
            self.expr(arg)?;
        }
        if let Expr::Member(left, name) = callee
            && let Expr::Name(module) = &**left
            && let Some(Binding::Const(Value::Library(library))) = self.names.lookup(self.module, module)
        {
            let native = NATIVES.iter().find(|(of, function, _)| *of == library && function == name);
            let (.., native) = native.ok_or_else(|| Fault::new(format!("{library} has no '{name}'")))?;
            self.emit(Ins::Native(*native, args.len()));
            return Ok(());
        }
        let function = match callee {
            Expr::Name(name) => match self.names.lookup(self.module, name) {
                Some(Binding::Const(value)) => Some(value),
                _ => None,
            },
            Expr::Member(left, name) => self.of_module(left, name)?,
            _ => None,
        };
        match function {
            Some(Value::Function(function)) => self.emit(Ins::Call(function, args.len())),
            _ => return Err(Fault::new(format!("{callee:?} is no function"))),
        }
        Ok(())
    }

    fn builtin(&mut self, name: &str, args: &[Expr]) -> Result<()> {
        for arg in args {
            self.expr(arg)?;
        }
        let wrong = |(low, high): (usize, usize)| {
            Fault::new(format!("'@{name}' takes {low} to {high} arguments, {} given", args.len()))
        };
        if let Some(op) = vector_op(name) {
            let wants = 1 + crate::builtins::VECTOR_OPS[op].src.len();
            let options = matches!(args.last(), Some(Expr::Struct(_)));
            if args.len() != wants + usize::from(options) {
                return Err(wrong((wants, wants + 1)));
            }
            self.emit(Ins::Vector(op, args.len()));
            return Ok(());
        }
        let row = builtin(name).ok_or_else(|| Fault::new(format!("'@{name}' is not on the list of builtins")))?;
        if !(row.arity.0..=row.arity.1).contains(&args.len()) {
            return Err(wrong(row.arity));
        }
        self.emit(Ins::Builtin(row, args.len()));
        Ok(())
    }

    fn expr(&mut self, expr: &Expr) -> Result<()> {
        match expr {
            Expr::Int(x) => self.emit(Ins::Push(Value::Int(*x))),
            Expr::Float(x) => self.emit(Ins::Push(Value::Float(*x))),
            Expr::Text(text) => self.emit(Ins::Push(Value::Text(text.as_str().into()))),
            Expr::Name(name) => self.name(name)?,
            Expr::Member(left, name) => match self.of_module(left, name)? {
                Some(value) => self.emit(Ins::Push(value)),
                None => {
                    self.expr(left)?;
                    self.emit(Ins::Field(name.as_str().into()));
                }
            },
            Expr::Index(array, index) => {
                self.expr(array)?;
                self.expr(index)?;
                self.emit(Ins::LoadAt);
            }
            Expr::Address(of) => match &**of {
                Expr::Index(array, index) => {
                    self.expr(array)?;
                    self.expr(index)?;
                    self.emit(Ins::AddressAt);
                }
                Expr::Name(name) => match self.names.lookup(self.module, name) {
                    Some(binding @ Binding::Memory(_, Type::Array(..))) => self.binding(binding),
                    _ => return Err(Fault::new(format!("'{name}' has no address"))),
                },
                _ => return Err(Fault::new("this has no address")),
            },
            Expr::Call(callee, args) => self.call(callee, args)?,
            Expr::Builtin(name, args) => self.builtin(name, args)?,
            Expr::Unary(operator, a) => {
                self.expr(a)?;
                self.emit(Ins::Unary(operator));
            }
            Expr::Binary(operator @ ("and" | "or"), a, b) => {
                // a and b: if a then b else false; a or b: if a then true else b.
                let constant = Box::new(Expr::Name((*operator == "or").to_string()));
                let (then, other) = if *operator == "and" { (b.clone(), constant) } else { (constant, b.clone()) };
                self.expr(&Expr::If(a.clone(), then, other))?;
            }
            Expr::Binary(operator, a, b) => {
                self.expr(a)?;
                self.expr(b)?;
                self.emit(Ins::Binary(operator));
            }
            Expr::If(condition, then, other) => {
                self.expr(condition)?;
                let no = self.jump(Ins::JumpIfNot);
                self.expr(then)?;
                let end = self.jump(Ins::Jump);
                self.land(no);
                self.expr(other)?;
                self.land(end);
            }
            Expr::Struct(fields) => {
                for (_, value) in fields {
                    self.expr(value)?;
                }
                self.emit(Ins::Struct(fields.iter().map(|(name, _)| name.clone()).collect()));
            }
            Expr::List(elements) => {
                for element in elements {
                    self.expr(element)?;
                }
                self.emit(Ins::List(elements.len()));
            }
            Expr::ArrayType(len, elem) => {
                let (len, elem) = (self.names.evaluate(self.module, len, self.line)?, self.ty(elem)?);
                let Type::Elem(elem) = elem else { return Err(Fault::new("arrays hold numbers of 16 or 32 bits")) };
                // 48 KiB are 24576 words.
                let len = len.within("the length of an array", 1, 24576)? as usize;
                self.emit(Ins::Push(Value::Type(Type::Array(len, elem))));
            }
            Expr::PointerType(to) => match self.ty(to)? {
                Type::Elem(elem) => self.emit(Ins::Push(Value::Type(Type::Pointer(elem)))),
                _ => return Err(Fault::new("pointers point to numbers of 16 or 32 bits")),
            },
            Expr::FunctionType(params) => {
                let params = params.iter().map(|param| self.ty(param)).collect::<Result<Vec<Type>>>()?;
                self.emit(Ins::Push(Value::Type(Type::Function(params.into()))));
            }
        }
        Ok(())
    }
}

/// The builtins of [`crate::builtins::Kind::Value`].
pub(crate) fn value_builtin(name: &str, args: &[Value]) -> Result<Value> {
    Ok(match (name, args) {
        ("as", [Value::Type(ty), value]) => convert(ty, value)?,
        ("zeros", [Value::Type(Type::Array(..))]) => Value::Void,
        ("is_arch", [Value::Text(arch)]) => Value::Bool(&**arch == "wse3"),
        ("comptime_assert", [Value::Bool(true), ..]) => Value::Void,
        ("comptime_assert", [Value::Bool(false), ..]) => return Err(Fault::new("a comptime assertion does not hold")),
        ("get_color", [id]) => Value::Color(id.within("color", 0, 23)? as u8),
        ("get_input_queue", [id]) => Value::InputQueue(id.within("input queue", 2, 7)? as u8),
        ("get_output_queue", [id]) => Value::OutputQueue(id.within("output queue", 2, 7)? as u8),
        ("get_local_task_id", [id]) => Value::Task(id.within("local task", 8, 30)? as u8),
        ("get_dsd", [Value::Type(ty), fields]) => Value::Dsd(get_dsd(ty, fields)?),
        ("set_dsd_base_addr", [dsd, Value::Pointer { base, elem, len }]) => match dsd.dsd()? {
            Dsd { place: Place::Memory { stride, elem: of, .. }, extent } if of == *elem => Value::Dsd(Dsd {
                place: Place::Memory { base: *base, stride, elem: of, end: base + len * elem.words() },
                extent,
            }),
            _ => return Err(Fault::new("the DSD is not over elements of this type")),
        },
        ("set_dsd_length", [dsd, len]) => {
            Value::Dsd(Dsd { extent: len.within("extent", 0, u16::MAX.into())? as usize, ..dsd.dsd()? })
        }
        ("increment_dsd_offset", [dsd, by, Value::Type(Type::Elem(elem))]) => match dsd.dsd()? {
            Dsd { place: Place::Memory { base, stride, elem: of, end }, extent } if of == *elem => {
                let by = by.within("offset", i16::MIN.into(), i16::MAX.into())? * elem.words() as i64;
                let base = usize::try_from(base as i64 + by).map_err(|_| Fault::new("a DSD starts before memory"))?;
                Value::Dsd(Dsd { place: Place::Memory { base, stride, elem: of, end }, extent })
            }
            _ => return Err(Fault::new("the DSD is not over elements of this type")),
        },
        _ => {
            let kinds: Vec<&str> = args.iter().map(Value::kind).collect();
            return Err(Fault::new(format!("'@{name}' takes no {}", kinds.join(", "))));
        }
    })
}

fn get_dsd(ty: &Type, fields: &Value) -> Result<Dsd> {
    let Value::Struct(all) = fields else { return Err(Fault::new("'@get_dsd' takes a struct of fields")) };
    let known: &[&str] = match ty {
        Type::Mem1d => &["base_address", "extent", "stride", "offset"],
        Type::Fabin => &["extent", "input_queue"],
        Type::Fabout => &["extent", "output_queue"],
        _ => return Err(Fault::new("this is no kind of DSD")),
    };
    if let Some((name, _)) = all.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        return Err(Fault::new(format!("a DSD of this kind has no field '{name}'")));
    }
    let field = |name: &str| fields.field(name).ok_or_else(|| Fault::new(format!("a DSD of this kind needs '{name}'")));
    let optional = |name: &str, or: i64, low: i64, high: i64| fields.field(name).map_or(Ok(or), |v| v.within(name, low, high));
    let extent = field("extent")?.within("extent", 0, u16::MAX.into())? as usize;
    let place = match (ty, known) {
        (Type::Mem1d, _) => {
            let Value::Pointer { base, elem, len } = *field("base_address")? else {
                return Err(Fault::new("'base_address' is no pointer"));
            };
            let offset = optional("offset", 0, i16::MIN.into(), i16::MAX.into())? * elem.words() as i64;
            let end = base + len * elem.words();
            let base = usize::try_from(base as i64 + offset).map_err(|_| Fault::new("a DSD starts before memory"))?;
            Place::Memory { base, stride: optional("stride", 1, i8::MIN.into(), i8::MAX.into())?, elem, end }
        }
        (Type::Fabin, _) => match field("input_queue")? {
            Value::InputQueue(queue) => Place::FabricIn { queue: *queue },
            other => return Err(Fault::new(format!("{} is no input queue", other.kind()))),
        },
        _ => match field("output_queue")? {
            Value::OutputQueue(queue) => Place::FabricOut { queue: *queue },
            other => return Err(Fault::new(format!("{} is no output queue", other.kind()))),
        },
    };
    Ok(Dsd { place, extent })
}

/// Memory that a type takes, in words.
pub(crate) fn words(ty: &Type) -> Option<usize> {
    match ty {
        Type::Elem(elem) => Some(elem.words()),
        Type::Array(len, elem) => Some(len * elem.words()),
        _ => None,
    }
}
