//! Tokens to syntax, by recursive descent; precedence from one table.

use crate::ast::{Expr, File, Function, Item, ItemKind, Range, Statement, StatementKind};
use crate::lexer::{Token, tokens};
use crate::{Fault, Result};

/// Binary operators by precedence, loosest first.
const PRECEDENCE: &[&[&str]] = &[
    &["or"],
    &["and"],
    &["==", "!=", "<", ">", "<=", ">="],
    &["|"],
    &["^"],
    &["&"],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

/// Deepest nesting of expressions and statements.
const DEEPEST: usize = 64;

/// Operators of one precedence in a row.
const LONGEST: usize = 256;

/// Parses a file.
pub(crate) fn parse(name: &str, text: &str) -> Result<File> {
    let place = |fault: Fault| match fault.at {
        Some((_, line)) => Fault { at: Some((name.to_owned(), line)), ..fault },
        None => fault,
    };
    let mut parser = Parser { tokens: tokens(text).map_err(place)?, at: 0, depth: 0 };
    let mut items = Vec::new();
    while parser.peek() != &Token::End {
        items.push(parser.item().map_err(|fault| fault.at(name, parser.line()))?);
    }
    Ok(File { items })
}

struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].1
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].0.clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(w) if w == word)
    }

    fn eat(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        if found {
            self.next();
        }
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Result<()> {
        if self.eat(sign) { Ok(()) } else { Err(Fault::new(format!("'{sign}' expected, {} found", show(self.peek())))) }
    }

    fn name(&mut self) -> Result<String> {
        match self.next() {
            Token::Word(word) => Ok(word),
            other => Err(Fault::new(format!("a name expected, {} found", show(&other)))),
        }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == DEEPEST {
            return Err(Fault::new("nested too deeply"));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    fn item(&mut self) -> Result<Item> {
        let line = self.line();
        let kind = match self.name()?.as_str() {
            "param" => {
                let (name, ty) = self.declared()?;
                let default = self.initial()?;
                ItemKind::Param(name, ty, default)
            }
            "const" => {
                let (name, ty) = self.declared()?;
                let value = self.initial()?.ok_or_else(|| Fault::new(format!("'{name}' has no value")))?;
                ItemKind::Const(name, ty, value)
            }
            "var" => {
                let (name, ty) = self.declared()?;
                let value = self.initial()?;
                ItemKind::Var(name, ty, value)
            }
            "fn" => ItemKind::Function(self.function(false)?),
            "task" => ItemKind::Function(self.function(true)?),
            "comptime" => ItemKind::Comptime(self.block()?),
            "layout" => ItemKind::Layout(self.block()?),
            other => return Err(Fault::new(format!("'{other}' begins no declaration"))),
        };
        Ok(Item { line, kind })
    }

    fn declared(&mut self) -> Result<(String, Option<Expr>)> {
        let name = self.name()?;
        let ty = if self.eat(":") { Some(self.ty()?) } else { None };
        Ok((name, ty))
    }

    fn initial(&mut self) -> Result<Option<Expr>> {
        let value = if self.eat("=") { Some(self.expr()?) } else { None };
        self.expect(";")?;
        Ok(value)
    }

    fn function(&mut self, task: bool) -> Result<Function> {
        let name = self.name()?;
        self.expect("(")?;
        let mut params = Vec::new();
        while !self.eat(")") {
            let param = self.name()?;
            self.expect(":")?;
            params.push((param, self.ty()?));
            if !self.is(")") {
                self.expect(",")?;
            }
        }
        let result = self.ty()?;
        Ok(Function { name, task, params, result, body: self.block()? })
    }

    fn block(&mut self) -> Result<Vec<Statement>> {
        self.deeper(|parser| {
            parser.expect("{")?;
            let mut statements = Vec::new();
            while !parser.eat("}") {
                statements.push(parser.statement()?);
            }
            Ok(statements)
        })
    }

    /// A block, or one statement.
    fn body(&mut self) -> Result<Vec<Statement>> {
        if self.is("{") { self.block() } else { self.deeper(|parser| Ok(vec![parser.statement()?])) }
    }

    fn statement(&mut self) -> Result<Statement> {
        let line = self.line();
        let kind = match self.peek() {
            Token::Word(word) if word == "const" || word == "var" => {
                self.next();
                let (name, ty) = self.declared()?;
                let value = self.initial()?.ok_or_else(|| Fault::new(format!("'{name}' has no value")))?;
                StatementKind::Let(name, ty, value)
            }
            Token::Word(word) if word == "if" => {
                self.next();
                self.expect("(")?;
                let condition = self.expr()?;
                self.expect(")")?;
                let then = self.body()?;
                let other = if self.eat_word("else") { self.body()? } else { Vec::new() };
                StatementKind::If(condition, then, other)
            }
            Token::Word(word) if word == "while" => {
                self.next();
                self.expect("(")?;
                let condition = self.expr()?;
                self.expect(")")?;
                StatementKind::While(condition, self.block()?)
            }
            Token::Word(word) if word == "for" => {
                self.next();
                self.expect("(")?;
                let range = self.range()?;
                self.expect(")")?;
                self.expect("|")?;
                let name = self.name()?;
                self.expect("|")?;
                StatementKind::For(name, range, self.block()?)
            }
            Token::Word(word) if word == "return" => {
                self.next();
                let value = if self.is(";") { None } else { Some(self.expr()?) };
                self.expect(";")?;
                StatementKind::Return(value)
            }
            _ => {
                let place = self.expr()?;
                let operator = match self.peek() {
                    Token::Sign("=") => Some(None),
                    Token::Sign("+=") => Some(Some("+")),
                    Token::Sign("-=") => Some(Some("-")),
                    Token::Sign("*=") => Some(Some("*")),
                    Token::Sign("/=") => Some(Some("/")),
                    _ => None,
                };
                let kind = match operator {
                    Some(operator) => {
                        self.next();
                        StatementKind::Assign(place, operator, self.expr()?)
                    }
                    None => StatementKind::Expr(place),
                };
                self.expect(";")?;
                kind
            }
        };
        Ok(Statement { line, kind })
    }

    fn range(&mut self) -> Result<Range> {
        let Expr::Builtin(name, mut args) = self.expr()? else { return Err(Fault::new("a loop runs over '@range'")) };
        match (name.as_str(), args.len()) {
            ("range", 2) => {
                let stop = args.remove(1);
                Ok(Range { ty: args.remove(0), start: None, stop, step: None })
            }
            ("range", 4) => {
                let (step, stop, start) = (args.remove(3), args.remove(2), args.remove(1));
                Ok(Range { ty: args.remove(0), start: Some(start), stop, step: Some(step) })
            }
            _ => Err(Fault::new("'@range' takes a type and a stop, or a type, a start, a stop and a step")),
        }
    }

    fn ty(&mut self) -> Result<Expr> {
        self.deeper(|parser| if parser.is("[") { parser.bracket_type() } else { parser.postfix() })
    }

    fn bracket_type(&mut self) -> Result<Expr> {
        self.expect("[")?;
        if self.eat("*") {
            self.expect("]")?;
            self.eat_word("const");
            return Ok(Expr::PointerType(Box::new(self.ty()?)));
        }
        let len = self.expr()?;
        self.expect("]")?;
        Ok(Expr::ArrayType(Box::new(len), Box::new(self.ty()?)))
    }

    fn expr(&mut self) -> Result<Expr> {
        self.deeper(|parser| {
            if parser.eat_word("if") {
                parser.expect("(")?;
                let condition = parser.expr()?;
                parser.expect(")")?;
                let then = parser.expr()?;
                if !parser.eat_word("else") {
                    return Err(Fault::new("an 'if' that has a value needs an 'else'"));
                }
                let other = parser.expr()?;
                return Ok(Expr::If(Box::new(condition), Box::new(then), Box::new(other)));
            }
            parser.binary(0)
        })
    }

    fn binary(&mut self, level: usize) -> Result<Expr> {
        let Some(operators) = PRECEDENCE.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        for _ in 0..LONGEST {
            let found = match self.peek() {
                Token::Sign(sign) => operators.iter().find(|o| *o == sign),
                Token::Word(word) => operators.iter().find(|o| *o == word),
                _ => None,
            };
            let Some(&operator) = found else { return Ok(left) };
            self.next();
            left = Expr::Binary(operator, Box::new(left), Box::new(self.binary(level + 1)?));
        }
        Err(Fault::new("an expression is too long"))
    }

    fn unary(&mut self) -> Result<Expr> {
        self.deeper(|parser| {
            for operator in ["-", "!", "~"] {
                if parser.eat(operator) {
                    return Ok(Expr::Unary(operator, Box::new(parser.unary()?)));
                }
            }
            if parser.eat("&") {
                return Ok(Expr::Address(Box::new(parser.unary()?)));
            }
            parser.postfix()
        })
    }

    fn postfix(&mut self) -> Result<Expr> {
        let mut expr = self.primary()?;
        for _ in 0..LONGEST {
            if self.is(".") && matches!(self.tokens[self.at + 1].0, Token::Word(_)) {
                self.next();
                expr = Expr::Member(Box::new(expr), self.name()?);
            } else if self.eat("[") {
                let index = self.expr()?;
                self.expect("]")?;
                expr = Expr::Index(Box::new(expr), Box::new(index));
            } else if self.is("(") && matches!(expr, Expr::Name(_) | Expr::Member(..)) {
                let args = self.arguments()?;
                expr = Expr::Call(Box::new(expr), args);
            } else {
                return Ok(expr);
            }
        }
        Err(Fault::new("an expression is too long"))
    }

    fn arguments(&mut self) -> Result<Vec<Expr>> {
        self.expect("(")?;
        let mut args = Vec::new();
        while !self.eat(")") {
            args.push(if self.is("[") { self.ty()? } else { self.expr()? });
            if !self.is(")") {
                self.expect(",")?;
            }
        }
        Ok(args)
    }

    fn primary(&mut self) -> Result<Expr> {
        match self.next() {
            Token::Int(value) => Ok(Expr::Int(value)),
            Token::Float(value) => Ok(Expr::Float(value)),
            Token::Text(text) => Ok(Expr::Text(text)),
            Token::Word(word) if word == "fn" => {
                let params = self.arguments()?;
                match self.ty()? {
                    Expr::Name(result) if result == "void" => Ok(Expr::FunctionType(params)),
                    _ => Err(Fault::new("functions that the host calls return nothing")),
                }
            }
            Token::Word(word) => Ok(Expr::Name(word)),
            Token::Builtin(name) => Ok(Expr::Builtin(name, self.arguments()?)),
            Token::Sign("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign(".") => self.aggregate(),
            other => Err(Fault::new(format!("an expression expected, {} found", show(&other)))),
        }
    }

    /// What follows the point of `.{ }`.
    fn aggregate(&mut self) -> Result<Expr> {
        self.expect("{")?;
        let (mut fields, mut elements) = (Vec::new(), Vec::new());
        while !self.eat("}") {
            let named = self.is(".") && matches!(self.tokens[self.at + 1].0, Token::Word(_));
            if named {
                self.next();
                let name = self.name()?;
                self.expect("=")?;
                fields.push((name, self.expr()?));
            } else {
                elements.push(self.expr()?);
            }
            if !self.is("}") {
                self.expect(",")?;
            }
        }
        match (fields.is_empty(), elements.is_empty()) {
            (false, false) => Err(Fault::new("a struct literal names all of its fields or none")),
            (true, false) => Ok(Expr::List(elements)),
            _ => Ok(Expr::Struct(fields)),
        }
    }
}

fn show(token: &Token) -> String {
    match token {
        Token::Word(word) => format!("'{word}'"),
        Token::Builtin(name) => format!("'@{name}'"),
        Token::Int(value) => format!("'{value}'"),
        Token::Float(value) => format!("'{value}'"),
        Token::Text(text) => format!("\"{text}\""),
        Token::Sign(sign) => format!("'{sign}'"),
        Token::End => "the end of the file".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence_is_the_table() {
        let file = parse("t", "const a = 1 + 2 * 3 == 7 and x.y[2](1) < -4;");
        assert!(file.is_err(), "only names are called");
        let file = parse("t", "const a = 1 + 2 * 3 == 7 and m.f(1) < -x[2];").unwrap();
        let ItemKind::Const(_, _, Expr::Binary("and", left, right)) = &file.items[0].kind else { panic!("{file:?}") };
        assert!(matches!(**left, Expr::Binary("==", ..)) && matches!(**right, Expr::Binary("<", ..)));
    }

    #[test]
    fn one_missing_token_is_an_error_with_its_line() {
        let good = "param p: u16;\nfn f(a: [*]f32) void {\n  for (@range(u16, 3)) |i| { a[i] = 0.5; }\n}\n";
        assert!(parse("t", good).is_ok());
        for (cut, line) in [(";\nfn", 2), ("{\n", 3), (")) |", 3), ("]f32", 2), ("|i|", 3), ("}\n}", 5)] {
            let at = good.find(cut).unwrap();
            let bad = format!("{}{}", &good[..at], &good[at + 1..]);
            let fault = parse("t", &bad).unwrap_err();
            assert_eq!(fault.at.as_ref().map(|(file, line)| (file.as_str(), *line)), Some(("t", line)), "{cut:?} {fault}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("const a = {}1{};", "(".repeat(9999), ")".repeat(9999));
        assert!(parse("t", &deep).unwrap_err().what.contains("deeply"));
        for long in ["1+".repeat(9999), "a.b.".repeat(9999)] {
            assert!(parse("t", &format!("const a = {long}1;")).is_err());
        }
    }
}
