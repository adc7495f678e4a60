//! Queues as they go into the file: runs of the same instruction at equal distances, with addresses at equal distances, become repeats.

use super::Schedule;
use q35_tsp::isa::Instr;
use q35_tsp::program::{Issue, Program};

/// The shortest run that is worth a repeat.
const SHORTEST: usize = 3;

impl Schedule {
    /// The program.
    pub(crate) fn finish(mut self) -> Program {
        let last = self.tables.queues.values().filter_map(|queue| queue.last_key_value()).map(|(cycle, _)| *cycle).max();
        self.data.ops = self.tables.ops;
        self.data.cycles = last.unwrap_or(0) as u32 + self.timing.write as u32;
        let queues = self.tables.queues.into_iter().filter(|(_, queue)| !queue.is_empty());
        let queues = queues.map(|(queue, issues)| (queue, pack(&issues.into_values().collect::<Vec<_>>()))).collect();
        Program { data: self.data, queues }
    }
}

/// How far `b`'s address lies behind `a`'s, if they are alike but for that.
fn step(a: &Instr, b: &Instr) -> Option<u16> {
    let by = match (a, b) {
        (Instr::Read { address: a, .. }, Instr::Read { address: b, .. }) => b.wrapping_sub(*a),
        (Instr::Write { address: a, .. }, Instr::Write { address: b, .. }) => b.wrapping_sub(*a),
        _ => 0,
    };
    (a.advanced(by) == *b).then_some(by)
}

fn pack(issues: &[Issue]) -> Vec<Issue> {
    let mut packed = Vec::new();
    let mut rest = issues;
    while let [first, second, ..] = rest {
        packed.push(*first);
        let interval = second.cycle - first.cycle;
        let by = step(&first.instr, &second.instr).filter(|_| interval <= u32::from(u16::MAX));
        let alike = |pair: &[Issue]| {
            pair[1].cycle - pair[0].cycle == interval && pair[0].op == pair[1].op && step(&pair[0].instr, &pair[1].instr) == by
        };
        let count =
            if by.is_some() { rest.windows(2).take(usize::from(u16::MAX)).take_while(|pair| alike(pair)).count() } else { 0 };
        if count + 1 < SHORTEST {
            rest = &rest[1..];
            continue;
        }
        let repeat = Instr::Repeat { count: count as u16, interval: interval as u16, step: by.unwrap_or(0) };
        packed.push(Issue { instr: repeat, ..*second });
        rest = &rest[count + 1..];
    }
    packed.extend(rest);
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_tsp::geometry::{Queue, Side, Slice, Stream};
    use q35_tsp::program::expand;

    #[test]
    fn packed_queues_expand_to_what_they_were() {
        let out = Stream::new(Side::East, 1);
        let read = |cycle, address| Issue { cycle, op: 0, instr: Instr::Read { address, out } };
        let issues: Vec<Issue> = [(0, 5), (1, 6), (2, 7), (3, 8), (5, 9), (7, 10), (9, 11), (10, 3), (11, 2), (12, 1), (20, 1)]
            .map(|(cycle, address)| read(cycle, address))
            .to_vec();
        let packed = pack(&issues);
        assert_eq!(packed.len(), 7, "{packed:?}");
        assert_eq!(expand(Queue::mem(Slice::new(Side::East, 0)), &packed).unwrap(), issues);
    }
}
