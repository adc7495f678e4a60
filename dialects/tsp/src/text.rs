//! The text form: one section per queue, one line per instruction with cycle, instruction, macro-op and source node; data as JSON in front.

use crate::geometry::Queue;
use crate::program::{Data, Issue, Program};
use std::fmt::Write;

const TITLE: &str = "; tsp program: a model of the chip, not run on silicon";

/// Prints a program.
pub fn print(program: &Program) -> String {
    let mut text = format!("{TITLE}\n.data {}\n", serde_json::to_string(&program.data).unwrap_or_default());
    for (queue, issues) in &program.queues {
        let _ = writeln!(text, "\n.queue {queue}");
        for issue in issues {
            let node = program.data.node(issue.op).escape_debug();
            let _ = writeln!(text, "{:>8}  {:<40} ; {} {node}", issue.cycle, issue.instr.to_string(), issue.op);
        }
    }
    text
}

/// Parses what [`print`] printed. An error names the line.
pub fn parse(text: &str) -> Result<Program, String> {
    let mut program = Program::default();
    let mut queue: Option<Queue> = None;
    for (number, line) in text.lines().enumerate() {
        let fault = |what: &str| format!("line {}: {what}", number + 1);
        if let Some(json) = line.strip_prefix(".data ") {
            program.data = serde_json::from_str::<Data>(json).map_err(|e| fault(&e.to_string()))?;
        } else if let Some(name) = line.strip_prefix(".queue ") {
            let new: Queue = name.parse().map_err(|()| fault("no such queue"))?;
            if program.queues.insert(new, Vec::new()).is_some() {
                return Err(fault("the queue is there twice"));
            }
            queue = Some(new);
        } else if !line.is_empty() && !line.starts_with(';') {
            let (code, comment) = line.split_once(';').ok_or_else(|| fault("no macro-op"))?;
            let (cycle, instr) = code.trim().split_once(' ').ok_or_else(|| fault("no instruction"))?;
            let op = comment.split_whitespace().next().and_then(|n| n.parse().ok()).ok_or_else(|| fault("no macro-op"))?;
            let cycle = cycle.parse().map_err(|_| fault("no cycle"))?;
            let instr = instr.trim().parse().map_err(|e: String| fault(&e))?;
            let issues = queue.and_then(|queue| program.queues.get_mut(&queue)).ok_or_else(|| fault("no queue"))?;
            issues.push(Issue { cycle, op, instr });
        }
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binary::tests::sample;

    #[test]
    fn text_comes_back() {
        let program = sample();
        let text = print(&program);
        assert_eq!(parse(&text).unwrap(), program);
        assert!(text.contains(".queue mem.E03\n       5  read 17, W04"), "{text}");
        assert_eq!(parse(".queue mem.E99").unwrap_err(), "line 1: no such queue");
        assert_eq!(parse(".queue mem.E09\n 7 fly ; 0").unwrap_err(), "line 2: no instruction 'fly'");
    }
}
