//! The threads of a group at work on a row.
//!
//! A *team* is the threads that share one piece of work: the whole group, or each of its waves. Sums over a team are taken in a fixed
//! order, and every thread of the team gets them.

use crate::abi::Call;
use q35_mlir::builder::{Carry, Val};
use q35_mlir::types::{F32, I32};

/// Who works together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Team {
    /// All threads of the group.
    Group,
    /// The lanes of a wave.
    Wave,
}

impl<'k> Call<'k> {
    /// Lanes of a wave.
    pub(crate) fn wave_size(&self) -> u32 {
        self.isa.wave()
    }

    /// Waves of the group.
    pub(crate) fn waves(&self) -> u32 {
        self.threads / self.wave_size()
    }

    /// The thread's wave.
    pub(crate) fn wave(&self) -> Val<'k> {
        self.thread.div_u(i64::from(self.wave_size()))
    }

    /// The thread's number in its wave.
    pub(crate) fn lane(&self) -> Val<'k> {
        self.thread.rem_u(i64::from(self.wave_size()))
    }

    /// Waits for the group.
    pub(crate) fn barrier(&self) {
        self.isa.barrier(self.b);
    }

    /// Threads of a team, and the thread's number in it.
    pub(crate) fn members(&self, team: Team) -> (u32, Val<'k>) {
        match team {
            Team::Group => (self.threads, self.thread),
            Team::Wave => (self.wave_size(), self.lane()),
        }
    }

    /// `body(i)` for every `i` below `count` that is the thread's share of its team's work.
    #[track_caller]
    pub(crate) fn each(&self, team: Team, count: impl q35_mlir::builder::Operand<'k>, body: impl FnOnce(Val<'k>)) {
        let (threads, number) = self.members(team);
        self.b.for_(number, count, i64::from(threads), body);
    }

    /// The value of the lane whose number differs in the bits of `mask`.
    fn exchange(&self, value: Val<'k>, mask: u32) -> Val<'k> {
        if value.ty().bits() == 32 {
            return self.isa.exchange(value, mask);
        }
        let words = value.bitcast(I32.x(2));
        let other = (0..2).fold(words, |all, at| all.with_lane(at, self.isa.exchange(words.lane(at), mask)));
        other.bitcast(value.ty())
    }

    /// Every lane's values combined with those of all other lanes of its wave, in a tree.
    pub(crate) fn wave_all<C: Carry<'k>>(&self, values: C, combine: impl Fn(C, C) -> C) -> C {
        self.lanes_all(self.wave_size(), values, combine)
    }

    /// As [`Call::wave_all`], among as many lanes as follow each other; a power of two, at most a wave.
    pub(crate) fn lanes_all<C: Carry<'k>>(&self, lanes: u32, values: C, combine: impl Fn(C, C) -> C) -> C {
        let mut all = values;
        let mut distance = lanes / 2;
        while distance > 0 {
            let others: Vec<Val<'k>> = all.values().into_iter().map(|value| self.exchange(value, distance)).collect();
            let others = all.with(&mut others.into_iter());
            all = combine(all, others);
            distance /= 2;
        }
        all
    }

    /// The sum of the f32 values of a team's threads. A group meets at barriers for it.
    pub(crate) fn sum(&self, team: Team, value: Val<'k>) -> Val<'k> {
        let sum = self.wave_all(value, |a: Val<'k>, b| a + b);
        if team == Team::Wave || self.waves() == 1 {
            return sum;
        }
        let sums = self.b.shared(4 * self.waves(), 16);
        // Whoever still reads the sums of a round before is waited for.
        self.barrier();
        self.b.if_(self.lane().eq(0), || sums.at(self.wave() * 4).store(sum, 4));
        self.barrier();
        let wave = |at: u32| sums.at(4 * i64::from(at)).load(F32, 4);
        (1..self.waves()).fold(wave(0), |all, at| all + wave(at))
    }
}
