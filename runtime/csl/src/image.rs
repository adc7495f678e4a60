//! One PE program with its parameters: code, memory, queues, tasks, exports.

use crate::ast::{Expr, File, Function, ItemKind, Statement, StatementKind};
use crate::compile::{self, Binding, Names, words};
use crate::layout::{Sources, only};
use crate::value::{Dsd, Elem, Place, Type, Value};
use crate::vm::{Code, Ins, Machine, State, Stop};
use crate::{Fault, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Words of 16 bits in a PE's memory: 48 KiB.
pub const MEMORY_WORDS: usize = 24 * 1024;

/// What the host sees of a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Word of the first element.
    pub base: usize,
    /// Type of the elements.
    pub elem: Elem,
    /// Number of elements.
    pub len: usize,
    /// Whether the pointer is a variable: the host may write through it.
    pub mutable: bool,
}

/// A program that is ready to run on a PE.
#[derive(Debug, Default)]
pub struct Image {
    pub(crate) code: Vec<Arc<Code>>,
    /// Words of memory that variables take, in front; all start as zeros unless `initial` says otherwise.
    pub data_words: usize,
    /// Numbers that variables start with: word, type, value.
    pub initial: Vec<(usize, Elem, Value)>,
    /// Variables that are no numbers, as they start.
    pub globals: Vec<Value>,
    /// Color of each input queue.
    pub input_queues: BTreeMap<u8, u8>,
    /// Color of each output queue.
    pub output_queues: BTreeMap<u8, u8>,
    /// Function of each local task.
    pub tasks: BTreeMap<u8, usize>,
    /// Pointers that the host sees.
    pub symbols: BTreeMap<String, Symbol>,
    /// Functions that the host sees.
    pub functions: BTreeMap<String, usize>,
    /// Names and words of variables, for the table of memory.
    pub variables: Vec<(String, usize)>,
    /// Source lines of code, for the estimate of its size.
    pub code_lines: usize,
}

impl Image {
    /// What code runs on.
    pub fn state<'a>(&'a self, memory: &'a mut [u16], globals: &'a mut [Value], at: (i64, i64)) -> State<'a> {
        State { code: &self.code, memory, globals, at }
    }

    /// Every value that stands in the code.
    fn constants(&self) -> impl Iterator<Item = &Value> {
        self.code.iter().flat_map(|code| &code.ins).filter_map(|(ins, _)| match ins {
            Ins::Push(value) => Some(value),
            _ => None,
        })
    }

    /// Input and output queues that operations of the code are over.
    pub fn queues_used(&self) -> [BTreeSet<u8>; 2] {
        let mut used = [BTreeSet::new(), BTreeSet::new()];
        for value in self.constants().chain(&self.globals) {
            match value {
                Value::Dsd(Dsd { place: Place::FabricIn { queue }, .. }) => used[0].insert(*queue),
                Value::Dsd(Dsd { place: Place::FabricOut { queue }, .. }) => used[1].insert(*queue),
                _ => false,
            };
        }
        used
    }

    /// Local tasks that the code names.
    pub fn tasks_named(&self) -> BTreeSet<u8> {
        let task = |value: &Value| if let Value::Task(id) = value { Some(*id) } else { None };
        self.constants().filter_map(task).collect()
    }

    /// The type of a function.
    pub fn type_of(&self, function: usize) -> Type {
        Type::Function(self.code[function].params.as_slice().into())
    }

    /// Evaluates a file with parameters as a PE program.
    pub fn build(sources: &Sources, file: &str, params: &[(String, Value)]) -> Result<Self> {
        let mut builder = Builder { sources, image: Image::default(), modules: Vec::new() };
        let module = builder.module(file, params)?;
        builder.finish(module)?;
        Ok(builder.image)
    }
}

/// Whoever is shown the declarations of a block: name and arguments.
type See<'s, 'a> = dyn FnMut(&mut Builder<'a>, &'static str, Vec<Value>) -> Result<()> + 's;

struct Module {
    file: String,
    bindings: BTreeMap<String, Binding>,
}

/// Evaluates modules into an image.
pub(crate) struct Builder<'a> {
    pub(crate) sources: &'a Sources,
    pub(crate) image: Image,
    modules: Vec<Module>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(sources: &'a Sources) -> Self {
        Self { sources, image: Image::default(), modules: Vec::new() }
    }

    fn syntax(&self, file: &str) -> Result<Arc<File>> {
        self.sources.get(file).cloned().ok_or_else(|| Fault::new(format!("there is no file '{file}'")))
    }

    /// Evaluates the declarations of a file, then compiles its functions.
    pub(crate) fn module(&mut self, file: &str, params: &[(String, Value)]) -> Result<usize> {
        if self.modules.len() == 64 {
            return Err(Fault::new("too many modules: do they import each other?"));
        }
        let syntax = self.syntax(file)?;
        let module = self.modules.len();
        self.modules.push(Module { file: file.to_owned(), bindings: BTreeMap::new() });
        let declared: Vec<&str> = syntax
            .items
            .iter()
            .filter_map(|item| match &item.kind {
                ItemKind::Param(name, ..) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        if let Some((name, _)) = params.iter().find(|(name, _)| !declared.contains(&name.as_str())) {
            return Err(Fault::new(format!("{file} has no parameter '{name}'")));
        }
        // Functions are known by name before the first constant is evaluated, and compiled after the last.
        let mut functions = Vec::new();
        for item in &syntax.items {
            if let ItemKind::Function(function) = &item.kind {
                let index = self.image.code.len();
                let stub = Code {
                    name: function.name.clone(),
                    file: file.to_owned(),
                    params: Vec::new(),
                    result: Type::Void,
                    locals: 0,
                    ins: Vec::new(),
                };
                self.image.code.push(Arc::new(stub));
                self.bind(module, &function.name, Binding::Const(Value::Function(index))).map_err(|f| f.at(file, item.line))?;
                functions.push((index, function, item.line));
            }
        }
        for item in &syntax.items {
            self.declaration(module, &item.kind, params, item.line).map_err(|fault| fault.at(file, item.line))?;
        }
        for (index, function, line) in functions {
            self.image.code_lines += count(&function.body);
            let code = compile::function(self, module, file, function, line)?;
            self.image.code[index] = Arc::new(code);
        }
        Ok(module)
    }

    fn bind(&mut self, module: usize, name: &str, binding: Binding) -> Result<()> {
        match self.modules[module].bindings.insert(name.to_owned(), binding) {
            None => Ok(()),
            Some(_) => Err(Fault::new(format!("'{name}' is declared twice"))),
        }
    }

    fn declaration(&mut self, module: usize, item: &ItemKind, params: &[(String, Value)], line: u32) -> Result<()> {
        let typed = |this: &mut Self, ty: &Option<Expr>| -> Result<Option<Type>> {
            let Some(ty) = ty else { return Ok(None) };
            match this.evaluate(module, ty, line)? {
                Value::Type(ty) => Ok(Some(ty)),
                other => Err(Fault::new(format!("{} is no type", other.kind()))),
            }
        };
        match item {
            ItemKind::Param(name, ty, default) => {
                let ty = typed(self, ty)?;
                let value = match (params.iter().find(|(n, _)| n == name), default) {
                    (Some((_, value)), _) => value.clone(),
                    (None, Some(default)) => self.evaluate(module, default, line)?,
                    (None, None) => return Err(Fault::new(format!("parameter '{name}' has no value"))),
                };
                let value = ty.map_or(Ok(value.clone()), |ty| ty.of(&value))?;
                self.bind(module, name, Binding::Const(value))
            }
            ItemKind::Const(name, ty, value) => {
                let ty = typed(self, ty)?;
                let value = match value {
                    Expr::Builtin(builtin, args) if builtin == "import_module" => self.import(module, args, line)?,
                    value => self.evaluate(module, value, line)?,
                };
                let value = ty.map_or(Ok(value.clone()), |ty| ty.of(&value))?;
                self.bind(module, name, Binding::Const(value))
            }
            ItemKind::Var(name, ty, value) => {
                let ty = typed(self, ty)?;
                let value = value.as_ref().map(|value| self.evaluate(module, value, line)).transpose()?;
                let ty = match (ty, &value) {
                    (Some(ty), _) => ty,
                    (None, Some(Value::Dsd(_))) => Type::Comptime,
                    (None, _) => return Err(Fault::new(format!("'{name}' needs a type"))),
                };
                let binding = match (words(&ty), value) {
                    (Some(words), value) => {
                        // 32-bit elements lie at even words.
                        let base = self.image.data_words.next_multiple_of(2);
                        self.image.data_words = base + words;
                        self.image.variables.push((format!("{}.{name}", stem(&self.modules[module].file)), words));
                        match (&ty, value) {
                            (Type::Elem(elem), Some(value)) => self.image.initial.push((base, *elem, elem.of(&value)?)),
                            (_, None | Some(Value::Void)) => {}
                            _ => return Err(Fault::new(format!("'{name}' cannot start with this"))),
                        }
                        Binding::Memory(base, ty)
                    }
                    (None, Some(value)) => {
                        self.image.globals.push(ty.of(&value)?);
                        Binding::Global(self.image.globals.len() - 1, ty)
                    }
                    (None, None) => return Err(Fault::new(format!("'{name}' has no value"))),
                };
                self.bind(module, name, binding)
            }
            ItemKind::Function(_) | ItemKind::Comptime(_) | ItemKind::Layout(_) => Ok(()),
        }
    }

    fn import(&mut self, module: usize, args: &[Expr], line: u32) -> Result<Value> {
        let Some(Expr::Text(file)) = args.first() else { return Err(Fault::new("a module is imported by its name")) };
        let params = args.get(1).map(|expr| self.evaluate(module, expr, line)).transpose()?;
        if let Some(library) = compile::library(file) {
            return Ok(Value::Library(library));
        }
        match params {
            None => self.module(file, &[]).map(Value::Module),
            Some(Value::Struct(fields)) => self.module(file, &fields).map(Value::Module),
            Some(other) => Err(Fault::new(format!("{} where parameters are wanted", other.kind()))),
        }
    }

    /// Runs a block of statements at compile time and shows every declaration in it to `see`.
    pub(crate) fn run_block(&mut self, module: usize, body: &[Statement], line: u32, see: &mut See<'_, 'a>) -> Result<()> {
        let function = Function {
            name: "comptime".to_owned(),
            task: false,
            params: Vec::new(),
            result: Expr::Name("void".to_owned()),
            body: body.to_vec(),
        };
        let file = self.modules[module].file.clone();
        let code = compile::function(self, module, &file, &function, line)?;
        self.execute(code, see).map(|_| ())
    }

    fn execute(&mut self, code: Code, see: &mut See<'_, 'a>) -> Result<Value> {
        let mut machine = Machine::default();
        let index = self.image.code.len();
        self.image.code.push(Arc::new(code));
        let code = self.image.code.clone();
        let mut globals = self.image.globals.clone();
        let (mut memory, at) = (Vec::new(), (-1, -1));
        let mut state = State { code: &code, memory: &mut memory, globals: &mut globals, at };
        machine.start(&state, index, &[])?;
        let result = loop {
            match machine.run(&mut state)? {
                Stop::Done(value) => break value,
                Stop::Declare(name, args) => see(self, name, args)?,
                other => return Err(Fault::new(format!("{other:?} has no meaning at compile time"))),
            }
        };
        self.image.code.truncate(index);
        Ok(result)
    }

    /// What the host and the hardware are told by `comptime` blocks of all modules.
    fn finish(&mut self, _main: usize) -> Result<()> {
        for module in 0..self.modules.len() {
            let file = self.modules[module].file.clone();
            let syntax = self.syntax(&file)?;
            for item in &syntax.items {
                if let ItemKind::Comptime(body) = &item.kind {
                    self.run_block(module, body, item.line, &mut |this, name, args| this.declare(name, &args))?;
                    self.variables_exported(module, body);
                }
            }
        }
        for (_, elem, value) in &self.image.initial {
            elem.of(value)?;
        }
        Ok(())
    }

    /// Marks the exported pointers that are variables. Their values alone do not say so.
    fn variables_exported(&mut self, module: usize, body: &[Statement]) {
        for statement in body {
            match &statement.kind {
                StatementKind::If(_, then, other) => {
                    self.variables_exported(module, then);
                    self.variables_exported(module, other);
                }
                StatementKind::Expr(Expr::Builtin(name, args)) if name == "export_symbol" => {
                    let [Expr::Name(pointer), Expr::Text(name)] = &args[..] else { continue };
                    let variable = matches!(self.lookup(module, pointer), Some(Binding::Global(..)));
                    if let Some(symbol) = self.image.symbols.get_mut(name) {
                        symbol.mutable = variable;
                    }
                }
                _ => {}
            }
        }
    }

    fn declare(&mut self, name: &'static str, args: &[Value]) -> Result<()> {
        let twice = |what: &str| Err(Fault::new(format!("{what} twice")));
        match (name, args) {
            ("bind_local_task", [Value::Function(function), Value::Task(id)]) => {
                if self.image.tasks.insert(*id, *function).is_some() {
                    return twice(&format!("local task {id} is bound"));
                }
            }
            ("initialize_queue", [queue, fields]) => {
                let Some(Value::Color(color)) = fields.field("color") else {
                    return Err(Fault::new("a queue is initialized with a color"));
                };
                only(fields, &["color"])?;
                let (table, id) = match queue {
                    Value::InputQueue(id) => (&mut self.image.input_queues, id),
                    Value::OutputQueue(id) => (&mut self.image.output_queues, id),
                    other => return Err(Fault::new(format!("{} is no queue", other.kind()))),
                };
                if table.insert(*id, *color).is_some() {
                    return twice(&format!("queue {id} is initialized"));
                }
            }
            ("export_symbol", [Value::Pointer { base, elem, len }, Value::Text(name)]) => {
                let symbol = Symbol { base: *base, elem: *elem, len: *len, mutable: false };
                if self.image.symbols.insert(name.to_string(), symbol).is_some() {
                    return twice(&format!("symbol '{name}' is exported"));
                }
            }
            ("export_symbol", [Value::Function(function)]) => {
                let name = self.image.code[*function].name.clone();
                if self.image.functions.insert(name.clone(), *function).is_some() {
                    return twice(&format!("function '{name}' is exported"));
                }
            }
            _ => return Err(Fault::new(format!("'@{name}' has no meaning here"))),
        }
        Ok(())
    }
}

impl Names for Builder<'_> {
    fn lookup(&self, module: usize, name: &str) -> Option<Binding> {
        self.modules[module].bindings.get(name).cloned()
    }

    fn evaluate(&mut self, module: usize, expr: &Expr, line: u32) -> Result<Value> {
        let file = self.modules[module].file.clone();
        let code = compile::expression(self, module, &file, expr, line)?;
        let nothing = &mut |_: &mut Self, name: &'static str, _: Vec<Value>| Err(Fault::new(format!("'@{name}' has no value")));
        self.execute(code, nothing)
    }
}

fn stem(file: &str) -> &str {
    file.strip_suffix(".csl").unwrap_or(file)
}

fn count(body: &[Statement]) -> usize {
    use StatementKind::{For, If, While};
    body.iter()
        .map(|statement| match &statement.kind {
            If(_, then, other) => 1 + count(then) + count(other),
            While(_, body) | For(_, _, body) => 1 + count(body),
            _ => 1,
        })
        .sum()
}
