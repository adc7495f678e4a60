//! The stack machine that runs compiled CSL: at compile time for constants and the layout, on the fabric model for functions and tasks.
//!
//! It runs until something happens that is not its own business (a vector operation, a task, the host's command stream) and
//! hands that to whoever runs it as a [`Stop`]; run again, it goes on behind it.

use crate::builtins::{Builtin, Kind};
use crate::compile::value_builtin;
use crate::value::{Elem, Native, Type, Value, binary, unary};
use crate::{Fault, Result};
use std::sync::Arc;

/// An instruction.
#[derive(Clone, Debug)]
pub(crate) enum Ins {
    Push(Value),
    Local(usize),
    SetLocal(usize),
    Global(usize),
    SetGlobal(usize),
    Load(usize, Elem),
    Store(usize, Elem),
    /// Pops an index and a pointer.
    LoadAt,
    /// Pops a value, an index and a pointer.
    StoreAt,
    /// Pops an index and a pointer, pushes the pointer to that element.
    AddressAt,
    Unary(&'static str),
    Binary(&'static str),
    Coerce(Type),
    Jump(usize),
    JumpIfNot(usize),
    Call(usize, usize),
    Native(Native, usize),
    Builtin(&'static Builtin, usize),
    Vector(usize, usize),
    Field(Arc<str>),
    Struct(Arc<[String]>),
    List(usize),
    Pop,
    Return,
}

/// A compiled function.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) params: Vec<Type>,
    pub(crate) result: Type,
    pub(crate) locals: usize,
    pub(crate) ins: Vec<(Ins, u32)>,
}

/// What a machine stopped for.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// A vector operation: row of the table, arguments, options ([`Value::Void`] if none).
    Vector(usize, Vec<Value>, Value),
    /// `@activate`, `@block`, `@unblock` of a task.
    Task(&'static str, u8),
    /// A builtin about the program or the layout.
    Declare(&'static str, Vec<Value>),
    /// The host's command stream may go on.
    UnblockCmdStream,
    /// The function has returned this.
    Done(Value),
}

/// What code runs on.
pub struct State<'a> {
    pub(crate) code: &'a [Arc<Code>],
    /// Memory, in words of 16 bits.
    pub memory: &'a mut [u16],
    /// Variables that are no numbers.
    pub globals: &'a mut [Value],
    /// Column and row of the PE.
    pub at: (i64, i64),
}

#[derive(Debug)]
struct Frame {
    function: usize,
    pc: usize,
    locals: usize,
}

/// A thread of execution.
#[derive(Debug, Default)]
pub struct Machine {
    frames: Vec<Frame>,
    stack: Vec<Value>,
    /// Scalar operations executed so far, by [`Ins`] that compute or touch memory, and calls of the math library.
    pub scalars: u64,
    /// Calls of the math library so far.
    pub maths: u64,
}

/// Deepest nesting of calls.
const DEEPEST: usize = 32;
/// Scalar instructions between two stops: a loop that never ends is an error.
const LONGEST: u64 = 50_000_000;

/// At compile time there is no memory.
fn present(state: &State<'_>, word: usize, elem: Elem) -> Result<()> {
    match word + elem.words() <= state.memory.len() {
        true => Ok(()),
        false => Err(Fault::new("a variable has no value at compile time")),
    }
}

impl Machine {
    /// Whether nothing runs.
    pub fn is_idle(&self) -> bool {
        self.frames.is_empty()
    }

    /// Starts a function.
    pub fn start(&mut self, state: &State<'_>, function: usize, args: &[Value]) -> Result<()> {
        self.stack.extend_from_slice(args);
        self.enter(state.code, function, args.len())
    }

    fn enter(&mut self, code: &[Arc<Code>], function: usize, args: usize) -> Result<()> {
        let callee = &code[function];
        if self.frames.len() == DEEPEST {
            return Err(Fault::new("calls nest too deeply"));
        }
        if callee.params.len() != args {
            return Err(Fault::new(format!("'{}' takes {} arguments, {args} given", callee.name, callee.params.len())));
        }
        let locals = self.stack.len() - args;
        for (value, ty) in self.stack[locals..].iter_mut().zip(&callee.params) {
            *value = ty.of(value)?;
        }
        self.stack.resize(locals + callee.locals, Value::Void);
        self.frames.push(Frame { function, pc: 0, locals });
        Ok(())
    }

    /// Runs until it stops.
    ///
    /// # Errors
    /// A [`Fault`] with file and line.
    pub fn run(&mut self, state: &mut State<'_>) -> Result<Stop> {
        for _ in 0..LONGEST {
            let Some(frame) = self.frames.last_mut() else { return Ok(Stop::Done(Value::Void)) };
            let code = state.code[frame.function].clone();
            let (ins, line) = &code.ins[frame.pc];
            frame.pc += 1;
            match self.step(state, ins, &code) {
                Ok(None) => {}
                Ok(Some(stop)) => return Ok(stop),
                Err(fault) => return Err(fault.at(&code.file, *line)),
            }
        }
        Err(Fault::new("the program runs for too long between two vector operations"))
    }

    fn pop(&mut self) -> Value {
        self.stack.pop().unwrap_or(Value::Void)
    }

    fn take(&mut self, count: usize) -> Vec<Value> {
        self.stack.split_off(self.stack.len() - count)
    }

    fn local(&mut self, slot: usize) -> &mut Value {
        let base = self.frames.last().map_or(0, |frame| frame.locals);
        &mut self.stack[base + slot]
    }

    fn jump(&mut self, to: usize) {
        if let Some(frame) = self.frames.last_mut() {
            frame.pc = to;
        }
    }

    /// Pops an index and a pointer; gives the word and the type of the element.
    fn element(&mut self) -> Result<(usize, Elem, usize)> {
        let index = self.pop().int()?;
        match self.pop() {
            Value::Pointer { base, elem, len } => match usize::try_from(index).ok().filter(|index| *index < len) {
                Some(index) => Ok((base + index * elem.words(), elem, len - index)),
                None => Err(Fault::new(format!("element {index} of {len}"))),
            },
            other => Err(Fault::new(format!("{} is no array", other.kind()))),
        }
    }

    fn step(&mut self, state: &mut State<'_>, ins: &Ins, code: &Code) -> Result<Option<Stop>> {
        match ins {
            Ins::Push(value) => self.stack.push(value.clone()),
            Ins::Local(slot) => {
                let value = self.local(*slot).clone();
                self.stack.push(value);
            }
            Ins::SetLocal(slot) => {
                let value = self.pop();
                *self.local(*slot) = value;
            }
            Ins::Global(slot) => self.stack.push(state.globals[*slot].clone()),
            Ins::SetGlobal(slot) => state.globals[*slot] = self.pop(),
            Ins::Load(word, elem) => {
                self.scalars += 1;
                present(state, *word, *elem)?;
                self.stack.push(elem.read(state.memory, *word));
            }
            Ins::Store(word, elem) => {
                self.scalars += 1;
                let value = self.pop();
                present(state, *word, *elem)?;
                elem.write(state.memory, *word, &value)?;
            }
            Ins::LoadAt => {
                self.scalars += 1;
                let (word, elem, _) = self.element()?;
                present(state, word, elem)?;
                self.stack.push(elem.read(state.memory, word));
            }
            Ins::StoreAt => {
                self.scalars += 1;
                let value = self.pop();
                let (word, elem, _) = self.element()?;
                present(state, word, elem)?;
                elem.write(state.memory, word, &value)?;
            }
            Ins::AddressAt => {
                let (base, elem, len) = self.element()?;
                self.stack.push(Value::Pointer { base, elem, len });
            }
            Ins::Unary(operator) => {
                self.scalars += 1;
                let a = self.pop();
                self.stack.push(unary(operator, &a)?);
            }
            Ins::Binary(operator) => {
                self.scalars += 1;
                let (b, a) = (self.pop(), self.pop());
                self.stack.push(binary(operator, &a, &b)?);
            }
            Ins::Coerce(ty) => {
                let value = self.pop();
                self.stack.push(ty.of(&value)?);
            }
            Ins::Jump(to) => self.jump(*to),
            Ins::JumpIfNot(to) => {
                self.scalars += 1;
                if !self.pop().truth()? {
                    self.jump(*to);
                }
            }
            Ins::Call(function, args) => {
                self.scalars += 1;
                self.enter(state.code, *function, *args)?;
            }
            Ins::Native(native, args) => return self.native(*native, *args, state.at),
            Ins::Builtin(builtin, count) => {
                let args = self.take(*count);
                match builtin.kind {
                    Kind::Value => {
                        self.scalars += 1;
                        self.stack.push(value_builtin(builtin.name, &args)?);
                    }
                    Kind::Task => {
                        self.stack.push(Value::Void);
                        let Value::Task(id) = args[0] else { return Err(Fault::new(format!("{} is no task", args[0].kind()))) };
                        return Ok(Some(Stop::Task(builtin.name, id)));
                    }
                    Kind::Program | Kind::Layout => {
                        self.stack.push(Value::Void);
                        return Ok(Some(Stop::Declare(builtin.name, args)));
                    }
                    Kind::Vector => unreachable!("vector operations have an instruction of their own"),
                }
            }
            Ins::Vector(op, count) => {
                let mut args = self.take(*count);
                let options = if matches!(args.last(), Some(Value::Struct(_))) { args.pop() } else { None };
                self.stack.push(Value::Void);
                return Ok(Some(Stop::Vector(*op, args, options.unwrap_or(Value::Void))));
            }
            Ins::Field(name) => {
                let of = self.pop();
                let field = of.field(name).cloned();
                self.stack.push(field.ok_or_else(|| Fault::new(format!("{} has no field '{name}'", of.kind())))?);
            }
            Ins::Struct(names) => {
                let values = self.take(names.len());
                self.stack.push(Value::Struct(names.iter().cloned().zip(values).collect()));
            }
            Ins::List(count) => {
                let values = self.take(*count);
                self.stack.push(Value::List(values.into()));
            }
            Ins::Pop => {
                self.pop();
            }
            Ins::Return => {
                let value = code.result.of(&self.pop())?;
                let Some(frame) = self.frames.pop() else { return Ok(Some(Stop::Done(value))) };
                self.stack.truncate(frame.locals);
                if self.frames.is_empty() {
                    return Ok(Some(Stop::Done(value)));
                }
                self.stack.push(value);
            }
        }
        Ok(None)
    }

    fn native(&mut self, native: Native, count: usize, at: (i64, i64)) -> Result<Option<Stop>> {
        let args = self.take(count);
        let wants = match native {
            Native::UnblockCmdStream | Native::XCoord | Native::YCoord => 0,
            Native::GetParams | Native::Exp | Native::Sqrt | Native::Tanh => 1,
        };
        if count != wants {
            return Err(Fault::new(format!("{native:?} takes {wants} arguments, {count} given")));
        }
        let mut math = |f: fn(f32) -> f32| match args[0] {
            Value::F32(x) => {
                self.maths += 1;
                Ok(Value::F32(f(x)))
            }
            ref other => Err(Fault::new(format!("{} where an f32 is wanted", other.kind()))),
        };
        let value = match native {
            Native::UnblockCmdStream => {
                self.stack.push(Value::Void);
                return Ok(Some(Stop::UnblockCmdStream));
            }
            Native::GetParams => Value::Struct(Arc::from([("memcpy".to_owned(), args[0].clone())])),
            Native::XCoord => Value::Int(at.0),
            Native::YCoord => Value::Int(at.1),
            Native::Exp => math(libm::expf)?,
            Native::Sqrt => math(f32::sqrt)?,
            Native::Tanh => math(libm::tanhf)?,
        };
        self.stack.push(value);
        Ok(None)
    }
}
