//! The binary form: magic, data as JSON with its length, then per queue its number, the number of instructions, and for each of them
//! cycles since the one before (what an ICU does as NOP), opcode, macro-op and operands, all as LEB128 numbers.

use crate::geometry::Queue;
use crate::isa::{INSTRUCTIONS, Instr};
use crate::program::{Issue, MOST_ISSUES, Program};

const MAGIC: &[u8; 8] = b"q35tsp\0\x03";

/// Writes a program.
pub fn write(program: &Program) -> Vec<u8> {
    let json = serde_json::to_vec(&program.data).unwrap_or_default();
    let mut out = MAGIC.to_vec();
    number(&mut out, json.len() as u64);
    out.extend(json);
    number(&mut out, program.queues.len() as u64);
    for (queue, issues) in &program.queues {
        number(&mut out, queue.number().into());
        number(&mut out, issues.len() as u64);
        let mut before = 0;
        for issue in issues {
            number(&mut out, u64::from(issue.cycle.wrapping_sub(before)));
            number(&mut out, issue.instr.opcode() as u64);
            number(&mut out, issue.op.into());
            issue.instr.operands().iter().for_each(|operand| number(&mut out, *operand));
            before = issue.cycle;
        }
    }
    out
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads what [`write`] wrote. Nothing is allocated for what the bytes cannot hold.
pub fn read(bytes: &[u8]) -> Result<Program, String> {
    let mut rest = Reader(bytes.strip_prefix(MAGIC).ok_or("no tsp program")?);
    let length = rest.number()?;
    let json = rest.bytes(length)?;
    let mut program = Program { data: serde_json::from_slice(json).map_err(|e| e.to_string())?, ..Program::default() };
    for _ in 0..rest.number()? {
        let queue = u8::try_from(rest.number()?).ok().and_then(Queue::of).ok_or("no such queue")?;
        let count = usize::try_from(rest.number()?).ok().filter(|n| *n <= MOST_ISSUES).ok_or("too many instructions")?;
        let mut issues = Vec::with_capacity(count.min(rest.0.len()));
        let mut cycle = 0u32;
        for _ in 0..count {
            let wait = u32::try_from(rest.number()?).map_err(|_| "a wait is too long")?;
            cycle = cycle.checked_add(wait).ok_or("a cycle is too late")?;
            let opcode = rest.number()? as usize;
            let op = u32::try_from(rest.number()?).map_err(|_| "no such macro-op")?;
            let operands = INSTRUCTIONS.get(opcode).ok_or("no such instruction")?.operands.len();
            let operands = (0..operands).map(|_| rest.number()).collect::<Result<Vec<_>, _>>()?;
            let instr = Instr::of(opcode, &operands).ok_or_else(|| format!("{queue}, cycle {cycle}: bad operands"))?;
            issues.push(Issue { cycle, op, instr });
        }
        if program.queues.insert(queue, issues).is_some() {
            return Err(format!("{queue} is there twice"));
        }
    }
    if rest.0.is_empty() { Ok(program) } else { Err("bytes after the end".to_owned()) }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for at in 0..10 {
            let (byte, rest) = self.0.split_first().ok_or("the file ends early")?;
            self.0 = rest;
            value |= u64::from(byte & 127).checked_shl(7 * at).unwrap_or(0);
            if byte & 128 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too long".to_owned())
    }

    fn bytes(&mut self, count: u64) -> Result<&'a [u8], String> {
        let count = usize::try_from(count).ok().filter(|n| *n <= self.0.len()).ok_or("the file ends early")?;
        let (bytes, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::geometry::{Side, Slice, Stream};
    use crate::lanes::Lanes;
    use crate::program::{Carried, Data, Image, LinkEnd, MacroOp, Origin, Quad};

    pub(crate) fn sample() -> Program {
        let mut program = Program {
            data: Data {
                timing: "tsp1".to_owned(),
                chip: 1,
                start: 504,
                links: vec![LinkEnd { link: 0, chip: 0, end: 0 }],
                received: vec![Carried { quad: Quad { side: Side::East, group: 1, address: 5 }, lanes: Lanes::default() }],
                cycles: 900,
                nodes: vec!["/model/layers.0; odd".to_owned()],
                ops: vec![MacroOp { node: 0, flow: 7, reads: vec![Origin { queue: 3, address: 17, count: 4, writer: None }] }],
                images: vec![Image::Words { quad: Quad { side: Side::West, group: 2, address: 9 }, runs: vec![(0, 7)] }],
                ..Data::default()
            },
            ..Program::default()
        };
        let read = Instr::Read { address: 17, out: Stream::new(Side::West, 4) };
        let repeat = Instr::Repeat { count: 3, interval: 2, step: 1 };
        let issues = [(5, read), (7, repeat), (300, read)].map(|(cycle, instr)| Issue { cycle, op: 0, instr });
        program.queues.insert(Queue::mem(Slice::new(Side::East, 3)), issues.to_vec());
        program
    }

    #[test]
    fn bytes_come_back_and_bad_ones_do_not() {
        let program = sample();
        let bytes = write(&program);
        assert_eq!(read(&bytes).unwrap(), program);
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "{end}");
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x55;
            let _ = read(&bad);
        }
    }

    #[test]
    fn places_outside_of_memory_are_refused() {
        let mut data = sample().data;
        assert_eq!(data.check(), Ok(()));
        data.images.push(Image::Zeros { quad: Quad { side: Side::West, group: 10, address: 8000 }, count: 193 });
        assert!(data.check().is_err());
        data.images.clear();
        data.images.push(Image::Words { quad: Quad { side: Side::West, group: 255, address: 0 }, runs: vec![] });
        assert!(data.check().is_err());
        data.images.clear();
        data.links[0].link = 11;
        assert!(data.check().is_err());
    }

    #[test]
    fn repeats_are_written_out() {
        let program = sample();
        let (queue, issues) = program.queues.first_key_value().unwrap();
        let all = crate::program::expand(*queue, issues).unwrap();
        let seen: Vec<(u32, String)> = all.iter().map(|issue| (issue.cycle, issue.instr.to_string())).collect();
        assert_eq!(
            seen[1..4],
            [(7, "read 18, W04".to_owned()), (9, "read 19, W04".to_owned()), (11, "read 20, W04".to_owned())]
        );
        assert!(crate::program::expand(*queue, &issues[1..]).is_err());
    }
}
