//! LLVM's text to [`ir`](crate::ir). What kernels do not use is an error that shows the line.

use crate::ir::{Block, Function, Global, Inst, Module, Op, Order, Scalar, Type, Typed, Value};
use crate::lex::{self, Token};

/// Words before types and operands that change nothing here; some are followed by a group in parentheses.
const FLAGS: &[&str] = &[
    "nuw",
    "nsw",
    "exact",
    "disjoint",
    "nneg",
    "inbounds",
    "nusw",
    "samesign",
    "fast",
    "nnan",
    "ninf",
    "nsz",
    "arcp",
    "contract",
    "afn",
    "reassoc",
    "tail",
    "notail",
    "musttail",
    "noundef",
    "immarg",
    "signext",
    "zeroext",
    "nonnull",
    "returned",
    "readonly",
    "writeonly",
    "readnone",
    "noalias",
    "nocapture",
    "captures",
    "range",
    "dereferenceable",
    "nofpclass",
    "initializes",
];

/// The module of a text.
///
/// # Errors
/// The first line that is no part of the language of kernels.
pub fn module(text: &str) -> Result<Module, String> {
    let mut module = Module::default();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let at = |error: String| format!("{error}: {line}");
        if line.starts_with('@') {
            let (name, global) = global(line).map_err(at)?;
            module.globals.insert(name, global);
        } else if line.starts_with("define") {
            let function = function(line, &mut lines)?;
            module.functions.insert(function.name.clone(), function);
        }
    }
    Ok(module)
}

/// `@name = linkage... addrspace(n) constant|global TYPE CONTENT, align N`.
fn global(line: &str) -> Result<(String, Global), String> {
    let mut c = Cursor::new(line)?;
    let Some(Token::Global(name)) = c.next() else { return Err("no name".into()) };
    c.sign('=')?;
    let mut space = 0;
    loop {
        match c.next() {
            Some(Token::Word(word)) if word == "addrspace" => space = c.parenthesised()?,
            Some(Token::Word(word)) if word == "global" || word == "constant" => break,
            Some(Token::Word(_)) => {}
            other => return Err(format!("{other:?} in a global")),
        }
    }
    let ty = c.ty()?;
    let content = match c.peek() {
        Some(Token::Bytes(_)) => match c.next() {
            Some(Token::Bytes(bytes)) => Some(bytes),
            _ => None,
        },
        Some(Token::Word(word)) if word == "zeroinitializer" => {
            c.next();
            Some(vec![0; ty.bytes() as usize])
        }
        _ => {
            c.next();
            None
        }
    };
    Ok((name, Global { space, bytes: ty.bytes(), align: c.align()?.unwrap_or(1), content }))
}

fn function<'a>(line: &str, lines: &mut impl Iterator<Item = &'a str>) -> Result<Function, String> {
    let at = |error: String| format!("{error}: {line}");
    let mut c = Cursor::new(line).map_err(at)?;
    let name = loop {
        match c.next() {
            Some(Token::Global(name)) => break name,
            Some(_) => {}
            None => return Err(at("no name".into())),
        }
    };
    let params = c.params().map_err(at)?;
    let mut blocks: Vec<Block> = Vec::new();
    while let Some(line) = lines.next() {
        let at = |error: String| format!("{error}: {line}");
        let text = line.split(';').next().unwrap_or_default().trim();
        if text == "}" {
            return Ok(Function { name, params, blocks });
        }
        if text.is_empty() {
            continue;
        }
        if let Some(label) = text.strip_suffix(':') {
            blocks.push(Block { label: label.trim_matches('"').to_owned(), insts: vec![] });
            continue;
        }
        if blocks.is_empty() {
            // An entry without a label has the first number that no parameter has.
            blocks.push(Block { label: params.len().to_string(), insts: vec![] });
        }
        let mut whole = text.to_owned();
        if text.starts_with("switch ") {
            while !whole.ends_with(']') {
                whole += lines.next().ok_or_else(|| at("a switch does not end".into()))?;
            }
        }
        let inst = instruction(&whole).map_err(at)?;
        if let (Some(inst), Some(block)) = (inst, blocks.last_mut()) {
            block.insts.push(inst);
        }
    }
    Err(at("a function does not end".into()))
}

/// An instruction; `None` for what has no effect here.
fn instruction(text: &str) -> Result<Option<Inst>, String> {
    let mut c = Cursor::new(text)?;
    let mut result = None;
    if let Some(Token::Local(name)) = c.peek() {
        result = Some(name.clone());
        c.next();
        c.sign('=')?;
    }
    c.flags();
    let name = c.word()?;
    c.flags();
    let op = match name.as_str() {
        "add" | "sub" | "mul" | "udiv" | "sdiv" | "urem" | "srem" | "shl" | "lshr" | "ashr" | "and" | "or" | "xor" | "fadd"
        | "fsub" | "fmul" | "fdiv" | "frem" => {
            let (ty, left, right) = c.pair()?;
            Op::Binary(name, ty, left, right)
        }
        "fneg" => {
            let (ty, value) = c.typed()?;
            Op::Negate(ty, value)
        }
        "icmp" | "fcmp" => {
            let predicate = format!("{}{}", &name[..1], c.word()?);
            c.flags();
            let (ty, left, right) = c.pair()?;
            Op::Compare(predicate, ty, left, right)
        }
        "select" => {
            let condition = c.typed()?;
            c.sign(',')?;
            let then = c.typed()?;
            c.sign(',')?;
            Op::Select(condition, then, c.typed()?)
        }
        "zext" | "sext" | "trunc" | "fpext" | "fptrunc" | "fptoui" | "fptosi" | "uitofp" | "sitofp" | "bitcast"
        | "ptrtoint" | "inttoptr" | "addrspacecast" => {
            let value = c.typed()?;
            c.keyword("to")?;
            Op::Cast(name, value, c.ty()?)
        }
        "getelementptr" => {
            let ty = c.ty()?;
            c.sign(',')?;
            let base = c.typed()?;
            let mut indices = Vec::new();
            while c.take(',') {
                indices.push(c.typed()?);
            }
            Op::Address(ty, base, indices)
        }
        "load" => {
            let ty = c.ty()?;
            c.sign(',')?;
            let address = c.typed()?;
            let align = c.align()?.unwrap_or(1);
            Op::Load(ty, address, align)
        }
        "store" => {
            let value = c.typed()?;
            c.sign(',')?;
            let address = c.typed()?;
            let align = c.align()?.unwrap_or(1);
            Op::Store(value, address, align)
        }
        "phi" => {
            let ty = c.ty()?;
            let mut values = Vec::new();
            loop {
                c.sign('[')?;
                let value = c.value(&ty)?;
                c.sign(',')?;
                values.push((value, c.local()?));
                c.sign(']')?;
                if !c.take(',') {
                    break;
                }
            }
            Op::Phi(ty, values)
        }
        "extractelement" => {
            let vector = c.typed()?;
            c.sign(',')?;
            Op::Extract(vector, c.typed()?)
        }
        "insertelement" => {
            let vector = c.typed()?;
            c.sign(',')?;
            let component = c.typed()?;
            c.sign(',')?;
            Op::Insert(vector, component, c.typed()?)
        }
        "shufflevector" => {
            let left = c.typed()?;
            c.sign(',')?;
            let right = c.typed()?;
            c.sign(',')?;
            let (_, Value::Constant(mask)) = c.typed()? else { return Err("a mask that is no constant".into()) };
            Op::Shuffle(left, right, mask)
        }
        "extractvalue" => {
            let whole = c.typed()?;
            c.sign(',')?;
            Op::Field(whole, c.number()? as usize)
        }
        "fence" if result.is_none() => Op::Fence(c.order()?),
        "freeze" => Op::Freeze(c.typed()?),
        "call" => {
            let ty = c.ty()?;
            if c.peek() == Some(&Token::Word("asm".into())) {
                return c.nothing().map(|value| Some(Inst { result, op: Op::Freeze(value), text: text.to_owned() }));
            }
            let Some(Token::Global(callee)) = c.next() else { return Err("a call through a value".into()) };
            let ignored = ["llvm.assume", "llvm.lifetime", "llvm.experimental.noalias", "llvm.prefetch", "llvm.amdgcn.sched"];
            if ignored.iter().any(|prefix| callee.starts_with(prefix)) {
                return Ok(None);
            }
            Op::Call(ty, callee, c.arguments()?)
        }
        "br" => {
            if c.peek() == Some(&Token::Word("label".into())) {
                Op::Jump(c.label()?)
            } else {
                let (_, condition) = c.typed()?;
                c.sign(',')?;
                let then = c.label()?;
                c.sign(',')?;
                Op::Branch(condition, then, c.label()?)
            }
        }
        "switch" => {
            let value = c.typed()?;
            c.sign(',')?;
            let otherwise = c.label()?;
            c.sign('[')?;
            let mut cases = Vec::new();
            while !c.take(']') {
                let (_, Value::Constant(case)) = c.typed()? else { return Err("a case that is no constant".into()) };
                c.sign(',')?;
                cases.push((case.first().copied().flatten().unwrap_or(0), c.label()?));
            }
            Op::Switch(value, otherwise, cases)
        }
        "ret" => Op::Return,
        "unreachable" => Op::Unreachable,
        other => return Err(format!("'{other}' is not known")),
    };
    Ok(Some(Inst { result, op, text: text.to_owned() }))
}

struct Cursor {
    tokens: Vec<Token>,
    at: usize,
}

impl Cursor {
    fn new(text: &str) -> Result<Self, String> {
        Ok(Self { tokens: lex::line(text)?, at: 0 })
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn take(&mut self, sign: char) -> bool {
        let found = self.peek() == Some(&Token::Sign(sign));
        self.at += usize::from(found);
        found
    }

    fn sign(&mut self, sign: char) -> Result<(), String> {
        if self.take(sign) { Ok(()) } else { Err(format!("'{sign}' is missing before {:?}", self.peek())) }
    }

    fn word(&mut self) -> Result<String, String> {
        match self.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(format!("{other:?} where a word is needed")),
        }
    }

    fn keyword(&mut self, word: &str) -> Result<(), String> {
        if self.word()? == word { Ok(()) } else { Err(format!("'{word}' is missing")) }
    }

    /// An assembly of no instruction, whose result is the first operand; the others are there before it is.
    fn nothing(&mut self) -> Result<Typed, String> {
        self.keyword("asm")?;
        self.keyword("sideeffect")?;
        let (text, comma, constraints) = (self.next(), self.take(','), self.next());
        let tied = matches!(&constraints, Some(Token::Text(list)) if list.starts_with("=v,0"));
        if text != Some(Token::Text(String::new())) || !comma || !tied {
            return Err("an assembly of instructions".into());
        }
        self.arguments()?.into_iter().next().ok_or_else(|| "an assembly of no operand".into())
    }

    /// `syncscope("...") ORDERING`.
    fn order(&mut self) -> Result<Order, String> {
        if self.peek() == Some(&Token::Word("syncscope".into())) {
            self.next();
            self.skip_group();
        }
        match self.word()?.as_str() {
            "acquire" => Ok(Order::Acquire),
            "release" => Ok(Order::Release),
            "acq_rel" | "seq_cst" => Ok(Order::Both),
            other => Err(format!("the ordering '{other}'")),
        }
    }

    fn number(&mut self) -> Result<u64, String> {
        self.word()?.parse().map_err(|_| "no number".into())
    }

    fn local(&mut self) -> Result<String, String> {
        match self.next() {
            Some(Token::Local(name)) => Ok(name),
            other => Err(format!("{other:?} where a name is needed")),
        }
    }

    fn label(&mut self) -> Result<String, String> {
        self.keyword("label")?;
        self.local()
    }

    /// `(n)`.
    fn parenthesised(&mut self) -> Result<u32, String> {
        self.sign('(')?;
        let number = self.number()? as u32;
        self.sign(')')?;
        Ok(number)
    }

    /// Skips flags such as `nsw` or `range(i32 0, 8)`, and the alignment of a parameter.
    fn flags(&mut self) {
        while let Some(Token::Word(word)) = self.peek() {
            let grouped = self.tokens.get(self.at + 1) == Some(&Token::Sign('('));
            match word.as_str() {
                "align" => self.at += 2,
                flag if FLAGS.contains(&flag) => {
                    self.at += 1;
                    if grouped {
                        self.skip_group();
                    }
                }
                _ => return,
            }
        }
    }

    fn skip_group(&mut self) {
        let mut depth = 0;
        while let Some(token) = self.next() {
            match token {
                Token::Sign('(') => depth += 1,
                Token::Sign(')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// `, align N` wherever it stands in the rest of the line.
    fn align(&mut self) -> Result<Option<u64>, String> {
        let rest = &self.tokens[self.at.min(self.tokens.len())..];
        let word = |at: usize| if let Some(Token::Word(word)) = rest.get(at) { Some(word.as_str()) } else { None };
        let found = (0..rest.len()).find(|&at| word(at) == Some("align"));
        found.map(|at| word(at + 1).and_then(|n| n.parse().ok()).ok_or_else(|| "no alignment".to_owned())).transpose()
    }

    fn params(&mut self) -> Result<Vec<(Scalar, String)>, String> {
        self.sign('(')?;
        let mut params = Vec::new();
        while !self.take(')') {
            let Type::Scalar(scalar) = self.ty()? else { return Err("a parameter that is no scalar".into()) };
            self.flags();
            params.push((scalar, self.local()?));
            self.take(',');
        }
        Ok(params)
    }

    fn arguments(&mut self) -> Result<Vec<Typed>, String> {
        self.sign('(')?;
        let mut arguments = Vec::new();
        while !self.take(')') {
            arguments.push(self.typed()?);
            self.take(',');
        }
        Ok(arguments)
    }

    fn ty(&mut self) -> Result<Type, String> {
        self.flags();
        if self.take('<') {
            let count = self.number()?;
            self.keyword("x")?;
            let Type::Scalar(scalar) = self.ty()? else { return Err("a vector of no scalars".into()) };
            self.sign('>')?;
            return Ok(Type::Vector(count, scalar));
        }
        if self.take('[') {
            let count = self.number()?;
            self.keyword("x")?;
            let each = self.ty()?;
            self.sign(']')?;
            return Ok(Type::Array(count, Box::new(each)));
        }
        if self.take('{') {
            let mut fields = Vec::new();
            while !self.take('}') {
                fields.push(self.ty()?);
                self.take(',');
            }
            return Ok(Type::Struct(fields));
        }
        let word = self.word()?;
        Ok(Type::Scalar(match word.as_str() {
            "void" => return Ok(Type::Void),
            "half" => Scalar::Half,
            "bfloat" => Scalar::Bfloat,
            "float" => Scalar::Float,
            "double" => Scalar::Double,
            "ptr" => {
                let spaced = self.peek() == Some(&Token::Word("addrspace".into()));
                self.at += usize::from(spaced);
                Scalar::Ptr(if spaced { self.parenthesised()? } else { 0 })
            }
            other => match other.strip_prefix('i').and_then(|bits| bits.parse().ok()) {
                Some(bits @ 1..=64) => Scalar::Int(bits),
                _ => return Err(format!("'{other}' is no type")),
            },
        }))
    }

    fn typed(&mut self) -> Result<Typed, String> {
        let ty = self.ty()?;
        self.flags();
        let value = self.value(&ty)?;
        Ok((ty, value))
    }

    /// A type and two operands of it.
    fn pair(&mut self) -> Result<(Type, Value, Value), String> {
        let (ty, left) = self.typed()?;
        self.sign(',')?;
        let right = self.value(&ty)?;
        Ok((ty, left, right))
    }

    fn value(&mut self, ty: &Type) -> Result<Value, String> {
        let count = ty.components().len();
        match self.next() {
            Some(Token::Local(name)) => Ok(Value::Local(name)),
            Some(Token::Global(name)) => Ok(Value::Global(name, 0)),
            Some(Token::Sign('<')) => {
                let mut components = Vec::new();
                while !self.take('>') {
                    match self.typed()?.1 {
                        Value::Constant(one) => components.extend(one),
                        other => return Err(format!("{other:?} in a constant vector")),
                    }
                    self.take(',');
                }
                Ok(Value::Constant(components))
            }
            Some(Token::Word(word)) => match word.as_str() {
                "poison" | "undef" => Ok(Value::Constant(vec![None; count])),
                "zeroinitializer" | "null" | "false" => Ok(Value::Constant(vec![Some(0); count])),
                "true" => Ok(Value::Constant(vec![Some(1)])),
                "splat" => {
                    self.sign('(')?;
                    let (_, Value::Constant(one)) = self.typed()? else { return Err("a splat of no constant".into()) };
                    self.sign(')')?;
                    Ok(Value::Constant(vec![one[0]; count]))
                }
                "getelementptr" => self.global_place(),
                "addrspacecast" => {
                    self.sign('(')?;
                    let (_, value) = self.typed()?;
                    self.keyword("to")?;
                    self.ty()?;
                    self.sign(')')?;
                    Ok(value)
                }
                number => Ok(Value::Constant(vec![Some(literal(ty, number)?)])),
            },
            other => Err(format!("{other:?} where a value is needed")),
        }
    }

    /// `inbounds (TYPE, ptr @global, iN INDEX)`.
    fn global_place(&mut self) -> Result<Value, String> {
        while !self.take('(') {
            self.next().ok_or("an address without operands")?;
        }
        let ty = self.ty()?;
        self.sign(',')?;
        let (_, Value::Global(name, mut offset)) = self.typed()? else { return Err("an address of no global".into()) };
        let mut each = ty;
        let mut first = true;
        while self.take(',') {
            let (index_ty, Value::Constant(index)) = self.typed()? else { return Err("an index that is no constant".into()) };
            let bits = index_ty.components()[0].bits();
            let index = (index[0].unwrap_or(0) << (64 - bits)) as i64 >> (64 - bits);
            if !first {
                each = match each {
                    Type::Array(_, element) => *element,
                    other => return Err(format!("an index into {other:?}")),
                };
            }
            first = false;
            offset += index * each.bytes() as i64;
        }
        self.sign(')')?;
        Ok(Value::Global(name, offset))
    }
}

/// The bits of a number in a type.
fn literal(ty: &Type, text: &str) -> Result<u64, String> {
    let Some(&scalar) = ty.components().first() else { return Err("a number of no type".into()) };
    let wrong = || format!("'{text}' is no {scalar:?}");
    let hex = |prefix: &str| text.strip_prefix(prefix).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let double = || text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |_| hex("0x").map(f64::from_bits));
    Ok(match scalar {
        Scalar::Int(bits) => {
            let value: i128 = text.parse().map_err(|_| wrong())?;
            value as u64 & (u64::MAX >> (64 - bits))
        }
        Scalar::Half => match hex("0xH") {
            Some(bits) => bits,
            None => half::f16::from_f64(double().ok_or_else(wrong)?).to_bits().into(),
        },
        Scalar::Bfloat => match hex("0xR") {
            Some(bits) => bits,
            None => half::bf16::from_f64(double().ok_or_else(wrong)?).to_bits().into(),
        },
        Scalar::Float => (double().ok_or_else(wrong)? as f32).to_bits().into(),
        Scalar::Double => double().ok_or_else(wrong)?.to_bits(),
        Scalar::Ptr(_) => return Err(wrong()),
    })
}
